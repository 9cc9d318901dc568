"""`SumOfPowers`: a scaling law that is a sum of power-law terms, `L = Σ_k coefficient_k · Π_v v^(-exponent_kv)`.

With the logarithms of the coefficients as parameters, log L is a log-sum-exp of terms that are *linear* in the
parameters: exact derivatives cost little, and one core serves every law that can be written so.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from nextscale.fit.laws.law import EXPONENT, Cells, Expansion, Law, Problem, Shape
from nextscale.fit.laws.loss import Loss

_MANY, _ALIKE = 100, 4
"""Runs from which it saves time to take those that are alike together, where there are so many of each."""


@dataclasses.dataclass(frozen=True)
class Term:
    """`coefficient · Π v^(-times · exponent)`: by variable the name of its exponent, or (name, times)."""

    coefficient: str
    exponents: Mapping[str, str | tuple[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def powers(self) -> list[tuple[str, str, float]]:
        """(variable, exponent, times) of each factor."""
        pairs = [(variable, (e, 1.0) if isinstance(e, str) else e) for variable, e in self.exponents.items()]
        return [(variable, name, times) for variable, (name, times) in pairs]


@dataclasses.dataclass(frozen=True, eq=False)
class SumOfPowers(Law):
    """A sum of power-law terms; two terms that name the same exponent share it."""

    terms: tuple[Term, ...]

    @classmethod
    def of(cls, name: str, formula: str, source: str, *terms: Term, **ranges: Shape) -> SumOfPowers:
        """From its terms; `ranges` are those of exponents that are not the usual."""
        factors = [factor for term in terms for factor in term.powers]
        return cls(
            name=name,
            formula=formula,
            source=source,
            variables=tuple(dict.fromkeys(variable for variable, _, _ in factors)),
            coefficients=tuple(term.coefficient for term in terms),
            log_linear=(),
            shapes={exponent: ranges.get(exponent, EXPONENT) for _, exponent, _ in factors},
            terms=terms,
        )

    def design(self, logs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Each term's logarithm as a linear form in theta.

        Args:
            logs: the logarithm of each variable, n values each.

        Returns:
            n x terms x parameters.
        """
        n = len(logs[self.variables[0]])
        design = np.zeros((n, len(self.terms), len(self.parameters)))
        for k, term in enumerate(self.terms):
            design[:, k, k] = 1
            for variable, exponent, times in term.powers:
                design[:, k, self.parameters.index(exponent)] -= times * logs[variable]
        return design

    def log_losses(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        return log_sum_exp(self.design({name: np.log(variables[name]) for name in self.variables}), theta)[0]

    def log_losses_each(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        column = {name: theta[:, k, None] for k, name in enumerate(self.parameters)}
        logs = {name: np.log(variables[name]) for name in self.variables}
        total = np.full(logs[self.variables[0]].shape, -np.inf)
        for term in self.terms:
            steps = (times * column[exponent] * logs[variable] for variable, exponent, times in term.powers)
            np.logaddexp(total, column[term.coefficient] - sum(steps), out=total)
        return total

    def problem(
        self, variables: Mapping[str, np.ndarray], losses: np.ndarray, loss: Loss, fixed: Mapping[str, float]
    ) -> SumOfPowersProblem:
        logs = {name: np.log(variables[name]) for name in self.variables}
        # Centred, coefficients and exponents are nearly uncorrelated; but one that is given is given uncentred.
        tied = any(term.coefficient in fixed and term.powers for term in self.terms)
        centre = {name: 0.0 if tied else float(log.mean()) for name, log in logs.items()}
        design = self.design({name: log - centre[name] for name, log in logs.items()})
        return SumOfPowersProblem(self, np.log(losses), loss, fixed, design, centre)


def log_sum_exp(design: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log L and the share of each term in L.

    Args:
        design: n x terms x parameters.
        theta: S x parameters.

    Returns:
        S x n, and terms x S x n.
    """
    # Terms come first: numpy reduces three long rows many times faster than many rows of three.
    share = np.matmul(theta, design.transpose(1, 2, 0))
    top = share.max(axis=0)
    np.exp(np.subtract(share, top, out=share), out=share)
    total = share.sum(axis=0)
    share /= total
    return top + np.log(total), share


@dataclasses.dataclass(frozen=True)
class _Shares(Expansion):
    """With the share of each term, terms x S x n."""

    share: np.ndarray


@dataclasses.dataclass(frozen=True)
class SumOfPowersProblem(Problem):
    """On n runs, with logarithms centred.

    Attributes:
        design: n x terms x parameters, of the centred variables.
        centre: mean log of each variable.
    """

    law: SumOfPowers
    design: np.ndarray
    centre: Mapping[str, float]

    @property
    def size(self) -> int:
        return self.design[..., 0].size

    @functools.cached_property
    def cells(self) -> Cells | None:
        n = len(self.target)
        if n < _MANY:
            return None
        _, first, of, counts = np.unique(
            self.design.reshape(n, -1), axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        if len(first) > n / _ALIKE:
            return None
        distinct = dataclasses.replace(self, target=self.target[first], design=self.design[first])
        return Cells(distinct, of, of.argsort(kind="stable"), np.cumsum(counts) - counts)

    @property
    def entries(self) -> list[list[int]]:
        """Which parameters each term has."""
        names = self.law.parameters
        return [[k, *(names.index(name) for _, name, _ in term.powers)] for k, term in enumerate(self.law.terms)]

    def values(self, theta: np.ndarray) -> np.ndarray:
        return log_sum_exp(self.design, theta)[0]

    def expand(self, theta: np.ndarray) -> _Shares:
        value, share = log_sum_exp(self.design, theta)
        # Each parameter enters few terms, so slopes are summed entry by entry.
        slope = np.zeros((*theta.shape, len(self.target)))
        for k, here in enumerate(self.entries):
            for p in here:
                slope[:, p] += share[k] * self.design[:, k, p]
        return _Shares(value, slope, share)

    def hessian(self, theta: np.ndarray, at: Expansion, pull: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
        # The second derivative of a log-sum-exp is the covariance of its terms' slopes under their shares.
        assert isinstance(at, _Shares)
        hessian = np.matmul(at.slope * (stiffness - pull)[:, None], at.slope.transpose(0, 2, 1))
        for k, here in enumerate(self.entries):
            pairs = self.design[:, k, here][:, :, None] * self.design[:, k, here][:, None, :]
            second = (pull * at.share[k]) @ pairs.reshape(len(pairs), -1)
            hessian[:, np.array(here)[:, None], here] += second.reshape(-1, len(here), len(here))
        return hessian

    def basis(self, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        K = len(self.law.terms)
        powers_KxSxn = np.matmul(shapes, self.design[:, :, K:].transpose(1, 2, 0)) - self.target
        basis = np.exp(powers_KxSxn.transpose(1, 0, 2), order="C")
        return basis, np.zeros((len(shapes), len(self.target)))

    def uncentred(self, theta: np.ndarray) -> np.ndarray:
        return theta @ self._shift(+1)

    def centred(self, theta: np.ndarray) -> np.ndarray:
        return theta @ self._shift(-1)

    def _shift(self, sign: int) -> np.ndarray:
        names = self.law.parameters
        shift = np.eye(len(names))
        for k, term in enumerate(self.law.terms):
            for variable, exponent, times in term.powers:
                shift[names.index(exponent), k] += sign * times * self.centre[variable]
        return shift
