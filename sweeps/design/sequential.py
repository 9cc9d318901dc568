"""Chooses the next runs of a sequential design: those that narrow the forecast at the target most per FLOP."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.frontier import TokenCost, frontier
from nextscale.fit.trust.next_run import near_optimum, next_runs
from nextscale.sweeps.design.chosen_runs import Progress
from nextscale.sweeps.design.expand import run_of
from nextscale.sweeps.design.planned_run import PlannedRun, count_parameters
from nextscale.sweeps.design.review import FEW_STEPS
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.designs import SequenceOfWidths, SequentialDesign
from nextscale.sweeps.spec.external import ExternalSequential
from nextscale.sweeps.spec.module import ModuleSequential
from nextscale.sweeps.spec.sweep_spec import SweepSpec

_BUDGETS = 11
"""So many are offered, from the cheapest of the start to the largest allowed."""
_REPEATS = 3
"""Seeds of one size and budget, at most: more would make the forecast rest on one place."""
_LOOKAHEAD = 100
"""A run is chosen as the first of as many as the compute left would pay for."""


def choose_next(
    spec: SweepSpec, fit: Fit, cost: TokenCost, runs: Sequence[PlannedRun]
) -> tuple[Progress, list[PlannedRun]]:
    """How far a sequence has come, and the next runs: `design.at_once` of those that narrow the forecast at the target
    most per FLOP; none when it is over.

    Each is the first of a sequence that the compute left would pay for (see `fit.next_runs`). Only sizes about
    the best of their cost are taken, for the law has not been seen far from it. A run that is chosen again is another
    seed of it.

    Args:
        fit: what a forecast rests on, of what has finished. Before there are enough to forecast some of them from the
            others, an interval is believed to be narrow only if `forecast.drift` says by how much the runs may leave
            the law: it would not know.
        cost: FLOPs per token of a size.
        runs: all so far.
    """
    design = _design(spec)
    half_width = forecast_half_width(fit, target_of(spec), cost)
    progress = Progress(half_width, float(sum(run.own_flops for run in runs)), None)
    if half_width <= design.until and (fit.backtested or spec.forecast.drift):
        reason = f"the interval at the target, ±{half_width:.2%}, is as narrow as design.until asks"
        return dataclasses.replace(progress, ended=reason), []
    left = design.flops - progress.spent
    chosen = _chosen(spec, fit, cost, runs, left, min(1.0, design.until / half_width))
    if not chosen:
        reason = (
            f"what is left of design.flops, {left:.3g}, pays for no further run (the interval is ±{half_width:.2%})"
        )
        progress = dataclasses.replace(progress, ended=reason)
    return progress, chosen


def forecast_half_width(fit: Fit, flops: float, cost: TokenCost) -> float:
    """Half the interval of the best loss at a budget / that loss."""
    row = frontier(fit, [flops], cost).iloc[0]
    return float((row["loss_high"] - row["loss_low"]) / 2 / row["loss"])


def _chosen(
    spec: SweepSpec, fit: Fit, cost: TokenCost, runs: Sequence[PlannedRun], left: float, enough: float
) -> list[PlannedRun]:
    seeds = collections.Counter(map(_place, runs))
    offered = [run for run in _offered(spec) if run.flops <= left and seeds[_place(run)] < _REPEATS]
    if not offered:
        return []
    sizes = [count_parameters(run.config.model, spec.forecast.params) for run in offered]
    table = pd.DataFrame({"params": sizes, "tokens": [run.tokens for run in offered]}).astype(float)
    table["flops"] = [run.flops for run in offered]
    near = near_optimum(fit, table, cost)
    if not near.any():
        return []
    candidates = next_runs(fit, target_of(spec), table[near], budget=left, narrow_to=enough, runs=_LOOKAHEAD, cost=cost)
    offered = [run for run, kept in zip(offered, near, strict=True) if kept]
    chosen: list[PlannedRun] = []
    for i in candidates.sequence["candidate"]:
        place, name = _place(offered[i]), offered[i].config.model.name
        if len(chosen) < _design(spec).at_once and seeds[place] < _REPEATS:
            chosen.append(run_of(spec, name, offered[i].budget, seeds[place]))
            seeds[place] += 1
    return chosen


def _place(run: PlannedRun) -> tuple[str, int]:
    """By size and length: another seed is in the same place, whatever budget it was that came to these steps."""
    return run.config.model.model_dump_json(), run.tokens


def target_of(spec: SweepSpec) -> float:
    """The compute that is to be forecast, FLOPs."""
    target = _design(spec).target
    if target is not None:
        return target
    assert spec.holdout is not None and spec.holdout.flops is not None
    return spec.holdout.flops


def _design(spec: SweepSpec) -> SequentialDesign:
    assert isinstance(spec.design, SequentialDesign)
    return spec.design


def _offered(spec: SweepSpec) -> list[PlannedRun]:
    """Every run that may be chosen: each width at budgets from the cheapest of the start up to the largest allowed, but
    none so short that a review would complain of it."""
    design = _design(spec)
    assert isinstance(design, SequenceOfWidths | ExternalSequential | ModuleSequential)
    last = design.largest or target_of(spec) / 4
    found = []
    for budget in np.geomspace(min(design.start.budgets), last, _BUDGETS).tolist():
        for name in spec.names(design.widths if isinstance(design, SequenceOfWidths) else design.sizes):
            with contextlib.suppress(SpecError):  # so short, or so long, that it is no run
                found.append(run_of(spec, name, budget, 0))
    return [run for run in found if run.config.training.steps >= FEW_STEPS]
