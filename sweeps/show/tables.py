"""`Table`: a table of text, for the terminal and for the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from nextscale.sweeps.show.formats import Format

Column = tuple[str, str, Format]
"""Its heading, the key of the record that it shows, and how that is written."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text; its first `left` columns are set left, the others right. All but the first may wrap, or none."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    left: int = 1
    wraps: bool = False

    def rich(self) -> Group:
        # As text, for a column's name may look like markup. Above it, for rich breaks a table's own title at its width.
        drawn = RichTable()
        for i, column in enumerate(self.columns):
            fixed = i == 0 or not self.wraps
            drawn.add_column(Text(column), justify="left" if i < self.left else "right", no_wrap=fixed)
        for row in self.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        return Group(Text(self.title, style="bold"), drawn)


def table_of(title: str, rows: Iterable[Mapping[Any, Any]], *columns: Column) -> Table:
    """A table of records."""
    return Table(
        title, [heading for heading, _, _ in columns], [[form(row[k]) for _, k, form in columns] for row in rows]
    )
