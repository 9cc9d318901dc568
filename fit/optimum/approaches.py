"""The compute-optimal size by each of the three approaches of Hoffmann et al. 2022, side by side.

Where they disagree, the runs do not determine it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.intervals import ends_around
from nextscale.fit.optimum.frontier import TokenCost, closed_form_exponents, frontier
from nextscale.fit.optimum.isoflop import IsoFlop, PowerLaw, isoflops, run_noise
from nextscale.fit.table.runs import Runs

_PER_GAP = 25
"""Points between two sizes among which an interpolation's minimum is looked for, as Porian et al. 2024 do."""
_SAME_SIZE = 0.02
"""Sizes closer than this in the logarithm are one."""
_SAME_BUDGET = np.log(1.1)
"""Compute nearer than this, in the logarithm, is that of a budget."""
_BIN = 10**0.25
_DRAWS = 500


@dataclasses.dataclass(frozen=True)
class Minima:
    """The best size of each budget that has one, by one approach, and the power law through them.

    Attributes:
        name: `envelope`, `parabola` or `akima`.
        flops, params, tokens, loss: of the minima, by rising budget.
        law: N*(C), None with fewer than two minima.
        laws: the same under each redraw of the noise, as (log scale, exponent), draws x 2; of a single minimum its log
            size, and 0.
        problem: why there is no law, or which budgets have no minimum.
    """

    name: str
    flops: np.ndarray
    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    law: PowerLaw | None
    laws: np.ndarray
    problem: str | None

    def interval(self, flops: float, level: float) -> tuple[float, float] | None:
        """Of N* at a budget; of a single minimum, at its own."""
        best = self.params[0] if self.law is None else float(self.law(flops))
        return _bounds(best, np.exp(self.laws[:, 0] + self.laws[:, 1] * np.log(flops)), level)

    def exponent_interval(self, level: float) -> tuple[float, float] | None:
        return None if self.law is None else _bounds(self.law.exponent, self.laws[:, 1], level)


def approaches(
    runs: Runs,
    fit: Fit | None,
    flops: Sequence[float],
    cost: TokenCost | None = None,
    *,
    level: float | None = None,
    noise: float | None = None,
    draws: int = _DRAWS,
) -> pd.DataFrame:
    """The optimum at each budget by approach 1 (`envelope`), 2 (`parabola`, and `akima` in its place) and 3
    (`parametric`).

    Args:
        runs: those that the minima are read off.
        fit: the law of approach 3; None where the runs show none, such as those of one budget.
        flops: training FLOPs.
        cost: FLOPs per token of a size; read off the runs unless given.
        level: of the intervals; that of the fit, or 90 %, unless given.
        noise: relative scatter of one run; judged from the runs unless given.
        draws: redraws of that noise behind the intervals of approaches 1 and 2.

    Returns:
        one row per budget and approach: `flops`, `approach`, `params`, `tokens`, `tokens_per_param`, `loss` (of 1
        and 2, a saturating law through the minima), `exponent` (a of N* ∝ C^a), `params_` and `exponent_` `low` and
        `high`, `budgets` (used; runs for approach 3), `problem` (why there is nothing, or less than there could be)
        and `disagreement`, the largest N* of any approach at this budget / the smallest. None where there is none, and
        of `disagreement` where fewer than two approaches have a size. A single budget with a minimum makes no law, and
        has that minimum alone, at its own compute.
    """
    level = level or (0.9 if fit is None else fit.level)
    cost = cost or TokenCost.of_runs(runs)
    minima = [kind(runs, noise=noise, draws=draws) for kind in (envelope, parabola, akima)]
    rows = [row for each in minima for row in _by_minima(each, flops, cost, level)]
    rows += [] if fit is None else _by_law(fit, flops, cost, level)
    table = pd.DataFrame(rows).sort_values("flops", kind="stable").reset_index(drop=True)
    known = table["params"].astype(float).groupby(table["flops"])
    apart = known.transform("max") / known.transform("min")
    table["disagreement"] = apart.where(known.transform("count") > 1)
    return table.astype(object).where(table.notna(), None)


def envelope(runs: Runs, *, noise: float | None = None, draws: int = _DRAWS, seed: int = 0) -> Minima:
    """Approach 1: the best run of each budget that has runs on both sides of it, among those that no cheaper run beats.

    Budgets of a single run (a scatter, or a learning curve's points) are taken together, a quarter of a decade a bin.
    """
    table = runs.table
    groups = [table[table["budget"] == budget] for budget in runs.budgets]
    if np.median([group["params"].nunique() for group in groups]) < 3:
        place = np.floor(np.log(table["flops"]) / np.log(_BIN))
        groups = [group for _, group in table.groupby(place)]
    noise = noise if noise is not None else _noise(isoflops(runs))
    rng = np.random.default_rng(seed)
    lowest, chosen, logs, reason = np.inf, [], [], []
    for group in groups:
        sizes, losses = group["params"].to_numpy(), group["loss"].to_numpy()
        best = int(losses.argmin())
        beaten, inside = losses[best] >= lowest, sizes.min() < sizes[best] < sizes.max()
        lowest = min(lowest, losses[best])
        if beaten or not inside:
            reason.append("a cheaper run is better" if beaten else "the best run is at the end of the sizes tried")
            continue
        chosen.append(group.iloc[best])
        again = losses * np.exp((noise or 0.0) * rng.standard_normal((draws, len(losses))))
        logs.append(np.log(sizes)[again.argmin(axis=1)])
    columns = [np.array([row[name] for row in chosen]) for name in ("flops", "params", "tokens", "loss")]
    return _minima("envelope", columns, np.array(logs).reshape(len(logs), draws), reason, noise)


def parabola(runs: Runs, *, noise: float | None = None, draws: int = _DRAWS, seed: int = 0) -> Minima:
    """Approach 2, with the parabolas of `isoflops`."""
    curves = isoflops(runs)
    noise = noise if noise is not None else run_noise(curves)
    rng = np.random.default_rng(seed)
    chosen, logs = [curve for curve in curves if curve.optimum is not None], []
    for curve in chosen:
        x = np.log(curve.params)
        design = np.vander(x - x.mean(), 3)
        smooth = curve.loss / (1 + curve.residuals)
        again = smooth * (1 + (noise or 0.0) * rng.standard_normal((draws, len(x))))
        a, b, _ = np.linalg.lstsq(design, again.T, rcond=None)[0]
        at = x.mean() - b / (2 * np.where(a > 0, a, np.nan))
        logs.append(np.where((x[0] < at) & (at < x[-1]), at, np.nan))
    optima = np.array([(curve.flops, *(curve.optimum or ())) for curve in chosen]).reshape(-1, 4)
    reason = [str(curve.problem) for curve in curves if curve.optimum is None]
    return _minima("parabola", list(optima.T), np.array(logs).reshape(len(logs), draws), reason, noise)


def akima(runs: Runs, *, noise: float | None = None, draws: int = _DRAWS, seed: int = 0) -> Minima:
    """Approach 2 as Porian et al. 2024 have it: Akima's interpolation of log loss against log N in place of the
    parabola, which wide ranges of sizes do not follow."""
    from scipy.interpolate import Akima1DInterpolator

    curves = isoflops(runs)
    noise = noise if noise is not None else _noise(curves)
    rng = np.random.default_rng(seed)
    rows, logs, reason = [], [], []
    for curve in curves:
        x, y, log_tokens = _best_of_each_size(curve)
        if len(x) < 4:
            reason.append("fewer than four sizes")
            continue
        fine = np.linspace(x[0], x[-1], (len(x) - 1) * _PER_GAP)
        again = y + (noise or 0.0) * rng.standard_normal((draws, len(x)))
        lowest = Akima1DInterpolator(x, np.vstack([y, again]).T)(fine).argmin(axis=0)
        inside = (lowest > 0) & (lowest < len(fine) - 1)
        # A minimum that the noise of a run moves out of sight as often as not is none.
        if not inside[0] or inside[1:].sum() < draws / 2:
            reason.append("the lowest point is not inside the sizes tried")
            continue
        logs.append(np.where(inside[1:], fine[lowest[1:]], np.nan))
        # The middle of the redraws: a single interpolation jumps from run to run.
        at = float(np.nanmedian(logs[-1])) if noise and draws else float(fine[lowest[0]])
        tokens, loss = np.exp(np.interp(at, x, log_tokens)), np.exp(Akima1DInterpolator(x, y)(at))
        rows.append((curve.flops, np.exp(at), tokens, loss))
    columns = list(np.array(rows).reshape(-1, 4).T)
    return _minima("akima", columns, np.array(logs).reshape(len(logs), draws), reason, noise)


def _minima(
    name: str, columns: Sequence[np.ndarray], logs: np.ndarray, reason: Sequence[str], noise: float | None
) -> Minima:
    """With the power law through the minima, and through each redraw of them.

    Args:
        columns: flops, params, tokens and loss of the minima.
        logs: log params of each minimum under each redraw, not a number where it then has none.
        reason: why each budget without a minimum has none.
    """
    flops, params, tokens, loss = columns
    problem = None
    if reason:
        usual = max(set(reason), key=reason.count)
        problem = f"{len(reason)} of {len(reason) + len(flops)} budgets without a minimum: {usual}"
    if len(flops) < 2:
        known = logs[0, np.isfinite(logs[0])] if len(flops) and noise else np.empty(0)
        alone = np.stack([known, np.zeros(len(known))], axis=1)
        return Minima(name, flops, params, tokens, loss, None, alone, problem)
    x = np.log(flops)
    intercept, exponent = _lines(x, np.log(params)[None])[0]
    laws = _lines(x, logs.T) if noise else np.empty((0, 2))
    return Minima(name, flops, params, tokens, loss, PowerLaw(float(np.exp(intercept)), float(exponent)), laws, problem)


def _lines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares of each row of y (R x n), without what is not a number; (intercept, slope), R x 2."""
    known = np.isfinite(y)
    known, y = known[known.sum(axis=1) >= 2], y[known.sum(axis=1) >= 2]
    count, y = known.sum(axis=1), np.nan_to_num(y)
    x_mean, y_mean = (known @ x) / count, (known * y).sum(axis=1) / count
    away = known * (x - x_mean[:, None])
    slope = (away * y).sum(axis=1) / np.square(away).sum(axis=1)
    return np.stack([y_mean - slope * x_mean, slope], axis=1)


def _by_minima(minima: Minima, flops: Sequence[float], cost: TokenCost, level: float) -> list[dict[str, Any]]:
    rows, losses = [], _losses(minima, flops)
    for budget, loss in zip(flops, losses, strict=True):
        row: dict[str, Any] = {"flops": float(budget), "approach": minima.name, **dict.fromkeys(_NUMBERS)}
        row |= {"budgets": len(minima.flops), "problem": minima.problem}
        if minima.law is None and len(minima.flops) == 1 and abs(np.log(budget / minima.flops[0])) < _SAME_BUDGET:
            params, tokens, loss = (float(values[0]) for values in (minima.params, minima.tokens, minima.loss))
            row |= {"params": params, "tokens": tokens, "tokens_per_param": tokens / params, "loss": loss}
            row |= _with_bounds("params", minima.interval(budget, level))
        elif minima.law is None:
            one = [f"only {at:.3g} FLOPs has a minimum, and one makes no law" for at in minima.flops]
            row["problem"] = minima.problem or next(iter(one), "no budget with a minimum")
        else:
            params = float(minima.law(budget))
            tokens = float(budget / cost(np.array([params]))[0])
            row |= {"params": params, "tokens": tokens, "tokens_per_param": tokens / params, "loss": loss}
            row |= _with_bounds("params", minima.interval(budget, level))
            row |= {"exponent": minima.law.exponent} | _with_bounds("exponent", minima.exponent_interval(level))
        rows.append(row)
    return rows


def _losses(minima: Minima, flops: Sequence[float]) -> list[float] | list[None]:
    """What the minima say of the loss: a saturating law through them, None where they are too few for one."""
    try:
        table = pd.DataFrame({"flops": minima.flops, "loss": minima.loss})
        return fit(table, "saturating", resamples=0).predict(flops=flops).tolist()
    except InputError:
        return [None] * len(flops)


def _by_law(fit: Fit, flops: Sequence[float], cost: TokenCost, level: float) -> list[dict[str, Any]]:
    table = frontier(dataclasses.replace(fit, level=level), flops, cost)
    around = frontier(dataclasses.replace(fit, resamples=fit.theta[None]), _around(flops), cost)["params"]
    slopes = np.diff(np.log(around).to_numpy().reshape(-1, 2), axis=1)[:, 0] / np.log(4)
    try:
        # Of a law with a closed form; the resamples of another would each need an optimum either side.
        exact = closed_form_exponents(fit)
        middle = float(np.median(exact))
        bounds = np.array(_bounds(middle, exact, level) or (np.nan, np.nan)) - middle
    except InputError:
        bounds = np.array([np.nan, np.nan])
    rows = []
    for i, row in enumerate(table.to_dict("records")):
        found = {name: row[name] for name in ("flops", *_NUMBERS) if name in row} | {"approach": "parametric"}
        found |= {"exponent": slopes[i], "budgets": len(fit.runs.budgets), "problem": None}
        found |= {"exponent_low": slopes[i] + bounds[0], "exponent_high": slopes[i] + bounds[1]}
        if not row["interior"]:
            found |= dict.fromkeys(_NUMBERS) | {"problem": "the loss falls to the end of the sizes searched"}
        rows.append(found)
    return rows


_NUMBERS = (
    *("params", "params_low", "params_high", "tokens", "tokens_per_param", "loss"),
    *("exponent", "exponent_low", "exponent_high"),
)


def _around(flops: Sequence[float]) -> list[float]:
    return [budget * factor for budget in flops for factor in (0.5, 2.0)]


def _noise(curves: Sequence[IsoFlop]) -> float | None:
    """Relative noise of one run where no parabola is believed: how far a run lies from the cubic through the two
    either side of it, scaled to a run's own (pseudo-residuals, Gasser et al. 1986); their median, for a curve's steep
    end is not noise. None where no budget has five sizes."""
    found = []
    for curve in curves:
        x, y, _ = _best_of_each_size(curve)
        for i in range(2, len(x) - 2):
            beside = [i - 2, i - 1, i + 1, i + 2]
            shares = np.linalg.solve(np.vander(x[beside] - x[i], 4).T, [0.0, 0.0, 0.0, 1.0])
            found.append(abs(y[i] - shares @ y[beside]) / np.sqrt(1 + shares @ shares))
    return float(np.median(found) / 0.6745) if found else None


def _best_of_each_size(curve: IsoFlop) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log params, log loss and log tokens of the best run of each size; an interpolation through two runs of nearly
    one size would swing between them."""
    x = np.log(curve.params)
    size = np.cumsum(np.diff(x, prepend=x[0]) > _SAME_SIZE)
    best = [here[curve.loss[here].argmin()] for here in (np.flatnonzero(size == k) for k in np.unique(size))]
    return x[best], np.log(curve.loss[best]), np.log(curve.tokens[best])


def _with_bounds(name: str, bounds: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = bounds or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _bounds(best: float, draws: np.ndarray, level: float) -> tuple[float, float] | None:
    return None if len(draws) < 20 else ends_around(best, draws, level)
