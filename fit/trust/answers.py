"""Answers in sentences: whether a trend is flattening, and what one recipe is worth over another.

Each gives the verdict, the figures that it rests on, and how far beyond the runs it reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nextscale.fit.trust.compare import Comparison
    from nextscale.fit.trust.trend import Trend


def trend_answer(trend: Trend) -> str:
    """Whether the newest budgets are flattening, by how much, how surely; how small a shift would have been seen; and
    what follows at a larger budget."""
    sentences = [*_of_new_runs(trend), *_of_budgets(trend), *_of_outlook(trend)]
    return " ".join([*sentences, *_of_level(sentences, None if trend.outlook is None else trend.outlook.level)])


def comparison_answer(comparison: Comparison) -> str:
    """What B is worth over A, what that saves, how it changes with compute, and how far that is beyond the runs."""
    sentences = [_of_worth(comparison), *_of_savings(comparison), *_of_growth(comparison), *_of_reach(comparison)]
    return " ".join([*sentences, *_of_level(sentences, comparison.level)])


def _of_new_runs(trend: Trend) -> list[str]:
    if trend.p is None or trend.shift is None:
        return []
    runs = f"The {_many(len(trend.runs), 'new run')}"
    lie = f"{_apart(trend.shift)} the law"
    if trend.p >= trend.alarm:
        return [f"{runs} {_verb(len(trend.runs), 'continue')} the law: together {lie} (p = {trend.p:.2g})."]
    return [f"{runs} {_verb(len(trend.runs), 'break')} the law: together {lie} (p = {trend.p:.2g})."]


def _of_budgets(trend: Trend) -> list[str]:
    found = trend.flattening
    if found is None:
        return ["Whether it is flattening cannot be told: too few runs lie below the newest budgets."]
    evidence = f"the {_many(found.runs, 'run')} at {_span(found.budgets, trend.scale)} {_verb(found.runs, 'lie')} "
    evidence += f"{_apart(found.shift)} what the {found.older} smaller ones forecast (p = {found.p:.2g})"
    if found.verdict == "flattening":
        return [f"Yes, it is flattening: {evidence}."]
    if found.verdict == "steepening":
        return [f"No, it is steepening: {evidence}."]
    return [f"No sign of flattening: {evidence}; {found.detectable:.2%} or more would have been called one."]


def _of_outlook(trend: Trend) -> list[str]:
    if trend.outlook is None or trend.flattening is None:
        return []
    before, after = trend.outlook.without, trend.outlook.following
    newest = "the newest budget" if len(trend.flattening.budgets) == 1 else "the newest budgets"
    return [
        f"At {trend.outlook.flops:.3g} FLOPs the law without {newest} forecasts {_loss(before)}, "
        f"and refitted to {newest} too {_loss(after)}."
    ]


def _of_worth(comparison: Comparison) -> str:
    at, interval = f"At {comparison.flops:.3g} FLOPs", _interval(comparison.interval)
    if np.isinf(comparison.multiplier) or comparison.multiplier == 0:
        better, worse = "BA" if comparison.multiplier else "AB"
        return f"{at} recipe {worse} has a loss that {better} has with a thousandth of the compute of these runs."
    worth = f"is worth {comparison.multiplier:.3g} times {interval} the compute of A"
    by = f"by {comparison.law}"
    if (comparison.table["by"] == "envelope").any():
        by = "by the measured envelopes" + (f" and {comparison.law} beyond" if comparison.by == "law" else "")
    if comparison.verdict == "not distinguishable":
        return f"{at} the recipes are not distinguishable: B {worth}, {by}, and that interval holds 1."
    return f"{at} recipe B {worth}, {by}."


def _of_savings(comparison: Comparison) -> list[str]:
    if comparison.verdict == "not distinguishable" or comparison.saves is None:
        return []
    better, worse = "BA" if comparison.saves > 0 else "AB"
    ends = [None if end is None else abs(end) for end in comparison.saves_interval]
    low, high = ("open" if end is None else f"{end:.3g}" for end in (ends if comparison.saves > 0 else reversed(ends)))
    less = f"{abs(comparison.saves):.3g} FLOPs [{low}, {high}] less"
    return [f"For the loss that {worse} has there, {better} needs {less}."]


def _of_growth(comparison: Comparison) -> list[str]:
    if comparison.growth is None:
        return ["Whether that changes with compute these runs cannot tell."]
    growth = comparison.growth
    rate = f"{growth.per_decade:.3g} times {_interval(growth.interval)} per tenfold compute"
    there = f"{growth.multiplier:.3g} times {_interval(growth.multiplier_interval)} at {comparison.flops:.3g} FLOPs"
    change = f"{'No sign that it changes' if growth.verdict == 'unknown' else f'It {growth.verdict}'} with compute"
    if growth.by == "envelope":
        further = f", and if that goes on {there}" if comparison.by == "law" else ""
        return [f"{change}: by the measured envelopes it is {rate}{further}."]
    if comparison.shared == "asymptote":
        return [f"{change}: {rate}."]
    return [f"{change}: where each has exponents of its own it is {rate}, and {there}."]


def _of_reach(comparison: Comparison) -> list[str]:
    if comparison.reach <= 1:
        return []
    return [
        f"{comparison.flops:.3g} FLOPs is {comparison.reach:.3g} times the largest compute that both have runs at: "
        "nothing here tested the laws so far out."
    ]


def _of_level(sentences: Sequence[str], level: float | None) -> list[str]:
    return [f"Intervals are of {100 * level:g}%."] if level and "[" in " ".join(sentences) else []


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
