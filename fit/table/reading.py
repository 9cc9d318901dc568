"""Reading tables of runs from files: `read_table`, whatever the tool that wrote them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.formats.contents import Contents, contents_of
from nextscale.fit.table.formats.curves import CHART_NOTE, by_step, chart_curves
from nextscale.fit.table.formats.documents import flattened, is_json, mapping_in, read_json
from nextscale.fit.table.formats.layout import is_number
from nextscale.fit.table.formats.logs import is_log, read_log
from nextscale.fit.table.formats.separated import read_separated

_KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".xls": "xlsx",
    ".xlsb": "xlsx",
    ".ods": "xlsx",
}
_ANY_TEXT = ("", ".txt", ".dat", ".md", ".log", ".out", ".err")
"""What such a file holds is seen from it."""
_MAGIC = {b"PAR1": "parquet", b"PK\x03\x04": "xlsx", b"\xd0\xcf\x11\xe0": "xlsx"}


def read_table(path: str | Path, kind: str | None = None) -> pd.DataFrame:
    """A table of runs from a file: CSV and other separated text, JSON, Parquet, a spreadsheet, or the log of a run.

    Rows are numbered from 0. Labels that the file keeps of them are columns where they have a name, or are words. What
    holds curves, such as a log, becomes a table with columns `run`, `step` and those of its metrics; the column of
    steps is in `attrs["curve"]` then.

    Args:
        path: of the file, which may be packed by gzip, bzip2, xz or zstd; - is standard input.
        kind: csv, tsv, json, jsonl, parquet, xlsx or log; None goes by the file's name and by what is in it.

    Returns:
        The table; what was guessed or left out is in `attrs["notes"]`, in words.

    Raises:
        InputError: the file is missing, of another kind, holds no table or an ambiguous one, or cannot be read as what
            its name says.
    """
    path = Path(path)
    found = "" if kind is None else kind
    try:
        contents = contents_of(path)
        found = kind or _kind_of(contents)
        table, notes = _read(contents, found, kind is None)
        curve = table.attrs.get("curve")
        table = _numbered(_settled(table))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except ImportError as error:
        raise InputError(f"{path}: reading it needs {error.name}; install it, or give a CSV") from error
    except (ValueError, OSError, KeyError, pd.errors.ParserError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable {found} table ({reason})") from error
    table.attrs = {"notes": tuple(notes)} | ({"curve": curve} if curve else {})
    return table


def _kind_of(contents: Contents) -> str:
    """What is in a file, by its first bytes and its name.

    Raises:
        InputError: nothing that is read.
    """
    if not contents.data.strip():
        raise InputError("is empty")
    by_magic = next((kind for magic, kind in _MAGIC.items() if contents.data.startswith(magic)), None)
    if by_magic:
        return by_magic
    if contents.suffix not in _KINDS and contents.suffix not in _ANY_TEXT:
        known = ", ".join(sorted({*_KINDS, *filter(None, _ANY_TEXT)}))
        raise InputError(f"cannot read '{contents.suffix}' files; give one of {known}")
    return _KINDS.get(contents.suffix, "text")


def _read(contents: Contents, kind: str, open_: bool) -> tuple[pd.DataFrame, list[str]]:
    """The table in a file.

    Args:
        open_: whether it may be of another kind than its name says.
    """
    if kind == "parquet":
        import io

        return pd.read_parquet(io.BytesIO(contents.data)), []
    if kind == "xlsx":
        from nextscale.fit.table.formats.spreadsheets import read_spreadsheet

        return read_spreadsheet(contents.data)
    text, notes = contents.text
    if kind in ("json", "jsonl") or (open_ and is_json(text)):
        table, told = read_json(text, contents.run)
    elif kind == "log" or (kind == "text" and contents.suffix != ".md" and is_log(text)):
        table, told = read_log(text, contents.run)
    else:
        table, told = read_separated(text)
        if open_ and (curves := chart_curves(table)) is not None:
            return curves, [*notes, *told, CHART_NOTE]
    if open_ and contents.logger and "curve" not in table.attrs and (curve := by_step(table, contents.run)) is not None:
        return curve, [*notes, *told, f"rows are steps of one run, '{contents.run}'"]
    return table, [*notes, *told]


def _settled(table: pd.DataFrame) -> pd.DataFrame:
    """With names and text without space around them, numbers as such, and mappings in cells as columns.

    Raises:
        InputError: two columns are called alike.
    """
    table = table.set_axis([str(name).strip() for name in table.columns], axis="columns")
    parts: list[pd.DataFrame] = []
    for i, name in enumerate(table.columns):
        column = table.iloc[:, i]
        if pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column):
            parts.append(_settled_column(column, str(name)))
        else:
            parts.append(column.to_frame())
    settled = pd.concat(parts, axis="columns") if parts else table
    if (twice := settled.columns[settled.columns.duplicated()]).size:
        raise InputError(f"two columns are called '{twice[0]}'; rename one")
    return settled


def _settled_column(column: pd.Series, name: str) -> pd.DataFrame:
    held = column.dropna()
    if held.empty:
        return column.to_frame()
    if isinstance(held.iloc[0], str) and pd.api.types.is_string_dtype(column):
        column = column.str.strip()
        if is_number(held.iloc[0]):
            try:
                return pd.to_numeric(column).astype(float).to_frame()
            except ValueError:
                pass
    elif held.map(lambda cell: isinstance(cell, int | float) and not isinstance(cell, bool)).all():
        # Integers beyond 64 bits among them, and numbers beside nothing.
        return column.astype(float).to_frame()
    if mapping_in(held.iloc[0]) is None:
        return column.to_frame()
    mappings = [mapping_in(cell) for cell in column]
    if sum(one is not None for one in mappings) < len(held):
        return column.to_frame()
    return pd.DataFrame([flattened(one or {}, name) if one else {} for one in mappings], index=column.index)


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    """With rows numbered from 0, and labels of rows that say something as columns."""
    if table.index.names == [None] and not pd.api.types.is_integer_dtype(table.index):
        table = table.rename_axis("index")
    named = [name for name in table.index.names if name is not None and name not in table]
    return table.reset_index(level=named).reset_index(drop=True)
