"""Comparison of two recipes by compute: how much one is worth over the other.

Both recipes are fitted at once. What they share, the irreducible loss and (unless the runs say otherwise) the
exponents, is what makes the ratio of their computes a number: with E free for each, two noisy asymptotes are compared
instead. With all shared, B's coefficients are A's divided by e^u and e^v, and B is worth e^(u/α) times A's parameters
and e^(v/β) times its tokens: under C = 6ND, the product of both times its compute at any scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.jsonable import jsonable
from nextscale.fit.laws.catalogue import law_named
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.sum_of_powers import SumOfPowers
from nextscale.fit.optimum.frontier import TokenCost, optima
from nextscale.fit.optimum.inverse import flops_at
from nextscale.fit.table.columns import Columns, column_of
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.trust.answers import comparison_answer
from nextscale.fit.trust.joint_law import Shared, joint_law, stacked_runs, variables_of_recipe

_STEPS = 25
_BEYOND = 1e3
"""How far from the runs' compute an equal loss is looked for."""
_USUAL, _OF_GROWTH = 0.95, 200
"""Resamples that are enough to tell how the multiplier changes, at the usual levels."""
_MOST = 0.9
"""Of the resamples, that must have a multiplier at both ends, before its change is reported."""
_DOUBT = 0.01
"""Below this probability under equal exponents they are held to differ."""


@dataclasses.dataclass(frozen=True)
class Growth:
    """How the multiplier changes with compute, where each recipe has its own exponents.

    Attributes:
        per_decade: the multiplier at ten times the compute / the multiplier, over the runs.
        interval: of it.
        verdict: `grows`, `shrinks` or `unknown`: whether the interval includes 1.
        multiplier: where the comparison is made, and the interval of it.
    """

    per_decade: float
    interval: tuple[float, float]
    verdict: str
    multiplier: float
    multiplier_interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What recipe B is worth over recipe A.

    Attributes:
        flops: where `multiplier` is given: the geometric middle of the compute that both tables have, or as asked.
        multiplier: the compute that A needs for the loss B has at `flops`, / `flops`; infinite where A does not get
            there within a thousand times the runs' compute, 0 where a thousandth of theirs is enough.
        interval: of it, at `level`.
        verdict: `better`, `worse` or `not distinguishable`: whether the interval includes 1.
        reach: `flops` / the largest compute that both tables have runs at.
        saves: FLOPs that A needs more than B for the loss B has at `flops`; None where it does not get there.
        saves_interval: of it, an end None where that is open.
        growth: how the multiplier changes with compute; None where the runs cannot tell.
        shared: `exponents` (and E) or `asymptote` (E alone).
        ratios: by term of the law, A's coefficient / B's, with its interval.
        parameters: of the joint law.
        table: `flops`, `multiplier`, `multiplier_low`, `multiplier_high`, `inside` (the compute of both tables).
        runs: of each recipe.
        warnings: what a reader must know.
    """

    law: str
    flops: float
    multiplier: float
    interval: tuple[float, float]
    level: float
    verdict: str
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
            return f"B is better {at} than A becomes within a thousand times the compute of these runs"
        if self.multiplier == 0:
            return f"A is better than B {at} with a thousandth of the compute of these runs already"
        worth = f"B is worth {self.multiplier:.3g} times the compute of A {at} [{low:.3g}, {high:.3g}]"
        return f"not distinguishable: {worth}" if self.verdict == "not distinguishable" else worth


def compare(
    runs_a: pd.DataFrame | Runs,
    runs_b: pd.DataFrame | Runs,
    law: str | Law = "auto",
    *,
    shared: Shared = "exponents",
    flops: float | None = None,
    cost_a: TokenCost | None = None,
    cost_b: TokenCost | None = None,
    params: str = "total",
    columns: Columns = Columns(),
    level: float = 0.9,
    resamples: int = 500,
    **options: Any,
) -> Comparison:
    """Compares two recipes by the compute that each needs for the same loss.

    Args:
        runs_a, runs_b: a table of runs of each recipe; the same corpus and tokenizer, or losses do not compare.
        law: a sum of powers, in N and D or in C; `auto` takes `chinchilla` where both tables can tell the exponent of
            N from that of D, and else `saturating`.
        shared: what the recipes have in common: the irreducible loss and the exponents, or the irreducible loss alone
            (the pinned asymptote), where the multiplier changes with compute.
        flops: where the multiplier is given.
        cost_a, cost_b: FLOPs per token of a size; read off the runs unless given.
        params, columns: as `fit` has them, of tables that are not `Runs` yet.
        level: of the intervals.
        resamples: of the bootstrap, which draws runs within each recipe.
        options: passed to `fit`.

    Raises:
        InputError: the tables cannot be fitted so, or the law is no sum of powers in N and D or in C.
    """
    if shared not in get_args(Shared):
        raise InputError(f"shared: '{shared}' is not one of {', '.join(get_args(Shared))}")
    a, b, base = _both(runs_a, runs_b, law, params, columns)
    whole = len(a) + len(b)
    if base.variables == ("C",):
        a, b = _best_of_budgets(a), _best_of_budgets(b)
    stacked = stacked_runs(a, b, base)
    joint = joint_law(base, shared)
    how: dict[str, Any] = {"bootstrap": "stratified", "resamples": resamples, "level": level} | options
    found = fit(stacked, joint, **how)
    fewer = min(resamples, _OF_GROWTH) if level <= _USUAL else resamples
    freer = found if shared == "asymptote" else _freer(stacked, base, how | {"resamples": fewer})
    low, high = max(a.scale.min(), b.scale.min()), min(a.scale.max(), b.scale.max())
    flops = float(flops or np.sqrt(low * high))
    first, last = min(a.scale.min(), b.scale.min(), flops), max(a.scale.max(), b.scale.max(), flops)
    steps = np.unique([flops, *np.geomspace(first, last, _STEPS)])
    draws = _multipliers(found, base, (a, b), (cost_a, cost_b), steps)
    table = pd.DataFrame([_row(draws[:, i], level) for i in range(len(steps))])
    table = pd.concat([pd.DataFrame({"flops": steps, "inside": (low <= steps) & (steps <= high)}), table], axis=1)
    there = table[table["flops"] == flops].iloc[0].to_dict()
    interval = (there["multiplier_low"], there["multiplier_high"])
    return Comparison(
        law=base.name,
        flops=flops,
        multiplier=there["multiplier"],
        interval=interval,
        level=level,
        verdict=_verdict(interval),
        reach=flops / high,
        growth=None if freer is None else _growth(freer, base, (a, b), (cost_a, cost_b), flops, level),
        shared=shared,
        parameters=found.parameters,
        ratios=_ratios(found, base),
        table=table,
        runs=(len(a), len(b)),
        warnings=tuple(_warnings(found, freer, base, stacked, whole)),
    )


def _both(
    runs_a: pd.DataFrame | Runs, runs_b: pd.DataFrame | Runs, law: str | Law, params: str, columns: Columns
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


def _best_of_budgets(runs: Runs) -> Runs:
    """The best run of each budget, of a table that varies the size at one."""
    table = runs.table
    if "params" not in table or (table.groupby("budget")["params"].nunique() < 2).all():
        return runs
    return runs.where(table.index.to_series().isin(table.groupby("budget")["loss"].idxmin()))


def _tells_n_from_d(runs: Runs) -> bool:
    if not {"params", "tokens"} <= {*runs.table} or len(runs) < 8:
        return False
    logs = np.log(runs.table[["params", "tokens"]].to_numpy(float))
    return bool((np.ptp(logs, axis=0) > 0.1).all()) and abs(np.corrcoef(logs.T)[0, 1]) < 0.995


def _multipliers(
    fit: Fit,
    base: SumOfPowers,
    tables: tuple[Runs, Runs],
    costs: tuple[TokenCost | None, TokenCost | None],
    flops: np.ndarray,
) -> np.ndarray:
    """The compute at which A has B's loss / B's; the best fit first, then each resample, (1 + R) x budgets; infinite
    where A does not get there."""
    thetas = np.concatenate([fit.theta[None], fit.resamples])
    wide = np.geomspace(flops[0] / _BEYOND, flops[-1] * _BEYOND, 3 * _STEPS)

    def losses(is_b: float, at: np.ndarray) -> np.ndarray:
        runs, cost = tables[int(is_b)], costs[int(is_b)]
        return optima(fit.law, thetas, runs, at.tolist(), cost, variables_of_recipe(is_b))[1]

    of_a, of_b = losses(0.0, wide), losses(1.0, flops)
    needed = [flops_at(curve, wide, row) for curve, row in zip(of_a, of_b, strict=True)]
    return np.array(needed) / flops


def _row(draws: np.ndarray, level: float) -> dict[str, float]:
    low, high = np.quantile(draws[1:], [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return {"multiplier": float(draws[0]), "multiplier_low": float(low), "multiplier_high": float(high)}


def _freer(stacked: Runs, base: SumOfPowers, how: Mapping[str, Any]) -> Fit | None:
    """Both recipes with exponents of their own; None where the runs cannot tell them."""
    try:
        return fit(stacked, joint_law(base, "asymptote"), **how)
    except InputError:
        return None


def _growth(
    freer: Fit,
    base: SumOfPowers,
    tables: tuple[Runs, Runs],
    costs: tuple[TokenCost | None, TokenCost | None],
    flops: float,
    level: float,
) -> Growth | None:
    scales = [end for runs in tables for end in (runs.scale.min(), runs.scale.max())]
    first, last = sorted(scales)[1:3]
    at = np.unique([first, last, flops])
    draws = _multipliers(freer, base, tables, costs, at)
    begin, end, at_flops = (draws[:, np.searchsorted(at, value)] for value in (first, last, flops))
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = (np.log(end) - np.log(begin)) / np.log10(last / first)
    if not np.isfinite(rates[0]) or np.isfinite(rates).mean() < _MOST:
        return None
    rate, low, high = np.exp([rates[0], *np.quantile(rates[np.isfinite(rates)], [(1 - level) / 2, (1 + level) / 2])])
    verdict = "grows" if low > 1 else "shrinks" if high < 1 else "unknown"
    there = _row(at_flops, level)
    ends = (there["multiplier_low"], there["multiplier_high"])
    return Growth(float(rate), (float(low), float(high)), verdict, there["multiplier"], ends)


def _more(flops: float, multiplier: float) -> float | None:
    return None if np.isinf(multiplier) or multiplier == 0 else (multiplier - 1) * flops


def _verdict(interval: tuple[float, float]) -> str:
    low, high = interval
    return "better" if low > 1 else "worse" if high < 1 else "not distinguishable"


def _ratios(fit: Fit, base: SumOfPowers) -> dict[str, tuple[float, tuple[float, float]]]:
    ratios = {}
    for name in (f"ratio_{term.coefficient}" for term in base.terms if term.powers):
        low, high = fit.interval(name)
        ratios[name.removeprefix("ratio_")] = (
            float(np.exp(fit.parameters[name])),
            (float(np.exp(low)), float(np.exp(high))),
        )
    return ratios


def _warnings(fit: Fit, freer: Fit | None, base: SumOfPowers, stacked: Runs, whole: int) -> list[str]:
    warnings = list(fit.warnings)
    if base.variables == ("C",):
        warnings.append(
            f"{base.name} knows compute alone: where the runs of a recipe are not of its best size, that counts "
            "against the recipe"
        )
    if len(stacked) < whole:
        warnings.append(f"{whole - len(stacked)} runs left out: of each budget the best run stands for all")
    scales = [stacked.scale[stacked.table["recipe"] == recipe] for recipe in stacked.table["recipe"].unique()]
    if max(scale.min() for scale in scales) >= min(scale.max() for scale in scales):
        warnings.append("the tables have no compute in common: the comparison rests on the law alone")
    if freer is not None and freer is not fit:
        more = len(freer.law.parameters) - len(fit.law.parameters)
        freedom = max(len(stacked) - len(freer.law.parameters), 1)
        tight, loose = (float(np.square(each.residuals).sum()) for each in (fit, freer))
        doubt = float(f_distribution.sf((tight - loose) / more / (loose / freedom), more, freedom))
        if doubt < _DOUBT:
            more_of_b = {k.removeprefix("more_"): v for k, v in freer.parameters.items() if "more_" in k}
            shifts = ", ".join(f"{name} {value:+.3f}" for name, value in more_of_b.items())
            warnings.append(
                f"the recipes do not have the same exponents (B's: {shifts}; F-test, p = {doubt:.1g}): the multiplier "
                "changes with compute; share the asymptote alone"
            )
    return warnings
