"""What repeated data is worth: R_D*, and loss against epochs (Muennighoff et al. 2023, figures 4 and 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit import plot
from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.optimum.repetition import Repetition, repetition
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import count, interval, number, params_label, percent
from nextscale.sweeps.show.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec

_PUBLISHED = {"R_D": 15.4, "R_N": 5.31}
_EPOCHS = (2, 4, 8, 16, 32)


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """R_D* and R_N* of the staged fit, what so many epochs are worth by it, and how far repeating raised each loss."""
    options = spec.forecast
    table = fitted_runs(runs)
    how = options.model_dump(include={"level", "resamples", "delta"})
    fit = repetition(table, convention=options.params, **how)
    law = fit.law
    rows = [
        [
            name,
            number(law.parameters[name], 3),
            interval(law.to_dict()["intervals"][name], number),
            str(_PUBLISHED[name]),
        ]
        for name in ("R_D", "R_N")
    ]
    head = ["", "found", f"{law.level:.0%} interval", "Muennighoff et al."]
    worth = [[str(epochs), f"{value:.2f}"] for epochs, value in zip(_EPOCHS, fit.worth(_EPOCHS), strict=True)]
    harm = _harm(table, CONVENTIONS[options.params])
    tables = [
        Table("How fast repeated tokens lose their worth", head, rows),
        Table("What epochs are worth, in epochs of fresh data", ["epochs", "worth"], worth),
        _harm_table(harm, params_label(options.params)),
    ]
    result = {"fresh": fit.fresh.to_dict(), "law": law.to_dict(), "harm": harm}
    result["worth"] = dict(zip(map(str, _EPOCHS), fit.worth(_EPOCHS).tolist(), strict=True))
    notes = tuple(f"repeated data: {warning}" for warning in law.warnings)
    panels = (lambda ax: _draw_losses(ax, table, CONVENTIONS[options.params]), lambda ax: _draw_worth(ax, fit))
    return Finding(tables, result, panels, notes)


def _harm(table: pd.DataFrame, size: str) -> list[dict[str, Any]]:
    """How far each run lies above the one of its size and length that saw the most data only once."""
    rows = []
    cells: list[tuple[Any, Any]] = list(table.groupby([size, "tokens"]))
    for (N, D), cell in cells:
        fresh = cell.loc[cell["epochs"].idxmin()]
        for row in cell[cell["epochs"] > fresh["epochs"]].sort_values("epochs").to_dict("records"):
            above = float(row["loss"] / fresh["loss"] - 1)
            rows.append({"params": float(N), "tokens": float(D), "epochs": float(row["epochs"]), "above_fresh": above})
    return rows


def _harm_table(harm: list[dict[str, Any]], heading: str) -> Table:
    epochs = sorted({round(row["epochs"], 1) for row in harm})
    known = {(row["params"], row["tokens"], round(row["epochs"], 1)): row["above_fresh"] for row in harm}
    rows = [
        [count(N), count(D), *(percent(known.get((N, D, e))) if (N, D, e) in known else "-" for e in epochs)]
        for N, D in sorted({(row["params"], row["tokens"]) for row in harm})
    ]
    title = "Loss above that of a run on fresh data, by epochs"
    return Table(title, [heading, "tokens", *(f"{e:g}" for e in epochs)], rows)


def _draw_losses(ax: Axes, table: pd.DataFrame, size: str) -> None:
    """Loss against epochs of the same unique tokens, at the largest size; fresh data beside it."""
    largest = table[table[size] == table[size].max()]
    limits = sorted(largest.loc[largest["epochs"] > 1, "unique_tokens"].unique())
    for unique, colour in zip(limits, plot.shades(len(limits)), strict=True):
        ordered = largest[(largest["unique_tokens"] == unique) & (largest["tokens"] >= unique)].sort_values("tokens")
        ordered = ordered.drop_duplicates("tokens")
        ax.plot(ordered["tokens"], ordered["loss"], "o-", color=colour, markersize=4, label=f"{count(unique)} unique")
    fresh = largest[largest["epochs"] <= 1].drop_duplicates("tokens").sort_values("tokens")
    ax.plot(fresh["tokens"], fresh["loss"], "s--", color=plot.GREY, markersize=4, label="fresh")
    title = f"N = {count(float(largest[size].iloc[0]))}"
    ax.set(xscale="log", xlabel="tokens D", ylabel="loss (nats/token)", title=title)
    ax.legend(fontsize="small")


def _draw_worth(ax: Axes, fit: Repetition) -> None:
    epochs = np.geomspace(1, 100, 100)
    ax.plot(epochs, epochs, "--", color=plot.GREY, label="if all were fresh")
    ax.plot(epochs, fit.worth(epochs), color=plot.BLUE, label=f"R_D* = {fit.law.parameters['R_D']:.3g}")
    title = "what repeating is worth"
    ax.set(xscale="log", yscale="log", xlabel="epochs", ylabel="worth (epochs of fresh data)", title=title)
    ax.legend(fontsize="small")
