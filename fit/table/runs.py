"""Tables of runs: read from files, columns named, bad rows set aside and counted."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.conventions import CONVENTIONS as CONVENTIONS
from nextscale.fit.errors import InputError
from nextscale.fit.table.columns import quantity_of

_COUNTED = ("params", "tokens", "flops")


MOST_ROWS = 5000
"""Of finished runs there are never so many; and each resample is a fit to all of them."""
_UNITS = 1e5
"""Fewer parameters or tokens than these are counted to the last one."""
_ACCOUNTS = 3.0
"""How far apart two accounts of a run's FLOPs may lie."""


NOT_VARIABLES = ("loss", "weight", "group", "run_id", "budget")
"""Columns of `Runs.table` that no law takes."""
_COLUMNS = {"N": "params", "D": "tokens", "C": "flops", "U": "unique_tokens"}


def column_of(variable: str) -> str:
    """The column that holds a law's variable: `params` for N, and so on; others keep their name."""
    return _COLUMNS.get(variable, variable)


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where a table keeps what a law needs; None where it does not say.

    Attributes:
        weight: how much each run counts.
        group: which rows belong to one training run, for the cluster bootstrap.
        others: columns of further variables, by the name that the law gives them or that `column_of` does.
    """

    params: str | None = None
    tokens: str | None = None
    flops: str | None = None
    loss: str | None = None
    weight: str | None = None
    group: str | None = None
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Runs:
    """Finished runs, ready to be fitted.

    Attributes:
        table: float columns `loss`, those of `params`, `tokens` and `flops` that are known, and further variables;
            `budget`, the scale of the group of runs of nearly equal scale that a run belongs to; and `run_id`.
        convention: what `params` counts.
        notes: what was derived or left out, in words.
        dropped: the rows left out on purpose (`drop_largest_losses`).
        source: what to call them in errors, such as the path of their file.
    """

    table: pd.DataFrame
    convention: str
    notes: tuple[str, ...] = ()
    dropped: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    source: str = "runs"

    def __len__(self) -> int:
        return len(self.table)

    def where(self, kept: pd.Series) -> Runs:
        """The same with only some of the rows."""
        return dataclasses.replace(self, table=self.table[kept].reset_index(drop=True))

    @property
    def scale_name(self) -> str:
        """What says how large a run is: FLOPs, or parameters where the table knows no FLOPs."""
        known = [str(name) for name in self.table if name not in NOT_VARIABLES]
        return next(name for name in ("flops", "params", "tokens", *known) if name in self.table)

    @property
    def scale(self) -> pd.Series:
        return self.table[self.scale_name]

    @property
    def weights(self) -> np.ndarray:
        """How much each run counts, 1 on average."""
        if "weight" not in self.table:
            return np.ones(len(self))
        weights = self.table["weight"].to_numpy(float)
        return weights / weights.mean()

    @property
    def budgets(self) -> list[float]:
        return sorted(self.table["budget"].unique())


def _separated(path: Path) -> pd.DataFrame:
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


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _separated,
    ".json": pd.read_json,
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".ndjson": lambda path: pd.read_json(path, lines=True),
    ".parquet": pd.read_parquet,
    ".tsv": _separated,
}


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


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    if table.index.names == [None] and not pd.api.types.is_integer_dtype(table.index):
        table = table.rename_axis("index")
    named = [name for name in table.index.names if name is not None and name not in table]
    return table.reset_index(level=named).reset_index(drop=True)


def recognised(
    table: pd.DataFrame, columns: Columns = Columns(), convention: str = "total"
) -> tuple[Columns, dict[str, list[str]]]:
    """The columns, with those that their names alone tell (`names.py`).

    Only what a table cannot do without is looked for: a loss, and two of params, tokens and flops. Where two columns
    may be the same quantity neither is taken.

    Args:
        convention: what N counts; a column that may be N says nothing but the total.

    Returns:
        The columns, and for each quantity that was looked for the names that may be it.
    """
    ours = {"params": CONVENTIONS[convention], "tokens": "tokens", "flops": "flops", "loss": "loss"}
    absent = [key for key, name in ours.items() if getattr(columns, key) is None and name not in table]
    enough = len(set(_COUNTED).intersection(absent)) < 2
    sought = [key for key in absent if key == "loss" or not (enough or (key == "params" and convention != "total"))]
    stated = {columns.params, columns.tokens, columns.flops, columns.loss, columns.weight, columns.group}
    stated |= {*columns.others.values()}
    might: dict[str, list[str]] = {key: [] for key in sought}
    for name, column in table.items():
        quantity = quantity_of(name)
        if quantity in might and name not in stated and pd.to_numeric(column, errors="coerce").notna().any():
            might[quantity].append(str(name))
    found: dict[str, Any] = {key: names[0] for key, names in might.items() if len(names) == 1}
    return dataclasses.replace(columns, **found), might


def as_runs(
    table: pd.DataFrame,
    *,
    columns: Columns = Columns(),
    convention: str = "total",
    variables: Sequence[str] = ("N", "D"),
    drop_largest_losses: int = 0,
    where: str = "runs",
) -> Runs:
    """A table of any origin as `Runs`.

    Two of parameters, tokens and FLOPs are enough; the third follows from C = 6ND (Kaplan et al. 2020). Rows
    with a missing, infinite or non-positive value (a run that diverged) and exact duplicates are left out, with a note.

    Args:
        table: one row per finished run.
        columns: names of its columns, where they are not `params`, `tokens`, `flops` and `loss`; usual names of these
            are found, with a note (`recognised`).
        convention: what N counts, one of `CONVENTIONS`; ignored for a named `columns.params`.
        variables: what the law to be fitted takes.
        drop_largest_losses: leave out this many runs of the largest loss, as some published fits do.
        where: what to call the table in errors.

    Raises:
        InputError: a column is missing or not numeric, or no usable row is left.
    """
    if convention not in CONVENTIONS:
        raise InputError(f"params: '{convention}' is not one of {', '.join(CONVENTIONS)}")
    columns, might = recognised(table, columns, convention)
    doubts = {
        key: f"{' and '.join(names)} may each be {key}, so none is taken; name it with --{key}-column"
        for key, names in might.items()
        if len(names) > 1
    }
    wanted = {
        "params": columns.params or CONVENTIONS[convention],
        "tokens": columns.tokens or "tokens",
        "flops": columns.flops or "flops",
        "loss": columns.loss or "loss",
    }
    table = table.reset_index(drop=True)
    if (twice := table.columns[table.columns.duplicated()]).size:
        raise InputError(f"{where}: two columns are called '{twice[0]}'; rename one")
    held = ", ".join(map(str, table.columns[:12]))
    for key in ("params", "tokens", "flops", "loss"):
        if getattr(columns, key) is not None and wanted[key] not in table:
            raise InputError(f"{where}: there is no column '{wanted[key]}' for {key}; it has {held}")
    present = [key for key in ("params", "tokens", "flops") if wanted[key] in table]
    if wanted["loss"] not in table:
        lacking = doubts.get("loss") or "there is no column 'loss'; name it with --loss-column"
        raise InputError(f"{where}: {lacking} (it has {held})")
    needed = [column_of(name) for name in variables]
    if len(present) < 2 and not set(_COUNTED).intersection(needed) <= set(present):
        mend = "; ".join(doubts.values()) or "name them with --params-column, --tokens-column or --flops-column"
        raise InputError(
            f"{where}: needs two of params, tokens and flops, and has {' and '.join(present) or 'none'}; {mend} "
            f"(it has {held})"
        )
    others = {column_of(name): source for name, source in columns.others.items()}
    sources = {name: others.get(name, name) for name in needed if name not in _COUNTED}
    sources |= {"weight": columns.weight} if columns.weight else {}
    for name, source in sources.items():
        if source not in table:
            raise InputError(
                f"{where}: there is no column '{source}' for {name}; name it with --column {name}=NAME (it has {held})"
            )
    sources |= {key: wanted[key] for key in (*present, "loss")}
    numbers = pd.DataFrame({key: _numeric(table[source], where) for key, source in sources.items()})
    taken = ", ".join(f"{names[0]} for {key}" for key, names in might.items() if len(names) == 1)
    notes = [f"taken by the names of columns: {taken}"] if taken else []
    notes += doubts.values()
    for key, (over, under) in {"params": ("flops", "tokens"), "tokens": ("flops", "params")}.items():
        if key not in present and {over, under} <= set(present):
            numbers[key] = numbers[over] / (6 * numbers[under])
            notes.append(f"{key} follow from C = 6ND")
    if "flops" not in present and {"params", "tokens"} <= set(present):
        numbers["flops"] = 6 * numbers["params"] * numbers["tokens"]
        notes.append("flops follow from C = 6ND")
    if scaled := [key for key in ("params", "tokens") if key in present and _in_a_unit(numbers[key])]:
        verb = "is" if len(scaled) == 1 else "are"
        most = f"{numbers[scaled[0]].max():.4g} at most"
        notes.append(
            f"{' and '.join(scaled)} {verb} not in whole numbers, {most}: where they stand for millions or billions, "
            "so does all that is told of them; write them out"
        )
    positive = [name for name in numbers if name in (*_COUNTED, "loss", "weight")]
    usable = (numbers[positive].gt(0) & numbers[positive].lt(np.inf)).all(axis=1) & np.isfinite(
        numbers.to_numpy(float)
    ).all(axis=1)
    if not usable.all():
        notes.append(f"{(~usable).sum()} of {len(table)} rows left out: a value is missing, infinite or not positive")
    if columns.group is not None:
        if columns.group not in table:
            raise InputError(f"{where}: there is no column '{columns.group}' for group; it has {held}")
        numbers["group"] = table[columns.group].astype(str)
    numbers["run_id"] = table["run_id"].astype(str) if "run_id" in table else [f"row {i}" for i in range(len(table))]
    numbers = numbers.loc[usable]
    repeated = numbers.drop(columns="run_id").duplicated()
    if repeated.any():
        notes.append(f"{repeated.sum()} rows left out: exact duplicates of another")
        numbers = numbers.loc[~repeated]
    if numbers.empty:
        raise InputError(f"{where}: no usable row: every one has a missing, infinite or non-positive value")
    if len(numbers) > MOST_ROWS:
        raise InputError(
            f"{where}: {len(numbers)} rows, and a law is fitted to finished runs, {MOST_ROWS} at most; of curves keep "
            "the last row of each run, or choose rows with --where"
        )
    largest = numbers.nlargest(drop_largest_losses, "loss")
    if len(largest):
        numbers = numbers.drop(largest.index)
        notes.append(f"{len(largest)} runs of the largest loss ({largest.loss.min():.3g} and up) left out as asked")
    runs = Runs(numbers, columns.params or convention, tuple(notes), largest, where)
    given = pd.to_numeric(table["budget"], errors="coerce") if "budget" in table else pd.Series(dtype=float)
    given = given.reindex(numbers.index)
    # A column of that name may hold anything, dollars even; FLOPs are known by lying near the run's own.
    believed = given.between(runs.scale / _ACCOUNTS, runs.scale * _ACCOUNTS).all()
    numbers["budget"] = given if believed else _budgets(runs.scale)
    return dataclasses.replace(runs, table=numbers.reset_index(drop=True))


def _numeric(column: pd.Series, where: str) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce").astype(float)
    if column.notna().any() and values.isna().all():
        first = str(column.dropna().iloc[0])[:40]
        raise InputError(f"{where}: column '{column.name}' holds no numbers, but '{first}'; write them out, as 1e9")
    return values


def _in_a_unit(counts: pd.Series) -> bool:
    """Whether counts look like millions or billions: small, and not whole."""
    known = counts[np.isfinite(counts)]
    return bool((known < _UNITS).all() and (known % 1 != 0).any())


def _budgets(flops: pd.Series, gap: float = 1.1) -> pd.Series:
    """Groups of runs of nearly equal cost: a new one starts where the next run costs 10 % more than the last."""
    ordered = flops.sort_values()
    group = (ordered / ordered.shift(1) > gap).cumsum()
    return np.exp(np.log(ordered).groupby(group).transform("mean")).reindex(flops.index)
