"""Tables of runs in, scaling laws with intervals out. Needs nothing of the rest of nextscale.

    from nextscale.fit import fit, read_table
    print(fit(read_table("runs.csv")))

Beside what is named here, each in the module of its name: `frontier`, `approaches`, `forecast`, `compare`, `trend`,
`lifetime`, `overtrain`, `published` and `card`; and the figures in `plot`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextscale.fit.errors import InputError
    from nextscale.fit.estimate.fit import Fit, fit
    from nextscale.fit.estimate.profile import profiled
    from nextscale.fit.estimate.seed_noise import seed_noise
    from nextscale.fit.laws.catalogue import LAWS
    from nextscale.fit.laws.formula import Formula
    from nextscale.fit.laws.law import Law, Shape
    from nextscale.fit.laws.loss import Loss
    from nextscale.fit.laws.sum_of_powers import SumOfPowers, Term
    from nextscale.fit.optimum.forecast import forecast_run
    from nextscale.fit.optimum.inverse import compute_for
    from nextscale.fit.optimum.isoflop import isoflops
    from nextscale.fit.table.columns import Columns
    from nextscale.fit.table.reading import read_table
    from nextscale.fit.table.runs import Runs, as_runs
    from nextscale.fit.trust.backtest import fit_backtested
    from nextscale.fit.trust.choice import Candidate, Choice, backtest_table, candidates_for, choose
    from nextscale.fit.trust.next_run import next_runs

# Imported when first asked for: pandas and scipy take a second, and `nextscale --help` needs neither.
_HOMES = {
    "trust.backtest": ["fit_backtested"],
    "trust.choice": ["Candidate", "Choice", "backtest_table", "candidates_for", "choose"],
    "errors": ["InputError"],
    "estimate.fit": ["Fit", "fit"],
    "optimum.forecast": ["forecast_run"],
    "optimum.inverse": ["compute_for"],
    "optimum.isoflop": ["isoflops"],
    "laws.formula": ["Formula"],
    "laws.law": ["Law", "Shape"],
    "laws.catalogue": ["LAWS"],
    "laws.loss": ["Loss"],
    "trust.next_run": ["next_runs"],
    "laws.sum_of_powers": ["SumOfPowers", "Term"],
    "table.columns": ["Columns"],
    "table.reading": ["read_table"],
    "table.runs": ["Runs", "as_runs"],
    "estimate.profile": ["profiled"],
    "estimate.seed_noise": ["seed_noise"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "LAWS",
    "Candidate",
    "Choice",
    "Columns",
    "Fit",
    "Formula",
    "InputError",
    "Law",
    "Loss",
    "Runs",
    "Shape",
    "SumOfPowers",
    "Term",
    "as_runs",
    "backtest_table",
    "candidates_for",
    "choose",
    "compute_for",
    "fit",
    "fit_backtested",
    "forecast_run",
    "isoflops",
    "next_runs",
    "profiled",
    "read_table",
    "seed_noise",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'nextscale.fit' has no attribute '{name}'")
    return getattr(importlib.import_module(f"nextscale.fit.{_HOME_OF[name]}"), name)
