"""Reads runs from other tools, one row each: tables and curves in files, Weights & Biases, TensorBoard."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nextscale.sweeps.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

TableKind = Literal["csv", "tsv", "json", "jsonl", "parquet", "xlsx", "log", "wandb", "tensorboard"]
Take = Literal["last", "min"]
_STATES = {"finished", "crashed", "failed", "killed", "running", "pending", "preempted", "preempting"}
"""Of a run of Weights & Biases."""
_SCALAR = ["Wall time", "Step", "Value"]
"""The columns of a scalar that was downloaded from TensorBoard."""
_LATE = 0.98
"""Which part of a run a value that was logged last has to be of, to be its end's."""


@dataclasses.dataclass(frozen=True)
class ForeignTable:
    """Runs from elsewhere, one row each.

    Attributes:
        kind: of what they were read from.
        digest: sha256 of it.
        table: as it was found; the index is the number of the row, from 0.
        notes: what was guessed or left out, in words.
    """

    kind: TableKind
    digest: str
    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_foreign(path: Path, kind: TableKind | None = None, take: Take = "last") -> ForeignTable:
    """Runs from a table, curves, an export of Weights & Biases or one of TensorBoard.

    Args:
        kind: None goes by the name and by what is there.
        take: which value of a curve is a run's: of its last step, or the lowest.

    Raises:
        SpecError, InputError: there is nothing of that kind there.
    """
    if str(path) == "-":
        raise SpecError("-: what is imported is known by its file; save it as one")
    if path.is_dir():
        kind = kind or ("wandb" if any(path.glob("**/*.wandb")) else "tensorboard")
        if kind == "wandb":
            return _wandb_folders(path, take)
        if kind == "tensorboard":
            return _event_files(path, take)
        raise SpecError(f"{path}: is a folder, and --from {kind} reads files; name those in it")
    if kind == "tensorboard" and path.is_file() and path.suffix.lower() != ".csv":
        return _event_files(path, take)
    table, notes = read_file(path, kind)
    digest = digest_of([path])
    if kind == "tensorboard" or (kind is None and list(table.columns) == _SCALAR):
        return _scalar(path, digest, table, take)
    if (step := table.attrs.get("curve")) is not None:
        table, late = _ends(table, step, take)
        told = "whether the run of a curve ended is not known: all are taken"
        return ForeignTable(kind or kind_of(path), digest, table, (*notes, *late, told))
    if kind == "wandb" and not {"State", "state"} & {*table}:
        raise SpecError(
            f"{path}: is no export of Weights & Biases that can be read: a table of runs has a column State, a chart "
            "columns 'RUN - METRIC'; show State in the table and export it again, or read it with --from csv"
        )
    return ForeignTable(kind or ("wandb" if _is_wandb(table) else kind_of(path)), digest, table, notes)


def read_file(path: Path, kind: TableKind | None) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table in a file, and notes; of a chart that nothing but `--from wandb` says is one, its curves.

    Raises:
        InputError: it cannot be read.
    """
    from nextscale.fit.table.formats.curves import chart_curves
    from nextscale.fit.table.reading import read_table

    table = read_table(path, None if kind in (None, "wandb", "tensorboard") else kind)
    notes = table.attrs.pop("notes")
    if kind == "wandb" and "curve" not in table.attrs and (curves := chart_curves(table, sure=True)) is not None:
        table = curves
    return table, notes


def _ends(table: pd.DataFrame, step: str, take: Take) -> tuple[pd.DataFrame, list[str]]:
    """Of each run its last step, and of each metric the value that was told last, or the lowest; and notes on those
    told long before the end."""
    ordered = table.sort_values(step, kind="stable")
    rows = ordered.groupby("run", sort=False)
    metrics = [str(name) for name in table if name not in ("run", step)]
    ends = rows.last()
    ends[step] = rows[step].max()
    late = []
    for name in metrics:
        told = ordered[ordered[name].notna()].groupby("run", sort=False)[step].max()
        before = told.index[told < _LATE * ends[step].reindex(told.index)]
        if len(before):
            late.append(
                f"'{name}' of {len(before)} runs is of before their last step, as {told[before[0]]:g} of "
                f"{ends.loc[before[0], step]:g} in '{before[0]}'"
            )
        if take == "min" and table[name].dtype.kind in "if":
            ends[name] = rows[name].min()
    order = [str(run) for run in table["run"].drop_duplicates()]
    return ends.loc[order].reset_index()[["run", step, *metrics]], late


def _is_wandb(table: pd.DataFrame) -> bool:
    states = {str(state).lower() for state in table.get("State", ())}
    return "Name" in table and bool(states) and states <= _STATES


def kind_of(path: Path) -> TableKind:
    """Of a file by its name."""
    kinds: dict[str, TableKind] = {
        ".csv": "csv",
        ".tsv": "tsv",
        ".json": "json",
        ".jsonl": "jsonl",
        ".parquet": "parquet",
        ".xlsx": "xlsx",
        ".log": "log",
        ".out": "log",
    }
    return next((kinds[suffix] for suffix in reversed(path.suffixes) if suffix in kinds), "csv")


def digest_of(paths: Sequence[Path]) -> str:
    """Of one file its sha256; of several, that of their names and contents."""
    if len(paths) == 1:
        return hashlib.sha256(paths[0].read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _wandb_folders(path: Path, take: Take) -> ForeignTable:
    """Folders of runs as the client leaves them, such as `wandb/offline-run-...`; those count that ended well."""
    import pandas as pd

    from nextscale.fit.table.formats.documents import flattened
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
        rows.append({"run": run.run_id} | flattened(run.config, "config") | flattened(values))
    if not files:
        raise SpecError(f"{path}: holds no run of Weights & Biases (there is no file *{SUFFIX} in it)")
    told_of = [f"{unfinished} runs left out: they did not end, or by an error"] if unfinished else []
    return ForeignTable("wandb", digest_of(files), pd.DataFrame(rows), tuple(told_of))


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
        row: dict[str, Any] = {"run": name, "step": max(pairs[-1][0] for pairs in found.scalars.values())}
        values = {
            tag: min(value for _, value in pairs) if take == "min" else pairs[-1][1]
            for tag, pairs in found.scalars.items()
        }
        rows.append(row | {f"hparams.{key}": value for key, value in found.hparams.items()} | values)
    if not rows:
        raise SpecError(f"{path}: holds no scalars in event files of TensorBoard (files with {MARK} in their name)")
    return ForeignTable("tensorboard", digest_of(files), pd.DataFrame(rows))


def _scalar(path: Path, digest: str, table: pd.DataFrame, take: Take) -> ForeignTable:
    """One run, of which one scalar was downloaded."""
    if list(table.columns) != _SCALAR or table.empty:
        raise SpecError(f"{path}: is no scalar downloaded from TensorBoard: its columns are not {', '.join(_SCALAR)}")
    curve = table[["Step", "Value"]].rename(columns=str.lower).assign(run=path.stem)
    return ForeignTable("tensorboard", digest, _ends(curve, "step", take)[0])
