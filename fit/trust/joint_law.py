"""The joint law of two recipes, which share an irreducible loss and, by default, exponents; and its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pandas as pd

from nextscale.fit.laws.law import Shape
from nextscale.fit.laws.sum_of_powers import SumOfPowers, Term
from nextscale.fit.table.columns import column_of
from nextscale.fit.table.runs import Runs

Shared = Literal["exponents", "asymptote"]
"""What the recipes have in common: the irreducible loss and the exponents, or the irreducible loss alone."""

_RATIO, _DIFFERENCE = Shape(-3.0, 3.0), Shape(-0.5, 0.5)
"""Where the log ratio of two coefficients, and the difference of two exponents, are looked for."""


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
