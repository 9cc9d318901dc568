"""Cleaning tables of runs: numbers, counts derived by C = 6ND, units, unusable rows, duplicates and budgets.

Each step takes the table as far as it has come, and returns it with notes on what it did, or raises an InputError.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.columns import ColumnSources
from nextscale.fit.table.names import COUNTS
from nextscale.fit.table.numerals import numbers_in

Notes = list[str]
MOST_ROWS = 5000
"""Of finished runs there are never so many; and each resample is a fit to all of them."""
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


def numeric_columns(table: pd.DataFrame, sources: ColumnSources, as_is: bool, where: str) -> tuple[pd.DataFrame, Notes]:
    """The column of each quantity as floats, in whole counts where cells or headers write a unit.

    Args:
        as_is: units of headers are none.

    Raises:
        InputError: a column holds no number at all, or figures that are none.
    """
    numbers, notes = {}, []
    for key, source in sources.of.items():
        values, told = numbers_in(table[source], where)
        factor, unit = sources.factor(key)
        if factor != 1 and not as_is:
            values = values * factor
            told.append(f"column '{source}' is in {unit}: times {factor:g}; --as-is takes its figures as they are")
        numbers[key] = values
        notes += told
    if sources.loss_unit == "perplexity" and not as_is:
        numbers["loss"] = np.log(numbers["loss"].where(numbers["loss"] > 0))
        notes.append(
            f"the loss is the logarithm of column '{sources.of['loss']}', a perplexity; --as-is takes it as it is"
        )
    return pd.DataFrame(numbers), notes


def derive_counts(numbers: pd.DataFrame) -> tuple[pd.DataFrame, Notes]:
    """Whichever of params, tokens and flops is missing, from the other two by C = 6ND (Kaplan et al. 2020), in which N
    is the parameters that a token passes through where the table knows them (`params_active`)."""
    given = [key for key in COUNTS if key in numbers]
    if len(given) != 2:
        return numbers, []
    (missing,) = {*COUNTS} - {*given}
    active = "params_active" in numbers
    law = "C = 6ND" + (", N the active parameters" if active else "")
    passed = numbers["params_active" if active else "params"] if "params" in numbers else None
    if missing == "flops":
        assert passed is not None
        derived = 6 * passed * numbers["tokens"]
    else:
        derived = numbers["flops"] / (6 * (numbers["tokens"] if passed is None else passed))
    return numbers.assign(**{missing: derived}), [f"{missing} follow from {law}"]


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
        # As far above 0 as losses differ, E has room: a law's other terms are the same whatever is added.
        with np.errstate(over="ignore"):
            enough = constant - known.min() + (known.max() - known.min())
        raise InputError(
            f"{where}: {below} of {len(known)} losses lie below 0, and laws are fitted to their logarithms. Where they "
            f"are relative to a unigram model or the like, add one constant to every run's: --add-to-loss {enough:.3g} "
            f"(any more than {constant - known.min():.4g} can be fitted; E comes out as 0 where it is too little); "
            "where they are log-likelihoods, turn their sign"
        )
    told = [f"{constant:g} added to every loss: losses and E are told with it"] if constant else []
    return numbers.assign(loss=loss), told


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
            f"{where}: {len(rows)} rows, and a law is fitted to finished runs, {MOST_ROWS} at most; of curves "
            "keep the last row of each run, by a column 'run', or choose rows with --where"
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
