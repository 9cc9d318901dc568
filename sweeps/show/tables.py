"""`Table`: a table of text, for the terminal and for the page.

No cell is ever cut: what does not fit beside the rest goes below it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table as RichTable
from rich.text import Text

from nextscale.sweeps.show.formats import Format, spelled, typed

Column = tuple[str, str, Format]
"""Its heading, the key of the record that it shows, and how that is written."""


class Screen(Console):
    """A console that may be `plain`: for screen readers and logs, without boxes, colours and what moves."""

    plain = False

    def __init__(self, **options: Any):
        # Names such as nets:M are none of emoji.
        super().__init__(emoji=False, **options)

    def be_plain(self) -> None:
        self.plain = self.no_color = True

    def said(self, text: str) -> str:
        """Text as this terminal shows it: numbers as they are typed, and letters that it has."""
        return spelled(text) if self.plain or not self.encoding.startswith("utf") else typed(text)

    def print(self, *objects: Any, **style: Any) -> None:
        super().print(*(self.said(one) if isinstance(one, str) else one for one in objects), **style)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text; its first `left` columns are set left, the others right. All but the first may wrap, or none,
    but for headings."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    left: int = 1
    wraps: bool = False

    def rich(self) -> Table:
        """What a console prints: one table, or where it is too narrow several, each with the first column."""
        return self

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text | RichTable]:
        shown = self._as_said(console.said) if isinstance(console, Screen) else self._as_said(typed)
        # As text, for a column's name may look like markup. Above it, for rich breaks a table's own title at its width.
        yield Text(shown.title, style="bold")
        if isinstance(console, Screen) and console.plain:
            yield from map(shown._line, shown.rows)
            return
        yield from shown._drawn(options)

    def _as_said(self, said: Callable[[str], str]) -> Table:
        rows = [[*map(said, row)] for row in self.rows]
        return dataclasses.replace(self, title=said(self.title), columns=[*map(said, self.columns)], rows=rows)

    def _drawn(self, options: ConsoleOptions) -> Iterator[RichTable]:
        sizes = [self._sizes(i) for i in range(len(self.columns))]
        parts: list[list[int]] = [[]]
        for i in range(len(sizes)):
            wider = [*parts[-1], i]
            if len(wider) > 2 and sum(sizes[k][0] for k in wider) > _room(options, len(wider)):
                parts.append([0, i])
            else:
                parts[-1] = wider
        for part in parts:
            drawn = RichTable()
            for i, width in zip(part, _widths([sizes[k] for k in part], _room(options, len(part))), strict=True):
                drawn.add_column(Text(self.columns[i]), justify=self._side(i), overflow="fold", width=width)
            for row in self.rows:
                drawn.add_row(*(Text(row[i]) for i in part))
            yield drawn

    def _line(self, row: list[str]) -> Text:
        """A row to be read aloud: each value after what it is."""
        told = (f"{column}: {cell}" if column else cell for column, cell in zip(self.columns, row, strict=True) if cell)
        return Text("; ".join(told))

    def _side(self, i: int) -> Literal["left", "right"]:
        return "left" if i < self.left else "right"

    def _sizes(self, i: int) -> tuple[int, int]:
        """The least width of a column and that of its widest cell."""
        cells = [row[i] for row in self.rows]
        whole = cells if i == 0 or not self.wraps else _words(cells)
        return _widest([*whole, *_words([self.columns[i]])]), _widest([*cells, self.columns[i]])


def _room(options: ConsoleOptions, columns: int) -> int:
    """What so many columns leave for text: each has a border and a blank either side."""
    return options.max_width - 3 * columns - 1


def _widths(sizes: list[tuple[int, int]], room: int) -> list[int]:
    """The widths of columns of these least and full sizes: full where there is room, or else shares of what there is
    beyond the least; what has not even that breaks the longest."""
    least, full = ([size[k] for size in sizes] for k in (0, 1))
    low, high = (least, full) if sum(least) <= room else ([1] * len(least), least)
    share = min(1.0, (room - sum(low)) / max(1, sum(high) - sum(low)))
    return [a + max(0, int(share * (b - a))) for a, b in zip(low, high, strict=True)]


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in text.split()]


def _widest(texts: Iterable[str]) -> int:
    return max((cell_len(line) for text in texts for line in text.splitlines()), default=0)


def table_of(title: str, rows: Iterable[Mapping[Any, Any]], *columns: Column) -> Table:
    """A table of records."""
    return Table(
        title, [heading for heading, _, _ in columns], [[form(row[k]) for _, k, form in columns] for row in rows]
    )
