"""Tables of runs in, scaling laws with intervals out. Needs nothing of the rest of nextscale.

    from nextscale.fit import fit, read_table
    print(fit(read_table("runs.csv")))

All that is named here is imported when first asked for. Figures are in `nextscale.fit.plot`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextscale.fit.conventions import CONVENTIONS
    from nextscale.fit.curves.collapse import Collapse, collapse
    from nextscale.fit.curves.curve import Curve, curves_of, schedule_of
    from nextscale.fit.curves.curve_fit import CurveFit, fit_curves
    from nextscale.fit.curves.emergence import steepest_fall
    from nextscale.fit.curves.rewards import RewardFit, fit_rewards, rewards_of
    from nextscale.fit.curves.schedule_laws import SCHEDULE_LAWS
    from nextscale.fit.curves.schedules import schedule
    from nextscale.fit.errors import InputError
    from nextscale.fit.estimate.covariance import delta_interval
    from nextscale.fit.estimate.downstream import SIGMOID, accuracy
    from nextscale.fit.estimate.fit import Fit, fit
    from nextscale.fit.estimate.profile import profiled
    from nextscale.fit.estimate.published import PUBLISHED, published
    from nextscale.fit.estimate.seed_noise import seed_noise
    from nextscale.fit.laws.catalogue import LAWS, law_named
    from nextscale.fit.laws.formula import Formula
    from nextscale.fit.laws.law import Law, Shape
    from nextscale.fit.laws.loss import Loss
    from nextscale.fit.laws.recipe_laws import mixture_law
    from nextscale.fit.laws.sum_of_powers import SumOfPowers, Term
    from nextscale.fit.optimum.approaches import approaches
    from nextscale.fit.optimum.forecast import forecast, forecast_run
    from nextscale.fit.optimum.frontier import TokenCost, closed_form, frontier
    from nextscale.fit.optimum.inverse import compute_for
    from nextscale.fit.optimum.isoflop import isoflops
    from nextscale.fit.optimum.known_models import known_models
    from nextscale.fit.optimum.lifetime import Prices, Served, lifetime
    from nextscale.fit.optimum.overtrain import overtrained, smallest_sizes
    from nextscale.fit.optimum.repetition import repetition
    from nextscale.fit.table.columns import Columns
    from nextscale.fit.table.reading import read_table
    from nextscale.fit.table.recount import at_equal_flops
    from nextscale.fit.table.runs import Runs, as_runs
    from nextscale.fit.tasks import TaskForecast, TaskForecaster
    from nextscale.fit.trust.backtest import backtest, fit_backtested
    from nextscale.fit.trust.candidates import Candidate, candidates_for
    from nextscale.fit.trust.card import card
    from nextscale.fit.trust.choice import Choice, backtest_table, choose
    from nextscale.fit.trust.compare import compare
    from nextscale.fit.trust.consensus import Consensus, consensus
    from nextscale.fit.trust.forecaster import fit_forecaster
    from nextscale.fit.trust.next_run import next_runs
    from nextscale.fit.trust.trend import trend
    from nextscale.fit.tuning.hyperparameters import cell_optima, fit_rule
    from nextscale.fit.tuning.mixtures import BestMixture, best_mixture, check_proportions
    from nextscale.fit.tuning.transfer import best_rates, rate_drift

# Imported when first asked for: pandas and scipy take a second, and `nextscale --help` needs neither.
_HOMES = {
    "conventions": ["CONVENTIONS"],
    "errors": ["InputError"],
    "table.columns": ["Columns"],
    "table.reading": ["read_table"],
    "table.recount": ["at_equal_flops"],
    "table.runs": ["Runs", "as_runs"],
    "laws.catalogue": ["LAWS", "law_named"],
    "laws.formula": ["Formula"],
    "laws.law": ["Law", "Shape"],
    "laws.loss": ["Loss"],
    "laws.recipe_laws": ["mixture_law"],
    "laws.sum_of_powers": ["SumOfPowers", "Term"],
    "estimate.covariance": ["delta_interval"],
    "estimate.downstream": ["SIGMOID", "accuracy"],
    "estimate.fit": ["Fit", "fit"],
    "estimate.profile": ["profiled"],
    "estimate.published": ["PUBLISHED", "published"],
    "estimate.seed_noise": ["seed_noise"],
    "curves.collapse": ["Collapse", "collapse"],
    "curves.curve": ["Curve", "curves_of", "schedule_of"],
    "curves.curve_fit": ["CurveFit", "fit_curves"],
    "curves.emergence": ["steepest_fall"],
    "curves.rewards": ["RewardFit", "fit_rewards", "rewards_of"],
    "curves.schedule_laws": ["SCHEDULE_LAWS"],
    "curves.schedules": ["schedule"],
    "tuning.hyperparameters": ["cell_optima", "fit_rule"],
    "tuning.mixtures": ["BestMixture", "best_mixture", "check_proportions"],
    "tuning.transfer": ["best_rates", "rate_drift"],
    "optimum.approaches": ["approaches"],
    "optimum.forecast": ["forecast", "forecast_run"],
    "optimum.frontier": ["TokenCost", "closed_form", "frontier"],
    "optimum.inverse": ["compute_for"],
    "optimum.isoflop": ["isoflops"],
    "optimum.known_models": ["known_models"],
    "optimum.lifetime": ["Prices", "Served", "lifetime"],
    "optimum.overtrain": ["overtrained", "smallest_sizes"],
    "optimum.repetition": ["repetition"],
    "tasks": ["TaskForecast", "TaskForecaster"],
    "trust.backtest": ["backtest", "fit_backtested"],
    "trust.candidates": ["Candidate", "candidates_for"],
    "trust.card": ["card"],
    "trust.choice": ["Choice", "backtest_table", "choose"],
    "trust.compare": ["compare"],
    "trust.consensus": ["Consensus", "consensus"],
    "trust.forecaster": ["fit_forecaster"],
    "trust.next_run": ["next_runs"],
    "trust.trend": ["trend"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CONVENTIONS",
    "LAWS",
    "PUBLISHED",
    "SCHEDULE_LAWS",
    "SIGMOID",
    "BestMixture",
    "Candidate",
    "Choice",
    "Collapse",
    "Columns",
    "Consensus",
    "Curve",
    "CurveFit",
    "Fit",
    "Formula",
    "InputError",
    "Law",
    "Loss",
    "Prices",
    "RewardFit",
    "Runs",
    "Served",
    "Shape",
    "SumOfPowers",
    "TaskForecast",
    "TaskForecaster",
    "Term",
    "TokenCost",
    "accuracy",
    "approaches",
    "as_runs",
    "at_equal_flops",
    "backtest",
    "backtest_table",
    "best_mixture",
    "best_rates",
    "candidates_for",
    "card",
    "cell_optima",
    "check_proportions",
    "choose",
    "closed_form",
    "collapse",
    "compare",
    "compute_for",
    "consensus",
    "curves_of",
    "delta_interval",
    "fit",
    "fit_backtested",
    "fit_curves",
    "fit_forecaster",
    "fit_rewards",
    "fit_rule",
    "forecast",
    "forecast_run",
    "frontier",
    "isoflops",
    "known_models",
    "law_named",
    "lifetime",
    "mixture_law",
    "next_runs",
    "overtrained",
    "profiled",
    "published",
    "rate_drift",
    "read_table",
    "repetition",
    "rewards_of",
    "schedule",
    "schedule_of",
    "seed_noise",
    "smallest_sizes",
    "steepest_fall",
    "trend",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'nextscale.fit' has no attribute '{name}'")
    return getattr(importlib.import_module(f"nextscale.fit.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
