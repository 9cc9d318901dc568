"""Reading tables of runs from files: CSV, TSV, JSON, JSON lines and Parquet."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from nextscale.fit.errors import InputError


def read_table(path: str | Path, kind: str | None = None) -> pd.DataFrame:
    """A table of runs from a CSV, TSV, JSON, JSONL or Parquet file. What separates values is seen from the header.

    Rows are numbered from 0. Labels that the file keeps of them are columns where they have a name, or are words.

    Args:
        kind: csv, tsv, json, jsonl or parquet; None goes by the file's name.

    Raises:
        InputError: the file is missing, of another kind, or cannot be read as what its name says.
    """
    path = Path(path)
    suffix = path.suffix.lower() if kind is None else f".{kind}"
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if suffix not in _READERS:
        raise InputError(f"{path}: cannot read '{suffix}' files; give one of {', '.join(sorted(_READERS))}")
    try:
        return _numbered(_READERS[suffix](path))
    except ImportError as error:
        raise InputError(f"{path}: reading Parquet needs pyarrow; install it, or give a CSV") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8; save it as that") from error
    except (ValueError, OSError, pd.errors.ParserError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable {suffix[1:]} table ({reason})") from error


def _read_separated(path: Path) -> pd.DataFrame:
    """Values apart by commas, semicolons or tabs, whichever the header has most of.

    Where it is not commas, they may be those of decimals, as spreadsheets write them in much of Europe; unless the file
    has decimal points, too, and so may write thousands by them.
    """
    text = path.read_text(encoding="utf-8-sig")
    separator = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    end = f'["{separator}]'

    def holds(mark: str) -> bool:
        number = rf"[-+]?\d+{mark}\d+(?:[eE][-+]?\d+)?"
        return re.search(rf"(?:^|{end})\s*{number}\s*(?:{end}|$)", text, re.MULTILINE) is not None

    decimal = "," if separator != "," and holds(",") and not holds(r"\.") else "."
    return pd.read_csv(io.StringIO(text), sep=separator, decimal=decimal)


def _read_json_lines(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True)


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_separated,
    ".json": pd.read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": pd.read_parquet,
    ".tsv": _read_separated,
}


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    """With rows numbered from 0, and labels of rows that say something as columns."""
    if table.index.names == [None] and not pd.api.types.is_integer_dtype(table.index):
        table = table.rename_axis("index")
    named = [name for name in table.index.names if name is not None and name not in table]
    return table.reset_index(level=named).reset_index(drop=True)
