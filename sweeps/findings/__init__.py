"""What the runs of a sweep are asked at its end, beside the law: one module per question.

Each has a function `find(runs, spec)`. It takes the table of finished runs (see `runs_table.py`) and the spec, and raises an
InputError where the runs cannot answer.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from nextscale.sweeps.errors import MENDABLE
from nextscale.sweeps.show.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec

FindingName = Literal[
    "approaches",
    "corrections",
    "horizons",
    "hyperparameters",
    "induction",
    "over-training",
    "power-laws",
    "repetition",
    "transfer",
]


@dataclasses.dataclass(frozen=True)
class Finding:
    """An answer.

    Attributes:
        tables: to be read.
        told: the same for machines, plain JSON.
        panels: each draws on the Axes that it is given.
        notes: what a reader must know, in words.
    """

    tables: list[Table]
    told: dict[str, Any]
    panels: tuple[Callable[[Axes], Any], ...] = ()
    notes: tuple[str, ...] = ()


def findings(runs: pd.DataFrame, spec: SweepSpec) -> dict[str, Finding]:
    """What a spec asks for, by name; a question that the runs cannot answer has a note that says why.

    One that breaks is told so too: what the others found, and the law, are not lost with it.
    """
    found: dict[str, Finding] = {}
    for name in dict.fromkeys(spec.findings):
        module = importlib.import_module(f"nextscale.sweeps.findings.{name.replace('-', '_')}")
        try:
            found[name] = module.find(runs, spec)
        except MENDABLE as error:
            found[name] = Finding([], {}, notes=(f"{name}: not found: {error}",))
        except Exception as error:
            told = f"{name}: not found: it broke on these runs ({type(error).__name__}: {error})"
            found[name] = Finding([], {}, notes=(" ".join(told.split()),))
    return found


def summary_of(found: dict[str, Finding]) -> dict[str, Any]:
    """What is told of findings, for `summary.json`."""
    from nextscale.fit.jsonable import jsonable

    return {
        name: {
            "told": jsonable(one.told),
            "tables": [dataclasses.asdict(table) for table in one.tables],
            "notes": one.notes,
        }
        for name, one in found.items()
    }
