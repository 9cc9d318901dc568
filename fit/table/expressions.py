"""Columns computed of others: `tokens=step*2048*512`, `loss=log(perplexity)`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.names import meaning_of
from nextscale.fit.table.numerals import numbers_in


def with_columns(table: pd.DataFrame, expressions: Sequence[str], where: str) -> pd.DataFrame:
    """The table with columns computed one after the other, each a pandas expression of those before it.

    Args:
        expressions: `NAME=EXPRESSION` each; names with spaces in backticks.

    Raises:
        InputError: an expression is written otherwise, or cannot be computed.
    """
    for text in expressions:
        name, equals, expression = text.partition("=")
        if not (name.strip() and equals and expression.strip()) or expression.startswith("="):
            raise InputError(f"--with {text}: write it as NAME=EXPRESSION")
        try:
            values = table.eval(expression.strip(), engine="python")
        except Exception as error:  # pandas raises of every kind
            reason = " ".join(str(error).split())[:100]
            held = ", ".join(map(str, table.columns[:12]))
            raise InputError(f"--with {text}: cannot be used ({reason}); {where} has {held}") from None
        table = table.assign(**{name.strip().strip("`"): values})  # type: ignore[arg-type]
    return table


def with_numerals(table: pd.DataFrame, named: Sequence[str | None], where: str) -> pd.DataFrame:
    """The table with figures for texts such as `70B` in the columns that are quantities by their names or as said, so
    that conditions and expressions see numbers; the notes on it are added to the table's own.

    Raises:
        InputError: a cell has figures that are no number, or may be two.
    """
    notes = [*table.attrs.get("notes", ())]
    for column in table:
        if pd.api.types.is_numeric_dtype(table[column]) or not (column in named or meaning_of(str(column))):
            continue
        try:
            values, told = numbers_in(table[column], where)
        except InputError:  # one that is not needed may hold anything; one that is, is refused where it is taken
            continue
        table = table.assign(**{str(column): values})
        notes += told
    table.attrs["notes"] = tuple(notes)
    return table
