"""Cleaning tables of runs: numbers, counts derived by C = 6ND, units, unusable rows, duplicates and budgets.

Each step takes the table as far as it has come, and returns it with notes on what it did, or raises an InputError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
_FROM_6ND = 1.5
"""How far a run's FLOPs may lie from 6ND: what is embedded takes none, and attention over long sequences takes more."""
_OF_ONE_SIZE = 1.05
"""How far the FLOPs per token of one size may lie apart: steps are whole."""
_UNSAID = 0.1
"""Runs lie so near their budget as a matter of course."""
_NORMALISED = 0.25
"""In so large a share of the runs a loss below 0 is no accident."""
_WIDEST = 10.0
"""No group of runs of equal scale spans as much: those are runs at every scale."""
_PART = 10**0.25
"""What these are taken together by."""


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


def flops_as_stated(rows: pd.DataFrame, stated: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs, whose FLOPs are 6ND so far, with the FLOPs that a column states as their budget: where it lies near 6ND
    in every run and is one multiple of it in all runs of a size, it is by a better account of the FLOPs per token.

    Args:
        stated: columns that may state budgets (`stated_budgets`).
    """
    for name, given in stated.reindex(rows.index).items():
        ratio = given / rows["flops"]
        of_a_size = ratio.groupby(rows["params"])
        one_multiple = (of_a_size.max() <= _OF_ONE_SIZE * of_a_size.min()).all()
        if _near(given, rows["flops"], _FROM_6ND) and one_multiple:
            off = (1 / ratio - 1).abs().max()
            told = f", and C = 6ND up to {off:.0%} off" if off > _UNSAID else ""
            return rows.assign(flops=given), [f"flops are those that column '{name}' states{told}"]
    return rows, []


def with_added_loss(numbers: pd.DataFrame, constant: float, where: str) -> tuple[pd.DataFrame, list[str]]:
    """A constant added to every loss, as losses need that were normalised to lie below 0.

    Raises:
        InputError: the constant is no number, or many losses are still below 0: laws are fitted to logarithms of them.
    """
    if not np.isfinite(constant):
        raise InputError(f"{where}: what is added to every loss should be a number, not {constant}")
    loss = numbers["loss"] + constant
    known = loss[np.isfinite(loss)]
    below = int((known < 0).sum())
    if below > 1 and below >= _NORMALISED * len(known):
        raise InputError(
            f"{where}: {below} of {len(known)} losses lie below 0, and laws are fitted to their logarithms. Where they "
            "are relative to a unigram model or the like, add one constant to every run's, such as that model's "
            f"entropy, or more where E comes out as 0: --add-to-loss C, here more than {constant - known.min():.4g}; "
            "where they are log-likelihoods, turn their sign"
        )
    told = [f"{constant:g} added to every loss: losses and E are told with it"] if constant else []
    return numbers.assign(loss=loss), told


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
    fine = numbers.gt(-np.inf) & numbers.lt(np.inf)
    fine[positive] &= numbers[positive].gt(0)
    usable = fine.all(axis=1)
    if usable.all():
        return usable, []
    where = ", ".join(f"{name} in {count}" for name, count in (~fine).sum().items() if count)
    note = f"{(~usable).sum()} of {len(numbers)} rows left out: a value is missing, infinite or not positive ({where})"
    return usable, [note]


def without_duplicates(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows that are not the same as an earlier one in all but their name."""
    repeated = rows.drop(columns="run_id").duplicated()
    if not repeated.any():
        return rows, []
    return rows.loc[~repeated], [f"{repeated.sum()} rows left out: exact duplicates of another"]


def check_row_count(rows: pd.DataFrame, where: str, left_out: Sequence[str]) -> None:
    """
    Args:
        left_out: notes on the rows that were.

    Raises:
        InputError: there is no row, or more than finished runs have.
    """
    if rows.empty:
        raise InputError(f"{where}: no usable row: {'; '.join(left_out) or 'the table is empty'}")
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


def budgets_of(scale: pd.Series, stated: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """The budget that each run belongs to: as stated, where that lies near every run's own scale, or else by groups of
    runs of nearly equal scale.

    Args:
        stated: columns that may state budgets (`stated_budgets`).
    """
    for name, given in stated.reindex(scale.index).items():
        if _near(given, scale, _ACCOUNTS_APART):
            off = (scale / given - 1).abs().max()
            note = f"budgets are those of column '{name}'; {scale.name} lie up to {off:.0%} off"
            return given, [note] if off > _UNSAID else []
    return _groups_of_equal_scale(scale), [
        f"column '{name}' states no budgets here: it is not within a factor {_ACCOUNTS_APART:g} of {scale.name} "
        "in every run"
        for name in stated
    ]


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


def _near(given: pd.Series, scale: pd.Series, factor: float) -> bool:
    return bool(given.between(scale / factor, scale * factor).all())


def _groups_of_equal_scale(scale: pd.Series, gap: float = 1.1) -> pd.Series:
    """The geometric mean of each group of runs of nearly equal scale: a new one starts where the next run is 10 %
    larger than the last. Where runs at every scale make one group of many, that is cut into quarters of a decade."""
    logs = np.log(scale.sort_values())
    group = (logs.diff() > np.log(gap)).cumsum()
    within = logs - logs.groupby(group).transform("min")
    spread = within.groupby(group).transform("max") > np.log(_WIDEST)
    part = (within / np.log(_PART)).astype(int).where(spread, 0)
    return np.exp(logs.groupby([group, part]).transform("mean")).reindex(scale.index)
