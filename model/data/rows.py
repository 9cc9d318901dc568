"""Reads documents from files that hold one in each row: JSON lines and Parquet."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nextscale.model.errors import InputError, first_line

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_ROWS_AT_ONCE = 256


def holds_rows(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def rows(file: Path, column: str) -> Iterator[str]:
    """The text of each row, in order. A row whose text is empty or null is passed over.

    Raises:
        InputError: the file is broken, or a row has no such field, or no text in it.
    """
    for where, text in _parquet(file, column) if file.name.lower().endswith(".parquet") else _json_lines(file, column):
        if isinstance(text, str):
            if text:
                yield _unicode(text)
        elif text is not None:
            raise InputError(f"data.column: {column} of {where} is {type(text).__name__}, not text; name another field")


def _json_lines(file: Path, column: str) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict) or column not in row:
                    fields = ", ".join(row) if isinstance(row, dict) else f"{type(row).__name__}, no fields"
                    raise InputError(f"data.column: line {number} of {file} has no {column}; it has {fields}")
                yield f"line {number} of {file}", row[column]
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"data.path: line {number} of {file} is no JSON ({error}); mend it, or leave it out") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"data.path: {file} is broken after line {number} ({error}); copy it again") from None


def _parquet(file: Path, column: str) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            if column not in table.schema_arrow.names:
                known = ", ".join(table.schema_arrow.names)
                raise InputError(f"data.column: {file} has no {column}; it has {known}")
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[column]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield f"row {number} of {file}", text
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"data.path: {file} is broken after row {number} ({first_line(error)}); copy it again"
        ) from None


def _unicode(text: str) -> str:
    """The same text; half of a surrogate pair, which JSON can write and no encoding has, becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
