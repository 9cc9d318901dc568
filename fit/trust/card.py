"""The fit card: what a reader needs to judge a fit, or to repeat it, in one record for machines."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import FAR_BELOW, Fit, fit
from nextscale.fit.estimate.bootstrap import profiled
from nextscale.fit.jsonable import jsonable

_GROUPS = 12
"""Budgets and sizes at most, in the tables of residuals; neighbours are joined."""


def card(found: Fit, *, profiles: Sequence[str] | None = None) -> dict[str, Any]:
    """What the checklist of Li et al. 2025, "(Mis)Fitting: A Survey of Scaling Laws", app. B, asks to be reported.

    Args:
        profiles: parameters whose profile likelihood is told; the law's shapes unless named.

    Returns:
        strings, numbers, lists and dicts alone: what is unknown, infinite or not a number is None.
    """
    names = [name for name in found.law.shapes if name not in found.fixed] if profiles is None else profiles
    record = {
        "law": {
            "name": found.law.name,
            "formula": found.law.formula,
            "source": found.law.source,
            "variables": found.law.variables,
            "parameters": len(found.law.parameters),
            "fixed": found.fixed,
        },
        "data": _data(found),
        "objective": {
            "value": found.objective,
            "of": "sum over runs of the loss of log predicted - log measured loss (nats per token)",
            "loss": found.loss.name,
            "delta": found.loss.delta,
            "tilt": found.loss.tilt,
            "weights": _range(found.runs.weights) if "weight" in found.runs.table else "equal",
        },
        "optimiser": {
            "method": "projected starts, Levenberg-Marquardt with exact derivatives, double precision",
            "starts": len(found.minimum.starts) - 1,
            "starts_followed": found.minimum.polished,
            "start_agreement": found.minimum.agreement,
            "second_basin_objective": found.minimum.second_basin,
            "gradient_norm": found.minimum.gradient_norm,
            "condition": found.minimum.condition,
            "at_a_bound": at_a_bound(found),
        },
        "parameters": {
            name: {"value": value, "interval": None if len(found.resamples) < 2 else found.interval(name)}
            for name, value in found.parameters.items()
        },
        "profiles": {one.name: _told(one) for one in (profiled(found, name) for name in names)},
        "intervals": {
            "level": found.level,
            "bootstrap": found.bootstrap if len(found.resamples) > 1 else None,
            "resamples": len(found.resamples) if len(found.resamples) > 1 else 0,
            "seed": found.seed,
            "extrapolation_error": found.extrapolation_error,
        },
        "residuals": {
            "noise": found.noise,
            "by_budget": residuals_by(found, "budget"),
            "by_size": residuals_by(found, "params") if "params" in found.runs.table else None,
        },
        "irreducible_loss": _irreducible(found),
        "dropped": _dropped(found),
        "warnings": found.warnings,
        "version": {"nextscale": importlib.metadata.version("nextscale"), "numpy": np.__version__},
    }
    return jsonable(record)


def residuals_by(found: Fit, column: str) -> list[dict[str, float]]:
    """Of runs grouped by a column, by rising value: its `low` and `high`, their count `n`, and of log measured - log
    predicted loss the `mean` and root mean square `rms`."""
    values = found.runs.table[column]
    groups = values if values.nunique() <= _GROUPS else pd.qcut(values, _GROUPS, duplicates="drop", labels=False)
    residuals = pd.Series(found.residuals, index=values.index)
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


def at_a_bound(found: Fit) -> list[str]:
    """Free parameters that ended at zero, or at or beyond an end of their plausible range."""
    smallest = 1e-6 * float(found.runs.table["loss"].min())
    values = {name: value for name, value in found.parameters.items() if name not in found.fixed}
    zero = [name for name in found.law.coefficients if name in values and values[name] < smallest]
    shapes = [(name, shape) for name, shape in found.law.shapes.items() if name in values]
    return zero + [name for name, s in shapes if not s.low * (1 + 1e-6) < values[name] < s.high * (1 - 1e-6)]


def _data(found: Fit) -> dict[str, Any]:
    table = found.runs.table
    numbers = [name for name in table.select_dtypes("number") if name not in ("budget", "weight")]
    return {
        "n": len(found.runs),
        "params_convention": found.runs.convention,
        "ranges": {name: _range(table[name]) for name in numbers},
        "budgets": len(found.runs.budgets),
        "notes": found.runs.notes,
    }


def _irreducible(found: Fit) -> dict[str, Any] | None:
    if "E" not in found.parameters:
        return None
    value, smallest = found.parameters["E"], float(found.runs.table["loss"].min())
    return {"E": value, "smallest_loss": smallest, "share": value / smallest, "far_below": value < FAR_BELOW * smallest}


def _dropped(found: Fit) -> dict[str, Any]:
    """The runs left out on purpose, and the fit with them back in."""
    dropped = found.runs.dropped
    if dropped.empty:
        return {"n": 0}
    told = {"n": len(dropped), "losses": _range(dropped["loss"])}
    table = pd.concat([found.runs.table, dropped], ignore_index=True)
    try:
        whole = dataclasses.replace(found.runs, table=table, dropped=dropped.iloc[:0])
        again = fit(whole, found.law, loss=found.loss, fixed=found.fixed, resamples=0)
    except InputError as error:
        return {**told, "with_them": str(error)}
    change = {name: again.parameters[name] / value - 1 for name, value in found.parameters.items() if value}
    return {
        **told,
        "with_them": {"objective": again.objective, "parameters": again.parameters, "relative_change": change},
    }


def _told(one: Any) -> dict[str, Any]:
    return {"interval": one.interval, "identified": one.identified, "flat_within_half_a_percent": one.flat}


def _range(values: Any) -> list[float]:
    return [float(np.min(values)), float(np.max(values))]
