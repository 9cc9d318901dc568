"""Laws of the training curve under a learning-rate schedule: fitted to some schedules, they forecast others.

Both are L(step) = E + A·S1^(-alpha) - K·D. S1 is the sum of the rates of all steps so far, and D what the falls of the
rate since have brought. They hold from where warm-up ends: its steps count in S1 alone (the S_W of Luo et al. 2025,
eq. 6), so that it may begin at a rate of 0; a rise of the rate after warm-up counts as a fall below zero.

Inside a fit rates are in units of their peak, and every parameter is greater than 0 and given as its logarithm.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from nextscale.fit.curves.schedules import warmup_end
from nextscale.fit.errors import InputError

_SINGLE, _GROWTH = 32, 1.05
"""How falls are gathered: each of the last 32 steps by itself, then blocks whose ends are a factor 1.05 further back.
By the sum over every fall the loss of a schedule of 24 000 steps differs by less than 3e-6 of it."""
_LEAST_RATE = 1e-6
"""Of the peak. A rate of 0 has no power -gamma; as long as it lasts nothing is learnt, and so little is as good."""


@dataclasses.dataclass(frozen=True)
class Course:
    """What a law takes from a schedule at n of its steps.

    Attributes:
        log_area: log S1, n.
        falls: what its D is made of.
    """

    log_area: np.ndarray
    falls: Any


@dataclasses.dataclass(frozen=True)
class ScheduleLaw(abc.ABC):
    """A law, by what it makes of the falls.

    Attributes:
        parameters: the order of a vector theta of their logarithms: E, A, K, alpha, then what shapes D.
        usual, spread: of what shapes D the values found before, in units of the peak, and how far these lie apart: the
            deviation of their logarithm.
        units: of each parameter whose unit has a power of the rate in it, that power: a constant, plus the value of
            another parameter.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    parameters: ClassVar[tuple[str, ...]]
    usual: ClassVar[tuple[float, ...]]
    spread: ClassVar[tuple[float, ...]]
    units: ClassVar[Mapping[str, tuple[float, str | None]]]

    def course(self, rates: np.ndarray, steps: np.ndarray) -> Course:
        """A schedule at some of its steps, which count from 1 and are past warm-up."""
        return Course(np.log(np.cumsum(rates)[steps - 1]), self._falls(rates, steps))

    @abc.abstractmethod
    def _falls(self, rates: np.ndarray, steps: np.ndarray) -> Any: ...

    @abc.abstractmethod
    def drop(self, falls: Any, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """D at n steps, and its slopes by the logarithm of each of its shapes, shapes x n."""

    @np.errstate(over="ignore", invalid="ignore")  # a step of the search too far is no number, and is not taken
    def expand(self, theta: np.ndarray, course: Course) -> tuple[np.ndarray, np.ndarray]:
        """log L at n steps, and its slopes, parameters x n."""
        E, A, K, alpha = np.exp(theta[:4])
        drop, slopes = self.drop(course.falls, theta[4:])
        power = A * np.exp(-alpha * course.log_area)
        # Far from the optimum the drop may be more than there is.
        loss = np.maximum(E + power - K * drop, 1e-9)
        by = [np.full_like(power, E), power, -K * drop, -alpha * course.log_area * power, *(-K * slopes)]
        return np.log(loss), np.stack(by) / loss

    def natural(self, theta: np.ndarray, peak: float) -> tuple[np.ndarray, np.ndarray]:
        """The logarithms of the parameters with rates as they are, from theta; and their slopes by theta."""
        found, slopes = theta.copy(), np.eye(len(theta))
        for name, (power, other) in self.units.items():
            i = self.parameters.index(name)
            found[i] += power * np.log(peak)
            if other is not None:
                j = self.parameters.index(other)
                found[i] += np.exp(theta[j]) * np.log(peak)
                slopes[i, j] += np.exp(theta[j]) * np.log(peak)
        return found, slopes


@dataclasses.dataclass(frozen=True)
class MomentumLaw(ScheduleLaw):
    """L(step) = E + A·S1^(-alpha) - C·S2 (Tissue et al. 2024, "Scaling Law with Learning Rate Annealing", eq. 1).

    S2 is the sum of the momentum of the falls, Σ_i Σ_(k≤i) (η_(k-1) - η_k)·decay^(i-k).

    Attributes:
        decay: λ of the paper, how long a fall is felt.
    """

    name = "momentum"
    formula = "L = E + A/S1^alpha - C*S2"
    source = "Tissue et al. 2024, eq. 1"
    parameters = ("E", "A", "C", "alpha")
    usual = ()
    spread = ()
    units: ClassVar = {"A": (0.0, "alpha"), "C": (-1.0, None)}

    decay: float = 0.999

    def _falls(self, rates: np.ndarray, steps: np.ndarray) -> np.ndarray:
        from scipy.signal import lfilter

        return np.cumsum(lfilter([1.0], [1.0, -self.decay], _falls_of(rates)))[steps - 1]

    def drop(self, falls: np.ndarray, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return falls, np.zeros((0, len(falls)))


@dataclasses.dataclass(frozen=True)
class Falls:
    """The falls of a rate, as each of n steps looks back on them.

    Attributes:
        row: the step that looks back.
        size: of a fall, or of some near each other.
        log_since: log of the sum of the rates since, that of the fall's own step included.
        log_rate: log of the rate that it fell to.
    """

    n: int
    row: np.ndarray
    size: np.ndarray
    log_since: np.ndarray
    log_rate: np.ndarray

    def sum(self, each: np.ndarray) -> np.ndarray:
        """Of what each fall has brought per unit of its size, the sum at every step."""
        return np.bincount(self.row, self.size * each, self.n)


@dataclasses.dataclass(frozen=True)
class MultiPowerLaw(ScheduleLaw):
    """L(step) = E + A·S1^(-alpha) - B·Σ_k (η_(k-1) - η_k)·(1 - (1 + C·η_k^(-gamma)·S_k)^(-beta)).

    S_k is the sum of the rates from step k on (Luo et al. 2025, "A Multi-Power Law for Loss Curve Prediction Across
    Learning Rate Schedules", eq. 6).

    `usual` lies midway between what they publish of models of 25M, 100M and 400M parameters, fitted to three curves of
    each (in units of the peak 0.115, 0.59 and 0.64, to 20 %), and where the error of all nine curves of each is least
    (0.0032, 1.81 and 0.56, to 40 %); neither is more than a `spread` away.
    """

    name = "multi-power"
    formula = "L = E + A/S1^alpha - B*sum_k (eta_(k-1) - eta_k)*(1 - (1 + C*S_k/eta_k^gamma)^-beta)"
    source = "Luo et al. 2025, eq. 6"
    parameters = ("E", "A", "B", "alpha", "C", "beta", "gamma")
    usual = (0.019, 1.03, 0.6)
    spread = (1.8, 0.6, 0.3)
    units: ClassVar = {"A": (0.0, "alpha"), "B": (-1.0, None), "C": (-1.0, "gamma")}

    def _falls(self, rates: np.ndarray, steps: np.ndarray) -> Falls:
        return gathered_falls(rates, steps)

    def drop(self, falls: Falls, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        C, (beta, gamma) = shapes[0], np.exp(shapes[1:])
        x = C - gamma * falls.log_rate + falls.log_since
        reach = np.logaddexp(0, x)
        left = np.exp(-beta * reach)
        by_C = beta * np.exp(x - reach) * left
        by = by_C, beta * reach * left, -gamma * falls.log_rate * by_C
        return falls.sum(1 - left), np.stack([falls.sum(one) for one in by])


def gathered_falls(rates: np.ndarray, steps: np.ndarray) -> Falls:
    """The falls before each of n steps, one by one where they are recent, the older the more of them together.

    What a fall has brought depends on the logarithm of what came since, so that blocks may grow with their distance;
    each stands where its falls have their mean. A constant rate has none, and a single fall is told exactly.
    """
    fall, area = _falls_of(rates), np.cumsum(rates)
    ends = [*range(_SINGLE + 1)]
    while ends[-1] < len(rates):
        ends.append(max(int(ends[-1] * _GROWTH), ends[-1] + 1))
    bounds = np.maximum(steps[:, None] - np.array(ends), 0)
    log_rate = np.log(np.maximum(rates, _LEAST_RATE * rates.max()))
    rows, parts = [], []
    for sign in (1, -1):  # a block of falls and rises has no mean place
        size = np.maximum(sign * fall, 0)
        if not size.any():
            continue
        total, place, rate = (_block_sums(size * of, bounds) for of in (1, area - rates, log_rate))
        row, block = np.nonzero(total > 0)
        total, place, rate = (of[row, block] for of in (total, place, rate))
        since = np.maximum(area[steps - 1][row] - place / total, 1e-300)
        rows.append(row)
        parts.append([sign * total, np.log(since), rate / total])
    if not rows:
        return Falls(len(steps), np.zeros(0, int), *np.zeros((3, 0)))
    return Falls(len(steps), np.concatenate(rows), *np.concatenate(parts, axis=1))


def _block_sums(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Of the blocks between falling bounds (... x K + 1), ... x K."""
    sums = np.concatenate([[0], np.cumsum(values)])[bounds]
    return sums[:, :-1] - sums[:, 1:]


def _falls_of(rates: np.ndarray) -> np.ndarray:
    """By how much the rate of each step is below that of the step before, from where warm-up ends; before, 0."""
    falls = -np.diff(rates, prepend=rates[0])
    falls[: warmup_end(rates)] = 0
    return falls


SCHEDULE_LAWS: Mapping[str, ScheduleLaw] = {law.name: law for law in (MultiPowerLaw(), MomentumLaw())}


def schedule_law_named(name: str) -> ScheduleLaw:
    """
    Raises:
        InputError: there is none of this name.
    """
    if name not in SCHEDULE_LAWS:
        raise InputError(f"there is no law of curves '{name}'; name one of {', '.join(SCHEDULE_LAWS)}")
    return SCHEDULE_LAWS[name]
