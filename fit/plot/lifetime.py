"""Figures of what a size costs, to train and to serve.

Every function draws on the `Axes` it is given, and returns it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.isoloss import Contours
from nextscale.fit.optimum.lifetime import Prices, Served
from nextscale.fit.plot.style import BLUE, GREY, ORANGE, power_of_ten

_MOST = 10
"""Towards the size that never gets there costs rise without end: up to so many times the least they are drawn."""


def lifetime_costs(ax: Axes, fit: Fit, served: Served, loss: float, prices: Prices, unit: str = "FLOPs") -> Axes:
    """What each size costs to train to a loss, and to train and serve, with bands of the law; the cheapest starred.

    Args:
        unit: of the prices.
    """
    contours = Contours.of(fit, loss)
    idle = served.idle_tokens(prices)
    best, optimal = contours.cheapest(idle), contours.cheapest()
    sizes = np.geomspace(best[0] / 3, optimal[0] * 3, 120)
    most = _MOST * float((prices.train * contours.flops(optimal[:, None], idle))[0, 0])
    rows = np.broadcast_to(sizes, (len(best), len(sizes)))
    for extra, colour, at, label in ((0.0, GREY, optimal, "training"), (idle, BLUE, best, "training and serving")):
        costs = prices.train * contours.flops(rows, extra)
        shown = costs[0] < most
        ax.plot(sizes[shown], costs[0, shown], color=colour, label=label)
        if len(costs) > 1:
            low, high = np.quantile(costs[1:], [(1 - fit.level) / 2, (1 + fit.level) / 2], axis=0, method="nearest")
            low, high = low[shown], np.minimum(high[shown], most)
            ax.fill_between(sizes[shown], low, high, color=colour, alpha=0.15, linewidth=0)
        least = prices.train * contours.flops(at[:, None], extra)[0, 0]
        ax.plot(at[0], least, "*", color=colour, markersize=12, markeredgecolor="white")
    title = f"loss {loss:.4g}, {power_of_ten(served.prefill + served.decode)} tokens served"
    ax.set(xscale="log", yscale="log", xlabel="parameters N", ylabel=f"cost ({unit})", title=title)
    ax.legend(fontsize="small")
    return ax


def overheads(ax: Axes, fit: Fit, model: Mapping[str, float]) -> Axes:
    """The training compute that each size takes to one loss / the least, with its band, and where a model stands.

    Args:
        model: as `nextscale.fit.optimum.overtrain.overtrained` returns it.
    """
    contours = Contours.of(fit, model["loss"])
    best = contours.cheapest()
    least = contours.flops(best[:, None])
    shares = np.geomspace(min(0.15, 0.8 * model["params"] / best[0]), max(5.0, 1.2 * model["params"] / best[0]), 80)
    sizes = np.broadcast_to(shares * best[0], (len(best), len(shares)))
    ratios = contours.flops(sizes) / least
    shown = np.isfinite(ratios[0]) & (ratios[0] < _MOST)
    ax.plot(sizes[0, shown], ratios[0, shown], color=BLUE, label=f"loss {model['loss']:.4g}")
    if len(ratios) > 1:
        low, high = np.quantile(ratios[1:, shown], [(1 - fit.level) / 2, (1 + fit.level) / 2], axis=0, method="nearest")
        ax.fill_between(sizes[0, shown], low, np.minimum(high, _MOST), color=BLUE, alpha=0.15, linewidth=0)
    ax.axhline(1, color=GREY, linewidth=1)
    ax.plot(best[0], 1, "*", color=BLUE, markersize=12, markeredgecolor="white", label="compute-optimal")
    if np.isfinite(model["overhead"]):
        ax.plot(model["params"], 1 + model["overhead"], "s", color=ORANGE, label="this model")
    ax.set(xscale="log", xlabel="parameters N", ylabel="training FLOPs / the least", title="what a size costs")
    ax.legend(fontsize="small")
    return ax
