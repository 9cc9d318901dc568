"""Which rows of a table are finished runs: not those that crashed, of a curve its end, of a grid of learning rates the
best."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.names import COUNTS, STEPS_TOO, bare_name, last_part

RowChoice = Literal["last", "best", "all"]
"""Of each run its last row, or that of the lowest loss; or every row, whatever it is."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STATES = _names("state runstate status runstatus jobstate jobstatus trialstatus trialstate outcome")
_ENDED = _names("finished done completed complete success succeeded successful ok terminated ended imported converged")
_NOT_ENDED = _names(
    "crashed crash failed failure killed running pending preempted preempting error errored oom outofmemory "
    "diverged nan cancelled canceled aborted timeout stopped queued scheduled interrupted nodefail paused "
    "unfinished incomplete lost suspended inprogress started initializing submitted starting"
)
_GOOD_FLAGS = _names("finished done completed complete isfinished isdone iscompleted success succeeded")
_BAD_FLAGS = _names("crashed failed diverged killed preempted aborted isdiverged iscrashed isfailed")
_EXIT_CODES = {"exitcode", "returncode", "exitstatus"}
_TRUE, _FALSE = {"true", "yes", "1", "1.0", "y", "t"}, {"false", "no", "0", "0.0", "n", "f"}
_RUNS = {"run", "runid", "runname", "trial", "trialid", "experimentid", "job", "jobid", "uuid", "wandbid", "runhash"}
_NAMES = {"name", "id", "experiment", "expname", "experimentname", "model", "modelname"}
"""Names that each run may have to itself, or many may share, as those of one model trained for several lengths: they
are those of runs where each has many rows at several steps, or some as far apart from one to the next."""
_SUMMARIES = _names("mean average avg median total sum std stdev stddev grandtotal")
"""What rows are called that sum up the others."""
TUNED = _names(
    "lr learningrate peaklr maxlr minlr lrpeak lrmax peaklearningrate maxlearningrate baselr muonlr adamlr "
    "embeddinglr bs batch batchsize batchtokens globalbatchsize gbs bsz tokensperbatch wd weightdecay "
    "warmup warmupsteps warmuptokens warmupratio beta1 beta2 adambeta2 eps adameps momentum "
    "gradclip gradientclip dropout"
)
_ALIKE, _ONE_SIZE = 0.01, 1e-5
"""So far apart in log, lengths are of one cell, and so unequal, distances are equal; so far apart, sizes are one."""
_SPARSE = 0.1
"""In so large a share of the rows a loss is missing where it is measured at some steps alone."""
_SEVERAL, _SURELY = 4, 10
"""Rows under one name at even steps, or at any, fewer of which may be runs of their own."""
_MANY = 5000
"""More rows cannot be fitted, whatever they are."""
_EVEN = 6
"""So many rows of each size at equal distances are a curve's."""


def without_unfinished(table: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Which rows are runs that ended well, as far as a column says it: a state (`finished`, `crashed`, ...), a mark
    (`diverged`), or an exit code."""
    kept = pd.Series(True, index=table.index)
    notes = []
    for name, column in table.items():
        if last_part(name) not in _STATES | _GOOD_FLAGS | _BAD_FLAGS | _EXIT_CODES:
            continue
        words = column.map(_words)
        ill = _ill(last_part(name), words)
        if ill is None or not (left := ill & kept).any():
            continue
        kinds = ", ".join(f"{count} {word}" for word, count in words[left].value_counts().items())
        runs = "1 row" if left.sum() == 1 else f"{left.sum()} rows"
        notes.append(f"{runs} left out as not finished by column '{name}' ({kinds}); --keep-unfinished keeps them")
        kept &= ~ill
    return kept, notes


def without_summaries(table: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Which rows are runs by what they are called: not the mean or the total of the others, as spreadsheets end."""
    texts = table.select_dtypes(include=["object", "string", "category"]) if len(table) < _MANY else table[[]]
    called = texts.map(bare_name)
    sums = called.isin(_SUMMARIES) & ~called.isin(_SUMMARIES).all()
    few = sums.loc[:, sums.sum() <= max(1, len(table) * _SPARSE)].any(axis=1)
    if not few.any():
        return ~few, []
    first = called[few].iloc[0]
    names = f"called '{first[first.isin(_SUMMARIES)].iloc[0]}'"
    return ~few, [f"1 row left out, {names}" if few.sum() == 1 else f"{few.sum()} rows left out, such as one {names}"]


def one_row_a_run(
    table: pd.DataFrame, numbers: pd.DataFrame, choice: RowChoice, named: str | None, where: str
) -> tuple[pd.Series, list[str]]:
    """Which rows are the last, or the best, of their run, where rows are steps of runs.

    Args:
        numbers: the quantities of these rows, `loss` among them.
        named: the column that says which run a row is of, where the user has said so.

    Raises:
        InputError: so it is asked, and no column tells runs apart; or a run has two rows at one step.
    """
    every = pd.Series(True, index=table.index)
    step_name = next(
        (name for name in table if last_part(name) in STEPS_TOO and _numeric(table[name]).notna().any()), None
    )
    steps = None if step_name is None else _numeric(table[step_name])
    run_name = named or _run_column(table, numbers, steps)
    if run_name is None:
        if choice != "all" and (size := _even_curves(numbers)):
            return every, [
                f"each size has {size} rows or more at even distances of tokens: where they are steps of one run, add "
                "a column 'run', and the last of each counts"
            ]
        return every, []
    runs = table[run_name].astype(str)
    order = _position(numbers) if steps is None else steps
    by = f"'{run_name}', '{step_name}'" if step_name is not None else f"'{run_name}'"
    present = numbers["loss"].notna()
    lossless = 1 - present.mean()
    ends = order.groupby(runs).transform("max")
    diverged = pd.Series(False, index=table.index)
    if lossless < _SPARSE:
        diverged = runs.isin(runs[(order == ends) & ~present])
    usable = present & ~diverged & order.notna()
    score = numbers["loss"] if choice == "best" else -order
    first = score[usable].groupby(runs[usable]).idxmin()
    if choice == "last" and (twice := (order[usable] == ends[usable]).groupby(runs[usable]).sum() > 1).any():
        raise InputError(
            f"{where}: run '{twice.idxmax()}' has several rows at its last step ({by}); keep one of each, such as by "
            "--where, or take every row with --rows all"
        )
    which = "the lowest loss" if choice == "best" else "the last"
    other = "--rows last" if choice == "best" else "--rows best takes the lowest loss"
    notes = [
        f"{len(table)} rows are steps of {runs.nunique()} runs (by {by}): {which} of each counts; --rows all takes "
        f"every row, {other}"
    ]
    if diverged.any():
        count = runs[diverged].nunique()
        notes.append(f"{count} of them left out: without a loss at the end, as runs that diverged")
    return every.index.to_series().isin(first), notes


def best_of_each_cell(
    table: pd.DataFrame, numbers: pd.DataFrame, variables: Sequence[str], sources: Sequence[str]
) -> tuple[pd.Series, list[str]]:
    """Which rows are the best of those that differ in learning rate, batch and the like alone.

    Args:
        variables: the columns of `numbers` that a law takes, and so are no tuning.
        sources: columns of the table that these come from.
    """
    every = pd.Series(True, index=table.index)
    tuned = [name for name in table if last_part(name) in TUNED and name not in sources and table[name].nunique() > 1]
    keys = [name for name in variables if name in numbers]
    if not tuned or not keys:
        return every, []
    # Steps are whole and batches differ, so lengths come out near each other; a size is the same to rounding.
    apart = dict.fromkeys(COUNTS, _ALIKE) | dict.fromkeys(("params", "params_active"), _ONE_SIZE)
    cells = pd.DataFrame(
        {name: (np.log(numbers[name]) / apart[name]).round() if name in apart else numbers[name] for name in keys}
    )
    fine = cells.notna().all(axis=1) & numbers["loss"].gt(0) & np.isfinite(numbers["loss"])
    by = [cells.loc[fine, name] for name in keys]
    varies = table.loc[fine, tuned].astype(str).groupby(by).nunique()
    searched = [name for name in tuned if (varies[name] > 1).any()]
    if not searched:
        return every, []
    cell = cells[fine].groupby(keys).ngroup()
    loss = numbers.loc[fine, "loss"]
    settings = table.loc[fine, searched].astype(str).agg(" ".join, axis=1)
    mean = loss.groupby([cell, settings]).transform("mean")
    best = mean.groupby(cell).transform("min")
    kept = every.copy()
    kept[fine] = (mean <= best).to_numpy()
    if kept.all():
        return every, []
    named = " and ".join(f"'{name}'" for name in searched[:3])
    of = " and ".join(", ".join(keys).rsplit(", ", 1))
    return kept, [
        f"{len(table)} rows are {_cells(cell.nunique())} of {of} tried at several {named}: the best of "
        "each counts; --rows all takes every row"
    ]


def _run_column(table: pd.DataFrame, numbers: pd.DataFrame, steps: pd.Series | None) -> str | None:
    """The column whose values are each of one size, and of several rows that no two are at the same place."""
    likely = [name for name in table if last_part(name) in _RUNS]
    likely += [name for name in table if steps is not None and last_part(name) in _NAMES and _even(steps, table[name])]
    for name in likely:
        runs = table[name]
        if runs.isna().any() or runs.nunique() == len(runs):
            continue
        runs = runs.astype(str)
        sizes = numbers["params"].groupby(runs).nunique() if "params" in numbers else pd.Series([1])
        if (sizes <= 1).all() and (steps is not None or not _position(numbers).groupby(runs).apply(_repeats).any()):
            return str(name)
    return None


def _position(numbers: pd.DataFrame) -> pd.Series:
    """How far a run has come at each row."""
    return next((numbers[name] for name in ("tokens", "flops") if name in numbers), numbers["loss"] * 0)


def _even(steps: pd.Series, names: pd.Series) -> bool:
    """Whether each name has rows of several steps: that rise by one distance but for the last, or so many of them."""
    for _, own in steps.groupby(names.astype(str)):
        gaps = np.diff(np.sort(own.dropna().unique()))[:-1]
        if len(own) != own.nunique() or len(own) < _SEVERAL:
            return False
        if len(own) < _SURELY and np.ptp(gaps) > _ALIKE * gaps.mean():
            return False
    return True


def _repeats(values: pd.Series) -> bool:
    return bool(values.duplicated().any())


def _even_curves(numbers: pd.DataFrame) -> int:
    """How many rows each size has at least, where they lie at even distances as evaluations do; else 0."""
    known = numbers[np.isfinite(numbers).all(axis=1)]
    if not {"params", "tokens"} <= {*known} or not _EVEN < len(known) < _MANY or known["params"].nunique() == 1:
        return 0
    sizes = known.groupby("params")["tokens"]
    fewest = int(sizes.size().min())
    if fewest < _EVEN:
        return 0
    spread = sizes.apply(lambda tokens: np.ptp(np.diff(np.sort(tokens))))
    mean = sizes.apply(np.ptp) / (sizes.size() - 1)
    return fewest if (spread < _ALIKE * mean).all() else 0


def _ill(name: str, words: pd.Series) -> pd.Series | None:
    """Which rows a column says did not end well; None where it says nothing of that."""
    known = words[words != ""]
    if known.empty:
        return None
    if name in _STATES:
        return words.isin(_NOT_ENDED) if known.isin(_ENDED | _NOT_ENDED).any() else None
    if name in _GOOD_FLAGS and known.isin(_TRUE | _FALSE).all():
        return words.isin(_FALSE)
    if name in _BAD_FLAGS and known.isin(_TRUE | _FALSE).all():
        return words.isin(_TRUE)
    if name in _EXIT_CODES:
        return ~words.isin({"", "0", "00", "0.0"})
    return None


def _words(cell: object) -> str:
    """The first word of a cell, small: `Failed (OOM)` is failed; a mark or a number as it is written."""
    text = "" if cell is None or cell is pd.NA or cell != cell else str(cell).strip().casefold()
    text = text.removeprefix("runstatus.").removeprefix("state.")
    if re.fullmatch(r"[-+\d.]+", text):
        return text
    return bare_name(text) if bare_name(text) in _ENDED | _NOT_ENDED else bare_name(re.split(r"[\s(:,;+]", text)[0])


def _numeric(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce").astype(float)


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
