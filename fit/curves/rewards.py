"""The reward of reinforcement learning against compute: a sigmoid along one run, and what more compute would bring."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from nextscale.fit.curves.curve import numbers_of
from nextscale.fit.errors import InputError
from nextscale.fit.intervals import ends_around

FORMULA = "R = R0 + (A - R0)/(1 + (C_mid/C)^B)"
SOURCE = "Khatri et al. 2025 (ScaleRL), eq. 1"
FEWEST = 12
_EXPONENTS = 0.25, 6.0
_STARTS, _WALKERS, _STEPS, _HALVINGS = 10, 64, 400, 60
"""2 to the power of the first starts; draws are taken from the second half of the steps."""
_LEAST, _GAIN = 1e-14, 16.0
"""Squared noises that a sigmoid explains at least, for its three parameters beyond a mean: one of 1000 by chance."""
_CUTS = (0.25, 0.35, 0.5, 0.7)
"""Of the compute seen: as far is a part fitted that forecasts the rest."""
_FREEDOM, _LEAST_FREEDOM = 2, 3.0
"""As how many cuts it counts that the sigmoid holds; and degrees of freedom that errors have at least."""
_WIDE, _NARROW = 0.5, 0.1
"""An asymptote whose interval is a wider part of what is left to gain, and wider than the second, is not identified."""


@dataclasses.dataclass(frozen=True, eq=False)
class RewardFit:
    """A sigmoid fitted along one run.

    Attributes:
        compute: of each point, rising, n.
        rewards: shares of 1, n.
        parameters: `R0`, `A`, `B` and `C_mid`, the best.
        draws: of these four, S x 4, as likely as the points make them, each of which tells less the more alike the
            errors of neighbours are.
        noise: standard deviation of a point.
        alike: correlation of the errors of neighbours.
        freedom: degrees of freedom of the noise.
        level: of intervals.
    """

    compute: np.ndarray
    rewards: np.ndarray
    parameters: dict[str, float]
    draws: np.ndarray
    noise: float
    alike: float
    freedom: float
    level: float
    initial: float | None

    def predict(self, compute: ArrayLike) -> np.ndarray:
        """The reward at each compute, n."""
        return _sigmoid(np.array([list(self.parameters.values())]), np.atleast_1d(np.asarray(compute, float)))[0]

    def interval(self, name: str) -> tuple[float, float]:
        """Of a parameter."""
        return ends_around(self.parameters[name], self.draws[:, list(self.parameters).index(name)], self.level)

    def forecast(self, compute: float) -> tuple[float, float, float]:
        """What would be measured at this compute, and its interval.

        Its width is that of the draws and the noise of a point, more by as much as `backtest` missed by more than such
        intervals say.
        """
        value = float(self.predict(compute)[0])
        rng = np.random.default_rng(0)
        off = _sigmoid(self.draws, np.array([float(compute)]))[:, 0] - value
        draws = value + self.widening * off + self.noise * rng.standard_t(self.freedom, len(off))
        low, high = ends_around(value, np.clip(draws, 0, 1), self.level)
        return value, low, high

    @functools.cached_property
    def backtest(self) -> pd.DataFrame:
        """Fits to the points below a cut, and what they forecast of the end of the run: `until`, the compute of the
        last point fitted; `forecast` and `measured` reward, means over the points from halfway to the end on; and the
        `expected` standard deviation of their difference. A row for each cut with points enough below."""
        rows = []
        for share in _CUTS:
            below = self.compute <= share * self.compute[-1]
            ahead = self.compute >= (1 + share) / 2 * self.compute[-1]
            if (self.compute[below] > 0).sum() < FEWEST or not ahead.any():
                continue
            try:
                part = _fitted(self.compute[below], self.rewards[below], self.initial, self.level)
            except InputError:  # it does not rise yet
                continue
            forecast = float(part.predict(self.compute[ahead]).mean())
            drawn = _sigmoid(part.draws, self.compute[ahead]).mean(axis=1)
            told = max(ahead.sum() * (1 - self.alike) / (1 + self.alike), 1)
            expected = float(np.hypot(np.sqrt(np.square(drawn - forecast).mean()), part.noise / np.sqrt(told)))
            row = {"until": self.compute[below][-1], "forecast": forecast, "expected": expected}
            rows.append(row | {"measured": float(self.rewards[ahead].mean())})
        return pd.DataFrame(rows, columns=["until", "forecast", "measured", "expected"])

    @property
    def widening(self) -> float:
        """By how much more the backtest missed than it expected to, 1 at least."""
        misses = np.square((self.backtest["measured"] - self.backtest["forecast"]) / self.backtest["expected"])
        return float(np.sqrt(max((_FREEDOM + misses.sum()) / (_FREEDOM + len(misses)), 1.0)))

    @property
    def warnings(self) -> list[str]:
        found = []
        if self.backtest.empty:
            found.append(
                "too few points below half of the run for a backtest: nothing tested how far the sigmoid holds"
            )
        if self.widening > 2:
            found.append(
                f"earlier parts of the run forecast its end {self.widening:.1f} times worse than they expected to: the "
                "reward does not follow one sigmoid"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """What JSON and tables show."""
        return {
            "formula": FORMULA,
            "source": SOURCE,
            "level": self.level,
            "points": len(self.compute),
            "last": float(self.compute[-1]),
            "noise": self.noise,
            "alike": self.alike,
            "widening": self.widening,
            "parameters": [
                {
                    "name": name,
                    "value": value,
                    "interval": None if name == "R0" and self.initial is not None else self.interval(name),
                }
                for name, value in self.parameters.items()
            ],
            "backtest": self.backtest.to_dict("records"),
            "warnings": self.warnings,
        }


def fit_rewards(
    compute: ArrayLike, rewards: ArrayLike, *, initial: float | None = None, level: float = 0.9
) -> RewardFit:
    """The sigmoid R_C - R_0 = (A - R_0) / (1 + (C_mid/C)^B) along one run of reinforcement learning (Khatri et al.
    2025, eq. 1), by least squares, with intervals from how likely the points make every other such sigmoid.

    All A up to 1, and all B from 0.25 to 6 and C_mid from a tenth of the first compute to ten times the last in equal
    parts of their logarithms, count alike beforehand. n points whose errors have a correlation of neighbours r tell as
    much as n (1 - r) / (1 + r) independent ones.

    Args:
        compute: of each point, in any unit; before training 0.
        rewards: mean reward or pass rate, shares of 1.
        initial: R_0, where it is known; else it is fitted as well.

    Raises:
        InputError: these are no shares, too few, or do not rise; or the asymptote is not identified.
    """
    at, values = np.asarray(compute, float), np.asarray(rewards, float)
    if at.ndim != 1 or at.shape != values.shape or not (np.isfinite(at) & (at >= 0) & np.isfinite(values)).all():
        raise InputError("rewards: each needs a compute, 0 or more, and both should be numbers")
    if len(values) and not (values.min() >= 0 and values.max() <= 1):
        raise InputError(
            f"rewards: run from {values.min():.4g} to {values.max():.4g}, and should be shares from 0 to 1"
        )
    order = np.argsort(at, kind="stable")
    at, values = at[order], values[order]
    if (at > 0).sum() < FEWEST:
        raise InputError(f"rewards: {(at > 0).sum()} points with a compute above 0 are too few; {FEWEST} are needed")
    found = _fitted(at, values, initial, level)
    low, high = found.interval("A")
    now = float(found.predict(at[-1])[0])
    if high - low > max(_WIDE * (1 - now), _NARROW):
        raise InputError(
            f"rewards: the asymptote is not identified: with {now:.3g} reached it may be anything from {low:.3g} to "
            f"{high:.3g}; train until the rise slows down, or evaluate on more prompts"
        )
    return found


def rewards_of(
    table: pd.DataFrame, name: str = "rewards", columns: Mapping[str, str] | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The compute and the rewards of a table of one run, as shares of 1, and a note where they are in percent.

    Args:
        columns: of `compute` and `reward` those whose column is not called by a usual name.

    Raises:
        InputError: a column is missing, a cell is no number, or there are several runs.
    """
    rows = numbers_of(table, ("compute", "reward"), name, columns).dropna(subset=["compute", "reward"])
    if (several := rows["curve"].nunique()) > 1:
        raise InputError(f"{name}: has {several} runs, and a sigmoid is of one; choose, such as --where")
    rewards = rows["reward"].to_numpy(float)
    percent = len(rewards) > 0 and 1 < rewards.max() <= 100
    notes = (
        [f"{name}: rewards up to {rewards.max():.4g} are read as percent, and shown as shares of 1"] if percent else []
    )
    return rows["compute"].to_numpy(float), rewards / 100 if percent else rewards, notes


def _fitted(at: np.ndarray, values: np.ndarray, initial: float | None, level: float) -> RewardFit:
    """The best sigmoid, from the best of a grid of starts, and those as likely."""
    from scipy.optimize import least_squares

    low = np.array([0.0, np.log(_EXPONENTS[0]), np.log(at[at > 0][0] / 10), 0.0])
    high = np.array([1.0, np.log(_EXPONENTS[1]), np.log(at[-1] * 10), 1.0])
    free = 4 if initial is None else 3

    def natural(found: np.ndarray) -> np.ndarray:
        """R0, A, B and C_mid of S rows of A, log B, log C_mid and R0."""
        floor = found[:, 3] if initial is None else np.full(len(found), initial)
        return np.stack([floor, found[:, 0], *np.exp(found[:, 1:3].T)], axis=1)

    def errors(found: np.ndarray) -> np.ndarray:
        return np.asarray(values - _sigmoid(natural(found), at))

    low, high = low[:free], high[:free]
    starts = low + (high - low) * _quasi_random(free)
    start = starts[np.square(errors(starts)).sum(axis=1).argmin()]
    solved = least_squares(lambda one: errors(one[None])[0], start, bounds=(low, high), xtol=1e-12, ftol=1e-12)
    off, least = errors(solved.x[None])[0], max(2 * float(solved.cost), _LEAST)
    # The errors that a fit leaves are less alike than those of the points; and by chance both may look less so.
    alike = (off[1:] @ off[:-1]) / least
    alike += (1 + free + 3 * max(alike, 0)) / len(at)
    alike = float(np.clip(alike + np.sqrt(max(1 - alike**2, 0) / len(at)), 0, 0.95))
    told = (1 - alike) / (1 + alike)
    noise = np.sqrt(least / max(len(at) - free / told, 1))

    freedom = max(len(at) * told - free, _LEAST_FREEDOM)
    gain = told * (np.square(values - values.mean()).sum() / noise**2 - len(at))
    best = natural(solved.x[None])[0]
    if not (best[1] > best[0] and np.ptp(values) > 0 and gain > _GAIN):
        raise InputError(
            f"rewards: no sigmoid shows in {len(at)} points: they do not rise with compute, or no smoother than their "
            "errors do"
        )

    def log_likely(found: np.ndarray) -> np.ndarray:
        inside = ((found >= low) & (found <= high)).all(axis=1) & (natural(found)[:, 0] <= found[:, 0])
        worse = told * (np.square(errors(found)).sum(axis=1) - least) / noise**2
        return np.where(inside, -(freedom + free) / 2 * np.log1p(np.maximum(worse, 0) / freedom), -np.inf)

    rng = np.random.default_rng(0)
    spread = np.linalg.pinv(solved.jac.T @ solved.jac * told / noise**2, hermitian=True)
    centre = np.clip(solved.x, low + 1e-6 * (high - low), high - 1e-6 * (high - low))
    aside = rng.multivariate_normal(np.zeros(free), spread, _WALKERS, method="eigh")
    for _ in range(_HALVINGS):  # of those beyond what can be, to the other side and nearer
        aside[~np.isfinite(log_likely(centre + aside))] *= -0.7
    walkers = np.where(np.isfinite(log_likely(centre + aside))[:, None], centre + aside, centre)
    draws = natural(_sampled(log_likely, walkers, rng))
    parameters = dict(zip(("R0", "A", "B", "C_mid"), best.tolist(), strict=True))
    return RewardFit(at, values, parameters, draws, float(noise), alike, freedom, level, initial)


def _quasi_random(dimensions: int) -> np.ndarray:
    from scipy.stats.qmc import Sobol

    return np.asarray(Sobol(dimensions, scramble=False).random_base2(_STARTS))


def _sampled(
    log_likely: Callable[[np.ndarray], np.ndarray], walkers: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draws in proportion to how likely they are, by walkers that step along the lines through one another, however
    long and narrow the valley is (Goodman & Weare 2010, "Ensemble samplers with affine invariance", a = 2)."""
    half, dimensions = len(walkers) // 2, walkers.shape[1]
    likely, kept = log_likely(walkers), []
    for step in range(_STEPS):
        for mine, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            stretch = (1 + rng.random(half)) ** 2 / 2
            through = walkers[other][rng.integers(half, size=half)]
            moved = through + stretch[:, None] * (walkers[mine] - through)
            found = log_likely(moved)
            taken = np.log(rng.random(half)) < (dimensions - 1) * np.log(stretch) + found - likely[mine]
            walkers[mine] = np.where(taken[:, None], moved, walkers[mine])
            likely[mine] = np.where(taken, found, likely[mine])
        if step >= _STEPS // 2 and step % 10 == 0:
            kept.append(walkers.copy())
    return np.concatenate(kept)


def _sigmoid(parameters: np.ndarray, compute: np.ndarray) -> np.ndarray:
    """Of S rows of R0, A, B and C_mid the reward at n computes, S x n."""
    from scipy.special import expit

    floor, top, exponent, middle = parameters.T[..., None]
    with np.errstate(divide="ignore"):
        return np.asarray(floor + (top - floor) * expit(exponent * (np.log(compute) - np.log(middle))))
