"""Findings: what the runs of a sweep show beside the law, such as the best learning rate by size.

A finding is one module here and its name in `nextscale.sweeps.spec.findings.FindingName`, and nothing else. The module
has a function `find(runs, spec)`, which takes the table of finished runs (see `runs_table.py`) and the spec, returns a
`Finding`, and raises an InputError where the runs cannot answer.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nextscale.sweeps.errors import USER_ERRORS
from nextscale.sweeps.show.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one module found.

    Attributes:
        tables: to be read.
        result: the same for machines, plain JSON.
        panels: each draws on the Axes that it is given.
        notes: what a reader must know, in words.
    """

    tables: list[Table]
    result: dict[str, Any]
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
        except USER_ERRORS as error:
            found[name] = Finding([], {}, notes=(f"{name}: not found: {error}",))
        except Exception as error:
            note = f"{name}: not found: it broke on these runs ({type(error).__name__}: {error})"
            found[name] = Finding([], {}, notes=(" ".join(note.split()),))
    return found


def summary_of(results: dict[str, Finding]) -> dict[str, Any]:
    """Findings as `summary.json` has them."""
    from nextscale.fit.jsonable import jsonable

    return {
        name: {
            "told": jsonable(one.result),
            "tables": [dataclasses.asdict(table) for table in one.tables],
            "notes": one.notes,
        }
        for name, one in results.items()
    }
