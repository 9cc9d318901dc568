"""When models begin to learn in context, by depth (Olsson et al. 2022, arXiv 2209.11895, "the bump")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit import plot
from nextscale.fit.curves.emergence import steepest_fall
from nextscale.fit.errors import InputError
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import count, loss, number
from nextscale.sweeps.show.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """Of each run its loss, its in-context-learning score, and when that fell most within a doubling of tokens."""
    table = fitted_runs(runs).sort_values(["depth", "width", "seed", "tokens"])
    rows, results = [], []
    for row in table.to_dict("records"):
        one = {key: row[key] for key in ("run_id", "depth", "width", "seed", "tokens", "loss", "in_context_learning")}
        one |= {"fall": None, "problem": None}
        curve = [point for point in row["curve"] if "in_context_learning" in point]
        try:
            fall = steepest_fall([p["tokens"] for p in curve], [p["in_context_learning"] for p in curve])
            one["fall"] = {"tokens": fall.tokens, "share": fall.share, "whole": fall.whole}
        except InputError as error:
            one["problem"] = str(error)
        results.append(one)
        where = ["-", "-"] if one["fall"] is None else [count(one["fall"]["tokens"]), f"{one['fall']['share']:.0%}"]
        names = [str(row["depth"]), str(row["width"]), str(row["seed"]), count(row["tokens"])]
        rows.append([*names, loss(row["loss"]), number(row["in_context_learning"], 3), *where])
    head = [
        "depth",
        "width",
        "seed",
        "tokens",
        "loss",
        "in-context score",
        "falls most at",
        "of its fall, in a doubling",
    ]
    shown = Table("Learning in context by depth: loss late in the context less loss early (nats/token)", head, rows)
    notes = tuple(dict.fromkeys(one["problem"] for one in results if one["problem"]))
    panels = (
        lambda ax: _draw_curves(ax, table, "in_context_learning", "in-context score (nats/token)"),
        lambda ax: _draw_curves(ax, table, "loss", "loss (nats/token)"),
        lambda ax: _draw_positions(ax, table),
    )
    return Finding([shown], {"runs": results}, panels, notes)


def _draw_curves(ax: Axes, table: pd.DataFrame, key: str, label: str) -> None:
    for row, colour in _of_depths(table):
        curve = [point for point in row["curve"] if key in point]
        ax.plot([p["tokens"] for p in curve], [p[key] for p in curve], color=colour, label=f"depth {row['depth']}")
    ax.set(xscale="log", xlabel="tokens", ylabel=label)
    _legend(ax)


def _draw_positions(ax: Axes, table: pd.DataFrame) -> None:
    for row, colour in _of_depths(table):
        by_position = np.array(row["loss_by_position"])
        ax.plot(np.arange(1, len(by_position) + 1), by_position, color=colour, label=f"depth {row['depth']}")
    ax.set(xlabel="position in the context", ylabel="loss (nats/token)", title="at the end")
    _legend(ax)


def _of_depths(table: pd.DataFrame) -> list[tuple[dict[str, Any], Any]]:
    depths = sorted(table["depth"].unique())
    colour = dict(zip(depths, plot.shades(len(depths)), strict=True))
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return [(row, colour[row["depth"]]) for row in rows]


def _legend(ax: Axes) -> None:
    """One entry for each depth."""
    known = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(known.values(), known.keys(), fontsize="small")
