"""Figures. Every function draws on the `Axes` it is given, and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from nextscale.fit.table.columns import column_of

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit
    from nextscale.fit.optimum.isoflop import IsoFlop, PowerLaw
    from nextscale.fit.trust.choice import Choice
    from nextscale.fit.trust.compare import Comparison
    from nextscale.fit.trust.next_run import NextRuns
    from nextscale.fit.trust.trend import Trend

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
"""Okabe & Ito's palette, told apart with any colour vision."""
_APART = 3.0
"""Pixels between two labels of an axis."""
_MANY = 6
"""Curves of which a legend finds no room among them."""


def clear_labels(figure: Figure) -> None:
    """Hides labels of minor ticks that another label of their x axis would touch: of a log axis that spans little there
    are more than its width holds. The figure has been drawn, or laid out, once."""
    for ax in figure.axes:
        low, high = sorted(ax.get_xlim())
        seen = [tick.label1 for tick in ax.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        taken = [label.get_window_extent() for label in seen if label.get_text()]
        kept: dict[float, str] = {}
        minor = [tick for tick in ax.xaxis.get_minor_ticks() if low <= tick.get_loc() <= high]
        for tick in sorted(minor, key=lambda tick: tick.get_loc()):
            box = tick.label1.get_window_extent()
            if tick.label1.get_text() and not any(box.padded(_APART).overlaps(other) for other in taken):
                taken.append(box)
                kept[tick.get_loc()] = tick.label1.get_text()
        if minor:
            ax.xaxis.set_minor_formatter(_kept(kept))


def _kept(labels: Mapping[float, str]) -> FuncFormatter:
    return FuncFormatter(lambda place, _: labels.get(place, ""))


def isoflop_curves(ax: Axes, curves: Sequence[IsoFlop], held_out: Sequence[IsoFlop] = ()) -> Axes:
    """Loss against size at each budget, the parabolas through them, and the lowest points (stars)."""
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(curves)))
    styles = [(curve, shade, "o", "-") for curve, shade in zip(curves, shades, strict=True)]
    styles += [(curve, ORANGE, "s", "--") for curve in held_out]
    for curve, colour, marker, line in styles:
        label = f"{curve.flops:.2g}" + (" (held out)" if marker == "s" else "")
        ax.plot(curve.params, curve.loss, marker, color=colour, markersize=4, label=label)
        if curve.coefficients is not None:
            sizes = np.geomspace(curve.params.min() / 1.1, curve.params.max() * 1.1, 100)
            ax.plot(sizes, np.polyval(curve.coefficients, np.log(sizes)), line, color=colour, linewidth=1)
        if curve.optimum is not None:
            ax.plot(curve.optimum[0], curve.optimum[2], "*", color=colour, markersize=11, markeredgecolor="white")
    ax.set(xscale="log", xlabel="parameters N", ylabel="loss (nats/token)", title="isoFLOP curves")
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.02)} if len(styles) > _MANY else {}
    ax.legend(title="FLOPs", fontsize="small", **beside)
    return ax


def frontier(
    ax: Axes,
    optima: pd.DataFrame,
    curves: Sequence[IsoFlop] = (),
    law: PowerLaw | None = None,
    held_out: Sequence[IsoFlop] = (),
) -> Axes:
    """The compute-optimal size against compute: the law's with its band, the isoFLOP minima and the power law
    through them, and what the held-out scale measured.

    Args:
        optima: as `nextscale.fit.optimum.frontier.frontier` returns it.
    """
    flops = optima["flops"]
    ax.plot(flops, optima["params"], color=BLUE, label="parametric law (approach 3)")
    ax.fill_between(flops, optima["params_low"], optima["params_high"], color=BLUE, alpha=0.15, linewidth=0)
    if law is not None:
        ax.plot(flops, law(flops), "--", color=GREEN, label=f"isoFLOP minima (approach 2), $C^{{{law.exponent:.2f}}}$")
    found = [(c.flops, c.optimum[0]) for c in curves if c.optimum is not None]
    if found:
        ax.plot(*np.array(found).T, "*", color=GREEN, markersize=10)
    measured = [(c.flops, c.optimum[0]) for c in held_out if c.optimum is not None]
    if measured:
        ax.plot(
            *np.array(measured).T, "*", color=ORANGE, markersize=14, markeredgecolor="white", label="measured, held out"
        )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="compute C (FLOPs)",
        ylabel="optimal parameters N*",
        title="compute-optimal frontier",
    )
    ax.legend(fontsize="small")
    return ax


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


def law(ax: Axes, fit: Fit, reach: float | None = None) -> Axes:
    """The runs and the law with its band: against compute, at the best size of each budget, of a law in N and D;
    against its variable, of a law in one; measured against predicted of any other.

    Args:
        reach: how far to draw it; ten times the largest run unless given.
    """
    held = set(fit.law.variables)
    if held == {"N", "D"}:
        return loss_against(ax, fit, fit.frontier(budgets(fit, reach)))
    if len(held) == 1:
        return _one_variable(ax, fit, reach)
    table = fit.runs.table
    predicted = table["loss"] / np.exp(fit.residuals)
    ends = [table["loss"].min(), table["loss"].max()]
    ax.plot(ends, ends, color=BLUE, linewidth=1, label="the law")
    ax.plot(predicted, table["loss"], "o", color=GREY, markersize=3, label="runs")
    ax.set(xlabel="predicted loss (nats/token)", ylabel="measured loss (nats/token)", title=fit.law.formula)
    ax.legend(fontsize="small")
    return ax


def budgets(fit: Fit, reach: float | None = None) -> list[float]:
    """Where a curve against compute is drawn."""
    flops = fit.runs.table["flops"]
    return np.geomspace(flops.min(), max(reach or 0, flops.max() * 10), 40).tolist()


def _one_variable(ax: Axes, fit: Fit, reach: float | None) -> Axes:
    name = column_of(fit.law.variables[0])
    values = fit.runs.table[name]
    there = np.geomspace(values.min(), max(reach or 0, values.max() * 10), 200)
    at: dict[str, Any] = {name: there}
    low, high = fit.predict_interval(**at)
    ax.plot(values, fit.runs.table["loss"], "o", color=GREY, markersize=3, label="runs")
    ax.plot(there, fit.predict(**at), color=BLUE, label=f"the law, {fit.level:.0%} interval")
    ax.fill_between(there, low, high, color=BLUE, alpha=0.15, linewidth=0)
    ax.set(xscale="log", xlabel=name, ylabel="loss (nats/token)", title=fit.law.formula)
    ax.legend(fontsize="small")
    return ax


def loss_against(ax: Axes, fit: Fit, optima: pd.DataFrame, held_out: Sequence[IsoFlop] = ()) -> Axes:
    """Every run's loss against compute, and the law's best at each budget with its band.

    Args:
        optima: as `nextscale.fit.optimum.frontier.frontier` returns it.
        held_out: runs that the law was not fitted to.
    """
    table = fit.runs.table
    ax.plot(table["flops"], table["loss"], "o", color=GREY, markersize=3, label="runs")
    for i, curve in enumerate(held_out):
        label = "held out" if i == 0 else None
        ax.plot([curve.flops] * len(curve.loss), curve.loss, "s", color=ORANGE, markersize=4, label=label)
    ax.plot(optima["flops"], optima["loss"], color=BLUE, label="compute-optimal")
    ax.fill_between(optima["flops"], optima["loss_low"], optima["loss_high"], color=BLUE, alpha=0.15, linewidth=0)
    ax.set(xscale="log", xlabel="compute C (FLOPs)", ylabel="loss (nats/token)", title=fit.law.formula)
    ax.legend(fontsize="small")
    return ax


def approaches(ax: Axes, table: pd.DataFrame) -> Axes:
    """The optimal size by each approach against compute, with its interval.

    Args:
        table: as `nextscale.fit.optimum.approaches.approaches` returns it.
    """
    known = table[table["params"].notna()]
    colours = {"envelope": GREY, "parabola": GREEN, "akima": ORANGE, "parametric": BLUE}
    for i, (name, colour) in enumerate(colours.items()):
        rows = known[known["approach"] == name].astype({"params": float, "params_low": float, "params_high": float})
        if rows.empty:
            continue
        # Side by side, or intervals of one budget would hide each other.
        flops = rows["flops"].astype(float) * 1.04 ** (i - 1.5)
        spread = np.nan_to_num([rows["params"] - rows["params_low"], rows["params_high"] - rows["params"]])
        exponent = rows["exponent"].iloc[0]
        ax.errorbar(
            flops,
            rows["params"],
            np.maximum(spread, 0),
            fmt="o-",
            color=colour,
            capsize=3,
            markersize=4,
            label=f"{name}, $C^{{{exponent:.2f}}}$",
        )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="compute C (FLOPs)",
        ylabel="optimal parameters N*",
        title="optimal size by approach",
    )
    if known["flops"].nunique() == 1:
        # Places between are where a budget's marks stand side by side, and no other budgets.
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks([float(known["flops"].iloc[0])], [f"{known['flops'].iloc[0]:.3g}"])
    ax.legend(fontsize="small")
    return ax


def multiplier(ax: Axes, comparison: Comparison) -> Axes:
    """What recipe B is worth over recipe A against compute, with its band; solid where both have runs."""
    table = comparison.table.replace(np.inf, np.nan)
    ax.axhline(1, color=GREY, linewidth=1)
    ax.fill_between(
        table["flops"], table["multiplier_low"], table["multiplier_high"], color=BLUE, alpha=0.15, linewidth=0
    )
    ax.plot(table["flops"], table["multiplier"], ":", color=BLUE)
    inside = table[table["inside"]]
    ax.plot(inside["flops"], inside["multiplier"], color=BLUE, label=f"B over A, {comparison.level:.0%} interval")
    ax.set(xscale="log", xlabel="compute C (FLOPs)", ylabel="compute multiplier of B over A", title=comparison.verdict)
    ax.legend(fontsize="small")
    return ax


def backtest(ax: Axes, choice: Choice) -> Axes:
    """How much each law missed the runs above a cut by, against the cut, each with the loss that served it best; what
    takes no law, dotted."""
    whole = choice.table[choice.table["band"] == "all"]
    ranked = choice.summary[choice.summary["reach"] == "all"].drop_duplicates("law")
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(ranked)))
    for (_, row), shade in zip(ranked.iterrows(), shades, strict=True):
        rows = whole[(whole["law"] == row["law"]) & (whole["loss"] == row["loss"])]
        chosen = bool(row["chosen"])
        ax.plot(
            rows["cut"],
            rows["mean_error"],
            "o-",
            color=ORANGE if chosen else shade,
            linewidth=2.5 if chosen else 1,
            label=f"{row['law']} ({row['loss']})" + (", chosen" if chosen else ""),
        )
    for name, rows in whole[whole["loss"] == "-"].groupby("law"):
        ax.plot(rows["cut"], rows["mean_error"], ":", color=GREY, label=name)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="fitted up to (FLOPs)",
        ylabel="mean |relative error| above",
        title="backtest",
    )
    ax.legend(fontsize="x-small")
    return ax


def trend(ax: Axes, fit: Fit, told: Trend) -> Axes:
    """How far each run lies from the law, and each new run from its prediction, with the interval of the latter."""
    name = fit.runs.scale_name
    ax.axhline(0, color=GREY, linewidth=1)
    ax.plot(fit.runs.scale, np.expm1(fit.residuals), "o", color=GREY, markersize=3, label="fitted runs")
    if not told.runs.empty:
        new = told.runs
        centre = np.zeros(len(new))
        spread = [1 - new["low"] / new["predicted"], new["high"] / new["predicted"] - 1]
        ax.errorbar(
            new[name], centre, spread, fmt="none", color=BLUE, capsize=4, label=f"predicted, {1 - told.alarm:.0%}"
        )
        broken = new["verdict"] != "continues"
        for rows, colour, label in ((new[~broken], GREEN, "continues"), (new[broken], ORANGE, "breaks the law")):
            if len(rows):
                ax.plot(rows[name], rows["loss"] / rows["predicted"] - 1, "s", color=colour, label=label)
    if told.flattening is not None:
        ax.axvline(told.flattening.first_flops / 1.1, color=GREY, linestyle=":", linewidth=1)
    title = "new runs" if told.flattening is None else f"newest budgets: {told.flattening.verdict}"
    ax.set(xscale="log", xlabel=name, ylabel="loss / law - 1", title=title)
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
        title=f"what to run next, for {design.flops:.2g} FLOPs",
    )
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
    for one in levels:
        low, high = one["share_interval"]
        spread = [[one["share"] - low], [high - one["share"]]]
        ax.errorbar([one["level"]], [one["share"]], spread, fmt="o", color=BLUE, capsize=4)
        ax.annotate(
            f"{one['n']} runs", (one["level"], one["share"]), textcoords="offset points", xytext=(-8, -4), ha="right"
        )
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="level claimed", ylabel="share inside", title="calibration")
    ax.legend(fontsize="small", loc="upper left")
    return ax


def shades(number: int) -> list[tuple[float, ...]]:
    """So many colours, from dark to light, for curves that have an order."""
    return [tuple(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, number))]
