"""Figures of training curves laid on one another.

Every function draws on the `Axes` it is given, and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from nextscale.fit.plot.style import BLUE, GREY, ORANGE, shades

if TYPE_CHECKING:
    from nextscale.fit.curves.collapse import Collapse
    from nextscale.fit.curves.rewards import RewardFit

_MOST_NAMED = 12


def collapse(ax: Axes, found: Collapse) -> Axes:
    """The normalised loss of every run against the share of training done; one that left is marked where it did."""
    runs = found.runs
    for (_, run), colour in zip(runs.iterrows(), shades(len(runs)), strict=True):
        curve = found.curves[found.curves["run"] == run["run"]]
        left = run["left"] == run["left"]
        name = run["run"] if left or len(runs) <= _MOST_NAMED else None
        style: dict[str, Any] = {"color": ORANGE, "linewidth": 1.8, "zorder": 3} if left else {"color": colour}
        ax.plot(curve["share"], curve["normalised"], label=name, **({"linewidth": 1.0} | style))
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


def rewards(ax: Axes, found: RewardFit, at: Sequence[float] = ()) -> Axes:
    """The reward along a run against compute, its sigmoid, and what is forecast with its interval."""
    compute = np.geomspace(found.compute[found.compute > 0][0], max([found.compute[-1], *at]), 200)
    ahead = [found.forecast(one) for one in compute]
    ax.fill_between(compute, *np.transpose(ahead)[1:], color=BLUE, alpha=0.15, linewidth=0, label=f"{found.level:.0%}")
    past = found.compute > 0
    ax.plot(found.compute[past], found.rewards[past], ".", color=GREY, markersize=4, label="measured")
    ax.plot(compute, found.predict(compute), color=BLUE, label="sigmoid")
    ax.axhline(found.parameters["A"], color=BLUE, linestyle=":", linewidth=1, label="asymptote")
    for one in at:
        value, low, high = found.forecast(one)
        ax.errorbar(one, value, [[value - low], [high - value]], color=ORANGE, marker="s", markersize=5, capsize=3)
    ax.set(xscale="log", xlabel="compute", ylabel="reward", title="reward of reinforcement learning")
    ax.legend(fontsize="small")
    return ax
