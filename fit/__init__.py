"""Tables of runs in, scaling laws with intervals out. Needs nothing of the rest of nextscale.

    from nextscale.fit import fit, read_table
    print(fit(read_table("runs.csv")))

Beside what is named here: `frontier.frontier`, `forecast.forecast` and `backtest.backtest`, each in its module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextscale.fit.backtest import fit_backtested
    from nextscale.fit.errors import InputError
    from nextscale.fit.estimate import Fit, fit
    from nextscale.fit.formula import Formula
    from nextscale.fit.isoflop import isoflops
    from nextscale.fit.law import Law, Shape
    from nextscale.fit.laws import LAWS
    from nextscale.fit.powers import SumOfPowers, Term
    from nextscale.fit.table import Columns, Runs, as_runs, read_table

# Imported when first asked for: pandas and scipy take a second, and `nextscale --help` needs neither.
_HOMES = {
    "backtest": ["fit_backtested"],
    "errors": ["InputError"],
    "estimate": ["Fit", "fit"],
    "isoflop": ["isoflops"],
    "formula": ["Formula"],
    "law": ["Law", "Shape"],
    "laws": ["LAWS"],
    "powers": ["SumOfPowers", "Term"],
    "table": ["Columns", "Runs", "as_runs", "read_table"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "LAWS",
    "Columns",
    "Fit",
    "Formula",
    "InputError",
    "Law",
    "Runs",
    "Shape",
    "SumOfPowers",
    "Term",
    "as_runs",
    "fit",
    "fit_backtested",
    "isoflops",
    "read_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'nextscale.fit' has no attribute '{name}'")
    return getattr(importlib.import_module(f"nextscale.fit.{_HOME_OF[name]}"), name)
