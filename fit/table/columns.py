"""Columns of a table of runs: which of them holds parameters, tokens, FLOPs, loss and what else a law varies in."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.errors import InputError

COUNTS = ("params", "tokens", "flops")
"""The quantities tied by C = 6ND: two give the third."""
NOT_VARIABLES = ("loss", "weight", "group", "run_id", "budget")
"""Columns of `Runs.table` that no law takes."""
_COLUMNS = {"N": "params", "D": "tokens", "C": "flops", "U": "unique_tokens"}

_USUAL = {
    "params": "n params parameters nparams nparameters numparams numparameters paramcount parametercount modelsize "
    "totalparams totalparameters",
    "tokens": "d tokens ntokens dtokens numtokens tokencount tokensseen totaltokens traintokens trainingtokens",
    "flops": "c flop flops compute cflops computeflop computeflops totalflops totalcompute trainflop trainflops "
    "trainingflop trainingflops traincompute trainingcompute trainingcomputeflop trainingcomputeflops",
    "loss": "l loss finalloss valloss validloss validationloss evalloss testloss trainloss trainingloss",
}
"""Of each quantity the names that can mean nothing else beside the others, letters and figures alone. None has a unit
in it (`params (B)`): its figures would be taken for counts."""
_QUANTITIES = {name: quantity for quantity, names in _USUAL.items() for name in names.split()}
_BUDGETS = ("budget", "flopsbudget", "flopbudget", "budgetflops", "isoflopbudget", "computebudget")
"""Names of columns that may state the compute that a run was given, the first of them first."""


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


def recognise_columns(
    table: pd.DataFrame, columns: Columns = Columns(), convention: str = "total"
) -> tuple[Columns, dict[str, list[str]]]:
    """The columns, with those that their names alone tell.

    Only what a table cannot do without is looked for: a loss, and two of params, tokens and flops. Where two columns
    may be the same quantity neither is taken.

    Args:
        convention: what N counts; a column that may be N says nothing but the total.

    Returns:
        The columns, and for each quantity that was looked for the names that may be it.
    """
    usual = _usual_columns(convention)
    absent = [key for key, name in usual.items() if getattr(columns, key) is None and name not in table]
    enough = len(set(COUNTS).intersection(absent)) < 2
    sought = [key for key in absent if key == "loss" or not (enough or (key == "params" and convention != "total"))]
    stated = {columns.params, columns.tokens, columns.flops, columns.loss, columns.weight, columns.group}
    stated |= {*columns.others.values()}
    candidates: dict[str, list[str]] = {key: [] for key in sought}
    for name, column in table.items():
        quantity = _quantity_of(name)
        if quantity in candidates and name not in stated and pd.to_numeric(column, errors="coerce").notna().any():
            candidates[quantity].append(str(name))
    recognised: dict[str, Any] = {key: names[0] for key, names in candidates.items() if len(names) == 1}
    return dataclasses.replace(columns, **recognised), candidates


def stated_budgets(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that by their names state budgets, as floats; what they hold may be anything, dollars even."""
    named = sorted((name for name in table if _bare(name) in _BUDGETS), key=lambda name: _BUDGETS.index(_bare(name)))
    numbers = {name: pd.to_numeric(table[name], errors="coerce").astype(float) for name in named}
    return pd.DataFrame(numbers, index=table.index).dropna(axis="columns", how="all")


@dataclasses.dataclass(frozen=True)
class ColumnSources:
    """Where a table holds what its runs are made of.

    Attributes:
        columns: as named, and those recognised by their names.
        of: by quantity (`params`, `loss`, `weight`, a law's further variables, ...) the table's column.
        notes: what was taken by its name, and what was not for doubt, in words.
        listing: the first columns of the table, for messages.
    """

    columns: Columns
    of: Mapping[str, str]
    notes: tuple[str, ...]
    listing: str


def locate_columns(
    table: pd.DataFrame, columns: Columns, convention: str, variables: Sequence[str], where: str
) -> ColumnSources:
    """Finds the column of each quantity that runs need: by what is named, by our own names, and by usual ones.

    Args:
        variables: what the law to be fitted takes.
        where: what to call the table in errors.

    Raises:
        InputError: a column that is named or needed is not there, or there twice.
    """
    columns, candidates = recognise_columns(table, columns, convention)
    doubts = {
        key: f"{' and '.join(names)} may each be {key}, so none is taken; name it with --{key}-column"
        for key, names in candidates.items()
        if len(names) > 1
    }
    source_of = {key: getattr(columns, key) or name for key, name in _usual_columns(convention).items()}
    if (twice := table.columns[table.columns.duplicated()]).size:
        raise InputError(f"{where}: two columns are called '{twice[0]}'; rename one")
    listing = ", ".join(map(str, table.columns[:12]))
    for key, source in source_of.items():
        if getattr(columns, key) is not None and source not in table:
            raise InputError(f"{where}: there is no column '{source}' for {key}; it has {listing}")
    present = [key for key in COUNTS if source_of[key] in table]
    needed = [column_of(name) for name in variables]
    if source_of["loss"] not in table:
        lacking = doubts.get("loss") or "there is no column 'loss'; name it with --loss-column"
        raise InputError(f"{where}: {lacking} (it has {listing})")
    if len(present) < 2 and not set(COUNTS).intersection(needed) <= set(present):
        mend = "; ".join(doubts.values()) or "name them with --params-column, --tokens-column or --flops-column"
        mend += ", or take a law in compute alone, --law saturating" if present == ["flops"] else ""
        raise InputError(
            f"{where}: needs two of params, tokens and flops, and has {' and '.join(present) or 'none'}; {mend} "
            f"(it has {listing})"
        )
    sources = _further_sources(columns, needed)
    for name, source in sources.items():
        if source not in table:
            raise InputError(
                f"{where}: there is no column '{source}' for {name}; name it with --column {name}=NAME "
                f"(it has {listing})"
            )
    sources |= {key: source_of[key] for key in (*present, "loss")}
    taken = ", ".join(f"{names[0]} for {key}" for key, names in candidates.items() if len(names) == 1)
    notes = [f"taken by the names of columns: {taken}"] if taken else []
    return ColumnSources(columns, sources, (*notes, *doubts.values()), listing)


def _usual_columns(convention: str) -> dict[str, str]:
    """Our own name of the column of each quantity."""
    return {"params": CONVENTIONS[convention], "tokens": "tokens", "flops": "flops", "loss": "loss"}


def _further_sources(columns: Columns, needed: Sequence[str]) -> dict[str, str]:
    """Of weights, and of each variable needed that is no count, the column."""
    named = {column_of(name): source for name, source in columns.others.items()}
    sources = {name: named.get(name, name) for name in needed if name not in COUNTS}
    return sources | ({"weight": columns.weight} if columns.weight else {})


def _quantity_of(name: object) -> str | None:
    """Which of `params`, `tokens`, `flops` and `loss` a column is by its name, case and signs aside; None if none."""
    return _QUANTITIES.get(_bare(name))


def _bare(name: object) -> str:
    return re.sub(r"[\W_]", "", str(name)).casefold()
