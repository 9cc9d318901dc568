"""Comparison of two recipes by compute: how much one is worth over the other.

Where both recipes have budgets of several sizes, the multiplier is read off the lower envelopes that these measured
(`envelope.py`). A law of both recipes (`joint_law.py`) says how it goes on beyond, and what it is without budgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.intervals import interval_around
from nextscale.fit.jsonable import jsonable
from nextscale.fit.laws.catalogue import law_named
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.sum_of_powers import SumOfPowers
from nextscale.fit.optimum.frontier import TokenCost
from nextscale.fit.optimum.isoflop import isoflops, run_noise
from nextscale.fit.table.columns import Columns, column_of
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.table.sources import Table
from nextscale.fit.trust.answers import comparison_answer
from nextscale.fit.trust.backtest import MISFIT
from nextscale.fit.trust.envelope import Envelope, multipliers_of_envelopes
from nextscale.fit.trust.joint_law import JointFit, Shared

_STEPS = 25
_USUAL, _ENOUGH = 0.95, 200
"""Resamples of a law that are enough, at the usual levels, where the figure does not rest on it alone."""
_MOST, _APART = 0.9, 2.0
"""Of the resamples, that must have a multiplier all over the runs, and how far these must reach in compute, before its
change is reported."""
_NOTHING = 1e-4
"""A multiplier, or a change of one, by less than that is none: it is the rounding of runs without noise."""

_NOTHING_IN_COMMON = "the tables have no compute in common: the comparison rests on the law alone"


@dataclasses.dataclass(frozen=True)
class Growth:
    """How the multiplier changes with compute: by the envelopes or, by a law, with each recipe's own exponents.

    Attributes:
        per_decade: the multiplier at ten times the compute / the multiplier, over the runs.
        interval: of it.
        verdict: `grows`, `shrinks` or `unknown`: whether the interval includes 1.
        multiplier: where the comparison is made, if it goes on so, and the interval of it.
        by: `envelope` or `law`.
    """

    per_decade: float
    interval: tuple[float, float]
    verdict: str
    multiplier: float
    multiplier_interval: tuple[float, float]
    by: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What recipe B is worth over recipe A: A's compute / B's, for the loss that the worse of them has at a compute.

    So the better recipe has to reach what the worse one does, with less, and neither goes beyond that compute. A over
    B is one over B over A at each, and a recipe is worth 1 over itself.

    Attributes:
        flops: where `multiplier` is given, of the recipe that needs more: the geometric middle of the compute that both
            tables have, or as asked.
        multiplier: A's compute / B's there; infinite where B has A's loss with a thousandth of all runs' compute
            already, 0 where A has B's.
        interval: of it, at `level`.
        verdict: `better`, `worse` or `not distinguishable`: whether the interval includes 1.
        by: `envelope`, where both computes lie among the budgets measured, or `law`.
        reach: `flops` / the largest compute that both tables have runs at.
        saves: FLOPs that A needs more than B for that loss; None where they are out of reach.
        saves_interval: of it, an end None where that is open.
        growth: how the multiplier changes with compute; None where the runs cannot tell.
        shared: `exponents` (and E) or `asymptote` (E alone): what the law has in common.
        ratios: by term of the law, A's coefficient / B's, with its interval.
        parameters: of the joint law.
        table: `flops`, `inside` (the compute of both tables), `by`, `multiplier`, `multiplier_low`, `multiplier_high`.
        runs: of each recipe.
        warnings: what a reader must know.
    """

    law: str
    flops: float
    multiplier: float
    interval: tuple[float, float]
    level: float
    verdict: str
    by: str
    reach: float
    growth: Growth | None
    shared: Shared
    parameters: dict[str, float]
    ratios: dict[str, tuple[float, tuple[float, float]]]
    table: pd.DataFrame
    runs: tuple[int, int]
    warnings: tuple[str, ...]

    @property
    def saves(self) -> float | None:
        return _more(self.flops, self.multiplier)

    @property
    def saves_interval(self) -> tuple[float | None, float | None]:
        low, high = self.interval
        return _more(self.flops, low), _more(self.flops, high)

    @property
    def answer(self) -> str:
        """Is B worth more compute than A? In words."""
        return comparison_answer(self)

    def to_dict(self) -> dict[str, Any]:
        return jsonable(
            {
                "answer": self.answer,
                **dataclasses.asdict(dataclasses.replace(self, table=pd.DataFrame())),
                "ratios": {name: {"ratio": ratio, "interval": bounds} for name, (ratio, bounds) in self.ratios.items()},
                "saves": self.saves,
                "saves_interval": self.saves_interval,
                "runs": dict(zip("AB", self.runs, strict=True)),
                "table": self.table.to_dict("records"),
            }
        )

    def __str__(self) -> str:
        at, (low, high) = f"at {self.flops:.3g} FLOPs", self.interval
        if np.isinf(self.multiplier):
            return f"B is better than A {at} with a thousandth of the compute of these runs already"
        if self.multiplier == 0:
            return f"A is better than B {at} with a thousandth of the compute of these runs already"
        worth = f"B is worth {self.multiplier:.3g} times the compute of A {at} [{low:.3g}, {high:.3g}]"
        return f"not distinguishable: {worth}" if self.verdict == "not distinguishable" else worth


def compare(
    runs_a: Table | Runs,
    runs_b: Table | Runs,
    law: str | Law = "auto",
    *,
    shared: Shared = "exponents",
    flops: float | None = None,
    cost_a: TokenCost | None = None,
    cost_b: TokenCost | None = None,
    params: str = "total",
    columns: Columns | Mapping[str, str] = Columns(),
    level: float = 0.9,
    resamples: int = 500,
    **options: Any,
) -> Comparison:
    """Compares two recipes by the compute that each needs for the same loss.

    Args:
        runs_a, runs_b: a table of runs of each recipe; the same corpus and tokenizer, or losses do not compare.
        law: a sum of powers, in N and D or in C; `auto` takes `chinchilla` where both tables can tell the exponent of
            N from that of D, and else `saturating`. It counts where there is no envelope.
        shared: what the recipes have in common: the irreducible loss and the exponents, or the irreducible loss alone
            (the pinned asymptote), where the multiplier changes with compute.
        flops: where the multiplier is given: compute of the recipe that needs more.
        cost_a, cost_b: FLOPs per token of a size; read off the runs unless given.
        params, columns: as `fit` has them, of tables that are not `Runs` yet.
        level: of the intervals.
        resamples: of the bootstrap, which draws runs within each recipe, and of each budget's noise.
        options: passed to `fit`.

    Raises:
        InputError: the tables cannot be fitted so, or the law is no sum of powers in N and D or in C.
    """
    _check(shared, flops, resamples)
    a, b, base = _both(runs_a, runs_b, law, params, columns)
    how: dict[str, Any] = {"bootstrap": "stratified", "resamples": resamples, "level": level} | options
    fewer = how | {"resamples": min(resamples, _ENOUGH) if level <= _USUAL else resamples}
    envelopes = _envelopes(a, b, resamples, how.get("seed", 0))
    tables = (_best_of_budgets(a), _best_of_budgets(b)) if base.variables == ("C",) else (a, b)
    found = JointFit.of(tables, (cost_a, cost_b), base, shared, fewer if envelopes else how)
    scales = [runs.table["budget"] for runs in (a, b)] if envelopes else [runs.scale for runs in tables]
    low, high = max(scale.min() for scale in scales), min(scale.max() for scale in scales)
    flops = float(flops or np.sqrt(low * high))
    at = _steps(scales, (flops, low, high))
    inside = (low <= at) & (at <= high)
    draws = by_law = found.multipliers(at)
    covered = np.zeros((2, len(at)), bool)
    if envelopes:
        draws, covered = multipliers_of_envelopes(envelopes, by_law, found.floors, at, inside)
    measured = covered.all(axis=0)
    by = np.where(measured, "envelope", "law")
    table = pd.DataFrame({"flops": at, "inside": inside, "by": by, **_bounds(draws, level)})
    there = table[table["flops"] == flops].iloc[0].to_dict()
    interval = (there["multiplier_low"], there["multiplier_high"])
    if envelopes:
        growth = _growth(draws[:, measured], at[measured], flops, level, "envelope")
        warnings = _leaning(table, covered, base, flops)
    else:
        freer = found if shared == "asymptote" else _freer(found, fewer)
        growth = None if freer is None else _growth(freer.multipliers(at)[:, inside], at[inside], flops, level, "law")
        warnings = _without_envelopes(found, freer, len(a) + len(b))
    warnings += _misfits(table.assign(law=by_law[0]), found, (a, b), flops)
    return Comparison(
        law=base.name,
        flops=flops,
        multiplier=there["multiplier"],
        interval=interval,
        level=level,
        verdict=_verdict(interval),
        by=there["by"],
        reach=flops / high,
        growth=growth,
        shared=shared,
        parameters=found.fit.parameters,
        ratios=found.ratios,
        table=table,
        runs=(len(tables[0]), len(tables[1])),
        warnings=(*found.fit.warnings, *warnings, *([_NOTHING_IN_COMMON] if low >= high else [])),
    )


def _check(shared: str, flops: float | None, resamples: int) -> None:
    if shared not in get_args(Shared):
        raise InputError(f"shared: '{shared}' is not one of {', '.join(get_args(Shared))}")
    if flops is not None and not (np.isfinite(flops) and flops > 0):
        raise InputError(f"flops: should be greater than 0, not {flops:g}")
    if resamples < 0:
        raise InputError(f"resamples: should be 0 or more, not {resamples}")


def _both(
    runs_a: Table | Runs, runs_b: Table | Runs, law: str | Law, params: str, columns: Columns | Mapping[str, str]
) -> tuple[Runs, Runs, SumOfPowers]:
    tables = [
        # A law in C needs least; what else the table has comes along.
        runs if isinstance(runs, Runs) else as_runs(runs, columns=columns, convention=params, variables="C", where=name)
        for runs, name in ((runs_a, "runs of A"), (runs_b, "runs of B"))
    ]
    if law == "auto":
        law = "chinchilla" if all(_tells_n_from_d(runs) for runs in tables) else "saturating"
    base = law_named(law)
    if not isinstance(base, SumOfPowers) or set(base.variables) not in ({"C"}, {"N", "D"}):
        raise InputError(f"{base.name}: a comparison needs a sum of powers in N and D, or in C")
    for runs in tables:
        if lacking := {"flops", *map(column_of, base.variables)} - {*runs.table}:
            raise InputError(f"runs: a comparison by {base.name} needs {', '.join(sorted(lacking))} in both tables")
    return tables[0], tables[1], base


def _tells_n_from_d(runs: Runs) -> bool:
    if not {"params", "tokens"} <= {*runs.table} or len(runs) < 8:
        return False
    logs = np.log(runs.table[["params", "tokens"]].to_numpy(float))
    return bool((np.ptp(logs, axis=0) > 0.1).all()) and abs(np.corrcoef(logs.T)[0, 1]) < 0.995


def _envelopes(a: Runs, b: Runs, draws: int, seed: int) -> tuple[Envelope, Envelope] | None:
    of_a, of_b = (Envelope.of(runs, max(draws, 1), seed) for runs in (a, b))
    return None if of_a is None or of_b is None else (of_a, of_b.mirrored())


def _steps(scales: Sequence[pd.Series], among: Sequence[float]) -> np.ndarray:
    """Compute over the runs of both and to what is asked for, `among` them."""
    ends = [*among, *(end for scale in scales for end in (scale.min(), scale.max()))]
    return np.unique([*among, *np.geomspace(min(ends), max(ends), _STEPS)])


def _best_of_budgets(runs: Runs) -> Runs:
    """The best run of each budget, of a table that varies the size at one."""
    table = runs.table
    if "params" not in table or (table.groupby("budget")["params"].nunique() < 2).all():
        return runs
    return runs.where(table.index.to_series().isin(table.groupby("budget")["loss"].idxmin()))


def _freer(joint: JointFit, how: Mapping[str, Any]) -> JointFit | None:
    """Both recipes with exponents of their own; None where the runs cannot tell them."""
    try:
        return JointFit.of(joint.tables, joint.costs, joint.base, "asymptote", how)
    except InputError:
        return None


def _bounds(draws: np.ndarray, level: float) -> dict[str, np.ndarray]:
    low, high = interval_around(draws[0], draws[1:], level, method="nearest")
    return {"multiplier": draws[0], "multiplier_low": low, "multiplier_high": high}


def _growth(draws: np.ndarray, steps: np.ndarray, flops: float, level: float, by: str) -> Growth | None:
    """By a straight line through log multiplier against log compute.

    Args:
        draws: multipliers, (1 + R) x k.
        steps: where both recipes have runs, k.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(draws)
    known = np.isfinite(logs).all(axis=1)
    if len(steps) < 2 or steps[-1] < _APART * steps[0] or not known[0] or known.mean() < _MOST:
        return None
    x, logs = np.log10(steps), logs[known]
    away = x - x.mean()
    rates = logs @ away / np.square(away).sum()
    nearest = np.abs(x - np.log10(flops)).argmin()
    there = logs[:, nearest] + rates * (np.log10(flops) - x[nearest])
    rate, ends = (_bounds(np.exp(values)[:, None], level) for values in (rates, there))
    low, high = float(rate["multiplier_low"][0]), float(rate["multiplier_high"][0])
    return Growth(
        per_decade=float(rate["multiplier"][0]),
        interval=(low, high),
        verdict="grows" if low > 1 + _NOTHING else "shrinks" if high < 1 - _NOTHING else "unknown",
        multiplier=float(ends["multiplier"][0]),
        multiplier_interval=(float(ends["multiplier_low"][0]), float(ends["multiplier_high"][0])),
        by=by,
    )


def _more(flops: float, multiplier: float) -> float | None:
    """FLOPs that A needs more than B, of which the one that needs more has `flops`."""
    if np.isinf(multiplier) or multiplier == 0:
        return None
    return (1 - 1 / multiplier) * flops if multiplier > 1 else (multiplier - 1) * flops


def _verdict(interval: tuple[float, float]) -> str:
    low, high = interval
    return "better" if low > 1 + _NOTHING else "worse" if high < 1 - _NOTHING else "not distinguishable"


def _leaning(table: pd.DataFrame, covered: np.ndarray, base: SumOfPowers, flops: float) -> list[str]:
    """A warning where the multiplier asked for leans on the law, though there are envelopes."""
    outside = [
        name for name, known in zip("AB", covered[:, (table["flops"] == flops).to_numpy()], strict=True) if not known
    ]
    read = table.loc[table["by"] == "envelope", "flops"].to_numpy()
    if not outside or not len(read):
        return []
    nearest = read[np.abs(np.log(read / flops)).argmin()]
    return [
        f"at {flops:.3g} FLOPs the loss compared lies beyond the budgets of {' and '.join(outside)}: the multiplier is "
        f"that measured at {nearest:.3g} FLOPs, changed from there on as {base.name} says"
    ]


def _without_envelopes(found: JointFit, freer: JointFit | None, whole: int) -> list[str]:
    """Warnings where the law alone stands for the runs, of which there are so many."""
    warnings = []
    if found.base.variables == ("C",):
        warnings.append(
            f"{found.base.name} knows compute alone: where the runs of a recipe are not of its best size, that counts "
            "against the recipe"
        )
    if left_out := whole - len(found.fit.runs):
        warnings.append(f"{left_out} runs left out: of each budget the best run stands for all")
    return warnings if freer is None else [*warnings, *found.doubts(freer)]


def _misfits(table: pd.DataFrame, found: JointFit, tables: tuple[Runs, Runs], flops: float) -> list[str]:
    """A warning where the law is not what the runs follow.

    Args:
        table: with `law`, the multiplier by the law.
    """
    signs, table = [], table[table["by"] == "envelope"]
    apart = table[(table["law"] < table["multiplier_low"]) | (table["law"] > table["multiplier_high"])]
    if len(apart) > len(table) / 2:
        row = apart.loc[np.abs(np.log(apart["flops"] / flops)).idxmin()]
        signs.append(
            f"at {row['flops']:.3g} FLOPs it gives {row['law']:.3g}, the measured envelopes {row['multiplier']:.3g} "
            f"[{row['multiplier_low']:.3g}, {row['multiplier_high']:.3g}]"
        )
    noises = [noise for noise in (run_noise(isoflops(runs)) for runs in tables if "params" in runs.table) if noise]
    scatter = float(np.sqrt(np.mean(np.square(noises)))) if noises else np.inf
    if found.fit.noise > MISFIT * scatter:
        signs.append(f"its residuals are {found.fit.noise / scatter:.1f} times the scatter of runs of one budget")
    name = found.base.name
    return [f"the law misfits these runs ({name}): {'; '.join(signs)}; do not lean on it beyond them"] if signs else []
