"""Expands a spec into the runs of its design and its holdout."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.ahead.own_code import check_functions
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import RunConfig
from nextscale.model.data.sources import resolve, resolve_sets
from nextscale.model.external import code
from nextscale.model.external import source as trainer_source
from nextscale.sweeps.design.planned_run import Expansion, PlannedRun
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.designs import Design
from nextscale.sweeps.spec.documents import Key, dotted
from nextscale.sweeps.spec.external import ExternalHoldout, SizeName
from nextscale.sweeps.spec.module import ModuleHoldout, ModuleSequential
from nextscale.sweeps.spec.run_config import config_of, model_of, training_of
from nextscale.sweeps.spec.sweep_spec import ExternalSpec, ModuleSpec, SweepSpec

MOST_RUNS = 100_000
"""More are a slip of the pen."""


def expansion_of(design: Design) -> Expansion:
    """How a design becomes runs: `EXPANSION` of the module that its options name."""
    module = importlib.import_module(f"nextscale.sweeps.design.{design.expanded_in}")
    expansion: Expansion = module.EXPANSION
    return expansion


def resolve_spec(spec: SweepSpec) -> SweepSpec:
    """The same spec with its data, validation sets and code, or its trainer, resolved, so that its runs can be named,
    and with the sizes that its design leaves open: what it was centred on may change.

    Raises:
        InputError: data, code or a source of the trainer is missing, a file of it is broken, or a function of one's own
            is none of its kind.
        SpecError: see `planned_runs`.
    """
    _check_count(spec)
    if isinstance(spec, ExternalSpec):
        spec = spec.model_copy(update={"trainer": trainer_source.resolve(spec.trainer)})
    else:
        spec = spec.model_copy(update={"data": resolve(spec.data), "evaluation": resolve_sets(spec.evaluation)})
    if spec.targets:
        spec = spec.model_copy(update={"code": code.resolve(spec.code, spec.targets)})
    spec = spec.model_copy(update={"design": expansion_of(spec.design).resolved(spec, spec.design)})
    if isinstance(spec, ModuleSpec):
        spec = _counted(spec)
    if spec.targets:
        check_functions(run.config for run in planned_runs(spec) if isinstance(run.config, RunConfig))
    return spec


def _counted(spec: ModuleSpec) -> ModuleSpec:
    """The same spec with what is counted of each size, so that its runs can be told without its module."""
    models = [run.config.model for run in planned_runs(spec)]
    if isinstance(spec.design, ModuleSequential):
        models += [model_of(spec, name, ("design", "sizes", i)) for i, name in enumerate(spec.design.sizes)]
    counts = {model.key: model.counts for model in models if isinstance(model, ModuleModel)}
    return spec.model_copy(update={"counts": counts})


def planned_runs(spec: SweepSpec) -> list[PlannedRun]:
    """Every run of a sweep, by role, budget and size; each config once.

    Raises:
        SpecError: a model cannot be built, or a budget is too small for a size; with the key at fault.
    """
    for name, problem in () if isinstance(spec, ExternalSpec) else spec.evaluation.misfits(spec.data):
        raise SpecError(f"evaluation.sets.{name}: {problem}", ("evaluation", "sets", name))
    _check_count(spec)
    runs = list(expansion_of(spec.design).runs(spec, spec.design))
    if spec.holdout is not None:
        runs += list(_held_out(spec, runs))
    seen = {run.config.model_dump_json(): run for run in runs}
    return sorted(seen.values(), key=lambda run: (run.role, run.budget, run.params))


def run_of(spec: SweepSpec, name: SizeName, budget: float, seed: int) -> PlannedRun:
    """One run to fit, of a size at a budget.

    Raises:
        SpecError: the model cannot be built, or the budget is too small or too large for it.
    """
    model = model_of(spec, name, ("design",))
    training = training_of(spec, model, budget, ("design", "flops"))
    return PlannedRun(config_of(spec, model, training, seed), "fit", budget)


def _check_count(spec: SweepSpec) -> None:
    """Refuses more runs than anybody trains, before any is made."""
    total = expansion_of(spec.design).count(spec.design) + (0 if spec.holdout is None else len(_names(spec)[0]))
    if total > MOST_RUNS:
        shown = f"{min(total, 10**300):.3g}"  # a whole number may be too large for a float
        raise SpecError(f"design: is of {shown} runs, more than {MOST_RUNS}; take fewer values", ("design",))


def _held_out(spec: SweepSpec, fitted: list[PlannedRun]) -> Iterator[PlannedRun]:
    """
    Raises:
        SpecError: they are no next scale: none is beyond what is fitted.
    """
    holdout = spec.holdout
    assert holdout is not None
    largest, most = max(run.params for run in fitted), max(run.budget for run in fitted)
    names, field = _names(spec)
    for j, name in enumerate(names):
        model = model_of(spec, name, ("holdout", field, j))
        key: Key = ("holdout", "flops")
        if holdout.tokens_per_param is not None:
            key = ("holdout", "tokens_per_param")
            budget = flops_per_token(model) * holdout.tokens_per_param * parameters(model)
            if budget <= most and parameters(model) <= largest:
                raise SpecError(
                    f"{dotted(key)}: {model.label} is within what is fitted, by size and by FLOPs; raise it, or take "
                    f"larger holdout.{field}",
                    key,
                )
        else:
            assert holdout.flops is not None
            budget = holdout.flops
            if budget <= most:
                what = "must lie above every budget of design.flops: it is the next scale"
                if not fitted[0].isoflop:
                    what = f"must lie above every run of design, the largest of {most:.3g} FLOPs"
                raise SpecError(f"{dotted(key)}: {what}", key)
        training = training_of(spec, model, budget, key)
        yield PlannedRun(config_of(spec, model, training, fitted[0].config.seed), "holdout", budget)


def _names(spec: SweepSpec) -> tuple[list[SizeName], str]:
    """What the held-out sizes are called, and the key of the holdout that says so."""
    holdout: Any = spec.holdout
    field = "sizes" if isinstance(holdout, ExternalHoldout | ModuleHoldout) else "widths"
    return spec.names(getattr(holdout, field)), field
