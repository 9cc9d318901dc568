"""Figure of a budget: loss against dollars or device-hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit.optimum.forecast import best_of_budgets
from nextscale.fit.plot.laws import budgets
from nextscale.fit.plot.style import BLUE, GREY, stars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nextscale.fit.estimate.fit import Fit
    from nextscale.sweeps.budget.cluster import Cluster


def loss_against_cost(ax: Axes, fit: Fit, cluster: Cluster, targets: Sequence[Mapping[str, Any]] = ()) -> Axes:
    """The loss of the best model with its band against dollars, or device-hours where no price is known; compute along
    the top.

    Args:
        targets: as `nextscale.sweeps.budget.targets.forecast_targets` returns them; each is drawn with its interval.
    """
    priced = bool(cluster.usd_per_chip_hour)
    # Both are in proportion to compute, the one by this factor.
    per_flop = (cluster.usd if priced else cluster.device_hours)(1.0) or 0.0
    known = [target for target in targets if target["flops"] is not None]
    optima = best_of_budgets(fit, budgets(fit, max((target["flops"] for target in known), default=0) * 1.5))
    cost = optima["flops"] * per_flop
    runs = fit.runs.table
    ax.plot(runs["flops"] * per_flop, runs["loss"], "o", color=GREY, markersize=3, label="runs")
    ax.plot(cost, optima["loss"], color=BLUE, label=f"best model, {fit.level:.0%} interval")
    ax.fill_between(cost, optima["loss_low"], optima["loss_high"], color=BLUE, alpha=0.15, linewidth=0)
    stars(ax, known, "loss", per_flop)
    top = ax.secondary_xaxis("top", functions=(lambda x: np.divide(x, per_flop), lambda x: np.multiply(x, per_flop)))
    top.set_xlabel("compute C (FLOPs)")
    ax.set(xscale="log", ylabel=f"loss ({fit.runs.loss_unit})")
    ax.set_xlabel(f"{'dollars' if priced else 'device-hours'} on {cluster.accelerator.name}")
    ax.legend(fontsize="small")
    return ax
