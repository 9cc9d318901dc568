"""Sudden drops of a training curve: where it falls most steeply, and what share of its whole fall that is."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from nextscale.fit.errors import InputError


@dataclasses.dataclass(frozen=True)
class Fall:
    """The steepest fall of a curve against the logarithm of tokens.

    Attributes:
        tokens: where half of its fall within the window is done that it falls most in.
        share: of its whole fall, from its highest point to its lowest after that, within that window; a straight line
            has the window's own share of the curve's length.
        whole: its whole fall.
    """

    tokens: float
    share: float
    whole: float


def steepest_fall(tokens: ArrayLike, values: ArrayLike, window: float = 2.0) -> Fall:
    """Where a curve falls most within a factor `window` of tokens.

    Args:
        tokens: of each point, rising.
        values: at each point.

    Raises:
        InputError: fewer than five points, or less than three times the window from the first to the last.
    """
    x, y = np.log(np.asarray(tokens, float)), np.asarray(values, float)
    if len(x) < 5 or x[-1] - x[0] < np.log(3 * window):
        raise InputError("too few evaluations on the way to see when a curve falls; raise evaluation.points")
    starts = np.linspace(x[0], x[-1] - np.log(window), 400)
    falls = np.interp(starts, x, y) - np.interp(starts + np.log(window), x, y)
    highest = int(y.argmax())
    whole = float(y[highest] - y[highest:].min())
    best = int(falls.argmax())
    inside = np.linspace(starts[best], starts[best] + np.log(window), 400)
    course = np.interp(inside, x, y)
    halfway = inside[int((course <= (course[0] + course[-1]) / 2).argmax())]
    return Fall(float(np.exp(halfway)), float(falls[best] / whole) if whole > 0 else 0.0, whole)
