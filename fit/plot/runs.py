"""Figures of single runs: where they lie on the surface of the law, how far off it, and how each came to its loss.

Every function draws on the `Axes` it is given, and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm

from nextscale.fit.plot.style import BLUE, GREY, ORANGE, PAPER, dense, shades

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit

_COLOURS = shades(12)
_SHADES = ListedColormap(_COLOURS)
"""Few, so that a figure stays small as a file."""


def surface(ax: Axes, fit: Fit, optima: pd.DataFrame | None = None, held_out: pd.DataFrame | None = None) -> Axes:
    """The loss over size and tokens as contours, the runs, and the compute-optimal frontier.

    Args:
        fit: of a law in N and D.
        optima: as `nextscale.fit.optimum.frontier.frontier` returns it.
        held_out: `params` and `tokens` of runs that the law was not fitted to.
    """
    table = fit.runs.table
    known = [table[["params", "tokens"]], *([] if held_out is None else [held_out[["params", "tokens"]]])]
    every = pd.concat(known, ignore_index=True).astype(float)
    low, high = every.min() / 2, every.max() * 2
    sizes, tokens = (np.geomspace(low[name], high[name], 80) for name in ("params", "tokens"))
    losses = fit.predict(np.tile(sizes, len(tokens)), np.repeat(tokens, len(sizes))).reshape(len(tokens), len(sizes))
    floor = min(fit.parameters.get("E", 0.0), 0.999 * losses.min())
    # Evenly spaced in the logarithm of what can still be gained: evenly in the loss they would crowd in one corner.
    levels = floor + np.geomspace(losses.min() - floor, losses.max() - floor, 14)[1:-1]
    # Before the contours: their labels are put where there is room on the axes as they are then.
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(low["params"], high["params"]),
        ylim=(low["tokens"], high["tokens"]),
        xlabel="parameters N",
        ylabel="training tokens D",
        title="loss (nats/token) by the law",
    )
    lines = ax.contour(sizes, tokens, losses, levels=levels, colors=_COLOURS[::-1], linewidths=1)
    for label in ax.clabel(lines, fmt="%.3g", fontsize="x-small"):
        label.set(zorder=4, bbox={"facecolor": PAPER, "linewidth": 0, "pad": 0.5})  # else a run may lie on it
    many = dense(len(table))
    ax.plot(table["params"], table["tokens"], "o", color=GREY, markersize=4, label="runs", rasterized=many)
    if held_out is not None and len(held_out):
        ax.plot(held_out["params"], held_out["tokens"], "s", color=ORANGE, markersize=5, label="held out")
    if optima is not None:
        ax.plot(optima["params"], optima["tokens"], color=BLUE, linewidth=2, label="compute-optimal")
    ax.legend(fontsize="small", loc="upper left", frameon=True, framealpha=0.9, edgecolor="none")
    return ax


def residuals(ax: Axes, fit: Fit, held_out: pd.DataFrame | None = None) -> Axes:
    """How far each run lies from the law, against its scale, coloured by size; the band is the scatter of a run.

    Args:
        held_out: runs that the law was not fitted to, with what the law varies in, `flops` and `loss`.
    """
    table, scale, many = fit.runs.table, fit.runs.scale, dense(len(fit.runs))
    off = 100 * np.expm1(fit.residuals)
    ax.axhline(0, color=BLUE, linewidth=1)
    ax.axhspan(-100 * fit.noise, 100 * fit.noise, color=BLUE, alpha=0.12, linewidth=0, label="scatter of a run")
    if "params" in table:
        norm = _norm(table["params"])
        ax.scatter(scale, off, c=table["params"], cmap=_SHADES, norm=norm, s=18, label="runs", rasterized=many)
        _scale_beside(ax, norm)
    else:
        ax.plot(scale, off, "o", color=GREY, markersize=4, label="runs", rasterized=many)
    if held_out is not None and len(held_out):
        miss = 100 * (held_out["loss"].to_numpy(float) / np.exp(fit.log_losses(fit.theta[None], held_out)[0]) - 1)
        ax.plot(held_out[fit.runs.scale_name], miss, "s", color=ORANGE, markersize=5, label="held out")
    what = "compute C (FLOPs)" if fit.runs.scale_name == "flops" else fit.runs.scale_name
    ax.set(xscale="log", xlabel=what, ylabel="measured above the law (%)", title="residuals")
    ax.legend(fontsize="small")
    return ax


def training_curves(ax: Axes, curves: pd.DataFrame) -> Axes:
    """The training loss of every run against its compute so far, coloured by size.

    Args:
        curves: `run_id`, `params`, `flops` up to there and `loss`, one row per run and position.
    """
    runs = [(rows["params"].iloc[0], rows[["flops", "loss"]].to_numpy(float)) for _, rows in curves.groupby("run_id")]
    norm = _norm([size for size, _ in runs])
    lines = LineCollection([points for _, points in runs], cmap=_SHADES, norm=norm, linewidths=0.8, alpha=0.9)
    lines.set_rasterized(dense(lines=len(runs)))
    lines.set_array(np.array([size for size, _ in runs], float))
    ax.add_collection(lines)
    ax.autoscale_view()
    _scale_beside(ax, norm)
    ax.set(xscale="log", yscale="log", xlabel="compute so far (FLOPs)", ylabel="training loss (nats/token)")
    ax.set_title("training curves")
    ax.yaxis.set_major_formatter("{x:.3g}")
    ax.yaxis.set_minor_formatter("{x:.3g}")
    return ax


def _norm(params: Sequence[float] | pd.Series) -> LogNorm:
    low, high = float(np.min(params)), float(np.max(params))
    return LogNorm(low, high) if high > low else LogNorm(low / 2, high * 2)


def _scale_beside(ax: Axes, norm: LogNorm) -> None:
    bar = ax.figure.colorbar(ScalarMappable(norm, _SHADES), ax=ax, label="parameters N")
    bar.outline.set_visible(False)
