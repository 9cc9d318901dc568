"""Workbooks of Excel and LibreOffice: their first sheet with a table."""

from __future__ import annotations

import io

import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.formats.layout import is_number


def read_spreadsheet(data: bytes) -> tuple[pd.DataFrame, list[str]]:
    """The table, and notes on what else there is.

    Raises:
        InputError: it is damaged, no sheet has two columns with rows, or a header is missing or has a name twice.
    """
    from python_calamine import CalamineError

    try:
        sheets = pd.read_excel(io.BytesIO(data), sheet_name=None, header=None, engine="calamine")
    except CalamineError as error:
        raise InputError(f"is no workbook that can be read ({error}); save it as CSV") from error
    cut = {str(name): sheet.dropna(how="all").dropna(axis="columns", how="all") for name, sheet in sheets.items()}
    tables = {name: sheet for name, sheet in cut.items() if sheet.shape[0] > 1 and sheet.shape[1] > 1}
    if not tables:
        raise InputError("no sheet holds a table: a row of names, and rows of values under it")
    name, cells = next(iter(tables.items()))
    notes = [f"the sheet '{name}' is read; it has {', '.join(list(tables)[1:])}, too"] if len(tables) > 1 else []
    titles = int((cells.notna().sum(axis="columns") > 1).to_numpy().argmax())
    if titles:
        notes.append(f"{titles} rows above the table are left out, as titles")
    header = ["" if pd.isna(cell) else str(cell).strip() for cell in cells.iloc[titles]]
    if all(map(is_number, filter(None, header))):
        raise InputError("its first row holds numbers, and should name the columns, as params, tokens, loss")
    if twice := [one for one in header if one and header.count(one) > 1]:
        raise InputError(f"two columns are called '{twice[0]}'; rename one")
    table = cells.iloc[titles + 1 :].infer_objects().reset_index(drop=True)
    return table.set_axis([one or f"Unnamed: {i}" for i, one in enumerate(header)], axis="columns"), notes
