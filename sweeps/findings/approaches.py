"""The compute-optimal size by each of the approaches of Hoffmann et al. 2022, side by side (their table 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextscale.fit import plot
from nextscale.fit.optimum.approaches import approaches
from nextscale.fit.optimum.isoflop import isoflops
from nextscale.fit.table.runs import as_runs
from nextscale.fit.trust.backtest import fit_backtested
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import count, interval, number, text, three_digits
from nextscale.sweeps.show.tables import table_of

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.sweeps.spec.sweep_spec import SweepSpec

_NAMES = {
    "envelope": "1, envelope",
    "parabola": "2, parabolas",
    "akima": "2, Akima's interpolation",
    "parametric": "3, parametric law",
}


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """Exponents of N* ∝ C^a and D* ∝ C^b, and N* at the largest budget and, where there is a holdout, at its own."""
    table = as_runs(fitted_runs(runs), convention=spec.forecast.params, as_is=True, where=f"sweep {spec.name}")
    how = spec.forecast.model_dump(include={"level", "resamples", "bootstrap", "delta", "drift"})
    fit, _ = fit_backtested(table, (spec.forecast.one_law,), **how)
    held_out = runs.loc[runs["role"] == "holdout", "budget"]
    # Held-out runs by tokens per parameter are of several budgets, and of no isoFLOP curve.
    budgets = [*table.budgets, *([held_out.iloc[0]] if held_out.nunique() == 1 else [])]
    optima = approaches(table, fit, budgets)
    last = optima[optima["flops"] == budgets[-1]]
    rows = [
        row
        | {
            "name": _NAMES[row["approach"]],
            "a": _with_interval(row, "exponent"),
            "b": None if row["exponent"] is None else 1 - row["exponent"],
            "there": _with_interval(row, "params"),
        }
        for row in last.to_dict("records")
    ]
    shown = table_of(
        f"Compute-optimal models by each approach, N* ∝ C^a, D* ∝ C^b; at {number(budgets[-1], 3)} FLOPs "
        f"({fit.level:.0%} intervals)",
        rows,
        ("approach", "name", text),
        ("a", "a", text),
        ("b", "b", three_digits),
        ("N*", "there", text),
        ("tokens/param", "tokens_per_param", three_digits),
        ("", "problem", text),
    )
    return Finding(
        [shown],
        {"approaches": optima.to_dict("records"), "level": fit.level},
        (lambda ax: plot.isoflop_curves(ax, isoflops(table)), lambda ax: plot.approaches(ax, optima)),
    )


def _with_interval(row: dict, name: str) -> str:
    form = three_digits if name == "exponent" else count
    if row[name] is None:
        return "-"
    bounds = row[f"{name}_low"], row[f"{name}_high"]
    return form(row[name]) if None in bounds else f"{form(row[name])} {interval(bounds, form)}"
