"""Whatever a table of runs may be given as in Python: a frame, a file, a dict of columns, a list of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.reading import read_table

Table = pd.DataFrame | str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]]


def as_table(table: Table) -> pd.DataFrame:
    """
    Args:
        table: a frame; the path of a file (`read_table`); columns by name; or a list of rows, each a dict.

    Raises:
        InputError: it is none of these, or no file that can be read.
    """
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, str | Path):
        return read_table(table)
    rows = [*table] if isinstance(table, Sequence) else None
    if isinstance(table, Mapping) or (rows is not None and all(isinstance(row, Mapping) for row in rows)):
        try:
            return pd.DataFrame(table if rows is None else rows)
        except ValueError as error:
            raise InputError(f"runs: are no table ({error}); give columns of one length, or rows as dicts") from None
    kind = type(table).__name__
    raise InputError(
        f"runs: cannot read a table from {kind}; give a DataFrame, a path, a dict of columns or a list of dicts"
    )
