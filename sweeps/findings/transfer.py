"""The best learning rate by width under each parametrization (Yang et al. 2022, figure 1)."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit import plot
from nextscale.fit.errors import InputError
from nextscale.fit.tuning.transfer import best_rates, rate_drift
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import loss, three_digits
from nextscale.sweeps.show.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """For each parametrization the best rate at each width, how it moves, and what the narrowest model's rate costs
    the widest."""
    fitted_runs(runs)  # or none came to a loss
    runs = runs[runs["role"] == "fit"]
    rows, drifts, notes, panels = [], [], [], []
    results: dict[str, dict[str, Any]] = {}
    for name, table in runs.groupby("parametrization", sort=False):
        best_by_width = best_rates(table)
        results[str(name)] = {"best": best_by_width.to_dict("records")}
        for row in best_by_width.to_dict("records"):
            problem = row["problem"] or ""
            rates = ["-", "-"] if problem else [three_digits(row["lr"]), loss(row["loss"])]
            rows.append([str(name), str(row["width"]), three_digits(row["tried"]), *rates, problem])
        panels.append(functools.partial(_draw, name=str(name), table=table, best_by_width=best_by_width))
        try:
            moves = rate_drift(best_by_width)
        except InputError as error:
            notes.append(f"{name}: {error}")
            continue
        cost = cost_of_transfer(table, best_by_width)
        results[str(name)] |= {"drift": dataclasses.asdict(moves), "transfer_cost": cost}
        spread = "" if moves.stderr is None else f" ± {moves.stderr:.2f}"
        drifts.append([str(name), f"{moves.exponent:+.2f}{spread}", f"{moves.octaves:+.1f}", f"{cost:+.2%}"])
    best = Table(
        "The best learning rate at each width",
        ["parametrization", "width", "lowest run", "lowest point", "its loss", ""],
        rows,
        left=2,
    )
    moved = Table(
        "How it moves: lr ∝ width^exponent",
        ["parametrization", "exponent", "doublings, first to last", "the widest at the narrowest's rate: loss"],
        drifts,
    )
    return Finding([best, *([moved] if drifts else [])], results, tuple(panels), tuple(notes))


def cost_of_transfer(table: pd.DataFrame, best_by_width: pd.DataFrame) -> float:
    """What the widest model's loss is above its lowest when it is trained at the narrowest model's best rate of those
    tried, as a fraction; infinite where it diverges."""
    widest = table[table["width"] == table["width"].max()].set_index("lr")["loss"].astype(float)
    tuned = best_by_width.sort_values("width")["tried"].iloc[0]
    nearest: Any = widest.index[np.abs(np.log(widest.index.to_numpy(float) / tuned)).argmin()]
    there = float(np.mean(widest[nearest]))
    return there / float(widest.min()) - 1 if np.isfinite(there) else float("inf")


def _draw(ax: Axes, name: str, table: pd.DataFrame, best_by_width: pd.DataFrame) -> None:
    widths: list[tuple[Any, Any]] = list(table.groupby("width"))
    for (width, cell), colour in zip(widths, plot.shades(len(widths)), strict=True):
        means = cell.groupby("lr")["loss"].mean()
        ax.plot(means.index, means, "o-", color=colour, markersize=3, linewidth=1, label=f"{width}")
        best = best_by_width[(best_by_width["width"] == width) & best_by_width["problem"].isna()]
        ax.plot(best["lr"], best["loss"], "*", color=colour, markersize=11)
    ax.set(xscale="log", xlabel="peak learning rate", ylabel="loss (nats/token)", title=name)
    ax.legend(title="width", fontsize="small")
