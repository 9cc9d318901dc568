"""Runs that a sequential design begins with: an isoFLOP design within its budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from nextscale.sweeps.design.isoflop import isoflop_count, isoflop_resolved, isoflop_runs
from nextscale.sweeps.design.planned_run import Expansion, PlannedRun
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.designs import SequentialDesign
from nextscale.sweeps.spec.sweep_spec import SweepSpec


def start_runs(spec: SweepSpec, design: SequentialDesign) -> Iterator[PlannedRun]:
    """
    Raises:
        SpecError: the start costs more than the design has, or there is nothing beyond it to forecast.
    """
    planned = isoflop_runs(spec, design.start, ("design", "start"))
    runs = [dataclasses.replace(run, isoflop=False) for run in planned]  # they are to have no minimum
    _check(spec, design, runs)
    return iter(runs)


def start_count(design: SequentialDesign) -> int:
    return isoflop_count(design.start)


def start_resolved(spec: SweepSpec, design: SequentialDesign) -> SequentialDesign:
    """The same design with the widths that its start leaves open."""
    return design.model_copy(update={"start": isoflop_resolved(spec, design.start)})


def _check(spec: SweepSpec, design: SequentialDesign, start: list[PlannedRun]) -> None:
    target = design.target or (spec.holdout.flops if spec.holdout else None)
    if target is None:
        raise SpecError(
            "design.target: is missing; say what compute is to be forecast, or give holdout.flops", ("design",)
        )
    for name, largest in (("start.flops", max(run.budget for run in start)), ("largest", design.largest or 0)):
        if largest >= target:
            what = f"{largest:.3g} FLOPs of one run reach the target, {target:.3g}: nothing would be forecast; lower it"
            raise SpecError(f"design.{name}: {what}", ("design", *name.split(".")))
    if (spent := sum(run.own_flops for run in start)) > design.flops:
        raise SpecError(
            f"design.flops: {design.flops:.3g} do not pay for the runs of design.start, {spent:.3g}; raise it",
            ("design", "flops"),
        )


EXPANSION = Expansion(start_runs, start_count, start_resolved)
