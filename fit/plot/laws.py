"""Figures of a fitted law and its runs: against compute, against its one variable, or measured against predicted.

Every function draws on the `Axes` it is given, and returns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nextscale.fit.plot.style import BLUE, GREY, ORANGE, dense, stars
from nextscale.fit.table.columns import column_of

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit
    from nextscale.fit.optimum.isoflop import IsoFlop


def law(ax: Axes, fit: Fit, reach: float | None = None, asked: Sequence[Mapping[str, Any]] = ()) -> Axes:
    """The runs and the law with its band: against compute, at the best size of each budget, of a law in N and D;
    against its variable, of a law in one; measured against predicted of any other.

    Args:
        reach: how far to draw it; ten times the largest run unless given.
        asked: of a law against compute, as `nextscale.fit.optimum.forecast.forecast` returns targets.
    """
    held = set(fit.law.variables)
    if held == {"N", "D"}:
        return loss_against(ax, fit, fit.frontier(budgets(fit, reach)), asked=asked)
    if len(held) == 1:
        return _one_variable(ax, fit, reach, asked)
    table = fit.runs.table
    predicted = table["loss"] / np.exp(fit.residuals)
    ends, unit = [table["loss"].min(), table["loss"].max()], fit.runs.loss_unit
    ax.plot(ends, ends, color=BLUE, linewidth=1, label="the law")
    ax.plot(predicted, table["loss"], "o", color=GREY, markersize=3, label="runs", rasterized=dense(len(table)))
    ax.set(xlabel=f"predicted loss ({unit})", ylabel=f"measured loss ({unit})", title=fit.law.formula)
    ax.legend(fontsize="small")
    return ax


def budgets(fit: Fit, reach: float | None = None) -> list[float]:
    """Where a curve against compute is drawn."""
    flops = fit.runs.table["flops"]
    return np.geomspace(flops.min(), max(reach or 0, flops.max() * 10), 40).tolist()


def loss_against(
    ax: Axes,
    fit: Fit,
    optima: pd.DataFrame,
    held_out: Sequence[IsoFlop] = (),
    asked: Sequence[Mapping[str, Any]] = (),
    held_out_as: str = "held out",
    title: str | None = None,
) -> Axes:
    """Every run's loss against compute, and the law's best at each budget with its band.

    Args:
        optima: as `nextscale.fit.optimum.frontier.frontier` returns it.
        held_out: runs to be told from the others, and `held_out_as` what: as a rule those that it was not fitted to.
        title: the law's formula unless given.
        asked: as `nextscale.fit.optimum.forecast.forecast` returns targets; each is a star.
    """
    table = fit.runs.table
    many = dense(len(table))
    ax.plot(table["flops"], table["loss"], "o", color=GREY, markersize=3, label="runs", rasterized=many)
    for i, curve in enumerate(held_out):
        label = held_out_as if i == 0 else None
        ax.plot([curve.flops] * len(curve.loss), curve.loss, "s", color=ORANGE, markersize=4, label=label, zorder=6)
    ax.plot(optima["flops"], optima["loss"], color=BLUE, label="compute-optimal")
    _band(ax, optima, table["flops"].max(), fit.tested)
    stars(ax, asked, "loss")
    ax.set(
        xscale="log",
        xlabel="compute C (FLOPs)",
        ylabel=f"loss ({fit.runs.loss_unit})",
        title=fit.law.formula if title is None else title,
    )
    ax.legend(fontsize="small", loc="lower left")  # below a curve that falls
    return ax


def _band(ax: Axes, optima: pd.DataFrame, largest: float, tested: float | None) -> None:
    """The interval of the loss, fainter at reaches that no backtest had, where that is known.

    Args:
        largest: the compute of the largest run.
        tested: the longest reach of a backtest, in e-folds.
    """
    at, ends = np.log(optima["flops"]).to_numpy(), optima[["loss_low", "loss_high"]].to_numpy()
    end = at.max() if tested is None else np.clip(np.log(largest) + tested, at.min(), at.max())
    for there, alpha in ((np.append(at[at < end], end), 0.15), (np.append(end, at[at > end]), 0.09)):
        if len(there) > 1:
            low, high = (np.interp(there, at, column) for column in ends.T)
            ax.fill_between(np.exp(there), low, high, color=BLUE, alpha=alpha, linewidth=0)
    if end < at.max():
        label = f"{np.exp(end - np.log(largest)):.3g} times the runs: no backtest went further"
        ax.axvline(np.exp(end), ymax=0.9, color=GREY, linestyle=":", linewidth=1, label=label)


def _one_variable(ax: Axes, fit: Fit, reach: float | None, asked: Sequence[Mapping[str, Any]]) -> Axes:
    name = column_of(fit.law.variables[0])
    values = fit.runs.table[name]
    there = np.geomspace(values.min(), max(reach or 0, values.max() * 10), 200)
    at: dict[str, Any] = {name: there}
    low, high = fit.predict_interval(**at)
    many = dense(len(values))
    ax.plot(values, fit.runs.table["loss"], "o", color=GREY, markersize=3, label="runs", rasterized=many)
    ax.plot(there, fit.predict(**at), color=BLUE, label=f"the law, {fit.level:.0%} interval")
    ax.fill_between(there, low, high, color=BLUE, alpha=0.15, linewidth=0)
    stars(ax, asked if name == "flops" else (), "loss")
    ax.set(xscale="log", xlabel=name, ylabel=f"loss ({fit.runs.loss_unit})", title=fit.law.formula)
    ax.legend(fontsize="small")
    return ax
