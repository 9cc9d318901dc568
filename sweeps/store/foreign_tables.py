"""Reads tables of runs from other tools: Weights & Biases, TensorBoard, CSV, JSON and Parquet."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nextscale.sweeps.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

TableKind = Literal["csv", "tsv", "json", "jsonl", "parquet", "wandb", "tensorboard"]
Take = Literal["last", "min"]
_STATES = {"finished", "crashed", "failed", "killed", "running", "pending", "preempted", "preempting"}
"""Of a run of Weights & Biases."""
_SCALAR = ["Wall time", "Step", "Value"]
"""The columns of a scalar that was downloaded from TensorBoard."""


@dataclasses.dataclass(frozen=True)
class ForeignTable:
    """Runs from elsewhere, one row each.

    Attributes:
        kind: of what they were read from.
        digest: sha256 of it.
        table: as it was found; the index is the number of the row, from 0.
        notes: what was left out, in words.
    """

    kind: TableKind
    digest: str
    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_foreign(path: Path, kind: TableKind | None = None, take: Take = "last") -> ForeignTable:
    """Runs from a table, an export of Weights & Biases or one of TensorBoard.

    Args:
        kind: None goes by the name and by what is there.
        take: which value of a curve is a run's: of its last step, or the lowest.

    Raises:
        SpecError, InputError: there is nothing of that kind there.
    """
    from nextscale.fit.table.reading import read_table

    if not path.exists():
        raise SpecError(f"{path}: there is no such file or folder")
    if path.is_dir():
        kind = kind or ("wandb" if any(path.glob("**/*.wandb")) else "tensorboard")
        if kind == "wandb":
            return _wandb_folders(path, take)
        if kind == "tensorboard":
            return _event_files(path, take)
        raise SpecError(f"{path}: is a folder, and --from {kind} reads files; name those in it")
    digest = _digest([path])
    if kind == "tensorboard" and path.suffix.lower() != ".csv":
        return _event_files(path, take)
    table = read_table(path, None if kind in (None, "wandb", "tensorboard") else kind)
    table.columns = table.columns.map(str)
    looks = _looks(table)
    kind = kind or looks
    if kind == "wandb":
        return _wandb_table(path, digest, table, take)
    if kind == "tensorboard":
        return _scalar(path, digest, table, take)
    return ForeignTable(kind or _kind_of(path), digest, table)


def _looks(table: pd.DataFrame) -> TableKind | None:
    if list(table.columns) == _SCALAR:
        return "tensorboard"
    states = {str(state).lower() for state in table.get("State", ())}
    return "wandb" if "Name" in table and states and states <= _STATES else None


def _kind_of(path: Path) -> TableKind:
    kinds: dict[str, TableKind] = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".parquet": "parquet"}
    return kinds.get(path.suffix.lower(), "jsonl")


def _digest(paths: list[Path]) -> str:
    """Of one file its sha256; of several, that of their names and contents."""
    if len(paths) == 1:
        return hashlib.sha256(paths[0].read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _wandb_table(path: Path, digest: str, table: pd.DataFrame, take: Take) -> ForeignTable:
    """The CSV of a table of runs, of which those count that are finished; or that of a chart."""
    state = next((name for name in ("State", "state") if name in table), None)
    if state is None:
        return _wandb_chart(path, digest, table, take)
    finished = table[state].astype(str).str.lower() == "finished"
    left = table.loc[~finished, state].astype(str).str.lower().value_counts()
    notes = [f"{count} runs left out: {name} at Weights & Biases" for name, count in left.items()]
    return ForeignTable("wandb", digest, table[finished], tuple(notes))


def _wandb_chart(path: Path, digest: str, table: pd.DataFrame, take: Take) -> ForeignTable:
    """Columns are an axis and, of each run, `NAME - METRIC` with its __MIN and __MAX."""
    import pandas as pd

    axis, *others = table.columns
    rows: dict[str, dict[str, Any]] = {}
    for column in others:
        run, dash, metric = column.rpartition(" - ")
        if not dash or metric.endswith(("__MIN", "__MAX")):
            continue
        curve = table[[axis, column]].dropna()
        if not curve.empty:
            row = rows.setdefault(run, {"run": run, axis: curve[axis].max()})
            row[metric] = curve[column].min() if take == "min" else curve.sort_values(axis)[column].iloc[-1]
    if not rows:
        raise SpecError(
            f"{path}: is no export of Weights & Biases that can be read: a table of runs has a column State, a chart "
            "columns 'RUN - METRIC'; show State in the table and export it again, or read it with --from csv"
        )
    note = "a chart does not say which runs are finished: all are taken"
    return ForeignTable("wandb", digest, pd.DataFrame(rows.values()), (note,))


def _wandb_folders(path: Path, take: Take) -> ForeignTable:
    """Folders of runs as the client leaves them, such as `wandb/offline-run-...`; those count that ended well."""
    import pandas as pd

    from nextscale.sweeps.store.wandb_files import SUFFIX, read_runs

    files = sorted(path.glob(f"**/*{SUFFIX}"))
    rows, unfinished = [], 0
    for run in read_runs(files):
        if run.exit_code != 0:
            unfinished += 1
            continue
        values = run.summary | {name: value for row in run.history for name, value in row.items()}
        if take == "min":
            for name in values:
                curve = [row[name] for row in run.history if isinstance(row.get(name), int | float)]
                values[name] = min(curve, default=values[name])
        values |= {"_step": max((row["_step"] for row in run.history if "_step" in row), default=None)}
        rows.append({"run": run.run_id} | _flat(run.config, "config.") | _flat(values, ""))
    if not files:
        raise SpecError(f"{path}: holds no run of Weights & Biases (there is no file *{SUFFIX} in it)")
    told_of = [f"{unfinished} runs left out: they did not end, or by an error"] if unfinished else []
    return ForeignTable("wandb", _digest(files), pd.DataFrame(rows), tuple(told_of))


def _event_files(path: Path, take: Take) -> ForeignTable:
    """One row per folder with event files: its last step, a value of every scalar, its hparams."""
    import pandas as pd

    from nextscale.sweeps.store.event_files import MARK, read_run

    files = [path] if path.is_file() else sorted(file for file in path.glob("**/*") if MARK in file.name)
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    rows = []
    for folder, inside in folders.items():
        found = read_run(inside)
        if not found.scalars:
            continue
        name = folder.name if path.is_file() or folder == path else folder.relative_to(path).as_posix()
        row = {"run": name, "step": max(pairs[-1][0] for pairs in found.scalars.values())}
        values = {
            tag: min(value for _, value in pairs) if take == "min" else pairs[-1][1]
            for tag, pairs in found.scalars.items()
        }
        rows.append(row | {f"hparams.{key}": value for key, value in found.hparams.items()} | values)
    if not rows:
        raise SpecError(f"{path}: holds no scalars in event files of TensorBoard (files with {MARK} in their name)")
    return ForeignTable("tensorboard", _digest(files), pd.DataFrame(rows))


def _scalar(path: Path, digest: str, table: pd.DataFrame, take: Take) -> ForeignTable:
    """One run, of which one scalar was downloaded."""
    import pandas as pd

    if list(table.columns) != _SCALAR or table.empty:
        raise SpecError(f"{path}: is no scalar downloaded from TensorBoard: its columns are not {', '.join(_SCALAR)}")
    curve = table.sort_values("Step")
    value = curve["Value"].min() if take == "min" else curve["Value"].iloc[-1]
    return ForeignTable(
        "tensorboard", digest, pd.DataFrame([{"run": path.stem, "step": curve["Step"].iloc[-1], "value": value}])
    )


def _flat(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name.removesuffix("."): value}
    return {key: leaf for part, inner in value.items() for key, leaf in _flat(inner, f"{name}{part}.").items()}
