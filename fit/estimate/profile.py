"""Profile likelihood of a parameter: the values that the runs do not exclude, and whether it is identified at all."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.covariance import covariance, dispersion, problem_of
from nextscale.fit.estimate.solve import descend, polish, scores_of

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit

_CANDIDATES, _ROUNDS = 3, 4
_STEPS = 2.0 ** np.arange(-2, 8)
"""Where a profile is looked at: standard errors to either side of the best value."""
_REACH = 1e6
"""How many times larger or smaller a coefficient is tried."""
_FLAT, _DECADE = 0.005, 10.0
"""A parameter that may move by such a factor at the cost of such a share of the objective is not identified."""


def profile(fit: Fit, name: str, values: Sequence[float] | np.ndarray | None = None) -> pd.DataFrame:
    """The objective over one parameter, at its lowest over all others.

    Every value starts from the pool of the fit, and then from what its neighbours found, while any gains.

    Args:
        values: of the parameter; by default from end to end of its range, closely around the best.

    Returns:
        `value`, `objective`, and `rise`, the objective less that of the fit; below zero, the fit missed the minimum.

    Raises:
        InputError: the law has no such parameter, or it was given.
    """
    law = fit.law
    if name not in law.parameters or name in fit.fixed:
        raise InputError(f"profile: {law.name} has no free parameter '{name}'")
    index = law.parameters.index(name)
    tried = np.unique(_values(fit, name) if values is None else np.asarray(values, float))
    there = np.log(tried) if law.on_log_scale[index] else tried
    problem = problem_of(fit, {name: float(tried[0])})
    pool = problem.centred(np.concatenate([fit.theta[None], problem_of(fit).uncentred(fit.minimum.starts)]))
    weights = fit.runs.weights

    def lowest(starts: np.ndarray, search: Callable[..., tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """Of values x starts x parameters, each with its parameter set to the value."""
        starts[..., index] = there[:, None]
        theta, objective, _ = search(problem, starts.reshape(-1, starts.shape[2]), weights)
        objective = objective.reshape(starts.shape[:2])
        best = objective.argmin(axis=1)
        rows = np.arange(len(there))
        return theta.reshape(starts.shape)[rows, best], objective[rows, best]

    starts = []
    for value in there:
        here = pool.copy()
        here[:, index] = value
        starts.append(here[np.argsort(scores_of(problem, here, weights[None])[0])[:_CANDIDATES]])
    theta, objective = lowest(np.stack(starts), descend)
    for _ in range(_ROUNDS):
        beside = np.stack([np.roll(theta, 1, axis=0), np.roll(theta, -1, axis=0)], axis=1)
        again, lower = lowest(beside, functools.partial(polish, tolerance=1e-8))
        gained = lower < objective * (1 - 1e-6)
        if not gained.any():
            break
        theta[gained], objective[gained] = again[gained], lower[gained]
    return pd.DataFrame({"value": tried, "objective": objective, "rise": objective - fit.objective})


@dataclasses.dataclass(frozen=True)
class Profiled:
    """What the profile of a parameter says.

    Attributes:
        interval: the values that the runs do not exclude; 0, or infinity, where they exclude none up to that end.
        flat: over which values the objective stays within 0.5 % of its lowest.
        identified: whether the runs determine the parameter at all.
        warning: in words, where they do not.
        table: see `profile`.
    """

    name: str
    interval: tuple[float, float]
    flat: tuple[float, float]
    identified: bool
    warning: str | None
    table: pd.DataFrame


def profiled(fit: Fit, name: str, level: float | None = None) -> Profiled:
    """Profile likelihood of a parameter, and whether it is identified.

    A value is excluded where the objective rises by more than `dispersion`/2 times the quantile of F(1, n - p): the
    drop-in-dispersion test, a likelihood ratio for M-estimators (Schrader & Hettmansperger 1980, Biometrika 67:93;
    Hampel et al. 1986, sec. 7.2), scaled for runs that are not equally noisy (Kent 1982, Biometrika 69:19).
    """
    table = profile(fit, name)
    threshold = _threshold(fit, name, level)
    # Once more near the crossings: the root of the rise is nearly linear there (Bates & Watts 1988, sec. 6.1).
    bottom = int(table["objective"].argmin())
    for rise in (threshold, _FLAT * fit.objective):
        edges = [edge for edge in _edges(table, bottom, rise) if edge is not None]
        value = table["value"].to_numpy(float)
        finer = [np.linspace(value[i], value[i + 1], 6)[1:-1] for i in edges]
        if finer:
            table = pd.concat([table, profile(fit, name, np.concatenate(finer))]).sort_values("value")
            table = table.reset_index(drop=True)
            bottom = int(table["objective"].argmin())
    flat = _crossings(table, bottom, _FLAT * fit.objective)
    low, high = _crossings(table, bottom, threshold)
    ends = (float(table["value"].iloc[0]), float(table["value"].iloc[-1]))
    wide = min(flat[1], ends[1]) >= _DECADE * max(flat[0], ends[0]) > 0
    if wide:
        # Where the last decade to an end hardly matters, nor does what lies beyond.
        level_off = [_levels_off(table, end, _FLAT * fit.objective) for end in (0, -1)]
        low = -math.inf if level_off[0] else min(low, flat[0])
        high = math.inf if level_off[1] else max(high, flat[1])
    if low == -math.inf and ends[0] > 0:
        low = 0.0
    warning = None
    if wide:
        warning = (
            f"{name} is not identified: from {max(flat[0], ends[0]):.3g} to {min(flat[1], ends[1]):.3g} the objective "
            f"stays within {_FLAT:.1%} of its lowest"
        )
    elif open_ends := [word for word, end in (("below", low), ("above", high)) if end in (0.0, math.inf, -math.inf)]:
        warning = f"{name} is not identified: the runs give it no bound {' or '.join(open_ends)}"
    return Profiled(name, (low, high), flat, warning is None, warning, table)


def profile_interval(fit: Fit, name: str, level: float | None = None) -> tuple[float, float]:
    """The values of a parameter that its profile does not exclude (see `profiled`); 0 or infinite at an open end."""
    return profiled(fit, name, level).interval


def unidentified(fit: Fit) -> list[Profiled]:
    """The shapes that the runs do not identify: first a look a root of ten to either side, then the whole profile."""
    flat = []
    for name, shape in fit.law.shapes.items():
        if name in fit.fixed or not fit.parameters[name] > 0:
            continue
        aside = fit.parameters[name] * np.sqrt(_DECADE) ** np.array([-1, 1])
        if shape.low > 0:
            aside = np.clip(aside, shape.low, shape.high)
        if (profile(fit, name, aside)["rise"] < max(_FLAT * fit.objective, _threshold(fit, name))).any():
            flat.append(profiled(fit, name))
    return [one for one in flat if not one.identified]


def _threshold(fit: Fit, name: str, level: float | None = None) -> float:
    from scipy.special import fdtri  # of scipy.stats, which takes a second to import, this is all there is to it

    return dispersion(fit, name) / 2 * float(fdtri(1, fit.freedom, level or fit.level))


def _values(fit: Fit, name: str) -> np.ndarray:
    """Of a parameter, from end to end of its range, closely around the best."""
    index = fit.law.parameters.index(name)
    log, best = bool(fit.law.on_log_scale[index]), float(fit.theta[index])
    around = math.sqrt(max(float(covariance(fit)[index, index]), 0)) * np.concatenate([-_STEPS, [0], _STEPS]) + best
    low, high = around.min(), around.max()
    if shape := fit.law.shapes.get(name):
        spread = shape.spread(np.linspace(0, 1, 17))
        spread = np.log(spread) if log else spread
        low, high = min(spread[0], best), max(spread[-1], best)
        around = np.concatenate([around, spread])
    elif log:
        low, high = best - np.log(_REACH), best + np.log(_REACH)
        around = np.concatenate([around, np.linspace(low, high, 13)])
        if name == "E":
            high = float(np.log(fit.runs.table["loss"].max()))
    kept = np.unique(around[(around >= low) & (around <= high)])
    return np.exp(kept) if log else kept


def _edges(table: pd.DataFrame, bottom: int, rise: float) -> list[int | None]:
    """On either side of the lowest point, the interval of rows in which the objective has risen; None where never."""
    above = (table["objective"] - table["objective"].min()).to_numpy() > rise
    left, right = np.flatnonzero(above[:bottom]), np.flatnonzero(above[bottom:])
    # The outermost row within, so that bumps on the way are inside.
    return [
        int(np.flatnonzero(~above)[0]) - 1 if len(left) and above[0] else None,
        int(np.flatnonzero(~above)[-1]) if len(right) and above[-1] else None,
    ]


def _crossings(table: pd.DataFrame, bottom: int, rise: float) -> tuple[float, float]:
    """Where the objective has risen to either side; infinite where it never does."""
    root = np.sqrt(np.maximum((table["objective"] - table["objective"].min()).to_numpy(), 0))
    value, ends = table["value"].to_numpy(), [-math.inf, math.inf]
    for side, edge in enumerate(_edges(table, bottom, rise)):
        if edge is not None:
            pair = np.argsort(root[edge : edge + 2]) + edge
            ends[side] = float(np.interp(math.sqrt(rise), root[pair], value[pair]))
    return ends[0], ends[1]


def _levels_off(table: pd.DataFrame, end: int, rise: float) -> bool:
    value, objective = table["value"].to_numpy(), table["objective"].to_numpy()
    same_side = value * np.sign(value[end])  # a shape may run through 0: its decades are those of one sign
    last = (same_side * _DECADE * (1 + 1e-9) >= abs(value[end])) & (same_side <= _DECADE * (1 + 1e-9) * abs(value[end]))
    return bool(np.ptp(objective[last]) <= rise)
