"""Figures of how far a law can be trusted: backtests, trends, comparisons of recipes, and the runs to do next.

Every function draws on the `Axes` it is given, and returns it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from nextscale.fit.plot.style import BLUE, GREEN, GREY, ORANGE, power_of_ten, shades

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit
    from nextscale.fit.table.runs import Runs
    from nextscale.fit.trust.choice import Choice
    from nextscale.fit.trust.compare import Comparison
    from nextscale.fit.trust.next_run import NextRuns
    from nextscale.fit.trust.trend import Trend


def backtest(ax: Axes, choice: Choice, together: Mapping[float, float] | None = None) -> Axes:
    """How much each law missed the runs above a cut by, against the cut, each with the loss that served it best; what
    takes no law, grey.

    Args:
        together: of a forecast that is a mean of laws, what it missed by above each cut, a share of the loss; it is
            then set off in place of the best law.
    """
    whole = choice.table[choice.table["band"] == "all"]
    ranked = choice.summary[choice.summary["reach"] == "all"].drop_duplicates("law")
    for (_, row), shade in zip(ranked.iterrows(), shades(len(ranked)), strict=True):
        rows = whole[(whole["law"] == row["law"]) & (whole["loss"] == row["loss"])]
        chosen = bool(row["chosen"]) and not together
        ax.plot(
            rows["cut"],
            100 * rows["mean_error"],
            "o-",
            color=ORANGE if chosen else shade,
            linewidth=2.5 if chosen else 1,
            label=f"{row['law']} ({row['loss']})" + (", chosen" if chosen else ""),
        )
    if together:
        missed = 100 * np.array([*together.values()])
        ax.plot([*together], missed, "o-", color=ORANGE, linewidth=2.5, label="the forecast, a mean of fits")
    lines = itertools.cycle((":", "-.", "--"))
    for name, rows in whole[whole["loss"] == "-"].groupby("law"):
        ax.plot(rows["cut"], 100 * rows["mean_error"], next(lines), color=GREY, label=name)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="fitted up to (FLOPs)",
        ylabel="mean |error| of the runs above (%)",
        title="backtest",
    )
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize="x-small")
    return ax


def trend(ax: Axes, fit: Fit, trend: Trend) -> Axes:
    """How far each run lies from the law, and each new run from its prediction, with the interval of the latter."""
    name = fit.runs.scale_name
    ax.axhline(0, color=GREY, linewidth=1)
    ax.plot(fit.runs.scale, np.expm1(fit.residuals), "o", color=GREY, markersize=3, label="fitted runs")
    if not trend.runs.empty:
        new = trend.runs
        centre = np.zeros(len(new))
        spread = [1 - new["low"] / new["predicted"], new["high"] / new["predicted"] - 1]
        ax.errorbar(
            new[name], centre, spread, fmt="none", color=BLUE, capsize=4, label=f"predicted, {1 - trend.alarm:.0%}"
        )
        broken = new["verdict"] != "continues"
        for rows, colour, label in ((new[~broken], GREEN, "continues"), (new[broken], ORANGE, "breaks the law")):
            if len(rows):
                ax.plot(rows[name], rows["loss"] / rows["predicted"] - 1, "s", color=colour, label=label)
    if trend.flattening is not None:
        ax.axvline(trend.flattening.first_flops / 1.1, color=GREY, linestyle=":", linewidth=1)
    title = "new runs" if trend.flattening is None else f"newest budgets: {trend.flattening.verdict}"
    ax.set(xscale="log", xlabel=name, ylabel="loss / law - 1", title=title)
    ax.legend(fontsize="small")
    return ax


def multiplier(ax: Axes, comparison: Comparison) -> Axes:
    """What recipe B is worth over recipe A against compute, with its band; solid where that is measured or, by a law,
    where both have runs."""
    table = comparison.table.replace(np.inf, np.nan)
    ax.axhline(1, color=GREY, linewidth=1)
    ax.fill_between(
        table["flops"], table["multiplier_low"], table["multiplier_high"], color=BLUE, alpha=0.15, linewidth=0
    )
    ax.plot(table["flops"], table["multiplier"], ":", color=BLUE)
    by = "envelope" if (table["by"] == "envelope").any() else "law"
    solid = table[table["inside"] & (table["by"] == by)]
    name = comparison.law if by == "law" else "the envelopes"
    label = f"B over A by {name}, {comparison.level:.0%} interval"
    ax.plot(solid["flops"], solid["multiplier"], color=BLUE, label=label)
    ax.set(
        xscale="log",
        xlabel="compute C of the worse (FLOPs)",
        ylabel="compute multiplier of B over A",
        title=comparison.verdict,
    )
    ax.legend(fontsize="small")
    return ax


def recipes(ax: Axes, a: Runs, b: Runs) -> Axes:
    """The runs of two recipes, and the lowest loss that each measured at a budget: what a comparison rests on."""
    for name, runs, colour in (("A", a, GREY), ("B", b, BLUE)):
        table = runs.table
        ax.plot(table["flops"], table["loss"], "o", color=colour, markersize=3, alpha=0.5)
        best = table.loc[table.groupby("budget")["loss"].idxmin()].sort_values("flops")
        ax.plot(best["flops"], best["loss"], "o-", color=colour, markersize=4, label=f"{name}: best of each budget")
    ax.set(xscale="log", xlabel="compute C (FLOPs)", ylabel=f"loss ({a.loss_unit})", title="the runs of both")
    ax.legend(fontsize="small")
    return ax


def next_runs(ax: Axes, design: NextRuns) -> Axes:
    """The candidates by size and cost (or how much each narrows the forecast, of a law in C alone), the sequence
    numbered."""
    rows = design.candidates
    height = "params" if "params" in rows else "narrowing"
    drawn = ax.scatter(rows["flops"], rows[height], c=rows["narrowing"], cmap="viridis", s=60)
    ax.figure.colorbar(drawn, ax=ax, label="interval narrowed by")
    picked = design.sequence.groupby("flops" if height == "narrowing" else ["flops", "params"], sort=False)["order"]
    for key, orders in picked:
        flops, params = key if isinstance(key, tuple) else (key, None)
        level = params if params is not None else rows.loc[rows["flops"] == flops, "narrowing"].iloc[0]
        text = ", ".join(map(str, orders))
        ax.annotate(text, (flops, level), textcoords="offset points", xytext=(7, 5), fontsize="small", color=ORANGE)
    ax.set(
        xscale="log",
        yscale="log" if height == "params" else "linear",
        xlabel="cost of the run (FLOPs)",
        ylabel="parameters N" if height == "params" else "interval narrowed by",
        title=f"what to run next, for {power_of_ten(design.flops)} FLOPs",
    )
    return ax
