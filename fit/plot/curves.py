"""Figures of training curves laid on one another.

Every function draws on the `Axes` it is given, and returns it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from nextscale.fit.plot.style import BLUE, ORANGE, shades

if TYPE_CHECKING:
    from nextscale.fit.curves.collapse import Collapse

_MOST_NAMED = 12


def collapse(ax: Axes, found: Collapse) -> Axes:
    """The normalised loss of every run against the share of training done; one that left is marked where it did."""
    runs = found.runs
    for (_, run), colour in zip(runs.iterrows(), shades(len(runs)), strict=True):
        curve = found.curves[found.curves["run"] == run["run"]]
        left = run["left"] == run["left"]
        name = run["run"] if left or len(runs) <= _MOST_NAMED else None
        style = {"color": ORANGE, "linewidth": 1.8, "zorder": 3} if left else {"color": colour, "linewidth": 1.0}
        ax.plot(curve["share"], curve["normalised"], label=name, **style)
        if left:
            at = curve[curve["share"] == run["left"]]
            ax.plot(at["share"], at["normalised"], "o", color=ORANGE, markersize=7, zorder=4)
    ax.set(xlabel="share of training done", ylabel="loss above the irreducible, over that at the end")
    ax.set_title("normalised training curves")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="x-small")
    return ax


def tolerance(ax: Axes, found: Collapse) -> Axes:
    """The spread of the normalised curves against the share of training done."""
    ax.plot(found.spread["share"], 100 * found.spread["tolerance"], color=BLUE)
    ax.axhline(100 * found.tolerance, color=BLUE, linestyle=":", linewidth=1, label="root mean square")
    ax.set(
        xlabel="share of training done", ylabel="standard deviation over mean (%)", title="collapse tolerance", ylim=0
    )
    ax.legend(fontsize="small")
    return ax
