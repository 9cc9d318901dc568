"""L(N), L(D) and L(C) as pure power laws (Kaplan et al. 2020, figure 1 and eq. 1.1 to 1.3)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nextscale.fit import plot
from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.table.columns import column_of
from nextscale.fit.table.runs import as_runs
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import interval, number, params_label, three_digits
from nextscale.sweeps.show.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec

_PUBLISHED = {"N": 0.076, "D": 0.095, "C": 0.050}


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """The exponent of each law where the other two are no bottleneck, with and without an irreducible loss."""
    options = spec.forecast
    table = fitted_runs(runs)
    ready = as_runs(table, convention=options.params, as_is=True, where=f"sweep {spec.name}").table
    how = options.model_dump(include={"level", "resamples"})
    laws: dict[str, Fit] = {}
    rows, notes, results = [], [], {}
    for variable, part in limits(ready).items():
        try:
            law_fit = fit(part, f"kaplan-{variable.lower()}", **how)
        except InputError as error:
            notes.append(f"L({variable}): {error}")
            continue
        laws[variable] = law_fit
        alpha, bounds = law_fit.parameters["alpha"], law_fit.interval("alpha")
        scale = law_fit.parameters["K"] ** (1 / alpha)
        heading = {"N": params_label(options.params), "D": "tokens", "C": "FLOPs"}[variable]
        rows.append(
            [
                f"L({variable}) = ({variable}c/{variable})^α, {heading}",
                str(len(part)),
                three_digits(alpha),
                interval(bounds, three_digits),
                f"{_PUBLISHED[variable]:.3f}",
                number(scale, 3),
                f"{law_fit.noise:.2%}",
            ]
        )
        results[variable] = {
            "alpha": alpha,
            "interval": list(bounds),
            "scale": scale,
            "noise": law_fit.noise,
            "runs": len(part),
        }
    head = ["law", "runs", "α", f"{options.level:.0%} interval", "Kaplan et al.", "constant", "scatter"]
    panels = tuple(
        functools.partial(_draw, table=ready, law_fit=law_fit, variable=name) for name, law_fit in laws.items()
    )
    shown = Table("Power laws, each where the other two are no bottleneck", head, rows)
    return Finding([shown], {"laws": results}, panels, tuple(notes))


def limits(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs that each law is read off: L(N) of the longest of each size, where they are of one length; L(D) of the
    largest of each length; L(C) of those that no cheaper run beats."""
    longest = table["tokens"] >= 0.99 * table.groupby("params")["tokens"].transform("max").min()
    by_compute = table.sort_values("flops")
    envelope = by_compute[by_compute["loss"] <= by_compute["loss"].cummin()]
    return {
        "N": table[longest].sort_values("tokens").groupby("params", as_index=False).first(),
        "D": table[table["params"] == table["params"].max()],
        "C": envelope,
    }


def _draw(ax: Axes, table: pd.DataFrame, law_fit: Fit, variable: str) -> None:
    column = column_of(variable)
    there: Any = np.geomspace(table[column].min(), table[column].max() * 2, 50)
    ax.plot(table[column], table["loss"], "o", color=plot.GREY, alpha=0.4, markersize=3, label="all runs")
    ax.plot(law_fit.runs.table[column], law_fit.runs.table["loss"], "o", color=plot.BLUE, markersize=5, label="fitted")
    ax.plot(
        there,
        law_fit.predict(**{column: there}),
        color=plot.BLUE,
        label=f"$\\alpha$ = {law_fit.parameters['alpha']:.3f}",
    )
    label = {"N": "parameters N", "D": "tokens D", "C": "compute C (FLOPs)"}[variable]
    ax.set(xscale="log", yscale="log", xlabel=label, ylabel="loss (nats/token)", title=f"L({variable})")
    ax.legend(fontsize="small")
