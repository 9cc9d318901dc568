"""Loss by size and length, and how well the next rung of a ladder is forecast (Bhagia et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nextscale.fit import plot
from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.table.runs import as_runs
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import count, interval, loss, params_label, percent
from nextscale.sweeps.show.tables import Table, table_of
from nextscale.sweeps.study.law_of_runs import law_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec

_SAME = 0.01
"""Lengths are whole steps: closer than this, they are one."""


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """The loss of each size at each length, and the next rung by the law of the smaller ones, with its error."""
    options = spec.forecast
    size = CONVENTIONS[options.params]
    table = fitted_runs(runs)
    ready = as_runs(table, convention=options.params, as_is=True, where=f"sweep {spec.name}")
    fit = law_of(ready, options)
    lengths = _lengths(table["tokens"])
    place = lengths[np.abs(np.log(table["tokens"].to_numpy()[:, None] / lengths)).argmin(axis=1)]
    grid = table.assign(length=place).pivot_table(index=size, columns="length", values="loss")
    rows = [
        [count(N), *("-" if L != L else loss(L) for L in losses)]
        for N, losses in zip(grid.index, grid.to_numpy(), strict=True)
    ]
    tables = [
        Table(
            "Loss by size and length (nats/token)",
            [params_label(options.params), *(count(float(D)) for D in grid.columns)],
            rows,
        )
    ]
    next_rung = _next(fit, runs[(runs["role"] == "holdout") & runs["loss"].notna()], size)
    if next_rung:
        tables.append(
            table_of(
                f"The next rung, by the {len(fit.runs)} runs below it",
                next_rung,
                (params_label(options.params), "params", count),
                ("tokens", "tokens", count),
                ("predicted", "predicted", loss),
                (f"{fit.level:.0%} interval", "interval", interval),
                ("measured", "measured", loss),
                ("error", "error", percent),
            )
        )
    cells = [
        {"params": float(N), "tokens": float(D), "loss": None if L != L else float(L)}
        for N, losses in zip(grid.index, grid.to_numpy(), strict=True)
        for D, L in zip(grid.columns, losses, strict=True)
    ]
    return Finding(tables, {"losses": cells, "next": next_rung}, (lambda ax: _draw(ax, table, fit, next_rung, size),))


def _lengths(tokens: pd.Series) -> np.ndarray:
    values = np.sort(tokens.unique()).astype(float)
    new = np.diff(np.log(values), prepend=-np.inf) > _SAME
    return values[new]


def _next(fit: Fit, held_out: pd.DataFrame, size: str) -> list[dict[str, Any]]:
    if held_out.empty:
        return []
    at = held_out[size], held_out["tokens"], held_out["flops"]
    predicted, (low, high) = fit.predict(*at), fit.predict_interval(*at)
    return [
        {
            "params": row[size],
            "tokens": row["tokens"],
            "predicted": float(predicted[i]),
            "interval": [float(low[i]), float(high[i])],
            "measured": float(row["loss"]),
            "error": float(predicted[i]) / float(row["loss"]) - 1,
        }
        for i, row in enumerate(held_out.to_dict("records"))
    ]


def _draw(ax: Axes, table: pd.DataFrame, fit: Fit, next_rung: list[dict[str, Any]], size: str) -> None:
    groups: list[tuple[Any, pd.DataFrame]] = list(table.groupby(size))
    reach = max([table["tokens"].max(), *(row["tokens"] for row in next_rung)])
    tokens = np.geomspace(table["tokens"].min(), reach, 60)
    for (N, rows), colour in zip(groups, plot.shades(len(groups)), strict=True):
        ax.plot(rows["tokens"], rows["loss"], "o", color=colour, markersize=4, label=f"N {count(N)}")
        ax.plot(tokens, fit.predict(np.full_like(tokens, N), tokens), color=colour, linewidth=1)
    for i, row in enumerate(next_rung):
        spread = np.abs(np.array(row["interval"])[:, None] - row["predicted"])
        ax.errorbar(
            row["tokens"],
            row["predicted"],
            spread,
            fmt="o",
            color=plot.BLUE,
            capsize=4,
            label=None if i else "forecast",
        )
        label = None if i else "measured"
        ax.plot(row["tokens"], row["measured"], "s", color=plot.ORANGE, label=label)
    ax.set(xscale="log", xlabel="tokens D", ylabel="loss (nats/token)", title=fit.law.formula)
    ax.legend(fontsize="small")
