"""Joins the curves of runs, such as charts of Weights & Biases, with each other and with a table of the runs' sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.store.foreign_tables import ForeignTable, TableKind, Take, digest_of, kind_of, read_file

if TYPE_CHECKING:
    import pandas as pd


def read_joined(paths: Sequence[Path], kind: TableKind | None = None, take: Take = "last") -> ForeignTable:
    """Runs whose curves, such as charts of Weights & Biases, are in some files and whose sizes are in others: curves
    joined by run and step, and a table of one row a run by the name of the run.

    Args:
        take: which step of a run counts: the last that all curves have, or that where the first is lowest.

    Raises:
        SpecError, InputError: no file has curves, or what is to be joined has nothing in common.
    """
    import pandas as pd

    from nextscale.fit.table.formats.curves import CHART_NOTE

    curves: list[tuple[Path, pd.DataFrame]] = []
    tables: list[tuple[Path, pd.DataFrame]] = []
    notes: list[str] = []
    for path in paths:
        table, told = read_file(path, kind)
        notes += [f"{path.name}: {note}" for note in told if note != CHART_NOTE]
        (curves if "curve" in table.attrs else tables).append((path, table))
    if not curves:
        raise SpecError(f"--join: none of {', '.join(map(str, paths))} has curves; give charts, logs and the like")
    first, joined = curves[0]
    step = joined.attrs["curve"]
    metric = next(str(name) for name in joined if name not in ("run", step))
    for path, table in curves[1:]:
        if table.attrs["curve"] != step:
            raise SpecError(f"--join: {first} is by {step}, and {path} by {table.attrs['curve']}; export both by one")
        _check_apart(first, joined, path, table, ["run", step])
        steps = len(joined)
        joined = joined.merge(table, on=["run", step])
        if joined.empty:
            raise SpecError(f"--join: {path} has no run at a step that the files before it have, too")
        if len(joined) < steps:
            notes.append(f"{path.name}: {steps - len(joined)} of {steps} steps are not in it, and left out")
    joined = joined.dropna(subset=metric).sort_values(step, kind="stable")
    rows = joined.groupby("run", sort=False)
    ends = joined.loc[rows[metric].idxmin()] if take == "min" else rows.tail(1)
    for path, table in tables:
        name = _naming_column(ends["run"], path, table)
        _check_apart(first, ends, path, table, ["run", name])
        sizes = table.assign(**{name: table[name].astype(str)}).rename(columns={name: "run"})
        lacking = sorted({*ends["run"]} - {*sizes["run"]})
        if lacking:
            notes.append(f"{len(lacking)} runs left out: {path.name} does not have them ({', '.join(lacking[:3])})")
        ends = ends.merge(sizes, on="run")
    return ForeignTable(
        kind or kind_of(first), digest_of(list(paths)), pd.DataFrame(ends).reset_index(drop=True), tuple(notes)
    )


def _naming_column(runs: pd.Series, path: Path, table: pd.DataFrame) -> str:
    """The column of a table that names the most of some runs, each once."""
    known = {*runs}
    hits = {str(name): table[name].astype(str).isin(known).sum() for name in table}
    name = max(hits, key=lambda name: hits[name], default="")
    if not hits.get(name):
        raise SpecError(f"--join: no column of {path} names a run of the curves, such as '{runs.iloc[0]}'")
    twice = table.loc[table[name].duplicated() & table[name].astype(str).isin(known), name]
    if len(twice):
        raise SpecError(f"--join: {path} has run '{twice.iloc[0]}' twice; keep one of the rows")
    return name


def _check_apart(first: Path, one: pd.DataFrame, path: Path, other: pd.DataFrame, by: list[str]) -> None:
    both = [str(name) for name in other if name in one and name not in by]
    if both:
        raise SpecError(f"--join: '{both[0]}' is a column of {path} and of {first} or what was joined; drop one")
