"""Expands a spec into the runs of its design and its holdout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.data.sources import resolve, resolve_sets
from nextscale.sweeps.design.grid import grid_count, grid_resolved, grid_runs
from nextscale.sweeps.design.isoflop import isoflop_count, isoflop_resolved, isoflop_runs
from nextscale.sweeps.design.ladder import ladder_count, ladder_runs
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.design.sequential_start import start_count, start_resolved, start_runs
from nextscale.sweeps.design.wsd import wsd_count, wsd_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.documents import Key, dotted
from nextscale.sweeps.spec.run_config import config_of, model_of, training_of
from nextscale.sweeps.spec.sweep_spec import SweepSpec

MOST_RUNS = 100_000
"""More are a slip of the pen."""


@dataclasses.dataclass(frozen=True)
class Expansion:
    """How designs of one kind become runs.

    Attributes:
        runs: to fit, of a spec and its design.
        count: how many, without making any.
        resolved: the design with what it leaves open, once the data of the spec is resolved.
    """

    runs: Callable[[SweepSpec, Any], Iterator[PlannedRun]]
    count: Callable[[Any], int]
    resolved: Callable[[SweepSpec, Any], Any] = lambda spec, design: design


DESIGNS = {
    "isoflop": Expansion(isoflop_runs, isoflop_count, isoflop_resolved),
    "ladder": Expansion(ladder_runs, ladder_count),
    "grid": Expansion(grid_runs, grid_count, grid_resolved),
    "wsd": Expansion(wsd_runs, wsd_count),
    "sequential": Expansion(start_runs, start_count, start_resolved),
}
"""By the kind of `nextscale.sweeps.spec.designs.Design`."""


def resolve_spec(spec: SweepSpec) -> SweepSpec:
    """The same spec with its data and validation sets resolved, so that its runs can be named, and with the sizes that
    its design leaves open: what it was centred on may change.

    Raises:
        InputError: data is missing, or a file of it is broken.
        SpecError: see `planned_runs`.
    """
    _check_count(spec)
    spec = spec.model_copy(update={"data": resolve(spec.data), "evaluation": resolve_sets(spec.evaluation)})
    return spec.model_copy(update={"design": DESIGNS[spec.design.kind].resolved(spec, spec.design)})


def planned_runs(spec: SweepSpec) -> list[PlannedRun]:
    """Every run of a sweep, by role, budget and size; each config once.

    Raises:
        SpecError: a model cannot be built, or a budget is too small for a size; with the key at fault.
    """
    for name, problem in spec.evaluation.misfits(spec.data):
        raise SpecError(f"evaluation.sets.{name}: {problem}", ("evaluation", "sets", name))
    _check_count(spec)
    runs = list(DESIGNS[spec.design.kind].runs(spec, spec.design))
    if spec.holdout is not None:
        runs += list(_held_out(spec, runs))
    seen = {run.config.model_dump_json(): run for run in runs}
    return sorted(seen.values(), key=lambda run: (run.role, run.budget, run.params))


def run_of(spec: SweepSpec, width: int, budget: float, seed: int) -> PlannedRun:
    """One run to fit, of a width at a budget.

    Raises:
        SpecError: the model cannot be built, or the budget is too small or too large for it.
    """
    model = model_of(spec, width, ("design", "widths"))
    training = training_of(spec, model, budget, ("design", "flops"))
    return PlannedRun(config_of(spec, model, training, seed), "fit", budget)


def _check_count(spec: SweepSpec) -> None:
    """Refuses more runs than anybody trains, before any is made."""
    total = DESIGNS[spec.design.kind].count(spec.design) + (0 if spec.holdout is None else len(spec.holdout.widths))
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
    for j, width in enumerate(holdout.widths):
        model = model_of(spec, width, ("holdout", "widths", j))
        key: Key = ("holdout", "flops")
        if holdout.tokens_per_param is not None:
            key = ("holdout", "tokens_per_param")
            budget = flops_per_token(model) * holdout.tokens_per_param * parameters(model)
            if budget <= most and parameters(model) <= largest:
                raise SpecError(
                    f"{dotted(key)}: width {width} is within what is fitted, by size and by FLOPs; raise it, or take "
                    "larger holdout.widths",
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
