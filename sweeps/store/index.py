"""`OUT/index.parquet`: the table of runs as it was last read, so that not every directory is read again.

It is never the truth. A row is used as long as the files that it was read from are those files still, by inode, size
and time, and read again else; the same holds for the runs that a spec asks for. So it may be deleted, damaged, old, or
written by two processes at once: the table is the same, and takes longer.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from nextscale.model.config.identity import SCHEMA_VERSION
from nextscale.model.record import Row, RunDirectory, read_rows
from nextscale.sweeps.design.chosen_runs import SEQUENCE, all_runs
from nextscale.sweeps.errors import SpecError, damaged_file_error
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.run_rows import COLUMNS, config_columns, run_row, untyped_table, with_standard_columns

INDEX_FILE = "index.parquet"
ORDER = "order.jsonl"
"""Among the specs: which was run when, a row each time. The files' own times change when a folder is copied."""
_FORMAT = f"2 {SCHEMA_VERSION} {importlib.metadata.version('nextscale')}"
"""Its first number is raised when a row, or what is kept of a plan, is made in another way."""
_FILES = ("config.json", "record.json", "attempts.jsonl", "metrics.jsonl", "tasks.json")
_UNUSABLE = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)
"""What comes of a config or a record with something else where a number, a text or a table is to be."""
_STAMP, _PLANS = "stamp", "plans"

SweepPlan = dict[str, Any]
"""`sweep`, a name, and `runs`, of each `[run_id, role, budget, trunk]`."""


def read(root: Path, on_damage: Callable[[str, SpecError], None]) -> tuple[pd.DataFrame, list[SweepPlan]]:
    """The runs of an output folder, one row each, and what its sweeps want them for, by when those were last run.

    Args:
        on_damage: is called with each run that cannot be read, which is then left out, and why.
    """
    known, known_plans = _read(root / INDEX_FILE)
    plans = {stamp: known_plans.get(stamp) or _plan(path) for path, stamp in spec_files(root / "sweeps")}
    table = _table(root / "runs", known, on_damage)
    if table is not known or plans != known_plans:
        # A folder that is not ours to write to is read all the same, as is what no file can hold.
        with contextlib.suppress(OSError, pa.ArrowException, TypeError, OverflowError):
            _write(root / INDEX_FILE, table, plans)
    return table.drop(columns=_STAMP), list(plans.values())


def _table(runs: Path, known: pd.DataFrame, on_damage: Callable[[str, SpecError], None]) -> pd.DataFrame:
    """The rows of all runs; `known` itself where nothing has changed."""
    stamps = dict(_stamps(runs))
    still = [stamps.get(run_id) == stamp for run_id, stamp in zip(known["run_id"], known[_STAMP], strict=True)]
    if all(still) and len(still) == len(stamps):
        return known
    kept, fresh = known[np.array(still, dtype=bool)].drop(columns=_STAMP), []
    for run_id in sorted(stamps.keys() - set(kept["run_id"])):
        try:
            row = read_row(runs / run_id)
        except SpecError as error:
            on_damage(run_id, error)
            continue
        if row is not None:
            fresh.append(row)
    if all(still) and not fresh:
        return known
    return _stamped(with_standard_columns(concatenated([kept, untyped_table(fresh)])), stamps)


def read_row(run: Path) -> Row | None:
    """The row of a run's directory; None where there is no run.

    Raises:
        SpecError: its config or its record cannot be read by this version.
    """
    try:
        return run_row(RunDirectory(epath.Path(run)))
    except FileNotFoundError:
        return None
    except _UNUSABLE as error:
        raise damaged_file_error(_unreadable(run), error) from None


def concatenated(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other, as they come: `with_standard_columns` gives each column its kind."""
    filled = [table.astype(object) for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else with_standard_columns(untyped_table([]))


def _stamped(table: pd.DataFrame, stamps: dict[str, str]) -> pd.DataFrame:
    return table.assign(**{_STAMP: pd.Series([stamps[run_id] for run_id in table["run_id"]], dtype=object)})


def _unreadable(run: Path) -> Path:
    """Of a run's files the one that is damaged."""
    directory = RunDirectory(epath.Path(run))
    for name, read in (("config", lambda: config_columns(directory.config())), ("tasks", directory.task_scores)):
        try:
            read()
        except _UNUSABLE:
            return run / f"{name}.json"
        except FileNotFoundError:
            pass
    return run / "record.json"


def _stamps(runs: Path) -> Iterator[tuple[str, str]]:
    """Of each run that was begun its stamp."""
    with os.scandir(runs) as entries:
        for entry in entries:
            stamp = run_stamp(entry.path)
            if stamp is not None:
                yield entry.name, stamp


def run_stamp(run: str) -> str | None:
    """What changes whenever a file does that a run's row is read from; None where it was not begun."""
    marks = [file_stamp(f"{run}/{name}") for name in _FILES]
    return " ".join(marks) if marks[0] else None


def file_stamp(path: str, *, copied: bool = False) -> str:
    """What changes whenever a file does; nothing where there is none.

    Args:
        copied: whether a copy with the time of the file has the same.
    """
    try:
        stat = os.stat(path)  # noqa: PTH116 (a Path takes longer than the question)
    except OSError:
        return ""
    return f"{'' if copied else stat.st_ino}.{stat.st_size}.{stat.st_mtime_ns}"


def spec_files(folder: Path) -> list[tuple[Path, str]]:
    """The specs of a folder, the one that was run last the last, each with what changes whenever it does."""
    last = {row.get("spec"): i for i, row in enumerate(read_rows(epath.Path(folder / ORDER)))}
    found = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError):  # an earlier version left no order but that of the files' times
            found.append((last.get(path.name, -1), path.stat().st_mtime_ns, path))
    chosen = file_stamp(str(folder.parent / SEQUENCE))
    return [(path, f"{path.name} {file_stamp(str(path))} {chosen}") for *_, path in sorted(found)]


def _plan(path: Path) -> SweepPlan:
    """What a spec asks for; nothing where this version cannot read it."""
    try:
        spec = SweepSpec.model_validate_json(path.read_text())
        planned = all_runs(path.parent.parent, spec)
    except (ValueError, OSError):
        return {"sweep": None, "runs": []}
    runs = [[run.run_id, run.role, run.budget, None if run.trunk is None else run.trunk.run_id] for run in planned]
    return {"sweep": spec.name, "runs": runs}


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, SweepPlan]]:
    """The table and the plans as they were left; none where they cannot be used."""
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if metadata.get(b"format") != _FORMAT.encode():
            raise ValueError("of another version")
        plans: dict[str, SweepPlan] = json.loads(metadata[_PLANS.encode()])
        rows = pd.DataFrame({name: _column(table[name]) for name in table.column_names})
        return rows[[*COLUMNS, *(name for name in rows if name not in COLUMNS)]].copy(), plans
    except Exception:  # whatever is wrong with it, it is no truth
        return _stamped(with_standard_columns(untyped_table([])), {}), {}


def _column(values: pa.ChunkedArray) -> pd.Series:
    """As `with_standard_columns` leaves a column."""
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        return pd.Series(values.to_numpy())
    return pd.Series(values.to_pylist(), dtype=object)


def _write(path: Path, rows: pd.DataFrame, plans: dict[str, SweepPlan]) -> None:
    columns = {name: pa.array(rows[name].to_numpy(), from_pandas=False) for name in rows}
    table = pa.table(columns).replace_schema_metadata({"format": _FORMAT, _PLANS: json.dumps(plans)})
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        pq.write_table(table, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
