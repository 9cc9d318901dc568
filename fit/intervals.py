"""Percentile intervals of draws: the one place where they are made, so that each holds the value that it is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike


def interval_around(
    best: ArrayLike, draws: np.ndarray, level: float, *, method: Literal["linear", "nearest"] = "linear"
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of draws (R, or R x n), low and high, of one value or n.

    Of few runs, or at an end of what a parameter can be, the value that was found may lie beyond the middle of its
    draws; then the interval is widened to it, for nobody is helped by an interval without its value.

    Args:
        best: the value of each.
        method: of the quantile; nearest where draws may be infinite, for there is no mean with infinity.
    """
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0, method=method)
    return np.minimum(low, best), np.maximum(high, best)


def ends_around(
    best: float, draws: np.ndarray, level: float, *, method: Literal["linear", "nearest"] = "linear"
) -> tuple[float, float]:
    """`interval_around` of one value, as numbers."""
    low, high = interval_around(best, draws, level, method=method)
    return float(low), float(high)


def relative_half_width(value: float | None, ends: Sequence[float | None] | None) -> float | None:
    """Half of an interval, relative to its value; None without a value or an interval, and where an end is open."""
    low, high = ends or (None, None)
    return None if value is None or low is None or high is None else float((high - low) / 2 / value)
