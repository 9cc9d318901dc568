"""The fit card: a record of all that a reader needs to judge a fit, or to repeat it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.estimate.fit_warnings import LOW_E_SHARE
from nextscale.fit.estimate.profile import Profiled, profiled
from nextscale.fit.jsonable import jsonable
from nextscale.fit.trust.backtest import fit_grade, misfit_of
from nextscale.fit.trust.consensus import Consensus, consensus

_GROUPS = 12
"""Budgets and sizes at most, in the tables of residuals; neighbours are joined."""
_BUDGET = 3
"""Runs of which a budget can show a lowest point; fewer are single runs."""


def card(fit: Fit, *, profiles: Sequence[str] | None = None) -> dict[str, Any]:
    """What the checklist of Li et al. 2025, "(Mis)Fitting: A Survey of Scaling Laws", app. B, asks to be reported.

    Args:
        profiles: parameters whose profile likelihood is reported; the law's shapes unless named.

    Returns:
        strings, numbers, lists and dicts alone: what is unknown, infinite or not a number is None.
    """
    names = [name for name in fit.law.shapes if name not in fit.fixed] if profiles is None else profiles
    members = fit.members if isinstance(fit, Consensus) else ()
    record = {
        "law": {
            "name": fit.law.name,
            "formula": fit.law.formula,
            "source": fit.law.source,
            "variables": fit.law.variables,
            "parameters": sum(len(one.parameters) for one in members) if members else len(fit.law.parameters),
            "fixed": fit.fixed,
            **({"members": [*map(dataclasses.asdict, members)]} if members else {}),
        },
        "data": _data(fit),
        "objective": {
            "value": fit.objective,
            "of": "sum over runs of the loss of log predicted - log measured loss (nats per token)",
            "loss": fit.loss.name,
            "delta": fit.loss.delta,
            "tilt": fit.loss.tilt,
            "weights": _range(fit.runs.weights) if "weight" in fit.runs.table else "equal",
        },
        "optimiser": {
            "method": "projected starts, Levenberg-Marquardt with exact derivatives, double precision",
            "starts": len(fit.minimum.starts) - 1,
            "starts_followed": fit.minimum.polished,
            "start_agreement": fit.minimum.agreement,
            "second_basin_objective": fit.minimum.second_basin,
            "gradient_norm": fit.minimum.gradient_norm,
            "condition": fit.minimum.condition,
            "at_a_bound": at_a_bound(fit),
        },
        "parameters": {
            name: {"value": value, "interval": None if len(fit.resamples) < 2 else fit.interval(name)}
            for name, value in fit.parameters.items()
        },
        "profiles": {name: _profile(profiled(fit, name)) for name in names},
        "intervals": {
            "level": fit.level,
            "bootstrap": fit.bootstrap if len(fit.resamples) > 1 else None,
            "resamples": len(fit.resamples) if len(fit.resamples) > 1 else 0,
            "seed": fit.seed,
            "extrapolation_error": fit.extrapolation_error,
        },
        "residuals": {
            "grade": fit_grade(times := misfit_of(fit)[0]),
            "times_chance": times,
            "noise": fit.noise,
            "by_budget": residuals_by(fit, "budget"),
            "by_size": residuals_by(fit, "params") if "params" in fit.runs.table else None,
        },
        "irreducible_loss": _irreducible(fit),
        "dropped": _dropped(fit),
        "warnings": fit.warnings,
        "version": {"nextscale": importlib.metadata.version("nextscale"), "numpy": np.__version__},
    }
    return jsonable(record)


def residuals_by(fit: Fit, column: str) -> list[dict[str, float]]:
    """Of runs grouped by a column, by rising value: its `low` and `high`, their count `n`, and of log measured - log
    predicted loss the `mean` and root mean square `rms`."""
    values = fit.runs.table[column]
    groups = values if values.nunique() <= _GROUPS else pd.qcut(values, _GROUPS, duplicates="drop", labels=False)
    residuals = pd.Series(fit.residuals, index=values.index)
    return [
        {
            "low": float(values[rows].min()),
            "high": float(values[rows].max()),
            "n": len(rows),
            "mean": float(residuals[rows].mean()),
            "rms": float(np.sqrt(np.square(residuals[rows]).mean())),
        }
        for rows in values.groupby(groups).groups.values()
    ]


def at_a_bound(fit: Fit) -> list[str]:
    """Free parameters that ended at zero, or at or beyond an end of their plausible range."""
    smallest = 1e-6 * float(fit.runs.table["loss"].min())
    values = {name: value for name, value in fit.parameters.items() if name not in fit.fixed}
    zero = [name for name in fit.law.coefficients if name in values and values[name] < smallest]
    shapes = [(name, shape) for name, shape in fit.law.shapes.items() if name in values]
    return zero + [name for name, s in shapes if not s.low * (1 + 1e-6) < values[name] < s.high * (1 - 1e-6)]


def _data(fit: Fit) -> dict[str, Any]:
    table = fit.runs.table
    numbers = [name for name in table.select_dtypes("number") if name not in ("budget", "weight")]
    return {
        "n": len(fit.runs),
        "params_convention": fit.runs.convention,
        "ranges": {name: _range(table[name]) for name in numbers},
        "budgets": int((table["budget"].value_counts() >= _BUDGET).sum()),
        "notes": fit.runs.notes,
    }


def _irreducible(fit: Fit) -> dict[str, Any] | None:
    if "E" not in fit.parameters:
        return None
    value, smallest = fit.parameters["E"], float(fit.runs.table["loss"].min())
    return {
        "E": value,
        "smallest_loss": smallest,
        "share": value / smallest,
        "far_below": value < LOW_E_SHARE * smallest,
        **(
            {"interval_is_of": "every law alike, whatever its weight in forecasts"}
            if isinstance(fit, Consensus)
            else {}
        ),
    }


def _dropped(fitted: Fit) -> dict[str, Any]:
    """The runs left out on purpose, and the fit with them back in."""
    dropped = fitted.runs.dropped
    if dropped.empty:
        return {"n": 0}
    record = {"n": len(dropped), "losses": _range(dropped["loss"])}
    table = pd.concat([fitted.runs.table, dropped], ignore_index=True)
    try:
        whole = dataclasses.replace(fitted.runs, table=table, dropped=dropped.iloc[:0])
        again = (
            consensus(whole, loss=fitted.loss, resamples=0)
            if isinstance(fitted, Consensus)
            else fit(whole, fitted.law, loss=fitted.loss, fixed=fitted.fixed, resamples=0)
        )
    except InputError as error:
        return {**record, "with_them": str(error)}
    change = {name: again.parameters[name] / value - 1 for name, value in fitted.parameters.items() if value}
    return {
        **record,
        "with_them": {"objective": again.objective, "parameters": again.parameters, "relative_change": change},
    }


def _profile(found: Profiled) -> dict[str, Any]:
    return {"interval": found.interval, "identified": found.identified, "flat_within_half_a_percent": found.flat}


def _range(values: Any) -> list[float]:
    return [float(np.min(values)), float(np.max(values))]
