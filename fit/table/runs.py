"""`Runs`, a cleaned table of finished runs, and `as_runs`, which makes one of any table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.errors import InputError, told
from nextscale.fit.table.cleaning import (
    budgets_of,
    check_row_count,
    derive_counts,
    flops_as_stated,
    numeric_columns,
    row_labels,
    split_largest_losses,
    usable_rows,
    with_added_loss,
    without_duplicates,
)
from nextscale.fit.table.columns import NOT_VARIABLES, Columns, ColumnSources, locate_columns, stated_budgets
from nextscale.fit.table.names import LossUnit
from nextscale.fit.table.plausibility import check_plausible
from nextscale.fit.table.row_choice import (
    RowChoice,
    best_of_each_cell,
    one_row_a_run,
    without_summaries,
    without_unfinished,
)
from nextscale.fit.table.sources import Table, as_table


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
        loss_unit: what the loss is told in, by the name of its column.
        along: the column that says how large a run is, where it is not the usual one (see `ordered_along`).
        rows: of each run the place of its row in the table that they were read from.
    """

    table: pd.DataFrame
    convention: str
    notes: tuple[str, ...] = ()
    dropped: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    source: str = "runs"
    loss_unit: LossUnit = "nats/token"
    along: str | None = None
    rows: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, int))

    def __len__(self) -> int:
        return len(self.table)

    def where(self, kept: pd.Series) -> Runs:
        """The same with only some of the rows."""
        rows = self.rows[kept.to_numpy()] if len(self.rows) == len(kept) else np.empty(0, int)
        return dataclasses.replace(self, table=self.table[kept].reset_index(drop=True), rows=rows)

    @property
    def scale_name(self) -> str:
        """What says how large a run is: FLOPs, or parameters where the table knows no FLOPs."""
        if self.along is not None:
            return self.along
        known = [str(name) for name in self.table if name not in NOT_VARIABLES]
        return next(name for name in ("flops", "params", "tokens", *known) if name in self.table)

    @property
    def scale(self) -> pd.Series:
        """The column of that name."""
        return self.table[self.scale_name]

    def ordered_along(self, column: str) -> Runs:
        """The same in the order of another column, such as `experts`: what lies beyond the runs, the cuts of a backtest
        and `budget` are along it.

        Raises:
            InputError: there is no such variable, or it is the same in every run.
        """
        variables = [str(name) for name in self.table if name not in NOT_VARIABLES]
        if column not in variables or self.table[column].nunique() < 2:
            raise InputError(
                f"{self.source}: {column} {'is the same in every run' if column in variables else 'is no variable'}; "
                f"runs can be ordered along {', '.join(name for name in variables if self.table[name].nunique() > 1)}"
            )
        budget, _ = budgets_of(self.table[column], self.table[[]])
        return dataclasses.replace(self, table=self.table.assign(budget=budget), along=column)

    @property
    def weights(self) -> np.ndarray:
        """How much each run counts, 1 on average."""
        if "weight" not in self.table:
            return np.ones(len(self))
        weights = self.table["weight"].to_numpy(float)
        return weights / weights.mean()

    @property
    def budgets(self) -> list[float]:
        """The budgets that there are runs of, rising."""
        return sorted(self.table["budget"].unique())


def as_runs(
    table: Table,
    *,
    columns: Columns | Mapping[str, str] = Columns(),
    convention: str = "total",
    variables: Sequence[str] = ("N", "D"),
    drop_largest_losses: int = 0,
    add_to_loss: float = 0.0,
    rows: RowChoice | None = None,
    keep_unfinished: bool = False,
    as_is: bool = False,
    where: str = "runs",
) -> Runs:
    """A table of any origin as `Runs`.

    Two of parameters, tokens and FLOPs are enough; the third follows from C = 6ND (Kaplan et al. 2020), FLOPs also from
    a column that states budgets (`flops_as_stated`). Left out, with a note, are runs that did not finish, all rows of a
    run but its last, of runs that differ in learning rate and the like all but the best, rows with a missing, infinite
    or non-positive value (a run that diverged) and exact duplicates. Units in cells (`70B`) and headers (`params (M)`)
    are read, and said.

    Args:
        table: one row per finished run, or per step of one: a frame, a file, a dict of columns or a list of rows.
        columns: names of its columns, where they are not `params`, `tokens`, `flops` and `loss`, as `Columns` or a
            dict; usual names of these are found, with a note (`recognise_columns`).
        convention: what N counts, one of `CONVENTIONS`; ignored for a named `columns.params`.
        variables: what the law to be fitted takes.
        drop_largest_losses: leave out this many runs of the largest loss, as some published fits do.
        add_to_loss: a constant that is added to every loss, where these are relative to another model's and negative.
        rows: of a run, and of runs that differ in tuning alone, the last or the best; "all" takes every row, as do
            a column of groups and one of weights, unless given.
        keep_unfinished: take runs that crashed, failed or still run by a column that says so.
        as_is: take the figures as they are, whatever units headers write, and however little they can be of training;
            so are those of nextscale's own folders (`attrs["counted"]`).
        where: what to call the table in errors.

    Raises:
        InputError: a column is missing or not numeric, figures contradict each other (`check_plausible`), many losses
            are negative, or no usable row is left.
    """
    if convention not in CONVENTIONS:
        raise InputError(f"params: '{convention}' is not one of {', '.join(CONVENTIONS)}")
    where = str(table) if where == "runs" and isinstance(table, str | Path) else where
    table, columns = as_table(table), Columns.of(columns)
    read_so = tuple(table.attrs.get("notes", ()))
    as_is = as_is or bool(table.attrs.get("counted"))
    table = table.reset_index(drop=True)
    sources = locate_columns(table, columns, convention, variables, where)
    given, units = numeric_columns(table, sources, as_is, where)
    grouped = columns.group is not None or columns.weight is not None
    kept, chosen = _chosen_rows(table, given, sources, rows or ("all" if grouped else "last"), keep_unfinished, where)
    table, given = table[kept], given[kept]
    given, added = with_added_loss(given, add_to_loss, where)
    numbers, derived = derive_counts(given)
    usable, unusable = usable_rows(numbers)
    found = numbers.assign(**row_labels(table, sources.columns.group, where, sources.listing)).loc[usable]
    found, duplicates = without_duplicates(found)
    check_row_count(found, where, [*chosen, *unusable])
    scaled = bool({"N", "D", "C"}.intersection(variables))
    odd = check_plausible(found, sources.of, sources.loss_unit, where) if scaled and not as_is else []
    found = found.drop(columns="params_active", errors="ignore")
    stated = stated_budgets(table)
    if derived and "flops" not in given:
        found, better = flops_as_stated(found, stated)
        derived = better or derived
    found, largest, dropped = split_largest_losses(found, drop_largest_losses)
    notes = (*read_so, *sources.notes, *units, *chosen, *added, *derived, *odd, *unusable, *duplicates, *dropped)
    notes = tuple(map(told, notes))
    unit: LossUnit = "nats/token" if sources.loss_unit == "perplexity" and not as_is else sources.loss_unit
    runs = Runs(found, sources.columns.params or convention, notes, largest, where, unit)
    budget, doubts = budgets_of(runs.scale, stated)
    table = found.assign(budget=budget).reset_index(drop=True)
    return dataclasses.replace(runs, table=table, notes=(*notes, *doubts), rows=found.index.to_numpy())


def _chosen_rows(
    table: pd.DataFrame, numbers: pd.DataFrame, sources: ColumnSources, rows: RowChoice, unfinished: bool, where: str
) -> tuple[pd.Series, list[str]]:
    """Which rows are runs to fit, and notes on what the others are."""
    kept, notes = without_summaries(table)
    if not unfinished:
        ended, states = without_unfinished(table[kept])
        kept, notes = kept & ended.reindex(table.index, fill_value=False), [*notes, *states]
    if not kept.any():
        raise InputError(f"{where}: no run is finished: {'; '.join(notes)}")
    if rows == "all":
        return kept, notes
    last, curves = one_row_a_run(table[kept], numbers[kept], rows, sources.columns.group, where)
    kept = kept & last.reindex(table.index, fill_value=False)
    variables = [key for key in sources.of if key not in ("loss", "weight")]
    best, cells = best_of_each_cell(table[kept], numbers[kept], variables, [*sources.of.values()])
    return kept & best.reindex(table.index, fill_value=False), [*notes, *curves, *cells]
