"""Scaling laws as data.

A law here is a sum of power-law terms, `L = Σ_k coefficient_k · Π_v v^(-exponent_kv)`. With the logarithms of the
coefficients as parameters, log L is a log-sum-exp of terms that are *linear* in the parameters, so one
estimator with exact derivatives (`solve.py`) serves every law that can be written this way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Term:
    """`coefficient · Π v^(-exponent)`, the exponent of each variable by name."""

    coefficient: str
    exponents: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Law:
    """A sum of power-law terms.

    Attributes:
        name: what a user calls it.
        formula: as one would write it.
        source: where it comes from.
        terms: the first is a constant, the irreducible loss. Two terms that name the same exponent share it.
    """

    name: str
    formula: str
    source: str
    terms: tuple[Term, ...]

    @property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(term.coefficient for term in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for term in self.terms for name in term.exponents.values()))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Coefficients, then exponents: the order of a parameter vector."""
        return self.coefficients + self.exponents

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(variable for term in self.terms for variable in term.exponents))

    def design(self, logs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Each term's logarithm as a linear form in the parameter vector.

        Args:
            logs: the logarithm of each variable, n values each.

        Returns:
            n x terms x parameters.
        """
        n = len(next(iter(logs.values())))
        design = np.zeros((n, len(self.terms), len(self.parameters)))
        for k, term in enumerate(self.terms):
            design[:, k, k] = 1
            for variable, exponent in term.exponents.items():
                design[:, k, self.parameters.index(exponent)] -= logs[variable]
        return design


CHINCHILLA = Law(
    name="chinchilla",
    formula="L = E + A/N^alpha + B/D^beta",
    source="Hoffmann et al. 2022, eq. 2",
    terms=(Term("E"), Term("A", {"N": "alpha"}), Term("B", {"D": "beta"})),
)

CHINCHILLA_TIED = Law(
    name="chinchilla-tied",
    formula="L = E + A/N^alpha + B/D^alpha",
    source="Muennighoff et al. 2023, sec. 3 (alpha = beta)",
    terms=(Term("E"), Term("A", {"N": "alpha"}), Term("B", {"D": "alpha"})),
)

LAWS = {law.name: law for law in (CHINCHILLA, CHINCHILLA_TIED)}
