"""The compute-optimal frontier: at each budget the size with the lowest loss (approach 3 of Hoffmann et al. 2022),
with the true cost of each size in place of 6N per token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from nextscale.fit.errors import InputError
from nextscale.fit.estimate import Fit
from nextscale.fit.table import Runs

_GRID = 400
_RANGE = 100.0
"""Sizes are searched from 100 times below the smallest run to 100 times above the largest, and on with compute."""
NEAR_OPTIMAL = 0.001


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
        return cls(table.index.to_numpy(float), table.to_numpy(float))

    @classmethod
    def of_runs(cls, runs: Runs) -> TokenCost:
        table = runs.table
        return cls.of(table["params"].tolist(), (table["flops"] / table["tokens"]).tolist())

    def __call__(self, params: np.ndarray) -> np.ndarray:
        x, y = self.log_params, self.log_flops_per_token
        at = np.log(params)
        if len(x) < 2:
            return np.exp(y[0] + at - x[0])
        inside = PchipInterpolator(x, y)(np.clip(at, x[0], x[-1]))
        # Beyond the ends, the slope over the nearest octave or more, kept near the proportional.
        slopes = [_end_slope(x, y, end) for end in (0, -1)]
        beyond = slopes[0] * np.minimum(at - x[0], 0) + slopes[1] * np.maximum(at - x[-1], 0)
        return np.exp(inside + beyond)


def frontier(fit: Fit, flops: Sequence[float], cost: TokenCost | None = None) -> pd.DataFrame:
    """The optimum at each compute budget.

    Args:
        flops: training FLOPs.
        cost: FLOPs per token of a size; read off the runs unless given.

    Returns:
        one row per budget: `flops`, `params`, `tokens`, `loss`, `tokens_per_param`, each but the first also with
        `_low` and `_high` (the fit's level; the loss as a run there would measure it), and `params_near_low`,
        `params_near_high`: the sizes whose loss is within 0.1 % of the best.
    """
    if set(fit.law.variables) != {"N", "D"}:
        raise InputError(
            f"{fit.law.name}: a frontier needs a law in N and D; this one is in {', '.join(fit.law.variables)}"
        )
    cost = cost or TokenCost.of_runs(fit.runs)
    known = fit.runs.table
    rows = []
    for budget in flops:
        growth = max(budget / known["flops"].max(), 1.0)
        sizes = np.geomspace(known["params"].min() / _RANGE, known["params"].max() * _RANGE * growth, _GRID)
        tokens = budget / cost(sizes)
        losses = fit.losses(np.concatenate([fit.theta[None], fit.resamples]), sizes, tokens)
        best_params, best_loss = _lowest(np.log(sizes), losses)
        best_tokens = budget / cost(best_params)
        near = sizes[losses[0] <= losses[0].min() * (1 + NEAR_OPTIMAL)]
        low, high = fit.predict_interval(best_params[:1], best_tokens[:1], [budget])
        row = {"flops": float(budget), "loss": best_loss[0], "loss_low": low[0], "loss_high": high[0]}
        quantities = {"params": best_params, "tokens": best_tokens, "tokens_per_param": best_tokens / best_params}
        tail = (1 - fit.level) / 2
        for name, values in quantities.items():
            row[name] = values[0]
            row[f"{name}_low"], row[f"{name}_high"] = np.quantile(values[1:], [tail, 1 - tail])
        row["params_near_low"], row["params_near_high"] = near.min(), near.max()
        rows.append(row)
    return pd.DataFrame(rows)


def _lowest(x: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp(x) and loss at each row's minimum, by a parabola through the lowest grid point and its neighbours."""
    centre = np.clip(losses.argmin(axis=1), 1, len(x) - 2)
    rows = np.arange(len(losses))
    left, middle, right = (losses[rows, centre + i] for i in (-1, 0, 1))
    curvature = left - 2 * middle + right
    shift = np.where(curvature > 0, 0.5 * (left - right) / np.where(curvature > 0, curvature, 1), 0)
    shift = np.clip(shift, -1, 1)
    step = x[1] - x[0]
    loss = middle - 0.25 * (left - right) * shift
    return np.exp(x[centre] + shift * step), loss


def _end_slope(x: np.ndarray, y: np.ndarray, end: int) -> float:
    far = np.flatnonzero(np.abs(x - x[end]) >= min(np.log(2), np.ptp(x)))
    other = far[end]
    return float(np.clip((y[end] - y[other]) / (x[end] - x[other]), 0.5, 1.5))
