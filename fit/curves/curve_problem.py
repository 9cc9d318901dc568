"""The least-squares problem of a law of schedules on several curves, and its minimiser."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from nextscale.fit.curves.curve import Curve
from nextscale.fit.curves.schedule_laws import Course, ScheduleLaw

_DELTA = 1e-3
"""Of Huber's loss, in log loss, as in both papers."""
_EFFICIENT = 1.345
"""In deviations of the noise, the delta at which an estimate is 95 % as good as by squares (Huber 1964)."""
_PARTS = 3
"""Of a curve that are taken to err each in its own way."""
_FOLLOWED = 3
"""Starts that are followed to their end; on the curves of Luo et al. each leads to the same."""
_AT_ONCE = 4000
"""Steps at which a law is evaluated in one go."""
_NORMAL = 1.4826
"""Deviation of a normal variable / the median of its absolute value."""


@dataclasses.dataclass(frozen=True, eq=False)
class CurveProblem:
    """A law on n losses of several curves, rates in units of the peak.

    Attributes:
        courses: of each curve, at one or two steps for each of its losses.
        targets: of each curve, its log losses.
    """

    law: ScheduleLaw
    courses: list[Course]
    targets: list[np.ndarray]

    @classmethod
    def of(cls, law: ScheduleLaw, curves: Sequence[Curve], peak: float) -> CurveProblem:
        thin = [curve.thinned() for curve in curves]
        courses = [
            law.course(curve.rates / peak, steps.ravel()) for curve, (steps, _) in zip(curves, thin, strict=True)
        ]
        return cls(law, courses, [np.log(losses) for _, losses in thin])

    def expand(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log predicted - log measured, n, and its slopes, parameters x n."""
        values, slopes = zip(*(self.law.expand(theta, course) for course in self.courses), strict=True)
        return self._at_losses(values) - np.concatenate(self.targets), self._at_losses(slopes)

    def starts(self) -> list[np.ndarray]:
        """The best of points over exponents and shapes; the coefficients, solved for, are not below 0."""
        from scipy.optimize import nnls

        log_area = self._at_losses([course.log_area for course in self.courses])
        scale = np.exp(-np.concatenate(self.targets))
        grid = ([np.log(usual) + shift for shift in (-1.6, 0, 1.6)] for usual in self.law.usual)
        found = []
        for shapes in itertools.product(*grid):
            drop = self._at_losses([self.law.drop(course.falls, np.array(shapes))[0] for course in self.courses])
            for alpha in (0.15, 0.3, 0.5, 0.8):
                columns = np.stack([np.ones_like(drop), np.exp(-alpha * log_area), -drop], axis=1) * scale[:, None]
                coefficients, miss = nnls(columns, np.ones_like(drop))
                least = 1e-3 / np.abs(columns).mean(axis=0)  # of one that is 0, for its logarithm
                found.append((miss, [*np.log(np.maximum(coefficients, least)), np.log(alpha), *shapes]))
        return [np.array(theta) for _, theta in sorted(found, key=lambda one: one[0])[:_FOLLOWED]]

    def delta(self, theta: np.ndarray) -> float:
        """Of Huber's loss: that of the papers, or what suits the noise, by errors side by side, where that is more."""
        jumps = np.concatenate([np.diff(errors) for errors in self._by_curve(theta)])
        return max(_DELTA, _EFFICIENT * _NORMAL * float(np.median(np.abs(jumps))) / 2**0.5) if len(jumps) else _DELTA

    def dispersion(self, theta: np.ndarray) -> float:
        """The variance of an error, times how many losses in a row err alike: that of the mean of a third of a curve,
        times its losses; or of one loss, where that is more."""
        errors = self._by_curve(theta)
        parts = [part for one in errors for part in np.array_split(one, _PARTS) if len(part)]
        together = float(np.mean([len(part) * part.mean() ** 2 for part in parts]))
        alone = np.concatenate(errors)
        return max(together, float((alone**2).sum()) / max(len(alone) - len(theta), 1), 1e-20)

    @staticmethod
    def cost(errors: np.ndarray, delta: float) -> np.ndarray:
        """Huber's loss of each error."""
        size = np.abs(errors)
        return np.where(size > delta, delta * (size - delta / 2), errors**2 / 2)

    def _at_losses(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Of what a law says at the steps of each curve the means at its losses, along the last axis."""
        means = [
            of.reshape(*of.shape[:-1], -1, len(target)).mean(axis=-2)
            for of, target in zip(values, self.targets, strict=True)
        ]
        return np.concatenate(means, axis=-1)

    def _by_curve(self, theta: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([len(target) for target in self.targets])
        return np.split(self.expand(theta)[0], ends[:-1])


def solve(problem: CurveProblem, starts: Sequence[np.ndarray], delta: float, dispersion: float = 0.0) -> np.ndarray:
    """The best minimum that is reached.

    Args:
        dispersion: how much the prior of the shapes counts, in units of a squared error.
    """
    from scipy.optimize import least_squares

    n, usual = sum(map(len, problem.targets)), np.log(problem.law.usual)
    weight = np.sqrt(dispersion) / delta / np.array(problem.law.spread)
    prior = np.zeros((len(usual), len(problem.law.parameters)))
    prior[:, 4:] = np.diag(weight)

    @functools.lru_cache(1)  # the errors and their slopes are asked for one after the other
    def expanded(theta: bytes) -> tuple[np.ndarray, np.ndarray]:
        return problem.expand(np.frombuffer(theta))

    def errors(theta: np.ndarray) -> np.ndarray:
        return np.concatenate([expanded(theta.tobytes())[0] / delta, weight * (theta[4:] - usual)])

    def slopes(theta: np.ndarray) -> np.ndarray:
        return np.concatenate([expanded(theta.tobytes())[1].T / delta, prior])

    def cost(squares: np.ndarray) -> np.ndarray:
        """Huber's loss of the errors, the prior squared; and two derivatives, as scipy wants them."""
        far = (squares > 1) & (np.arange(len(squares)) < n)
        root = np.sqrt(np.where(far, squares, 1))
        return np.stack([np.where(far, 2 * root - 1, squares), 1 / root, -0.5 * far / root**3])

    options: dict[str, Any] = {"xtol": 1e-11, "ftol": 1e-11, "gtol": 1e-11, "max_nfev": 200}
    found = [least_squares(errors, start, slopes, loss=cost, x_scale="jac", **options) for start in starts]
    return np.array(min(found, key=lambda one: one.cost).x)


def predicted(law: ScheduleLaw, theta: np.ndarray, rates: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Losses at n steps, rates in units of the peak."""
    parts = [steps[start : start + _AT_ONCE] for start in range(0, len(steps), _AT_ONCE)]
    return np.exp(np.concatenate([law.expand(theta, law.course(rates, part))[0] for part in parts] or [np.zeros(0)]))
