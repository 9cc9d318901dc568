"""The fit behind a forecast: the consensus of laws unless one is named, and what backtests say of one that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.laws.catalogue import law_named
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.loss import Loss
from nextscale.fit.table.columns import Columns
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.table.sources import Table, as_table
from nextscale.fit.trust.backtest import fit_backtested, outliers_by
from nextscale.fit.trust.candidates import LOSSES, Candidate, candidates_for, variables_in
from nextscale.fit.trust.choice import choose
from nextscale.fit.trust.consensus import CONSENSUS, consensus, laws_for
from nextscale.fit.trust.rolling import Contender, roll

AUTO = "auto"
"""In place of a law's name: the one that a backtest chooses."""
_FAR, _ROUNDING = 2.0, 1e-5
"""Errors so many times those of the best are worse by far; and what is none, of runs without noise."""


def fit_forecaster(
    runs: Table | Runs,
    law: str | Law = CONSENSUS,
    *,
    columns: Columns | Mapping[str, str] = Columns(),
    params: str = "total",
    **options: Any,
) -> Fit:
    """What forecasts from these runs rest on.

    Args:
        law: `consensus`, of several laws weighed by backtests; or one law, from the budget on that a backtest chooses
            (see `fit_backtested`), with a warning where backtests say that another forecasts far better.
        columns, params: of a table, see `as_runs`.
        options: of `fit`, `drop_outliers` among them; `drift`, see `fit_backtested`; and of a consensus its `laws`.

    Raises:
        InputError: see `fit`; or parameters are given of a consensus.
    """
    if not isinstance(runs, Runs):
        runs, columns = as_table(runs), Columns.of(columns)
        held = variables_in(runs, columns, params)
        wanted = ("N", "D") if {"N", "D"} <= {*held} else ("C",)
        variables = wanted if law == CONSENSUS else law_named(law).variables
        runs = as_runs(runs, columns=columns, convention=params, variables=variables)
    if law == CONSENSUS:
        if options.pop("fixed", None):
            raise InputError("fixed: a consensus is of several laws; name the law that the parameter is of")
        laws = options.get("laws") or laws_for(runs)
        dropped, outliers = options.pop("drop_outliers", False), outliers_by(runs, next(iter(laws)), options)
        if outliers is None:
            return consensus(runs, **options)
        made = consensus(outliers.without(runs) if dropped else runs, **options)
        warnings = made.warnings if dropped else (outliers.warning, *made.warnings)
        return dataclasses.replace(made, outliers=None if dropped else outliers, warnings=warnings)
    found, _ = fit_backtested(runs, (law,), **options)
    beaten = beaten_warning(found, runs)
    return found if beaten is None else dataclasses.replace(found, warnings=(beaten, *found.warnings))


def ordered_by_reach(runs: Runs, at: Mapping[str, float]) -> Runs:
    """Runs in the order of that variable, of those of a point, in which it lies furthest beyond them: what backtests
    there missed by is what can be told of it. As they are, where that is in compute."""
    known = (
        at if "flops" in at or not {"params", "tokens"} <= {*at} else {**at, "flops": 6 * at["params"] * at["tokens"]}
    )
    beyond = {name: value / runs.table[name].max() for name, value in known.items() if name in runs.table}
    furthest = max(beyond, key=lambda name: beyond[name])
    usual = beyond.get(runs.scale_name, 0)
    # Where compute goes beyond as well, parameters or tokens go with it.
    ordered = furthest not in ("params", "tokens") or usual <= 1
    if beyond[furthest] <= max(usual, 1) or not ordered or runs.table[furthest].nunique() < 2:
        return runs
    return runs.ordered_along(furthest)


def chosen_law(runs: Runs, losses: Sequence[Loss] = LOSSES, variables: Sequence[set[str]] | None = None) -> Candidate:
    """The law, and its loss, that a backtest trusts most (see `choose`).

    Args:
        variables: those of the laws to choose from; any unless given.

    Raises:
        InputError: the runs are too few for a backtest, or no law suits them.
    """
    suited = candidates_for(runs, losses=losses)
    if variables is not None:
        suited = [candidate for candidate in suited if set(candidate.law.variables) in variables]
    if not suited:
        raise InputError(f"{runs.source}: no law suits what varies in this table, so none can be chosen; name one")
    return choose(runs, suited).best


def beaten_warning(fit: Fit, runs: Runs) -> str | None:
    """Whether backtests say that another law forecasts these runs far better than one that was named, in words."""
    try:
        usual = [law for law in laws_for(runs) if law.name != fit.law.name]
        contenders = [Contender(law, Loss()) for law in usual] + [Contender(fit.law, fit.loss)]
        rolling = roll(runs, contenders)
    except InputError:
        return None
    names = [contender.law.name for contender in rolling.contenders]
    if fit.fixed or not rolling.cuts or fit.law.name not in names:
        return None
    rates = rolling.rates()
    own, best = names.index(fit.law.name), int(rates.argmin())
    if not rates[own] > _FAR * max(rates[best], _ROUNDING):
        return None
    missed = [
        np.mean([np.abs(rolling.errors[k, i, rolling.part >= cut]).mean() for i, cut in enumerate(rolling.cuts)])
        for k in (own, best)
    ]
    return (
        f"backtests among these runs: {names[own]} missed those above a cut by {missed[0]:.2%} on average, "
        f"{names[best]} by {missed[1]:.2%}; trust that one, or their consensus, more"
    )
