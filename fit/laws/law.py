"""The interface of scaling laws: the variables of a law, and how each of its parameters enters."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping

import numpy as np

from nextscale.fit.laws.loss import Loss

_CACHE_FLOATS = 60_000


@dataclasses.dataclass(frozen=True)
class Shape:
    """A parameter that enters neither linearly nor log-linearly, and where to look for it.

    Attributes:
        low, high: the plausible range. The search starts inside; an optimum outside is reported.
        positive: never crosses zero, so that its logarithm is what is optimised.
    """

    low: float
    high: float
    positive: bool = False

    def spread(self, share: np.ndarray) -> np.ndarray:
        """Values at shares 0 to 1 of the range, evenly spaced in the logarithm where the range allows it."""
        if self.low > 0:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share


EXPONENT = Shape(0.03, 2.5)
"""The range of an exponent of a power law."""
COLLINEAR = 0.9999
"""A correlation of log N and log D from which they are one variable, and no law can tell them apart."""


@dataclasses.dataclass(frozen=True, eq=False)
class Law(abc.ABC):
    """A formula for the loss, as data.

    Attributes:
        name: what a user calls it.
        formula: as one would write it.
        source: where it comes from.
        variables: what it takes, such as N, D or C.
        coefficients: parameters > 0 in which the loss is linear; their logarithms are optimised.
        log_linear: parameters in which the logarithm of the loss is linear.
        shapes: all others.
    """

    name: str
    formula: str
    source: str
    variables: tuple[str, ...]
    coefficients: tuple[str, ...]
    log_linear: tuple[str, ...]
    shapes: Mapping[str, Shape]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The order of a parameter vector theta."""
        return (*self.coefficients, *self.log_linear, *self.shapes)

    @property
    def on_log_scale(self) -> np.ndarray:
        """Whether theta holds the logarithm of each parameter."""
        shapes = [shape.positive for shape in self.shapes.values()]
        return np.array([True] * len(self.coefficients) + [False] * len(self.log_linear) + shapes)

    def natural(self, theta: np.ndarray) -> np.ndarray:
        """Parameters as the formula has them, from theta (... x parameters)."""
        # exp of more is no float; a resample in which a term vanishes can ask for it.
        return np.where(self.on_log_scale, np.exp(np.clip(theta, None, 700)), theta)

    def theta(self, parameters: Mapping[str, float]) -> np.ndarray:
        """The inverse of `natural`, from parameters by name."""
        values = np.array([parameters[name] for name in self.parameters], float)
        return np.where(self.on_log_scale, np.log(np.where(self.on_log_scale, values, 1)), values)

    @abc.abstractmethod
    def log_losses(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        """log L of n runs under each of S parameter vectors, S x n."""

    @abc.abstractmethod
    def log_losses_each(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same where each of S parameter vectors has n runs of its own: all variables are S x n."""

    @abc.abstractmethod
    def problem(
        self, variables: Mapping[str, np.ndarray], losses: np.ndarray, loss: Loss, fixed: Mapping[str, float]
    ) -> Problem:
        """The law on n runs, ready to be minimised."""


@dataclasses.dataclass(frozen=True)
class Expansion:
    """log L at S parameter vectors, and its slopes.

    Attributes:
        value: S x n.
        slope: S x parameters x n.
    """

    value: np.ndarray
    slope: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cells:
    """Runs that are alike in all that a law varies in, such as a search over learning rates, taken together.

    Attributes:
        distinct: the problem on one run of each cell, m.
        of: the cell of each run, n.
        order: the runs by cell, n; and `first`, where each cell begins in that order, m.
    """

    distinct: Problem
    of: np.ndarray
    order: np.ndarray
    first: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Of each cell the sum over its runs: S x m, of S x n."""
        return np.asarray(np.add.reduceat(values[:, self.order], self.first, axis=1))


@dataclasses.dataclass(frozen=True)
class Problem(abc.ABC):
    """A law on n runs. Its theta may be other coordinates than the law's, better conditioned on these runs.

    Attributes:
        target: log loss, n.
        fixed: parameters that are given, by name.
    """

    law: Law
    target: np.ndarray
    loss: Loss
    fixed: Mapping[str, float]

    @property
    def free(self) -> np.ndarray:
        return np.array([name not in self.fixed for name in self.law.parameters])

    @property
    def size(self) -> int:
        """Numbers in the expansion of one parameter vector."""
        return len(self.target) * len(self.law.parameters)

    @property
    def at_once(self) -> int:
        """How many parameter vectors to expand together: those that stay in a processor's cache are done twice as fast
        as all in one."""
        return max(1, _CACHE_FLOATS // self.size)

    @property
    def cells(self) -> Cells | None:
        """Its distinct runs, where many are alike in all that the law varies in; None where that saves nothing."""
        return None

    @abc.abstractmethod
    def values(self, theta: np.ndarray) -> np.ndarray:
        """log L, S x n."""

    @abc.abstractmethod
    def expand(self, theta: np.ndarray) -> Expansion: ...

    @abc.abstractmethod
    def hessian(self, theta: np.ndarray, at: Expansion, pull: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
        """Σ_i stiffness_i · slope_i slope_iᵀ + pull_i · (second derivative of log L_i), S x parameters x parameters.

        Args:
            at: the expansion at theta.
            pull, stiffness: S x n.
        """

    @abc.abstractmethod
    def basis(self, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What each linear parameter adds, at S points of the shapes.

        Returns:
            S x K x n: per unit of each coefficient, to the loss / measured loss; or of each log-linear parameter, to
            log L. And S x n: the same with all of them at zero.
        """

    def uncentred(self, theta: np.ndarray) -> np.ndarray:
        """The law's own theta, from this problem's (... x parameters)."""
        return theta

    def centred(self, theta: np.ndarray) -> np.ndarray:
        """The inverse of `uncentred`."""
        return theta
