"""Forecasts of the best model of a compute budget: loss, size and tokens, never without their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.frontier import TokenCost, frontier
from nextscale.fit.table.columns import column_of

_FAR, _ENDLESS = 10.0, 1e100


def forecast(
    fit: Fit, flops: Sequence[float], cost: TokenCost | None = None, others: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The compute-optimal model at each budget; of a law in C alone, its loss.

    Args:
        flops: training FLOPs.
        cost: FLOPs per token of a size; read off the runs unless given.
        others: where the law varies in more than N and D, what is held of each, such as `unique_tokens`.

    Returns:
        `targets`, one per budget with `flops`, `loss`, `params`, `tokens`, `tokens_per_param`, each but the first
        with its `_interval` (for the loss, of what a run would measure), `near_optimal_params` (loss within 0.1 % of
        the best), `near_optimal_params_wide` (within 0.5 %) and `reach`, budget / largest fitted run; `level`;
        `params_convention`, `loss_unit`; `notes` on the table, and `warnings`. Of sizes and tokens None where there is
        no optimum, or the law is one in C alone.

    Raises:
        InputError: the law takes neither C alone nor N and D.
    """
    sized = fit.law.variables != ("C",)
    table = best_of_budgets(fit, flops, cost, others) if len(flops) else pd.DataFrame()
    largest = fit.runs.table["flops"].max()
    warnings = [*fit.warnings, *_endless(fit)]
    targets = []
    for row in table.to_dict("records"):
        target: dict[str, Any] = {"flops": row["flops"], "reach": row["flops"] / largest}
        optimum = sized and row["interior"]
        for name in ("loss", "params", "tokens", "tokens_per_param"):
            known = optimum or name == "loss"
            target[name] = row[name] if known else None
            target[f"{name}_interval"] = [row[f"{name}_low"], row[f"{name}_high"]] if known else None
        for name, column in (("near_optimal_params", "near"), ("near_optimal_params_wide", "near_wide")):
            target[name] = [row[f"params_{column}_low"], row[f"params_{column}_high"]] if optimum else None
        targets.append(target)
        if not row["interior"]:
            warnings.append(
                f"at {row['flops']:.3g} FLOPs the loss falls to the end of the sizes searched: there is no optimum"
            )
        warnings += reach_warnings(fit, {"flops": row["flops"]})
    return {
        "law": fit.law.name,
        "level": fit.level,
        "params_convention": fit.runs.convention,
        "loss_unit": fit.runs.loss_unit,
        "targets": targets,
        "notes": list(fit.runs.notes),
        "warnings": warnings,
    }


def forecast_run(fit: Fit, **at: float) -> dict[str, Any]:
    """What one run would measure.

    Args:
        at: of each of the law's variables the value, by column: `params=13e9, tokens=5e12`.

    Returns:
        `at`, `loss`, `loss_interval` (of what the run would measure), `level`, `reach` (of each variable, the value /
        the largest fitted) and `warnings`.

    Raises:
        InputError: a variable of the law is not given.
    """
    low, high = fit.predict_interval(**at)
    reach = {name: value / float(fit.runs.table[name].max()) for name, value in at.items() if name in fit.runs.table}
    return {
        "at": at,
        "loss": float(fit.predict(**at)[0]),
        "loss_interval": [float(low[0]), float(high[0])],
        "level": fit.level,
        "reach": reach,
        "warnings": [*fit.warnings, *_endless(fit), *reach_warnings(fit, at)],
    }


def reach_warnings(fit: Fit, at: Mapping[str, float]) -> list[str]:
    """What lies so far beyond the runs that nothing tested the law there, in words.

    Args:
        at: values by column, such as `flops`.
    """
    warnings = []
    for name, value in at.items():
        if name not in fit.runs.table:
            continue
        smallest, largest = (float(end) for end in fit.runs.table[name].agg(["min", "max"]))
        what = {"flops": "FLOPs"}.get(name, name)
        if value > _FAR * largest:
            warnings.append(
                f"{value:.3g} {what} is {value / largest:.3g} times the largest run fitted: nothing here tested the "
                "law so far out"
            )
        elif value < smallest / _FAR:
            warnings.append(
                f"{value:.3g} {what} is {value / smallest:.3g} times the smallest run fitted: nothing here tested the "
                "law so far down"
            )
    return warnings


def _endless(fit: Fit) -> list[str]:
    """Whether the loss falls to nothing as the scale grows."""
    largest = int(fit.runs.scale.to_numpy().argmax())
    far = {
        column_of(name): values[largest] * (_ENDLESS if name in ("N", "D", "C") else 1)
        for name, values in fit.variables.items()
    }
    if fit.predict(**far)[0] > 0.01 * fit.runs.table["loss"].min():
        return []
    return [f"{fit.law.name} has no irreducible loss here: it falls without end, and far out it foretells too little"]


def best_of_budgets(
    fit: Fit, flops: Sequence[float], cost: TokenCost | None = None, others: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """As `frontier`; of a law in C alone, `flops`, `loss` and its `_low` and `_high`.

    Raises:
        InputError: see `frontier`.
    """
    if fit.law.variables != ("C",):
        return frontier(fit, flops, cost, others)
    low, high = fit.predict_interval(flops=flops)
    loss = fit.predict(flops=flops)
    columns = {"flops": np.asarray(flops, float), "loss": loss, "loss_low": low, "loss_high": high}
    return pd.DataFrame(columns).assign(interior=True)
