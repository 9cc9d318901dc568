"""Runs of a ladder: several model sizes, each trained for several multiples of its parameters."""

from __future__ import annotations

from collections.abc import Iterator

from nextscale.model.accounting import flops_per_token, parameters
from nextscale.sweeps.design.planned_run import Expansion, PlannedRun
from nextscale.sweeps.design.sizes import nearest_widths
from nextscale.sweeps.spec.designs import LadderDesign, values_of
from nextscale.sweeps.spec.external import ExternalLadder
from nextscale.sweeps.spec.module import ModuleLadder
from nextscale.sweeps.spec.run_config import config_of, models_of, training_of
from nextscale.sweeps.spec.sweep_spec import SweepSpec


def ladder_runs(spec: SweepSpec, design: LadderDesign | ExternalLadder | ModuleLadder) -> Iterator[PlannedRun]:
    if isinstance(design, ExternalLadder | ModuleLadder):
        models = models_of(spec, design.sizes, ("design", "sizes"))
    else:
        widths = design.widths or nearest_widths(spec, values_of(design.params or []), ("design", "params"))
        models = models_of(spec, widths, ("design", "widths"))
    for model in models:
        for i, ratio in enumerate(values_of(design.tokens_per_param)):
            budget = flops_per_token(model) * ratio * parameters(model)
            training = training_of(spec, model, budget, ("design", "tokens_per_param", i))
            for seed in design.seeds:
                yield PlannedRun(config_of(spec, model, training, seed), "fit", budget)


def ladder_count(design: LadderDesign | ExternalLadder | ModuleLadder) -> int:
    if isinstance(design, ExternalLadder | ModuleLadder):
        sizes = len(design.sizes or ())
    else:
        sizes = len(design.widths or values_of(design.params or []))
    return sizes * len(values_of(design.tokens_per_param)) * len(design.seeds)


EXPANSION = Expansion(ladder_runs, ladder_count)
