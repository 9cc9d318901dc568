"""JSON: records, lines of them, pandas' ways to write a table, exports of tools; nested values become columns a.b."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.formats.curves import curve_of

_STRICT = 20_000_000
"""Signs up to which each record is looked at; longer files of lines are read by pyarrow, in a fifth of the time."""
_QUANTITY = re.compile(r"loss|params|parameters|tokens|flops|bpb|compute", re.IGNORECASE)
_BEGIN = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\[{\]])")
_OF_PYTHON = re.compile(r"(?<![\w'\"])(nan|[-]?inf)(?![\w'\"])")
_TRAINER_TOTALS = ("total_flos", "num_input_tokens_seen")


def is_json(text: str) -> bool:
    """Whether a text begins as JSON with records does."""
    return _BEGIN.match(text) is not None


def read_json(text: str, run: str) -> tuple[pd.DataFrame, list[str]]:
    """The table in a JSON document, or in several one after another, a record each, as JSON lines have it.

    Args:
        run: what a run is called whose curve it is.

    Raises:
        InputError: it is no JSON, holds no table or several, or a record has a key twice.
    """
    if len(text) > _STRICT and re.match(r"\s*\{[^\n]*\}\s*\n\s*\{", text):
        from pyarrow import ArrowException
        from pyarrow.json import read_json as read_lines

        try:
            return read_lines(io.BytesIO(text.encode())).to_pandas(), []
        except ArrowException:  # such as for NaN, or an integer beyond 64 bits
            pass
    documents = list(_documents(text))
    if len(documents) != 1:
        return _records(documents, run)
    return _table(documents[0], run)


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their path, parts joined by points.

    Raises:
        InputError: two have the same path.
    """
    if not isinstance(value, Mapping):
        return {name: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        leaves = flattened(inner, f"{name}.{key}" if name else str(key))
        if twice := found.keys() & leaves.keys():
            raise InputError(f"'{min(twice)}' stands twice in a record; keep one")
        found |= leaves
    return found


def mapping_in(cell: object) -> Mapping[str, Any] | None:
    """A mapping that a cell is or writes, as JSON or as Python does; None if it is something else."""
    if isinstance(cell, Mapping):
        return cell
    if not isinstance(cell, str) or not cell.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(cell, object_pairs_hook=_unique)
    except InputError:
        raise
    except ValueError:
        try:
            found = ast.literal_eval(_OF_PYTHON.sub(lambda number: "None" if number[1] == "nan" else "1e999", cell))
        except (ValueError, SyntaxError):
            return None
    return found if isinstance(found, Mapping) else None


def _documents(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    at = 0
    while True:
        at = _next(text, at)
        if at >= len(text):
            return
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InputError(f"is no JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
        yield document


def _next(text: str, at: int) -> int:
    """Where the next document begins."""
    found = re.compile(r"\s*").match(text, at)
    return found.end() if found else at


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"'{twice}' stands twice in a record; keep one")
    return found


def _table(document: Any, run: str) -> tuple[pd.DataFrame, list[str]]:
    if isinstance(document, list):
        return _list(document, run)
    if not isinstance(document, dict) or not document:
        raise InputError('holds no table; give a list of records, [{"params": 1e6, ...}, ...]')
    keys = document.keys()
    if isinstance(document.get("log_history"), list):
        return _trainer(document, run)
    if isinstance(document.get("results"), dict) and keys & {"versions", "n-shot", "configs", "higher_is_better"}:
        raise InputError(
            "is what lm-eval measured of a model, which is no loss of a training run; give a table of runs"
        )
    if {"columns", "data"} <= keys and isinstance(document["columns"], list):
        table = _rows(document["columns"], document["data"])
        labels = document.get("index")
        return (table.set_axis(labels) if labels and len(labels) == len(table) else table), []
    if {"schema", "data"} <= keys and isinstance(document["data"], list):
        return _records(document["data"], run)
    tables = [key for key, value in document.items() if value and isinstance(value, list) and _are_dicts(value)]
    if len(tables) > 1:
        raise InputError(f"holds {len(tables)} tables ({', '.join(tables[:4])}); keep one")
    if tables:
        table, notes = _records(document[tables[0]], run)
        return table, [f"its rows are the records under '{tables[0]}'", *notes]
    values = list(document.values())
    if all(isinstance(value, list) for value in values):
        lengths = {key: len(value) for key, value in document.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"its columns differ in length ({', '.join(f'{k}: {n}' for k, n in lengths.items())})")
        return pd.DataFrame(document), []
    if _are_dicts(values):
        return _of_dicts(document)
    return pd.DataFrame([flattened(document)]), []


def _list(rows: list[Any], run: str) -> tuple[pd.DataFrame, list[str]]:
    if rows and all(isinstance(row, list) for row in rows):
        return _rows(rows[0], rows[1:]), []
    return _records(rows, run)


def _rows(names: list[Any], rows: list[Any]) -> pd.DataFrame:
    """A table of lists."""
    if not all(isinstance(name, str) for name in names):
        raise InputError('its first row should name the columns, as ["params", "tokens", "loss"]')
    for i, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(names):
            count = len(row) if isinstance(row, list) else 1
            raise InputError(f"row {i} has {count} values, and there are {len(names)} columns; mend it")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two columns are called '{twice[0]}'; rename one")
    return pd.DataFrame(rows, columns=names)


def _records(rows: Sequence[Any], run: str) -> tuple[pd.DataFrame, list[str]]:
    odd = next((i for i, row in enumerate(rows, 1) if not isinstance(row, dict)), None)
    if odd is not None or not rows:
        which = "there is none" if not rows else f"record {odd} is {json.dumps(rows[odd - 1])[:40] if odd else ''}"
        raise InputError(f'should hold records, {{"params": 1e6, ...}}, and {which}')
    if any({"tracker", "event"} <= row.keys() for row in rows):
        return _levanter(rows, run)
    return pd.DataFrame([flattened(row) for row in rows]), []


def _of_dicts(document: dict[str, dict[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
    """Mappings in a mapping, by columns or by rows."""
    inner = list(dict.fromkeys(key for value in document.values() for key in value))
    by_rows = any(map(_QUANTITY.search, inner)) or (all(map(_is_count, document)) and not all(map(_is_count, inner)))
    if by_rows and any(map(_QUANTITY.search, document)):
        raise InputError("names quantities both outside and inside; give a list of records")
    if by_rows:
        rows = [flattened(value) for value in document.values()]
        names = {} if all(map(_is_count, document)) else {"run": list(document)}
        table = pd.DataFrame(rows)
        return table.assign(**{name: values for name, values in names.items() if name not in table}), []
    table = pd.DataFrame(document)
    return table, []


def _trainer(document: dict[str, Any], run: str) -> tuple[pd.DataFrame, list[str]]:
    """The state of Hugging Face's Trainer: its history, and the totals at its last step."""
    history = [flattened(row) for row in document["log_history"] if isinstance(row, dict) and "step" in row]
    totals = {key: document[key] for key in _TRAINER_TOTALS if document.get(key)}
    if totals and document.get("global_step"):
        history.insert(0, {"step": document["global_step"]} | totals)
    if not history:
        raise InputError("its log_history is empty; give that of a run that logged (logging_steps)")
    return curve_of(history, run), [f"the log_history of Hugging Face's Trainer is the curve of one run, '{run}'"]


def _levanter(rows: Sequence[dict[str, Any]], run: str) -> tuple[pd.DataFrame, list[str]]:
    """What Levanter's `json_logger` writes: an event a record."""
    fixed: dict[str, Any] = {}
    steps = []
    for row in rows:
        if row.get("event") == "hparams":
            fixed |= flattened(row.get("hparams"), "hparams")
        if row.get("event") == "log" and row.get("step") is not None:
            steps.append({"step": row["step"]} | flattened(row.get("metrics") or {}))
    if not steps:
        raise InputError("has no event 'log' with a step; give the whole log of Levanter's json_logger")
    table = curve_of(({**fixed, **row} for row in steps), run)
    return table, [f"the events of Levanter's json_logger are the curve of one run, '{run}'"]


def _are_dicts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _is_count(key: str) -> bool:
    return key.isdecimal()
