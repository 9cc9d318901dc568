"""CSV for spreadsheets: text that a spreadsheet would take for a formula is escaped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def csv_of(table: pd.DataFrame) -> str:
    """A table with its headings; text that a spreadsheet would compute begins with an apostrophe (OWASP, "CSV
    Injection"), as it does in what the buttons of a page write (page.js). Numbers are as they are, also where they are
    written as text."""
    safe = table.apply(lambda column: column if column.dtype.kind in "biufM" else column.map(without_formula))
    # With both ends of a line as its end (RFC 4180) either is quoted where text holds it, and begins no row.
    return safe.rename(columns=without_formula).to_csv(index=False, lineterminator="\r\n")


def without_formula(value: Any) -> Any:
    """Text as text; anything else as it is."""
    if not isinstance(value, str) or not _FORMULA.match(value) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"
