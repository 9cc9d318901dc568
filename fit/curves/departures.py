"""When a curve leaves a bundle of curves: how far its newest point is from its own past, against what others do there.

Curves are rows of logarithms in which a curve's scale is a constant: nothing here depends on where each one lies.
"""

from __future__ import annotations

import functools

import numpy as np

FEWEST = 3
"""Curves that a bundle needs, beside the one that is judged."""
PAST = 4
"""Points of a curve at least that a newer one is held against."""
_DRAWS = 4000
_ROUNDING = 1e-9
"""By no more than so much curves differ that are alike to the last digits."""


def departures(logs: np.ndarray) -> np.ndarray:
    """How far each point is from the mean of all before it on its curve, ... x G to ... x (G - PAST)."""
    before = np.cumsum(logs, axis=-1)[..., :-1] / np.arange(1, logs.shape[-1])
    return np.asarray((logs[..., 1:] - before)[..., PAST - 1 :])


def roughness(logs: np.ndarray, bundle: np.ndarray) -> np.ndarray:
    """The noise of each curve: how far its jumps from point to point, beside the mean of a bundle, are from the usual
    one, in the median, which a spike or a bend hardly moves. Of ... x m x G by ... x n x G, ... x m."""
    jumps = np.diff(logs - bundle.mean(axis=-2, keepdims=True), axis=-1)
    off = np.abs(jumps - np.nanmedian(jumps, axis=-1, keepdims=True))
    return np.maximum(np.nanmedian(off, axis=-1), _ROUNDING)


def times_the_others(departed: np.ndarray, rough: np.ndarray, width: int) -> np.ndarray:
    """Of each of n curves its departures less the mean of the other curves', in units of what noise would make of that.

    Variances are taken to be as the squares of roughness, by which curves also count in the mean.

    Args:
        departed: ... x n x K.
        rough: ... x n.
        width: the others' variance at a point is that of so many points to either side of it as well.
    """
    weights = rough[..., None] ** -2.0
    sums, squares = (
        (weights * departed).sum(axis=-2, keepdims=True),
        (weights * departed**2).sum(axis=-2, keepdims=True),
    )
    rest = weights.sum(axis=-2, keepdims=True) - weights
    mean = (sums - weights * departed) / rest
    variance = np.maximum(squares - weights * departed**2 - rest * mean**2, 0) / (departed.shape[-2] - 2)
    return _over(departed - mean, _smoothed(variance, width) * (1 / weights + 1 / rest))


def times_the_bundle(
    departed: np.ndarray, rough: np.ndarray, new: np.ndarray, rough_new: np.ndarray, width: int
) -> np.ndarray:
    """The same of curves (... x m x K) that are not of the bundle (... x n x K), each as far as it has come: the rest
    is not a number."""
    weights = rough[..., None] ** -2.0
    whole = weights.sum(axis=-2, keepdims=True)
    mean = (weights * departed).sum(axis=-2, keepdims=True) / whole
    variance = (weights * (departed - mean) ** 2).sum(axis=-2, keepdims=True) / (departed.shape[-2] - 1)
    return _over(new - mean, _smoothed(variance, width) * (rough_new[..., None] ** 2 + 1 / whole))


@functools.lru_cache(maxsize=256)
def limit(bundle: int, under_way: int, points: int, width: int, false_alarms: float) -> float:
    """How many times the spread a departure must be for this share of faultless bundles to have one, anywhere on any
    curve.

    By simulation of curves whose errors are random walks. The share is smaller where errors are less alike from point
    to point.

    Args:
        bundle: finished curves, each judged by the others where these are enough.
        under_way: further ones.
        points: along a curve.
    """
    rng = np.random.default_rng(0)
    largest = np.zeros(_DRAWS)
    for part in np.array_split(np.arange(_DRAWS), 8):  # of memory
        walks = rng.standard_normal((len(part), bundle + under_way, points)).cumsum(axis=-1)
        departed, rough = departures(walks), roughness(walks, walks[:, :bundle])
        finished, of_finished = departed[:, :bundle], rough[:, :bundle]
        found = [times_the_others(finished, of_finished, width)] if bundle > FEWEST else []
        if under_way:
            found.append(times_the_bundle(finished, of_finished, departed[:, bundle:], rough[:, bundle:], width))
        largest[part] = np.max([np.abs(one).max(axis=(-2, -1)) for one in found], axis=0)
    return float(np.quantile(largest, 1 - false_alarms))


def _over(off: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return np.asarray(off / np.maximum(np.sqrt(variance), _ROUNDING))


def _smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Means over points within a distance, along the last axis."""
    at = np.arange(values.shape[-1])
    low, high = np.maximum(at - width, 0), np.minimum(at + width + 1, len(at))
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(axis=-1)], axis=-1)
    return np.asarray((sums[..., high] - sums[..., low]) / (high - low))
