"""Figures of laws and of the runs that they rest on. Every function draws on the `Axes` given, and returns it."""

from nextscale.fit.plot.curves import collapse, rewards, tolerance
from nextscale.fit.plot.forecasts import calibration, forecast, forecast_errors
from nextscale.fit.plot.laws import budgets, law, loss_against
from nextscale.fit.plot.lifetime import lifetime_costs, overheads
from nextscale.fit.plot.mixtures import mixture
from nextscale.fit.plot.optima import approaches, frontier, isoflop_curves
from nextscale.fit.plot.runs import residuals, surface, training_curves
from nextscale.fit.plot.style import BLUE, GREEN, GREY, ORANGE, clear_labels, shades
from nextscale.fit.plot.trust import backtest, multiplier, next_runs, recipes, trend

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "approaches",
    "backtest",
    "budgets",
    "calibration",
    "clear_labels",
    "collapse",
    "forecast",
    "forecast_errors",
    "frontier",
    "isoflop_curves",
    "law",
    "lifetime_costs",
    "loss_against",
    "mixture",
    "multiplier",
    "next_runs",
    "overheads",
    "recipes",
    "residuals",
    "rewards",
    "shades",
    "surface",
    "tolerance",
    "training_curves",
    "trend",
]
