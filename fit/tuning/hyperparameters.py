"""The best learning rate and batch size at each scale: a quadratic surface per cell, a power law through its minima.

In each cell (one model size, one token count) log loss is a quadratic in (log lr, log batch) near its minimum; the
minima follow power laws in N and D (Li et al. 2025, "Predictable Scale, Part I", eq. 1; DeepSeek 2024, sec. 3.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.intervals import interval_around

_NEAR = 0.02
"""Runs within this share of the cell's best loss say where its minimum is; beyond, the surface is no quadratic."""
_COEFFICIENTS = 6
_HUBER = 1e-3


@dataclasses.dataclass(frozen=True)
class Rule:
    """A power law of a hyperparameter, y = scale · Π variable^exponent.

    Attributes:
        exponents: by variable.
        intervals: of each exponent and of the scale, over bootstrap resamples of the cells.
    """

    scale: float
    exponents: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    level: float

    def __call__(self, **at: float | np.ndarray) -> np.ndarray:
        powers = [np.asarray(at[name], float) ** exponent for name, exponent in self.exponents.items()]
        return np.asarray(self.scale * np.prod(np.broadcast_arrays(*powers), axis=0))


def cell_optima(
    table: pd.DataFrame,
    cell: Sequence[str] = ("params", "tokens"),
    *,
    lr: str = "lr",
    batch: str = "batch_tokens",
    loss: str = "loss",
) -> pd.DataFrame:
    """The minimum of the surface of each cell.

    Args:
        table: one row per run.
        cell: columns whose values name a cell.
        lr, batch, loss: columns of the peak learning rate, the batch (tokens) and the loss.

    Returns:
        one row per cell: its columns, `lr`, `batch`, `loss` at the minimum (missing where there is none), `runs` used,
        `left_out`, those of which a number is missing, infinite or not above 0, and `problem`, why there is no minimum:
        too few runs, not convex, or outside of what was tried.

    Raises:
        InputError: a column is missing.
    """
    if missing := [name for name in (*cell, lr, batch, loss) if name not in table]:
        raise InputError(f"hyperparameters: there is no column '{missing[0]}'; it has {', '.join(map(str, table))}")
    rows = []
    for key, runs in table.groupby(list(cell)):
        numbers = runs[[lr, batch, loss]].to_numpy(float)
        sound = np.isfinite(numbers).all(axis=1) & (numbers > 0).all(axis=1)
        named = dict(zip(cell, np.atleast_1d(np.asarray(key)), strict=True))
        rows.append(named | _minimum(numbers[sound]) | {"left_out": int((~sound).sum())})
    return pd.DataFrame(rows)


def fit_rule(
    optima: pd.DataFrame, of: str, variables: Sequence[str], *, level: float = 0.9, resamples: int = 1000, seed: int = 0
) -> Rule:
    """The power law of `lr` or `batch` through the optima of cells that have one.

    Args:
        optima: as `cell_optima` returns it.
        of: `lr` or `batch`.
        variables: columns of the cells, such as ("params", "tokens").

    Raises:
        InputError: too few cells have an optimum, or they do not vary in every variable.
    """
    sound = optima[optima["problem"].isna()]
    x = np.log(sound[list(variables)].to_numpy(float))
    y = np.log(sound[of].to_numpy(float))
    design = np.column_stack([np.ones(len(x)), x])
    if len(x) <= design.shape[1]:
        raise InputError(f"hyperparameters: {len(x)} cells have an optimum; {design.shape[1] + 1} or more are needed")
    if np.linalg.matrix_rank(design - design.mean(axis=0), tol=1e-9) < len(variables):
        raise InputError(f"hyperparameters: the cells do not vary {' and '.join(variables)} apart from each other")
    rng = np.random.default_rng(seed)
    solutions = [np.linalg.lstsq(design, y, rcond=None)[0]]
    while len(solutions) <= resamples:
        drawn = rng.integers(len(x), size=len(x))
        if np.linalg.matrix_rank(design[drawn] - design[drawn].mean(axis=0), tol=1e-9) == len(variables):
            solutions.append(np.linalg.lstsq(design[drawn], y[drawn], rcond=None)[0])
    best, spread = solutions[0], np.array(solutions[1:])
    low, high = interval_around(best, spread, level) if resamples else (best, best)
    bounds = {name: (float(low[i + 1]), float(high[i + 1])) for i, name in enumerate(variables)}
    bounds["scale"] = (float(np.exp(low[0])), float(np.exp(high[0])))
    exponents = {name: float(best[i + 1]) for i, name in enumerate(variables)}
    return Rule(float(np.exp(best[0])), exponents, bounds, level)


def _minimum(numbers: np.ndarray) -> dict[str, float | int | str | None]:
    """Of a quadratic through the runs near the best, by least squares reweighted towards Huber's loss."""
    nothing: dict[str, float | int | str | None] = {"lr": np.nan, "batch": np.nan, "loss": np.nan, "runs": len(numbers)}
    if not len(numbers):
        return nothing | {"problem": "no run"}
    near = numbers[numbers[:, 2] <= numbers[:, 2].min() * (1 + _NEAR)]
    if len(near) <= _COEFFICIENTS:
        return nothing | {"runs": len(near), "problem": f"only {len(near)} runs near the best"}
    x, y, loss = np.log(near).T
    middle = np.array([x.mean(), y.mean()])
    u, v = x - middle[0], y - middle[1]
    design = np.column_stack([np.ones(len(u)), u, v, u * u, u * v, v * v])
    weights = np.ones(len(u))
    for _ in range(20):
        root = np.sqrt(weights)
        a = np.linalg.lstsq(design * root[:, None], loss * root, rcond=None)[0]
        weights = np.minimum(1, _HUBER / np.maximum(np.abs(design @ a - loss), 1e-12))
    hessian = np.array([[2 * a[3], a[4]], [a[4], 2 * a[5]]])
    nothing |= {"runs": len(near)}
    if np.linalg.eigvalsh(hessian)[0] <= 0:
        return nothing | {"problem": "the surface does not curve upwards"}
    at = -np.linalg.solve(hessian, a[1:3])
    lr, batch = np.exp(at + middle)
    tried = numbers[:, 0].min() <= lr <= numbers[:, 0].max() and numbers[:, 1].min() <= batch <= numbers[:, 1].max()
    if not tried:
        return nothing | {"problem": "the minimum is not inside the rates and batches tried"}
    value = float(np.exp(a[0] + a[1:3] @ at / 2))
    return {"lr": float(lr), "batch": float(batch), "loss": value, "runs": len(near), "problem": None}
