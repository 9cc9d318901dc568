"""`Runs`, a cleaned table of finished runs, and `as_runs`, which makes one of any table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.errors import InputError
from nextscale.fit.table.cleaning import (
    budgets_of,
    check_row_count,
    derive_counts,
    flops_as_stated,
    numeric_columns,
    row_labels,
    split_largest_losses,
    unit_notes,
    usable_rows,
    with_added_loss,
    without_duplicates,
)
from nextscale.fit.table.columns import NOT_VARIABLES, Columns, locate_columns, stated_budgets


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
        """The column of that name."""
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
        """The budgets that there are runs of, rising."""
        return sorted(self.table["budget"].unique())


def as_runs(
    table: pd.DataFrame,
    *,
    columns: Columns = Columns(),
    convention: str = "total",
    variables: Sequence[str] = ("N", "D"),
    drop_largest_losses: int = 0,
    add_to_loss: float = 0.0,
    where: str = "runs",
) -> Runs:
    """A table of any origin as `Runs`.

    Two of parameters, tokens and FLOPs are enough; the third follows from C = 6ND (Kaplan et al. 2020), FLOPs also from
    a column that states budgets (`flops_as_stated`). Rows with a missing, infinite or non-positive value (a run that
    diverged) and exact duplicates are left out, with a note.

    Args:
        table: one row per finished run.
        columns: names of its columns, where they are not `params`, `tokens`, `flops` and `loss`; usual names of these
            are found, with a note (`recognise_columns`).
        convention: what N counts, one of `CONVENTIONS`; ignored for a named `columns.params`.
        variables: what the law to be fitted takes.
        drop_largest_losses: leave out this many runs of the largest loss, as some published fits do.
        add_to_loss: a constant that is added to every loss, where these are relative to another model's and negative.
        where: what to call the table in errors.

    Raises:
        InputError: a column is missing or not numeric, many losses are negative, or no usable row is left.
    """
    if convention not in CONVENTIONS:
        raise InputError(f"params: '{convention}' is not one of {', '.join(CONVENTIONS)}")
    table = table.reset_index(drop=True)
    sources = locate_columns(table, columns, convention, variables, where)
    given, added = with_added_loss(numeric_columns(table, sources.of, where), add_to_loss, where)
    numbers, derived = derive_counts(given)
    usable, unusable = usable_rows(numbers)
    rows = numbers.assign(**row_labels(table, sources.columns.group, where, sources.listing)).loc[usable]
    rows, duplicates = without_duplicates(rows)
    check_row_count(rows, where, unusable)
    stated = stated_budgets(table)
    if derived and "flops" not in given:
        rows, told = flops_as_stated(rows, stated)
        derived = told or derived
    rows, largest, dropped = split_largest_losses(rows, drop_largest_losses)
    notes = (*sources.notes, *added, *derived, *unit_notes(given), *unusable, *duplicates, *dropped)
    runs = Runs(rows, sources.columns.params or convention, notes, largest, where)
    budget, told = budgets_of(runs.scale, stated)
    return dataclasses.replace(runs, table=rows.assign(budget=budget).reset_index(drop=True), notes=(*notes, *told))
