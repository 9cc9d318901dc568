"""Figures of forecasts beside what was measured after, and how often their intervals hold.

Every function draws on the `Axes` it is given, and returns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nextscale.fit.plot.style import BLUE, GREEN, GREY, ORANGE


def forecast(
    ax: Axes,
    params: Sequence[float],
    predicted: Sequence[float],
    intervals: Sequence[Sequence[float]],
    measured: Sequence[float | None],
    *,
    level: float,
) -> Axes:
    """Forecast loss of each held-out size with its interval, and what was measured."""
    low, high = np.array(intervals, float).T
    predicted_array = np.array(predicted, float)
    spread = np.stack([predicted_array - low, high - predicted_array])
    ax.errorbar(
        params, predicted_array, spread, fmt="o", color=BLUE, capsize=4, label=f"forecast, {level:.0%} interval"
    )
    values = [np.nan if value is None else value for value in measured]
    ax.plot(params, values, "s", color=ORANGE, label="measured after")
    ax.set(xscale="log", xlabel="parameters N", ylabel="loss (nats/token)", title="forecast against measured")
    ax.legend(fontsize="small")
    return ax


def forecast_errors(ax: Axes, table: pd.DataFrame) -> Axes:
    """How far what was measured lies from each forecast, with the interval of the latter, against how far it reached.

    Args:
        table: one row per run foretold, with `predicted`, `low`, `high`, `reach` (None where it is not known: those are
            drawn at 1), and `verdict`; of those called hit or miss `measured` too.
    """
    scored = table[table["verdict"].isin(["hit", "miss"])]
    numbers = scored[["predicted", "low", "high", "measured"]].astype(float)
    # Side by side, or intervals of one reach would hide each other.
    reach = scored["reach"].astype(float).fillna(1.0)
    reach *= 1.02 ** scored.groupby(np.log10(reach).round(2)).cumcount()
    spread = [1 - numbers["low"] / numbers["predicted"], numbers["high"] / numbers["predicted"] - 1]
    ax.axhline(0, color=GREY, linewidth=1)
    ax.errorbar(reach, np.zeros(len(scored)), spread, fmt="none", color=BLUE, capsize=3, label="interval")
    hit = scored["verdict"] == "hit"
    for rows, colour, label in ((hit, GREEN, f"{hit.sum()} hits"), (~hit, ORANGE, f"{(~hit).sum()} misses")):
        if rows.any():
            ax.plot(
                reach[rows], numbers["measured"][rows] / numbers["predicted"][rows] - 1, "o", color=colour, label=label
            )
    ax.set(
        xscale="log", xlabel="FLOPs / largest run fitted", ylabel="measured / forecast - 1", title="forecasts and runs"
    )
    ax.legend(fontsize="small")
    return ax


def calibration(ax: Axes, levels: Sequence[Mapping[str, Any]]) -> Axes:
    """The share of runs inside intervals of each level against that level; on the line where intervals keep their word.

    Args:
        levels: of each level `level`, `n`, `share` and `share_interval`.
    """
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="as claimed")
    for level in levels:
        low, high = level["share_interval"]
        spread = [[level["share"] - low], [high - level["share"]]]
        ax.errorbar([level["level"]], [level["share"]], spread, fmt="o", color=BLUE, capsize=4)
        ax.annotate(
            f"{level['n']} runs",
            (level["level"], level["share"]),
            textcoords="offset points",
            xytext=(-8, -4),
            ha="right",
        )
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="level claimed", ylabel="share inside", title="calibration")
    ax.legend(fontsize="small", loc="upper left")
    return ax
