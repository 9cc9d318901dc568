"""Learning-rate transfer: the best rate at each width, and how it moves with the width."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError


@dataclasses.dataclass(frozen=True)
class Drift:
    """The best learning rate as a power of the width.

    Attributes:
        exponent: 0 where one rate serves all widths; -1 where it must fall with the width, as the rate of a hidden
            matrix does under Adam and the standard parametrization (Yang et al. 2022, table 3).
        stderr: of the exponent, from how far the optima lie from the line; None with two of them.
        octaves: how far the best rate moves from the narrowest to the widest, in doublings, by that line.
    """

    exponent: float
    stderr: float | None
    octaves: float


def best_rates(
    runs: pd.DataFrame, by: Sequence[str] = ("width",), *, lr: str = "lr", loss: str = "loss"
) -> pd.DataFrame:
    """The best rate at each width, or each of what `by` names: the lowest point of a parabola in log lr through the
    lowest run and both beside it.

    Runs without a loss (diverged) count as worse than any.

    Returns:
        one row per value of `by`: that, `lr` and `loss` at the lowest point, `tried`, the rate of the lowest run, and
        `problem`, why there is no optimum: too few rates, or the lowest run is at the end of those tried.
    """
    rows = []
    for value, cell in runs.groupby(list(by)):
        means = cell.groupby(lr)[loss].mean().astype(float).fillna(np.inf).sort_index()
        rates, losses = np.log(means.index.to_numpy(float)), means.to_numpy()
        lowest = int(losses.argmin())
        row: dict[str, Any] = dict(zip(by, np.atleast_1d(np.asarray(value)), strict=True))
        row |= {"lr": np.nan, "loss": np.nan, "tried": float(np.exp(rates[lowest])), "problem": None}
        if len(rates) < 3 or not np.isfinite(losses[lowest]):
            rows.append(row | {"problem": "fewer than three rates came to a loss"})
            continue
        if lowest in (0, len(rates) - 1):
            rows.append(row | {"problem": "the lowest run is at the end of the rates tried"})
            continue
        x, y = rates[lowest - 1 : lowest + 2], losses[lowest - 1 : lowest + 2]
        if np.isfinite(y).all():
            a, b, c = np.polyfit(x - x[1], y, 2)
            row |= {"lr": float(np.exp(x[1] - b / (2 * a))), "loss": float(c - b * b / (4 * a))}
        else:  # a rate beside the best diverges
            row |= {"lr": row["tried"], "loss": float(y[1])}
        rows.append(row)
    return pd.DataFrame(rows)


def rate_drift(best: pd.DataFrame, by: str = "width") -> Drift:
    """How the best rate moves, by least squares in the logarithms.

    Args:
        best: as `best_rates` returns it.

    Raises:
        InputError: fewer than two widths have an optimum.
    """
    sound = best[best["problem"].isna()]
    if len(sound) < 2:
        raise InputError(
            f"{len(sound)} of {len(best)} widths have a best learning rate; two are needed: try more rates"
        )
    x, y = np.log(sound[by].to_numpy(float)), np.log(sound["lr"].to_numpy(float))
    slope, intercept = np.polyfit(x, y, 1)
    away = np.square(y - slope * x - intercept).sum()
    stderr = float(np.sqrt(away / (len(x) - 2) / np.square(x - x.mean()).sum())) if len(x) > 2 else None
    return Drift(float(slope), stderr, float(slope * np.ptp(x) / np.log(2)))
