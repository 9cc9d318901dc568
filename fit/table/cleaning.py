"""Cleaning tables of runs: numbers, counts derived by C = 6ND, units, unusable rows, duplicates and budgets.

Each step takes the table as far as it has come, and returns it with notes on what it did, or raises an InputError.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.columns import COUNTS

MOST_ROWS = 5000
"""Of finished runs there are never so many; and each resample is a fit to all of them."""
_FEWEST_IN_UNITS = 1e5
"""Fewer parameters or tokens than these are counted to the last one."""
_ACCOUNTS_APART = 3.0
"""How far apart two accounts of a run's FLOPs may lie."""


def numeric_columns(table: pd.DataFrame, sources: Mapping[str, str], where: str) -> pd.DataFrame:
    """The column of each quantity as floats; what is no number is missing.

    Args:
        sources: by quantity the table's column.

    Raises:
        InputError: a column holds no number at all.
    """
    return pd.DataFrame({key: _numeric(table[source], where) for key, source in sources.items()})


def derive_counts(numbers: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Whichever of params, tokens and flops is missing, from the other two by C = 6ND (Kaplan et al. 2020)."""
    given = [key for key in COUNTS if key in numbers]
    if len(given) != 2:
        return numbers, []
    if "flops" not in given:
        return numbers.assign(flops=6 * numbers["params"] * numbers["tokens"]), ["flops follow from C = 6ND"]
    (other,) = {"params", "tokens"}.intersection(given)
    missing = "tokens" if other == "params" else "params"
    derived = numbers["flops"] / (6 * numbers[other])
    return numbers.assign(**{missing: derived}), [f"{missing} follow from C = 6ND"]


def unit_notes(counts: pd.DataFrame) -> list[str]:
    """Whether params or tokens, as the table gives them, look like millions or billions."""
    scaled = [key for key in ("params", "tokens") if key in counts and _in_a_unit(counts[key])]
    if not scaled:
        return []
    verb = "is" if len(scaled) == 1 else "are"
    most = f"{counts[scaled[0]].max():.4g} at most"
    return [
        f"{' and '.join(scaled)} {verb} not in whole numbers, {most}: where they stand for millions or billions, "
        "so does all that is told of them; write them out"
    ]


def usable_rows(numbers: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Which rows are finite throughout, and positive in what cannot be otherwise."""
    positive = [name for name in numbers if name in (*COUNTS, "loss", "weight")]
    usable = (numbers[positive].gt(0) & numbers[positive].lt(np.inf)).all(axis=1) & np.isfinite(
        numbers.to_numpy(float)
    ).all(axis=1)
    if usable.all():
        return usable, []
    note = f"{(~usable).sum()} of {len(numbers)} rows left out: a value is missing, infinite or not positive"
    return usable, [note]


def without_duplicates(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows that are not the same as an earlier one in all but their name."""
    repeated = rows.drop(columns="run_id").duplicated()
    if not repeated.any():
        return rows, []
    return rows.loc[~repeated], [f"{repeated.sum()} rows left out: exact duplicates of another"]


def check_row_count(rows: pd.DataFrame, where: str) -> None:
    """
    Raises:
        InputError: there is no row, or more than finished runs have.
    """
    if rows.empty:
        raise InputError(f"{where}: no usable row: every one has a missing, infinite or non-positive value")
    if len(rows) > MOST_ROWS:
        raise InputError(
            f"{where}: {len(rows)} rows, and a law is fitted to finished runs, {MOST_ROWS} at most; of curves keep "
            "the last row of each run, or choose rows with --where"
        )


def split_largest_losses(rows: pd.DataFrame, count: int) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The rows without so many of the largest loss, and these."""
    largest = rows.nlargest(count, "loss")
    if not len(largest):
        return rows, largest, []
    note = f"{len(largest)} runs of the largest loss ({largest.loss.min():.3g} and up) left out as asked"
    return rows.drop(largest.index), largest, [note]


def budgets_of(scale: pd.Series, stated: pd.Series | None) -> pd.Series:
    """The budget that each run belongs to: as stated, where that lies near every run's own scale, or else by groups of
    runs of nearly equal scale.

    Args:
        stated: a column of that name, which may hold anything, dollars even.
    """
    if stated is not None:
        given = pd.to_numeric(stated, errors="coerce").reindex(scale.index)
        if given.between(scale / _ACCOUNTS_APART, scale * _ACCOUNTS_APART).all():
            return given
    return _groups_of_equal_scale(scale)


def row_labels(table: pd.DataFrame, group: str | None, where: str, listing: str) -> dict[str, pd.Series]:
    """What names a row: its `group`, where the table has a column for that, and its `run_id`.

    Raises:
        InputError: the column of groups is not there.
    """
    if group is not None and group not in table:
        raise InputError(f"{where}: there is no column '{group}' for group; it has {listing}")
    groups = {} if group is None else {"group": table[group].astype(str)}
    named = table["run_id"].astype(str) if "run_id" in table else pd.Series([f"row {i}" for i in range(len(table))])
    return {**groups, "run_id": named}


def _numeric(column: pd.Series, where: str) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce").astype(float)
    if column.notna().any() and values.isna().all():
        first = str(column.dropna().iloc[0])[:40]
        raise InputError(f"{where}: column '{column.name}' holds no numbers, but '{first}'; write them out, as 1e9")
    return values


def _in_a_unit(counts: pd.Series) -> bool:
    """Whether counts look like millions or billions: small, and not whole."""
    known = counts[np.isfinite(counts)]
    return bool((known < _FEWEST_IN_UNITS).all() and (known % 1 != 0).any())


def _groups_of_equal_scale(scale: pd.Series, gap: float = 1.1) -> pd.Series:
    """The geometric mean of each group of runs of nearly equal scale: a new one starts where the next run is 10 %
    larger than the last."""
    ordered = scale.sort_values()
    group = (ordered / ordered.shift(1) > gap).cumsum()
    return np.exp(np.log(ordered).groupby(group).transform("mean")).reindex(scale.index)
