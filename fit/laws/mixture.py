"""`Mixture`: several laws as one, whose log loss is the weighted mean of theirs; the form that a consensus takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.laws.law import Law, Problem
from nextscale.fit.laws.loss import Loss

_LogLosses = Callable[[Law, np.ndarray, np.ndarray], np.ndarray]
"""Of a law, its parameter vectors, and which of all vectors these are."""


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture(Law):
    """log L = Σ_k w_k log L_k of K laws in the same variables.

    A parameter vector is the K weights, and after them the parameter vectors of the laws. With one weight of 1 and all
    others 0 it is one of the laws: so a sample of laws, each as probable as its weight, is an array of such vectors.

    Attributes:
        laws: which are mixed.
    """

    laws: tuple[Law, ...]

    @classmethod
    def of(cls, laws: Sequence[Law]) -> Mixture:
        """
        Raises:
            InputError: the laws vary in different variables.
        """
        variables = [*dict.fromkeys(variable for law in laws for variable in law.variables)]
        if any(set(law.variables) != set(variables) for law in laws):
            raise InputError(f"mixture: {', '.join(law.name for law in laws)} are laws in different variables")
        names = [*dict.fromkeys(law.name for law in laws)]
        return cls(
            name="consensus",
            formula=f"consensus of {', '.join(names)}" if len(names) > 1 else laws[0].formula,
            source="; ".join(dict.fromkeys(law.source for law in laws)),
            variables=tuple(variables),
            coefficients=("E",) if all("E" in law.parameters for law in laws) else (),
            log_linear=(),
            shapes={},
            laws=tuple(laws),
        )

    def vector(self, weights: Mapping[int, float], thetas: Sequence[np.ndarray]) -> np.ndarray:
        """The parameter vector of some weights, by the place of each law; others weigh nothing."""
        shares = np.zeros(len(self.laws))
        shares[[*weights]] = [*weights.values()]
        return np.concatenate([shares, *thetas])

    def natural(self, theta: np.ndarray) -> np.ndarray:
        """The irreducible loss alone, the weighted geometric mean of the laws' own (... x 1)."""
        if not self.coefficients:
            return np.empty((*theta.shape[:-1], 0))
        logs = np.zeros(theta.shape[:-1])
        for weight, own, law in self.parts(theta):
            logs += weight * np.maximum(own[..., law.parameters.index("E")], -700)
        return np.exp(logs)[..., None]

    def log_losses(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        shape = (len(theta), len(np.atleast_1d(variables[self.variables[0]])))
        return self._mean(theta, shape, lambda law, own, _: law.log_losses(own, variables))

    def log_losses_each(self, theta: np.ndarray, variables: Mapping[str, np.ndarray]) -> np.ndarray:
        def of(law: Law, own: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return law.log_losses_each(own, {name: values[rows] for name, values in variables.items()})

        return self._mean(theta, variables[self.variables[0]].shape, of)

    def problem(
        self, variables: Mapping[str, np.ndarray], losses: np.ndarray, loss: Loss, fixed: Mapping[str, float]
    ) -> Problem:
        raise InputError("consensus: is made of laws that are fitted one by one; name one of these with --law")

    def _mean(self, theta: np.ndarray, shape: tuple[int, ...], log_losses: _LogLosses) -> np.ndarray:
        total = np.zeros(shape)
        for weight, own, law in self.parts(theta):
            rows = weight > 0  # most vectors are of one law alone
            if rows.any():
                total[rows] += weight[rows, None] * log_losses(law, own[rows], rows)
        return total

    def parts(self, theta: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, Law]]:
        """Of each law its weight and its own parameter vector, of parameter vectors in any number."""
        parts, first = [], len(self.laws)
        for k, law in enumerate(self.laws):
            last = first + len(law.parameters)
            parts.append((theta[..., k], theta[..., first:last], law))
            first = last
        return parts
