"""Figures. Every function draws on the `Axes` it is given, and returns it."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nextscale.fit.estimate import Fit
from nextscale.fit.isoflop import IsoFlop, PowerLaw

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
"""Okabe & Ito's palette, told apart with any colour vision."""


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
    ax.legend(title="FLOPs", fontsize="small")
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
        optima: as `nextscale.fit.frontier.frontier` returns it.
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


def loss_against(ax: Axes, fit: Fit, optima: pd.DataFrame, held_out: Sequence[IsoFlop] = ()) -> Axes:
    """Every run's loss against compute, and the law's best at each budget with its band.

    Args:
        optima: as `nextscale.fit.frontier.frontier` returns it.
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
