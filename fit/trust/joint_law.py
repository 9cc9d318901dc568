"""The joint law of two recipes, its runs, and its fit.

What the recipes share, the irreducible loss and (unless the runs say otherwise) the exponents, is what makes the ratio
of their computes a number: with E free for each, two noisy asymptotes are compared instead. With all shared, B's
coefficients are A's divided by e^u and e^v, and B is worth e^(u/α) times A's parameters and e^(v/β) times its tokens:
under C = 6ND, the product of both times its compute at any scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.laws.law import Shape
from nextscale.fit.laws.sum_of_powers import SumOfPowers, Term
from nextscale.fit.optimum.frontier import TokenCost, optima
from nextscale.fit.table.columns import column_of
from nextscale.fit.table.runs import Runs
from nextscale.fit.trust.envelope import Curve, computes_for_one_loss

Shared = Literal["exponents", "asymptote"]
"""What the recipes have in common: the irreducible loss and the exponents, or the irreducible loss alone."""

_RATIO, _DIFFERENCE = Shape(-3.0, 3.0), Shape(-0.5, 0.5)
"""Where the log ratio of two coefficients, and the difference of two exponents, are looked for."""
_BEYOND, _BUDGETS = 1e3, 75
"""How far from the runs' compute an equal loss is looked for, and at how many budgets."""
_UNDER_E = 0.999
"""Losses less this much of E are powers of compute, nearly, and positive."""
_DOUBT = 0.01
"""Below this probability under equal exponents they are held to differ."""


@dataclasses.dataclass(frozen=True)
class JointFit:
    """A joint law fitted to two recipes.

    Attributes:
        base: the law of each.
        tables: the runs that were fitted, of A and of B.
        costs: FLOPs per token of a size, of each; None to read it off the runs.
        fit: of both, with the resamples behind its intervals.
    """

    base: SumOfPowers
    tables: tuple[Runs, Runs]
    costs: tuple[TokenCost | None, TokenCost | None]
    fit: Fit

    @classmethod
    def of(
        cls,
        tables: tuple[Runs, Runs],
        costs: tuple[TokenCost | None, TokenCost | None],
        base: SumOfPowers,
        shared: Shared,
        how: Mapping[str, Any],
    ) -> JointFit:
        """
        Args:
            how: options of `fit`.

        Raises:
            InputError: see `fit`.
        """
        return cls(base, tables, costs, fit(stacked_runs(*tables, base), joint_law(base, shared), **how))

    @property
    def floors(self) -> np.ndarray:
        """A little less than E of the fit and of each resample, (1 + R) x 1; 0 of a law without it."""
        thetas, names = np.concatenate([self.fit.theta[None], self.fit.resamples]), self.fit.law.parameters
        if "E" not in names:
            return np.zeros((len(thetas), 1))
        return _UNDER_E * self.fit.law.natural(thetas)[:, [names.index("E")]]

    def multipliers(self, at: np.ndarray) -> np.ndarray:
        """A's compute / B's for the loss that the worse has at each compute (see `computes_for_one_loss`), of the fit
        and of each resample, (1 + R) x k; infinite or 0 where a thousandth of the compute of `at` is enough."""
        thetas, floors = np.concatenate([self.fit.theta[None], self.fit.resamples]), self.floors
        flops = np.union1d(at, np.geomspace(at.min() / _BEYOND, at.max() * _BEYOND, _BUDGETS))
        curves = []
        for is_b, runs, cost in zip((0.0, 1.0), self.tables, self.costs, strict=True):
            losses = optima(self.fit.law, thetas, runs, flops.tolist(), cost, variables_of_recipe(is_b))[1]
            losses = np.maximum(losses, floors / _UNDER_E)  # a minimum between points of a grid may come out below E
            curves.append(Curve.of(flops, np.log(losses - floors)))
        of_a, of_b = computes_for_one_loss(curves[0], curves[1], at)
        with np.errstate(divide="ignore"):
            return of_a / of_b

    @property
    def ratios(self) -> dict[str, tuple[float, tuple[float, float]]]:
        """By term, A's coefficient / B's, with its interval."""
        ratios = {}
        for name in (f"ratio_{term.coefficient}" for term in self.base.terms if term.powers):
            low, high = self.fit.interval(name)
            ratio = float(np.exp(self.fit.parameters[name]))
            ratios[name.removeprefix("ratio_")] = (ratio, (float(np.exp(low)), float(np.exp(high))))
        return ratios

    def doubts(self, freer: JointFit) -> list[str]:
        """A warning where the recipes do not have the same exponents.

        Args:
            freer: with exponents of their own.
        """
        more = len(freer.fit.law.parameters) - len(self.fit.law.parameters)
        if not more:
            return []
        freedom = max(len(self.fit.runs) - len(freer.fit.law.parameters), 1)
        tight, loose = (float(np.square(each.fit.residuals).sum()) for each in (self, freer))
        doubt = float(f_distribution.sf((tight - loose) / more / (loose / freedom), more, freedom))
        if doubt >= _DOUBT:
            return []
        more_of_b = {k.removeprefix("more_"): v for k, v in freer.fit.parameters.items() if "more_" in k}
        shifts = ", ".join(f"{name} {value:+.3f}" for name, value in more_of_b.items())
        return [
            f"the recipes do not have the same exponents (B's: {shifts}; F-test, p = {doubt:.1g}): the multiplier "
            "changes with compute; share the asymptote alone"
        ]


def joint_law(base: SumOfPowers, shared: Shared) -> SumOfPowers:
    """The law of both recipes, in the variable `recipe` (1 for A, e for B) beside its own: every term but constants
    has `recipe^-ratio_`, the log of A's coefficient / B's; with only the asymptote shared also, in `X_b` (1 for A, the
    variable X for B), what B's exponent of X has on top of A's."""
    terms = []
    for term in base.terms:
        exponents = dict(term.exponents)
        if exponents:
            exponents |= {"recipe": f"ratio_{term.coefficient}"}
            if shared == "asymptote":
                exponents |= {f"{v}_b": (f"more_{name}", times) for v, name, times in term.powers}
        terms.append(Term(term.coefficient, exponents))
    names = {name for term in terms for _, name, _ in term.powers}
    ranges = dict(base.shapes) | {name: _RATIO for name in names if name.startswith("ratio_")}
    ranges |= {name: _DIFFERENCE for name in names if name.startswith("more_")}
    formula = f"{base.formula}, for two recipes with the same {'E and exponents' if shared == 'exponents' else 'E'}"
    return SumOfPowers.of(f"{base.name} of two recipes", formula, base.source, *terms, **ranges)


def stacked_runs(a: Runs, b: Runs, base: SumOfPowers) -> Runs:
    """Both tables as one; each recipe is a budget, so that the stratified bootstrap draws within it."""
    parts = []
    for runs, is_b in ((a, 0.0), (b, 1.0)):
        table = runs.table.assign(recipe=np.exp(is_b), budget=1.0 + is_b)
        parts.append(table.assign(**{f"{v}_b": table[column_of(v)] ** is_b for v in base.variables}))
    return dataclasses.replace(a, table=pd.concat(parts, ignore_index=True), notes=(*a.notes, *b.notes))


def variables_of_recipe(is_b: float) -> Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]:
    """From the variables of the base law, those of the joint law for one recipe."""

    def at(variables: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        shape = next(iter(variables.values())).shape
        return variables | {f"{v}_b": x**is_b for v, x in variables.items()} | {"recipe": np.full(shape, np.exp(is_b))}

    return at
