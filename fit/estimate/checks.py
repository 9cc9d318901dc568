"""Checks of what a fit is given: options, fixed parameters and runs; each error says in one line how to mend it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.bootstrap import Bootstrap
from nextscale.fit.estimate.solve import Init
from nextscale.fit.laws.catalogue import LAWS, SATURATING_D, SATURATING_N
from nextscale.fit.laws.law import COLLINEAR, Law
from nextscale.fit.laws.sum_of_powers import SumOfPowers
from nextscale.fit.table.columns import column_of
from nextscale.fit.table.runs import Runs

_ALIKE = 0.02
"""Counts that lie no further apart, relative to the largest, show no power of theirs."""
ZERO = 1e-30
"""A coefficient given as 0: its logarithm is what is fitted."""


def check_options(bootstrap: str | None, init: str | None, level: float, resamples: int) -> None:
    """Checks the options of a fit that are words or shares.

    Raises:
        InputError: one is not known, or out of range.
    """
    words = {"bootstrap": (bootstrap, Bootstrap), "init": (init, Init)}
    for name, (value, kind) in words.items():
        if value is not None and value not in get_args(kind):
            raise InputError(f"{name}: '{value}' is not one of {', '.join(get_args(kind))}")
    if not 0 < level < 1:
        raise InputError(f"level: should lie between 0 and 1, not {level}")
    if 0 < resamples < (least := math.ceil(2 / (1 - level) - 1e-9)):
        raise InputError(f"resamples: an interval at {level:g} needs {least} or more; got {resamples}")


def checked_fixed(law: Law, fixed: Mapping[str, float]) -> dict[str, float]:
    """Parameters that are given and not fitted, by name; a coefficient that is 0 as what is nothing beside any loss.

    Raises:
        InputError: the law has none of that name, or it cannot have that value.
    """
    for name, value in fixed.items():
        if name not in law.parameters:
            raise InputError(f"fixed: {law.name} has no parameter '{name}'; it has {', '.join(law.parameters)}")
        if not np.isfinite(value):
            raise InputError(f"fixed: {name} should be a number, not {value}")
        nothing = value == 0 and name in law.coefficients
        if law.on_log_scale[law.parameters.index(name)] and not value > 0 and not nothing:
            raise InputError(f"fixed: {name} should be greater than 0, not {value:g}")
    return {name: float(value) or (ZERO if name in law.coefficients else 0.0) for name, value in fixed.items()}


def checked_variables(law: Law, runs: Runs, fixed: Mapping[str, float]) -> dict[str, np.ndarray]:
    """What a law varies in, of every run.

    Raises:
        InputError: these runs cannot determine the law's parameters.
    """
    free = len(law.parameters) - len(fixed)
    if len(runs) <= free:
        left_out = "; ".join(note for note in runs.notes if "left out" in note)
        raise InputError(
            f"{runs.source}: {law.name} has {free} parameters and needs {free + 1} runs or more; got {len(runs)}"
            f"{f' ({left_out})' if left_out else ''}; add runs{_suggestion(law, len(runs))}"
        )
    if missing := [name for name in law.variables if column_of(name) not in runs.table]:
        names = ", ".join(map(column_of, missing))
        raise InputError(f"{runs.source}: {law.name} needs {names}, which the table does not have")
    variables = variables_of(law, runs)
    if np.ptp(np.log(runs.table["loss"])) <= 1e-12:
        raise InputError(f"{runs.source}: every loss is the same, so nothing can be seen of what it depends on")
    for name, values in variables.items():
        if isinstance(law, SumOfPowers) and not (values > 0).all():
            raise InputError(
                f"{runs.source}: {column_of(name)} is 0 or less in {(~(values > 0)).sum()} of {len(runs)} runs, "
                f"and {law.name} takes its logarithm; leave these out"
            )
        alike = _ALIKE if name in "NDC" else 1e-9
        if np.ptp(values) <= alike * np.abs(values).max():
            same = "the same" if np.ptp(values) == 0 else f"all but the same ({values.min():.4g} to {values.max():.4g})"
            raise InputError(
                f"{runs.source}: {column_of(name)} is {same} in every run, so its term cannot be seen; vary it"
                f"{_without(law, name, variables)}"
            )
    _check_separable(law, variables, fixed, runs.source)
    return variables


def variables_of(law: Law, runs: Runs) -> dict[str, np.ndarray]:
    """What a law varies in, of every run; they are to be there."""
    return {name: runs.table[column_of(name)].to_numpy(float) for name in law.variables}


def correlation_of(variables: Mapping[str, np.ndarray]) -> float:
    """The correlation of log N and log D."""
    return float(np.corrcoef(np.log(variables["N"]), np.log(variables["D"]))[0, 1])


def _suggestion(law: Law, runs: int) -> str:
    """Which law so few runs are enough for, of those that say the same of compute, in words; nothing where none is."""
    able = [
        other
        for other in LAWS.values()
        if len(other.parameters) < runs and set(other.variables) in ({"N", "D"}, {"C"}) and {*law.variables} <= {*"NDC"}
    ]
    if not able:
        return ""
    return f", or fit a law of fewer parameters: --law {max(able, key=lambda other: len(other.parameters)).name}"


def _without(law: Law, name: str, variables: Mapping[str, np.ndarray]) -> str:
    """Which law is in what else varies, in words; nothing where none is."""
    other = {"N": SATURATING_D, "D": SATURATING_N}.get(name)
    if other is None or set(law.variables) != {"N", "D"} or np.ptp(variables[other.variables[0]]) == 0:
        return ""
    return f", or fit the law of {column_of(other.variables[0])} alone: --law {other.name}"


def _check_separable(law: Law, variables: Mapping[str, np.ndarray], fixed: Mapping[str, float], source: str) -> None:
    """Refuses runs in which one variable is a power of another: what each does to the loss cannot be told apart."""
    if {"N", "D"} <= variables.keys() and not fixed.keys() & law.shapes.keys():
        correlation = correlation_of(variables)
        if abs(correlation) > COLLINEAR:
            raise InputError(
                f"{source}: tokens are one power of params in every run (correlation of their logs {correlation:.6f}), "
                f"so {law.name} cannot separate the exponent of N from that of D (alpha from beta); add runs of other "
                "tokens per parameter, fit a law in one variable (saturating), or give an exponent"
            )
