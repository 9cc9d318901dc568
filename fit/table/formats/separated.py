"""Text with a row a line: values apart by commas, semicolons, tabs, bars or spaces; a row that does not fit its header
is refused, never shifted."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.formats.layout import Layout, decimal_marks, is_number, layout_of

_SHOWN = 50
_SAMPLE = 100
_LABEL = re.compile(r"(?:run|exp|experiment|model|trial|row)?[\W_]*(?:name|id)|run|experiment|model", re.IGNORECASE)
"""How a column is called that names runs itself."""


def read_separated(text: str) -> tuple[pd.DataFrame, list[str]]:
    """The table, and notes on what was guessed or left out.

    Raises:
        InputError: no line names the columns, two are called alike, or a row has more or fewer values than they.
    """
    found = layout_of(text)
    header, body = _header_and_body(found)
    names, row_names = _names(found, header, body)
    widest = _widest(found, names, body, found.numbers[len(found.lines) - len(body) :])
    notes = list(found.notes)
    if row_names:
        notes.append("the first value of each row, which the header does not name, is taken for its name")
    if widest > len(names):
        notes.append("separators at the ends of rows are left out: nothing stands behind them")
    table = _parsed(found, names, widest, body, notes)
    _refuse_units(table)
    return table.drop(columns=[name for name in table if _is_blank(str(name)) and table[name].isna().all()]), notes


def _header_and_body(found: Layout) -> tuple[Sequence[str], Sequence[str]]:
    if not found.quote:
        return found.lines[0].split(found.separator), found.lines[1:]
    rows = _quoted_rows(found, found.lines, found.numbers)
    _, header = next(rows)
    # The line that the next row begins in; names may have line ends.
    second = next(rows, None)
    count = len(found.lines) if second is None else found.numbers.index(second[0])
    return header, found.lines[count:]


def _names(found: Layout, header: Sequence[str], body: Sequence[str]) -> tuple[list[str], bool]:
    """What the columns are called, and whether rows begin with a name that the header leaves out, as those of R and of
    printed DataFrames do."""
    stripped = [name.strip() for name in header]
    named = [name for name in stripped if name]
    if named and all(map(is_number, named)):
        shown = found.lines[0].replace(found.separator, ", ")[:_SHOWN]
        raise InputError(f"its first line holds numbers ({shown}), and should name the columns, as params,tokens,loss")
    twice = next((name for name in named if stripped.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two columns are called '{twice}'; rename one")
    rows = _sampled(found, body)
    named_to = max((i + 1 for i, name in enumerate(stripped) if name), default=len(stripped))
    if not all(any(value.strip() for value in row[named_to:]) for row in rows):
        # Nothing but separators: a value there has slipped from the columns before.
        stripped = stripped[:named_to]
    names = [name or f"Unnamed: {i}" for i, name in enumerate(stripped)]
    if not _has_row_names(found, len(names), body[:_SAMPLE], rows):
        return names, False
    return ["row_name" if "row_name" not in names else "name of row", *names], True


def _sampled(found: Layout, body: Sequence[str]) -> list[list[str]]:
    some = body[:_SAMPLE]
    return list(found.rows(some, strict=False)) if found.quote else [line.split(found.separator) for line in some]


def _has_row_names(found: Layout, columns: int, body: Sequence[str], rows: list[list[str]]) -> bool:
    """Whether rows, which have one value more than there are names, begin with a name: where the header leaves space
    for it, or as R writes it, within quotes, which numbers are not. Otherwise what is beyond may as well be the last.
    """
    if not rows or not all(len(row) == columns + 1 and row[-1].strip() for row in rows):
        return False
    if found.indented:
        return True
    names, *lines = [line.split(found.separator) for line in (found.lines[0], *body[: len(rows)])]
    quoted = [[cell.strip()[:1] == found.quote for cell in line] for line in lines]
    as_r = bool(found.quote) and all(name.strip()[:1] == found.quote for name in names)
    as_r &= all(line[0] and not all(line) for line in quoted) and len({row[0] for row in rows}) == len(rows)
    return as_r and _LABEL.fullmatch(names[0].strip(f"{found.quote} ")) is None


def _widest(found: Layout, names: Sequence[str], body: Sequence[str], numbers: Sequence[int]) -> int:
    """How many values the longest row has.

    Raises:
        InputError: a row has values beyond the columns, or lacks some.
    """
    most = len(names)
    fewest = max((i + 1 for i, name in enumerate(names) if not _is_blank(name)), default=most)
    widest = most
    if found.quote:
        for number, row in _quoted_rows(found, body, numbers):
            if not fewest <= len(row) <= most:
                _check(found, row, number, fewest, most)
                widest = max(widest, len(row))
        return widest
    counts = [line.count(found.separator) + 1 for line in body]
    if set(counts) <= set(range(fewest, most + 1)):
        return widest
    for number, line, count in zip(numbers, body, counts, strict=True):
        if not fewest <= count <= most:
            _check(found, line.split(found.separator), number, fewest, most)
    return max(widest, *counts)


def _quoted_rows(found: Layout, lines: Sequence[str], numbers: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
    """The values of each row, and the number of the line that it begins in.

    Raises:
        InputError: quotes do not close where a value ends.
    """
    rows, at = found.rows(lines), 0
    while at < len(lines):
        try:
            row = next(rows)
        except csv.Error as error:
            raise InputError(
                f"line {numbers[at]}: a quote ({found.quote}) does not close at the end of a value ({error}); mend it"
            ) from None
        yield numbers[at], row
        at = rows.line_num


def _check(found: Layout, row: Sequence[str], number: int, fewest: int, most: int) -> None:
    """
    Args:
        number: of its line.
        fewest, most: values that a row may have.

    Raises:
        InputError: it has fewer, or more that are not empty.
    """
    filled = max((i + 1 for i, value in enumerate(row) if value.strip()), default=0)
    if len(row) >= fewest and filled <= most:
        return
    count = len(row) if len(row) < fewest else filled
    shown = found.lines[0].replace(found.separator, " ").strip()[:_SHOWN]
    mend = "write a missing value as nothing between two separators, or mend the line"
    if count > most:
        mend = f"mend the line, quote values that hold a '{found.shown_separator}', or name each column"
    raise InputError(f"line {number} has {count} value{'s' * (count != 1)}, and the header ({shown}) {most}; {mend}")


def _parsed(found: Layout, names: Sequence[str], widest: int, body: Sequence[str], notes: list[str]) -> pd.DataFrame:
    spare = [f"\0{i}" for i in range(widest - len(names))]
    if not body:
        return pd.DataFrame(columns=list(names))
    text = "\n".join(body)
    marks = decimal_marks(found.separator, bool(found.quote), text)
    if marks.decimal == ",":
        notes.append("commas are read as decimal points" + ", points as marks of thousands" * bool(marks.thousands))
    table: pd.DataFrame = pd.read_csv(
        io.BytesIO(text.encode()),
        sep=found.separator,
        header=None,
        names=[*names, *spare],
        index_col=False,
        skipinitialspace=True,
        low_memory=False,
        decimal=marks.decimal,
        thousands=marks.thousands,
        **_quoting(found),
    )
    return table.drop(columns=spare)


def _quoting(found: Layout) -> dict[str, Any]:
    if not found.quote:
        return {"quoting": csv.QUOTE_NONE}
    return {"quotechar": found.quote, "escapechar": found.escape}


def _refuse_units(table: pd.DataFrame) -> None:
    """Of a line under the header that holds units: its words would be dropped as missing, and what they say with them.

    Raises:
        InputError: the first row has no number, and a word where all other rows have numbers.
    """
    texts = [name for name in table if pd.api.types.is_string_dtype(table[name])]
    if len(table) < 3 or not texts or table.iloc[0].map(is_number).any():
        return
    words = [
        str(table[name].iloc[0])
        for name in texts
        if isinstance(table[name].iloc[0], str) and table[name].iloc[1:].dropna().map(is_number).all()
    ]
    if words:
        raise InputError(
            f"the first line under the header holds words ({', '.join(words)[:_SHOWN]}) where the others hold numbers; "
            "write units into the header, as 'params (M)', and delete the line"
        )


def _is_blank(name: str) -> bool:
    return re.fullmatch(r"Unnamed: \d+", name) is not None
