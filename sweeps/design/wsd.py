"""Runs of a WSD design: one long run per size (the trunk), and a cooldown branched off it per length."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pydantic import ValidationError

from nextscale.model.accounting import flops_per_token
from nextscale.model.config.run import RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.sweeps.design.planned_run import Expansion, PlannedRun
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.designs import WsdDesign
from nextscale.sweeps.spec.module import ModuleWsd
from nextscale.sweeps.spec.run_config import config_of, error_text, models_of, steps_of, training_of
from nextscale.sweeps.spec.sweep_spec import SweepSpec


def wsd_runs(spec: SweepSpec, design: WsdDesign | ModuleWsd) -> Iterator[PlannedRun]:
    """The longest run of a width is the trunk of the others: each is the trunk up to its own cooldown."""
    if spec.training.schedule != "wsd":
        raise SpecError("training.schedule: is wsd where design.kind is; set it", ("training", "schedule"))
    if spec.training.warmup_tokens is None:
        least = round(spec.training.warmup * design.tokens[0])
        raise SpecError(
            "training.warmup_tokens: is missing; runs of all lengths share their warm-up where design.kind is wsd, "
            f"{least} tokens, say",
            ("training",),
        )
    names, key = (design.sizes, "sizes") if isinstance(design, ModuleWsd) else (design.widths, "widths")
    for model in models_of(spec, names, ("design", key)):
        budgets = [flops_per_token(model) * tokens for tokens in design.tokens]
        longest = training_of(spec, model, budgets[-1], ("design", "tokens", len(budgets) - 1))
        for i, budget in enumerate(budgets):
            assert isinstance(longest, TrainingConfig)
            steps = steps_of(model, budget, longest.batch_tokens, ("design", "tokens", i))
            try:
                training = TrainingConfig(**longest.model_dump() | {"steps": steps})
            except ValidationError as error:
                raise SpecError(f"training.{error_text(error)}", ("training", "warmup_tokens")) from None
            for seed in design.seeds:
                config, trunk = (config_of(spec, model, how, seed) for how in (training, longest))
                assert isinstance(trunk, RunConfig)
                run = PlannedRun(config, "fit", budget, trunk)
                alone = config == trunk or run.branches_at == 0
                yield dataclasses.replace(run, trunk=None) if alone else run


def wsd_count(design: WsdDesign | ModuleWsd) -> int:
    sizes = design.sizes if isinstance(design, ModuleWsd) else design.widths
    return len(sizes) * len(design.tokens) * len(design.seeds)


EXPANSION = Expansion(wsd_runs, wsd_count)
