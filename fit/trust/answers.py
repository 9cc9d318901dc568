"""What people ask of a trend and of two recipes, answered in sentences: the verdict, the figures that it rests on, and
how far beyond the runs it reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nextscale.fit.trust.compare import Comparison
    from nextscale.fit.trust.trend import Trend


def is_it_flattening(told: Trend) -> str:
    """Of the newest budgets: whether, by how much, how surely; how small a shift would have been seen; and what follows
    at a larger budget."""
    said = [*_of_new_runs(told), *_of_budgets(told), *_of_outlook(told)]
    return " ".join([*said, *_of_level(said, None if told.outlook is None else told.outlook.level)])


def is_it_worth_more(told: Comparison) -> str:
    """What B is worth over A, what that saves, how it changes with compute, and how far that is beyond the runs."""
    said = [_of_worth(told), *_of_savings(told), *_of_growth(told), *_of_reach(told)]
    return " ".join([*said, *_of_level(said, told.level)])


def _of_new_runs(told: Trend) -> list[str]:
    if told.p is None or told.shift is None:
        return []
    runs = f"The {_many(len(told.runs), 'new run')}"
    lie = f"{_apart(told.shift)} the law"
    if told.p >= told.alarm:
        return [f"{runs} {_verb(len(told.runs), 'continue')} the law: together {lie} (p = {told.p:.2g})."]
    return [f"{runs} {_verb(len(told.runs), 'break')} the law: together {lie} (p = {told.p:.2g})."]


def _of_budgets(told: Trend) -> list[str]:
    found = told.flattening
    if found is None:
        return ["Whether it is flattening cannot be told: too few runs lie below the newest budgets."]
    evidence = f"the {_many(found.runs, 'run')} at {_span(found.budgets, told.scale)} {_verb(found.runs, 'lie')} "
    evidence += f"{_apart(found.shift)} what the {found.older} smaller ones forecast (p = {found.p:.2g})"
    if found.verdict == "flattening":
        return [f"Yes, it is flattening: {evidence}."]
    if found.verdict == "steepening":
        return [f"No, it is steepening: {evidence}."]
    return [f"No sign of flattening: {evidence}; {found.detectable:.2%} or more would have been called one."]


def _of_outlook(told: Trend) -> list[str]:
    if told.outlook is None or told.flattening is None:
        return []
    before, after = told.outlook.without, told.outlook.following
    newest = "the newest budget" if len(told.flattening.budgets) == 1 else "the newest budgets"
    return [
        f"At {told.outlook.flops:.3g} FLOPs the law without {newest} forecasts {_loss(before)}, "
        f"and refitted to {newest} too {_loss(after)}."
    ]


def _of_worth(told: Comparison) -> str:
    at, interval = f"At {told.flops:.3g} FLOPs", _interval(told.interval)
    if np.isinf(told.multiplier):
        return f"{at} recipe B has a loss that A does not reach with a thousand times the compute of these runs."
    if told.multiplier == 0:
        return f"{at} recipe B has a loss that A reaches with a thousandth of the compute of these runs."
    worth = f"is worth {told.multiplier:.3g} times {interval} the compute of A"
    if told.verdict == "not distinguishable":
        return f"{at} the recipes are not distinguishable: B {worth}, and that interval holds 1."
    return f"{at} recipe B {worth}."


def _of_savings(told: Comparison) -> list[str]:
    if told.verdict == "not distinguishable" or told.saves is None:
        return []
    low, high = (f"{end:.3g}" if end is not None else "open" for end in told.saves_interval)
    if told.saves > 0:
        return [f"For the loss that B has there, A needs {told.saves:.3g} FLOPs [{low}, {high}] more."]
    low, high = (f"{-end:.3g}" if end is not None else "open" for end in reversed(told.saves_interval))
    return [f"For the loss that B has there, A needs {-told.saves:.3g} FLOPs [{low}, {high}] less."]


def _of_growth(told: Comparison) -> list[str]:
    if told.growth is None:
        return ["Whether that changes with compute these runs cannot tell."]
    growth = told.growth
    rate = f"{growth.per_decade:.3g} times {_interval(growth.interval)} per tenfold compute"
    change = "No sign that it changes" if growth.verdict == "unknown" else f"It {growth.verdict}"
    if told.shared == "asymptote":
        return [f"{change} with compute: {rate}."]
    there = f"{growth.multiplier:.3g} times" if np.isfinite(growth.multiplier) else "out of reach"
    return [
        f"{change} with compute: where each has exponents of its own it is {rate}, and "
        f"{there} {_interval(growth.multiplier_interval)} at {told.flops:.3g} FLOPs."
    ]


def _of_reach(told: Comparison) -> list[str]:
    if told.reach <= 1:
        return []
    return [
        f"{told.flops:.3g} FLOPs is {told.reach:.3g} times the largest compute that both have runs at: nothing here "
        "tested the laws so far out."
    ]


def _of_level(said: Sequence[str], level: float | None) -> list[str]:
    return [f"Intervals are of {100 * level:g}%."] if level and "[" in " ".join(said) else []


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _verb(number: int, plural: str) -> str:
    return plural if number != 1 else f"{plural}s"


def _apart(shift: float) -> str:
    return f"{abs(shift):.2%} {'above' if shift > 0 else 'below'}"


def _span(budgets: Sequence[float], scale: str) -> str:
    unit = "FLOPs" if scale == "flops" else scale
    if len(budgets) == 1:
        return f"{budgets[0]:.3g} {unit}"
    return f"the {len(budgets)} budgets from {budgets[0]:.3g} to {budgets[-1]:.3g} {unit}"


def _loss(value: tuple[float, tuple[float, float]]) -> str:
    loss, (low, high) = value
    return f"a loss of {loss:.4f} [{low:.4f}, {high:.4f}]"


def _interval(ends: tuple[float, float]) -> str:
    low, high = ends
    return f"[{low:.3g}, {'open' if np.isinf(high) else format(high, '.3g')}]"
