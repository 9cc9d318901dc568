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
    from nextscale.fit.backtest import fit_backtested
    from nextscale.fit.choice import Candidate, Choice, backtest_table, candidates_for, choose
    from nextscale.fit.errors import InputError
    from nextscale.fit.estimate import Fit, fit
    from nextscale.fit.forecast import forecast_run
    from nextscale.fit.formula import Formula
    from nextscale.fit.inverse import compute_for
    from nextscale.fit.isoflop import isoflops
    from nextscale.fit.law import Law, Shape
    from nextscale.fit.laws import LAWS
    from nextscale.fit.loss import Loss
    from nextscale.fit.next_run import next_runs
    from nextscale.fit.powers import SumOfPowers, Term
    from nextscale.fit.table import Columns, Runs, as_runs, read_table
    from nextscale.fit.uncertainty import profiled, seed_noise

# Imported when first asked for: pandas and scipy take a second, and `nextscale --help` needs neither.
_HOMES = {
    "backtest": ["fit_backtested"],
    "choice": ["Candidate", "Choice", "backtest_table", "candidates_for", "choose"],
    "errors": ["InputError"],
    "estimate": ["Fit", "fit"],
    "forecast": ["forecast_run"],
    "inverse": ["compute_for"],
    "isoflop": ["isoflops"],
    "formula": ["Formula"],
    "law": ["Law", "Shape"],
    "laws": ["LAWS"],
    "loss": ["Loss"],
    "next_run": ["next_runs"],
    "powers": ["SumOfPowers", "Term"],
    "table": ["Columns", "Runs", "as_runs", "read_table"],
    "uncertainty": ["profiled", "seed_noise"],
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
