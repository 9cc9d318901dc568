"""The design of the next runs: which of the candidates narrows the forecast most per FLOP."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.frontier import TokenCost, frontier
from nextscale.fit.table.columns import column_of
from nextscale.fit.trust.consensus import Consensus

_COSTS, _SIZES = 6, 9
_CHEAPEST, _DEAREST = 0.1, 10.0
"""Of the default candidates, / the dearest run fitted: those far below bend the law, those far above cost too much."""
_AWAY = (1.5, 8.0)
"""The default candidates are as many times smaller and larger than the best size of their cost as the runs fitted are,
for so far the law has been seen; but so many times at least, and at most."""
_ROUNDS = 200
"""Of the search for an allocation: shares are then known to a few percent, and runs are whole."""
_ROUNDING = 1e-6
"""No loss is known more exactly, relative."""
_STEPS = 16
"""Of the discrepancy, from the cheapest run to the target."""
_COEFFICIENT, _EXPONENT = 3.0, 1.0
"""What is known of a log coefficient and of a shape before any run, as standard deviations."""


@dataclasses.dataclass(frozen=True)
class NextRuns:
    """Candidate runs, and what each would do for the forecast of the best loss at the target.

    Attributes:
        flops, params, tokens: the target, and its best size.
        spread: relative standard deviation of the law's loss there now.
        candidates: a row each, best first: `params`, `tokens` (what the law varies in), `flops`, `candidate` (its row
            as offered), `spread_after`, `narrowing` (1 - spread after / spread now) and `per_flop` (variance removed /
            FLOPs, / that of the best).
        sequence: the runs to do in order, with `spent` (FLOPs so far) and `spread_after` (all so far done).
        warnings: what a reader must know.
    """

    law: str
    flops: float
    params: float | None
    tokens: float | None
    spread: float
    candidates: pd.DataFrame
    sequence: pd.DataFrame
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        tables = {name: getattr(self, name).to_dict("records") for name in ("candidates", "sequence")}
        return (
            {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
            | tables
            | {"warnings": list(self.warnings)}
        )


def next_runs(
    fit: Fit,
    target_flops: float,
    candidates: pd.DataFrame | None = None,
    *,
    budget: float | None = None,
    narrow_to: float | None = None,
    runs: int = 8,
    cost: TokenCost | None = None,
) -> NextRuns:
    """Ranks candidate runs by how much they narrow the forecast at a target, and picks a sequence.

    The law is taken to be linear in its parameters about the fit, and each run to tell of them what its scatter lets
    it: the information matrix of Gauss and Newton, on a weak prior. A candidate then removes (gᵀVs)² / (σ² + sᵀVs) of
    the variance gᵀVg at the target, whatever it will measure (linear Bayesian design, Chaloner & Verdinelli 1995,
    sec. 2). g and s are the slopes of log L there and at the candidate; that the best size at the target moves with
    the parameters does not matter to first order, for the loss is flat there. The error that a backtest has shown is
    a discrepancy between the law at the target and at other costs (Kennedy & O'Hagan 2001, "Bayesian calibration of
    computer models"): it wanders at random with log compute, so that a run tells the less the farther it lies from the
    target, however often it is repeated.

    Of a consensus the law of most weight stands for all.

    Args:
        target_flops: of the forecast.
        candidates: with `params` and `tokens` (what the law varies in) and, where the cost of a run is not as `cost`
            has it, `flops`. By default sizes about the best one at costs from a tenth of the dearest run fitted up to
            ten times it, but not beyond the budget or the target.
        budget: FLOPs that the sequence may spend; without it the sequence is as long as `runs`.
        narrow_to: the share of the spread now to which it is to be narrowed; no more is spent than that takes.
        runs: of the sequence, at most. A candidate may be run more than once.
        cost: FLOPs per token of a size; read off the runs unless given.

    Raises:
        InputError: the law takes neither C nor N and D, or no candidate is within the budget, or worth its cost.
    """
    if isinstance(fit, Consensus):
        fit = fit.leading
    names = [column_of(name) for name in fit.law.variables]
    if set(fit.law.variables) not in ({"C"}, {"N", "D"}):
        raise InputError(f"{fit.law.name}: the next run needs a law in N and D, or in C")
    if "flops" not in fit.runs.table:
        raise InputError("runs: the next run needs the flops of those before it")
    sized = "params" in names
    cost = (cost or TokenCost.of_runs(fit.runs)) if sized else None
    target = _best(fit, target_flops, cost) if sized else {"flops": float(target_flops)}
    offered = _candidates(fit, target_flops, budget, cost) if candidates is None else _priced(candidates, names, cost)
    offered["candidate"] = range(len(offered))
    if budget is not None:
        offered = offered[offered["flops"] <= budget].reset_index(drop=True)
    if offered.empty:
        raise InputError("candidates: none is within the budget")
    at = pd.concat([fit.runs.table[[*dict.fromkeys((*names, "flops"))]], offered, pd.DataFrame([target])])
    slopes = _slopes(fit, at)
    known, choices, g = np.split(slopes, [len(fit.runs), len(slopes) - 1])
    noise = max(fit.noise, _ROUNDING)
    covariance = _covariance(fit, known, noise)
    variance = float(g[0] @ covariance @ g[0])
    removed = _removed(covariance, choices, g[0], noise)
    costs = offered["flops"].to_numpy(float)
    after = np.sqrt(variance - removed)
    ranked = offered.assign(
        spread_after=after, narrowing=1 - after / np.sqrt(variance), per_flop=removed / costs / (removed / costs).max()
    )
    return NextRuns(
        law=fit.law.name,
        flops=float(target_flops),
        params=target.get("params"),
        tokens=target.get("tokens"),
        spread=float(np.sqrt(variance)),
        candidates=ranked.sort_values("per_flop", ascending=False).reset_index(drop=True),
        sequence=_sequence(offered, covariance, choices, g[0], noise, budget, narrow_to, runs),
        warnings=tuple(fit.warnings),
    )


def _sequence(
    offered: pd.DataFrame,
    covariance: np.ndarray,
    choices: np.ndarray,
    g: np.ndarray,
    noise: float,
    budget: float | None,
    narrow_to: float | None,
    runs: int,
) -> pd.DataFrame:
    """The runs that leave least of the variance at the target, of those picked in two ways: greedily by what one
    removes per FLOP, which under a budget spends on the cheap what a dear one would have told; and as the best
    allocation of the budget would have them, which rounding may spoil."""
    costs = offered["flops"].to_numpy(float)
    state = _State(covariance, choices, g, noise, costs)
    picked = state.picked(runs, budget, state.per_flop)
    if narrow_to is not None:
        goal = narrow_to * float(np.sqrt(g @ covariance @ g))
        picked = picked[: 1 + next((i for i, (_, _, after) in enumerate(picked) if after <= goal), len(picked))]
        budget = picked[-1][1]
    if budget is not None:
        allotted = state.picked(runs, budget, state.allocation)
        if allotted[-1][2] < picked[-1][2]:
            picked = allotted
    rows = [
        {"order": i + 1, **offered.iloc[k].to_dict(), "spent": spent, "spread_after": after}
        for i, (k, spent, after) in enumerate(picked)
    ]
    return pd.DataFrame(rows).astype({"candidate": int})


@dataclasses.dataclass(frozen=True)
class _State:
    """What is known of the parameters, and what runs could be done.

    Attributes:
        covariance: of the parameters.
        choices: slopes of each run that could be done.
        g: slopes at the target.
        noise: of a run, relative.
        costs: of each run, FLOPs.
    """

    covariance: np.ndarray
    choices: np.ndarray
    g: np.ndarray
    noise: float
    costs: np.ndarray

    def picked(
        self, runs: int, budget: float | None, worth: Callable[[np.ndarray, float], np.ndarray]
    ) -> list[tuple[int, float, float]]:
        """One run after another, that of most `worth` (by the covariance, and what is left): which it is, FLOPs spent
        with it, and the spread at the target after it."""
        V, spent, picked = self.covariance, 0.0, []
        for _ in range(runs):
            left = np.inf if budget is None else budget - spent
            if not (self.costs <= left).any():
                break
            best = int(np.where(self.costs <= left, worth(V, left), -1).argmax())
            V, spent = _with_run(V, self.choices[best], self.noise), spent + self.costs[best]
            picked.append((best, spent, float(np.sqrt(self.g @ V @ self.g))))
        return picked

    def per_flop(self, V: np.ndarray, left: float) -> np.ndarray:
        """Variance at the target that each run removes / its FLOPs."""
        return _removed(V, self.choices, self.g, self.noise) / self.costs

    def allocation(self, V: np.ndarray, left: float) -> np.ndarray:
        """The shares of what is left that leave least variance at the target, could one buy parts of runs: a c-optimal
        design (Silvey, Titterington & Torsney 1978, "An algorithm for optimal designs on a finite design space")."""
        usable = self.costs <= left
        shares = np.where(usable, 1 / usable.sum(), 0.0)
        prior = np.linalg.inv(V)
        per_share = left / self.costs / self.noise**2
        for _ in range(_ROUNDS):
            information = prior + (self.choices * (shares * per_share)[:, None]).T @ self.choices
            gain = per_share * np.square(self.choices @ np.linalg.solve(information, self.g))
            shares = shares * np.sqrt(gain)
            shares /= shares.sum()
        return shares


def near_optimum(fit: Fit, table: pd.DataFrame, cost: TokenCost) -> np.ndarray:
    """Which rows of `params` and `flops` lie as near the best size of their cost as the runs fitted do: so far the law
    has been seen."""
    known = fit.runs.table["flops"]
    away = _off_optimum(fit, table, (known.min(), known.max(), *table["flops"].agg(["min", "max"])), cost)
    return np.abs(away) <= np.log(_away(fit, cost)) + 1e-9


def _removed(covariance: np.ndarray, slopes: np.ndarray, g: np.ndarray, noise: float) -> np.ndarray:
    """Variance at the target that a run with each of these slopes removes."""
    towards = slopes @ covariance
    return np.square(towards @ g) / (noise**2 + (towards * slopes).sum(axis=1))


def _with_run(covariance: np.ndarray, slope: np.ndarray, noise: float) -> np.ndarray:
    """The covariance of the parameters once a run is done."""
    towards = covariance @ slope
    return covariance - np.outer(towards, towards) / (noise**2 + slope @ towards)


def _slopes(fit: Fit, at: pd.DataFrame) -> np.ndarray:
    """Of log L by each free parameter, and by each step of the discrepancy, in every row; the target is the last.

    A step of the discrepancy is a stretch of log compute: what lies between a run and the target adds to it, in units
    of what one e-fold does. The square root makes of their sum a Brownian motion (Kennedy & O'Hagan allow any process).
    """
    variables = {name: at[column_of(name)].to_numpy(float) for name in fit.law.variables}
    losses = np.exp(fit.log_losses(fit.theta[None], at)[0])
    problem = fit.law.problem(variables, losses, fit.loss, fit.fixed)
    slope = problem.expand(problem.centred(fit.theta[None])).slope[0][problem.free]
    cost = np.log(at["flops"].to_numpy(float))[:, None]
    edges = np.linspace(cost.min(), cost[-1, 0], _STEPS + 1)
    step = edges[1] - edges[0]
    between = np.clip((edges[1:] - cost) / max(step, 1e-12), 0, 1) * np.sqrt(step)
    return np.hstack([slope.T, between])


def _covariance(fit: Fit, slopes: np.ndarray, noise: float) -> np.ndarray:
    """Of the free parameters and the steps of the discrepancy, given the runs fitted."""
    law = fit.law
    scale = [_COEFFICIENT] * (len(law.coefficients) + len(law.log_linear)) + [_EXPONENT] * len(law.shapes)
    free = np.array([name not in fit.fixed for name in law.parameters])
    prior = np.append(np.array(scale)[free], np.full(_STEPS, max(fit.extrapolation_error, 1e-9)))
    counted = np.sqrt(fit.runs.weights)[:, None] * slopes / noise
    # In units of the prior, so that the matrix is well conditioned.
    information = np.eye(len(prior)) + (counted * prior).T @ (counted * prior)
    return prior[:, None] * np.linalg.inv(information) * prior


def _best(fit: Fit, flops: float, cost: TokenCost | None) -> dict[str, float]:
    row = frontier(dataclasses.replace(fit, resamples=fit.theta[None]), [flops], cost).iloc[0]
    return {name: float(row[name]) for name in ("params", "tokens", "flops")}


def _candidates(fit: Fit, target: float, budget: float | None, cost: TokenCost | None) -> pd.DataFrame:
    dearest = float(fit.runs.table["flops"].max())
    last = min(_DEAREST * dearest, target, budget or np.inf)
    if last < _CHEAPEST * dearest:
        which = f"the budget, {last:.3g} FLOPs," if budget == last else f"the target, {last:.3g} FLOPs,"
        raise InputError(
            f"{which} is less than a tenth of the dearest run fitted ({dearest:.3g}): runs so small tell nothing new "
            "of a scale beyond; raise it, or name candidates"
        )
    costs = np.geomspace(_CHEAPEST * dearest, last, _COSTS)
    if cost is None:
        return pd.DataFrame({"flops": costs})
    rows, away = [], _away(fit, cost)
    for flops in costs:
        for params in _best(fit, flops, cost)["params"] * np.geomspace(1 / away, away, _SIZES):
            rows.append({"params": params, "tokens": flops / float(cost(np.array([params]))[0]), "flops": flops})
    return pd.DataFrame(rows)


def _away(fit: Fit, cost: TokenCost) -> float:
    """How many times smaller or larger than the best size of its cost a run fitted is; a tenth of them are more."""
    table = fit.runs.table
    apart = _off_optimum(fit, table, table["flops"], cost)
    return float(np.clip(np.exp(np.quantile(np.abs(apart), 0.9)), *_AWAY))


def _off_optimum(fit: Fit, table: pd.DataFrame, flops: Collection[float], cost: TokenCost) -> np.ndarray:
    """log(params / the best size of its cost), of each row; the best sizes are found on a grid over these costs."""
    costs = np.geomspace(min(flops), max(flops), _COSTS)
    best = [_best(fit, one, cost)["params"] for one in costs]
    return np.log(table["params"].to_numpy(float)) - np.interp(np.log(table["flops"]), np.log(costs), np.log(best))


def _priced(candidates: pd.DataFrame, names: Sequence[str], cost: TokenCost | None) -> pd.DataFrame:
    if lacking := [name for name in names if name not in candidates]:
        raise InputError(f"candidates: there is no column {', '.join(lacking)}")
    if "flops" not in candidates and cost is not None:
        candidates = candidates.assign(flops=candidates["tokens"] * cost(candidates["params"].to_numpy(float)))
    offered = candidates[[*dict.fromkeys((*names, "flops"))]].astype(float).reset_index(drop=True)
    if not (np.isfinite(offered.to_numpy()) & (offered.to_numpy() > 0)).all():
        raise InputError("candidates: a value is missing, infinite or not positive")
    return offered
