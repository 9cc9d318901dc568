"""The compute-optimal frontier: at each budget the size with the lowest loss by a fitted law.

This is approach 3 of Hoffmann et al. 2022, with the true cost of each size in place of 6N per token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.intervals import ends_around
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.sum_of_powers import SumOfPowers
from nextscale.fit.table.columns import column_of
from nextscale.fit.table.runs import Runs

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator

_GRID, _COARSE = 400, 120
_RANGE = 100.0
"""Sizes are searched from 100 times below the smallest run to 100 times above the largest, and on with compute."""
_STEPS, _HALF, _NEAR = 12, 1e-2, 0.2
"""Of the last search, in log size: how many, half the width of its differences, and how far it may go."""
_LOWER = 0.5
"""A minimum lies no lower than that beside the lowest point of a grid."""
_PROPORTIONAL = 1e-9
"""FLOPs per token / parameters, that differ by less between all sizes."""
_ROUNDING = 4 * float(np.finfo(float).eps)
"""Of a difference of two losses / the loss."""
NEAR_OPTIMAL, NEAR_OPTIMAL_WIDE = 0.001, 0.005
"""Minima are flat: sizes whose loss is within these of the best are as good, to a run's scatter."""


@dataclasses.dataclass(frozen=True)
class TokenCost:
    """Training FLOPs per token as a function of N: through the sizes known, a power of N beyond them.

    Attributes:
        log_params, log_flops_per_token: of the sizes known, by rising size.
    """

    log_params: np.ndarray
    log_flops_per_token: np.ndarray

    @classmethod
    def of(cls, params: Sequence[float], flops_per_token: Sequence[float]) -> TokenCost:
        table = pd.DataFrame({"x": np.log(params), "y": np.log(flops_per_token)}).groupby("x")["y"].mean()
        x, y = table.index.to_numpy(float), table.to_numpy(float)
        # In proportion to size, such as 6N, one size says it all: beyond the ends it is so anyway.
        return cls(x[:1], y[:1]) if np.ptp(y - x) < _PROPORTIONAL else cls(x, y)

    @classmethod
    def of_runs(cls, runs: Runs) -> TokenCost:
        table = runs.table
        return cls.of(table["params"].tolist(), (table["flops"] / table["tokens"]).tolist())

    def __call__(self, params: np.ndarray) -> np.ndarray:
        x, y = self.log_params, self.log_flops_per_token
        at = np.log(params)
        below, above = self.slopes
        inside = y[0] if len(x) < 2 else _interpolator(x, y)(np.clip(at, x[0], x[-1]))
        return np.exp(inside + below * np.minimum(at - x[0], 0) + above * np.maximum(at - x[-1], 0))

    @property
    def slopes(self) -> tuple[float, float]:
        """Of log FLOPs per token beyond the ends: those over the nearest octave or more, kept near the proportional."""
        x, y = self.log_params, self.log_flops_per_token
        return (1.0, 1.0) if len(x) < 2 else (_end_slope(x, y, 0), _end_slope(x, y, -1))

    @property
    def per_param(self) -> tuple[float, float]:
        """FLOPs per token and parameter: the least and the most of the sizes known."""
        each = np.exp(self.log_flops_per_token - self.log_params)
        return float(each.min()), float(each.max())

    @property
    def cubics(self) -> np.ndarray:
        """What lies between neighbouring sizes: coefficients in log N less that of the smaller, highest power first,
        4 x (sizes - 1)."""
        x, y = self.log_params, self.log_flops_per_token
        return np.empty((4, 0)) if len(x) < 2 else _interpolator(x, y).c


def _interpolator(x: np.ndarray, y: np.ndarray) -> PchipInterpolator:
    from scipy.interpolate import PchipInterpolator  # takes half a second to import, and costs of 6N need none

    return PchipInterpolator(x, y)


def frontier(
    fit: Fit, flops: Sequence[float], cost: TokenCost | None = None, others: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """The optimum at each compute budget.

    Args:
        flops: training FLOPs.
        cost: FLOPs per token of a size; read off the runs unless given.
        others: where the law varies in more than N and D, what is held of each, such as `unique_tokens`.

    Returns:
        one row per budget: `flops`, `params`, `tokens`, `loss`, `tokens_per_param`, each but the first also with
        `_low` and `_high` (the fit's level; the loss as a run there would measure it; not numbers without resamples);
        `params_near_low`, `params_near_high`, the sizes whose loss is within 0.1 % of the best, and
        `params_near_wide_low`, `params_near_wide_high`, within 0.5 %; `interior`, false where the loss falls to the end
        of the sizes searched.

    Raises:
        InputError: the law is not one in N and D, and what `others` gives.
    """
    others = dict(others or {})
    needed = {"N", "D", *(name for name in fit.law.variables if column_of(name) in others)}
    if set(fit.law.variables) != needed:
        raise InputError(
            f"{fit.law.name}: a frontier needs a law in N and D; this one is in {', '.join(fit.law.variables)}"
        )
    cost = cost or TokenCost.of_runs(fit.runs)
    rows = []
    for budget in flops:
        sizes = sizes_searched(fit.runs, budget, _GRID)
        losses = fit.losses(np.concatenate([fit.theta[None], fit.resamples]), sizes, budget / cost(sizes), **others)
        best_params, best_loss = parabola_minimum(np.log(sizes), losses)
        interior = bool(0 < losses[0].argmin() < len(sizes) - 1)
        if interior:
            best_params[0], best_loss[0] = newton_minimum(_at_budget(fit, budget, cost, others), best_params[0])
        best_tokens = budget / cost(best_params)
        low, high = fit.predict_interval(best_params[:1], best_tokens[:1], [budget], **others)
        row = {"flops": float(budget), "loss": best_loss[0], "loss_low": low[0], "loss_high": high[0]}
        quantities = {"params": best_params, "tokens": best_tokens, "tokens_per_param": best_tokens / best_params}
        for name, values in quantities.items():
            row[name] = values[0]
            known = values[1:] if len(fit.resamples) > 1 else np.array([np.nan])
            row[f"{name}_low"], row[f"{name}_high"] = ends_around(values[0], known, fit.level)
        for name, share in (("near", NEAR_OPTIMAL), ("near_wide", NEAR_OPTIMAL_WIDE)):
            near = sizes[losses[0] <= losses[0].min() * (1 + share)]
            row[f"params_{name}_low"], row[f"params_{name}_high"] = near.min(), near.max()
        row["interior"] = interior
        rows.append(row)
    return pd.DataFrame(rows)


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best model of a budget, by the law itself; not `interior`, it is but the end of the sizes searched."""

    params: float
    tokens: float
    loss: float
    interior: bool


def optimum(fit: Fit, budget: float, cost: TokenCost, others: Mapping[str, float] | None = None) -> Optimum:
    """The point that `frontier` gives at a budget, without its intervals: a function of the budget that is smooth to
    some 1e-10, so that it can be inverted."""
    at = _at_budget(fit, budget, cost, dict(others or {}))
    sizes = sizes_searched(fit.runs, budget, _GRID)
    losses = at(sizes)
    params, loss = (float(found[0]) for found in parabola_minimum(np.log(sizes), losses[None]))
    interior = bool(0 < losses.argmin() < len(sizes) - 1)
    if interior:
        params, loss = newton_minimum(at, params)
    return Optimum(params, budget / float(cost(np.array([params]))[0]), loss, interior)


def sizes_searched(runs: Runs, budget: float, count: int) -> np.ndarray:
    """Sizes that a budget's optimum is looked for among, evenly spaced in the logarithm."""
    known = runs.table
    growth = max(budget / known["flops"].max(), 1.0)
    return np.geomspace(known["params"].min() / _RANGE, known["params"].max() * _RANGE * growth, count)


def optima(
    law: Law,
    thetas: np.ndarray,
    runs: Runs,
    flops: Sequence[float],
    cost: TokenCost | None = None,
    at: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]] = lambda variables: variables,
) -> tuple[np.ndarray | None, np.ndarray]:
    """The best size of each budget and its loss, under each of R parameter vectors; R x budgets each. Of a law in C
    alone there are no sizes.

    Args:
        law: in C, or in N and D.
        runs: whose sizes say where to search.
        cost: FLOPs per token of a size; read off the runs unless given.
        at: the law's variables, from N and D (or C), n each.

    Raises:
        InputError: the law takes something else than C, or N and D, and what `at` gives.
    """
    if "C" in law.variables and set(law.variables) <= at({"C": np.ones(1)}).keys():
        return None, np.exp(law.log_losses(thetas, at({"C": np.asarray(flops, float)})))
    if not set(law.variables) <= at({"N": np.ones(1), "D": np.ones(1)}).keys():
        raise InputError(
            f"{law.name}: is a law in {', '.join(law.variables)}; the best loss of a budget needs one in C alone, or "
            "in N and D"
        )
    cost = cost or TokenCost.of_runs(runs)
    columns = []
    for budget in flops:
        sizes = sizes_searched(runs, budget, _COARSE)
        with np.errstate(over="ignore"):
            losses = np.exp(law.log_losses(thetas, at({"N": sizes, "D": budget / cost(sizes)})))
        columns.append(parabola_minimum(np.log(sizes), losses))
    sizes_best, losses_best = (np.stack(rows, axis=1) for rows in zip(*columns, strict=True))
    return sizes_best, losses_best


def closed_form(fit: Fit, flops: Sequence[float]) -> pd.DataFrame:
    """The optimum under C = 6ND of a law that is one power of N, one of D and a constant (Hoffmann et al. 2022,
    eq. 4): N* = G (C/6)^a with G = (αA/βB)^(1/(α+β)) and a = β/(α+β).

    Returns:
        one row per budget: `flops`, `params`, `tokens`, `tokens_per_param`, `loss`, and `exponent`, a.

    Raises:
        InputError: the law is of another form.
    """
    alpha, beta, A, B = (np.atleast_1d(values)[0] for values in _powers(fit, fit.theta))
    a = beta / (alpha + beta)
    compute = np.asarray(flops, float) / 6
    params = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * compute**a
    tokens = compute / params
    loss = fit.predict(params, tokens)
    columns = {"flops": flops, "params": params, "tokens": tokens, "tokens_per_param": tokens / params, "loss": loss}
    return pd.DataFrame(columns).assign(exponent=a)


def closed_form_exponents(fit: Fit) -> np.ndarray:
    """a of N* ∝ C^a under each resample; see `closed_form`."""
    alpha, beta, _, _ = _powers(fit, fit.resamples)
    return beta / (alpha + beta)


def _powers(fit: Fit, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """alpha, beta, A and B under each theta (... x parameters)."""
    law = fit.law
    terms = [term.powers for term in law.terms if term.powers] if isinstance(law, SumOfPowers) else []
    if sorted(variable for powers in terms for variable, _, _ in powers) != ["D", "N"] or len(terms) != 2:
        raise InputError(
            f"{law.name}: a closed form needs one power of N, one of D and a constant; it is {law.formula}"
        )
    assert isinstance(law, SumOfPowers)
    natural = law.natural(theta)
    found = {}
    for term in law.terms:
        for variable, exponent, times in term.powers:
            found[variable] = (
                times * natural[..., law.parameters.index(exponent)],
                natural[..., law.parameters.index(term.coefficient)],
            )
    return found["N"][0], found["D"][0], found["N"][1], found["D"][1]


def parabola_minimum(x: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp(x) and loss at each row's minimum, by a parabola through the lowest grid point and its neighbours."""
    centre = np.clip(losses.argmin(axis=1), 1, len(x) - 2)
    rows = np.arange(len(losses))
    left, middle, right = (losses[rows, centre + i] for i in (-1, 0, 1))
    with np.errstate(invalid="ignore", over="ignore"):
        curvature = left - 2 * middle + right
    curved = (curvature > 0) & np.isfinite(curvature)
    slope = np.where(curved, left - right, 0)
    shift = np.clip(0.5 * slope / np.where(curved, curvature, 1), -1, 1)
    step = x[1] - x[0]
    # Where losses rise many times over from point to point, a parabola would fall below any that can be.
    least = np.fmax(_least_of_convex(losses, centre), _LOWER * middle)
    loss = np.maximum(middle - 0.25 * slope * shift, np.minimum(least, middle))
    return np.exp(x[centre] + shift * step), loss


def _least_of_convex(losses: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """What the minimum of a convex curve through evenly spaced points, S x n, is at least: between the lowest point and
    a neighbour the curve lies above the lines through the next two points on either side."""
    ends = np.pad(losses, ((0, 0), (1, 1)), constant_values=np.inf)
    rows = np.arange(len(losses))
    far_left, left, middle, right, far_right = (ends[rows, centre + 1 + i] for i in range(-2, 3))
    found = []
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for behind, ahead, beyond in ((left, right, far_right), (right, left, far_left)):
            falls, rises = 1 / (behind - middle), 1 / (beyond - ahead)
            found.append((middle * falls + ahead * rises - 1) / (falls + rises))
        return np.fmin(*found)


def _at_budget(
    fit: Fit, budget: float, cost: TokenCost, others: Mapping[str, float]
) -> Callable[[np.ndarray], np.ndarray]:
    """The law's loss of each size on a budget."""
    return lambda sizes: fit.losses(fit.theta[None], sizes, budget / cost(sizes), **others)[0]


def newton_minimum(at: Callable[[np.ndarray], np.ndarray], params: float) -> tuple[float, float]:
    """Size and loss at a minimum to all digits: Newton's method on the central difference of the loss, which is smooth
    in the budget where the nearest points of a grid are not. What does not lead downwards is not taken."""
    x = start = np.log(params)
    losses = []
    for _ in range(_STEPS):
        left, middle, right = at(np.exp(x + _HALF * np.array([-1.0, 0.0, 1.0])))
        losses.append(float(middle))
        curvature = left - 2 * middle + right
        if not curvature > 0:
            break
        step = 0.5 * _HALF * (left - right) / curvature
        x = np.clip(x + step, start - _NEAR, start + _NEAR)
        if abs(step) < max(1e-9, _ROUNDING * middle * _HALF / curvature):  # the next would be rounding
            return (float(np.exp(x)), losses[-1])
    return params, losses[0]


def _end_slope(x: np.ndarray, y: np.ndarray, end: int) -> float:
    far = np.flatnonzero(np.abs(x - x[end]) >= min(np.log(2), np.ptp(x)))
    other = far[end]
    return float(np.clip((y[end] - y[other]) / (x[end] - x[other]), 0.5, 1.5))
