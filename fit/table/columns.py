"""Columns of a table of runs: which of them holds parameters, tokens, FLOPs, loss and what else a law varies in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.errors import InputError
from nextscale.fit.table.expressions import ways_to_compute
from nextscale.fit.table.names import BUDGETS, COUNTS, LossUnit, Meaning, bare_name, loss_unit_of, meaning_of
from nextscale.fit.table.numerals import holds_numbers

_NAME_THEM = "name them with --params-column, --tokens-column or --flops-column"
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

    @classmethod
    def of(cls, columns: Columns | Mapping[str, str]) -> Columns:
        """The same, of a dict too: `{"N": "size", "loss": "val_loss", "experts": "num_experts"}`.

        Raises:
            InputError: it is neither.
        """
        if isinstance(columns, Columns):
            return columns
        if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns.values()):
            raise InputError(f"columns: should be names by quantity, such as {{'loss': 'val_loss'}}, not {columns!r}")
        own = {field.name for field in dataclasses.fields(cls)} - {"others"}
        named: dict[str, str] = {}
        others: dict[str, str] = {}
        for key, name in columns.items():
            field = "loss" if key == "L" else column_of(key)
            (named if field in own else others)[field] = name
        return cls(**named, others=others)


def recognise_columns(
    table: pd.DataFrame, columns: Columns = Columns(), convention: str = "total"
) -> tuple[Columns, dict[str, list[str]]]:
    """The columns, with those that their names alone tell.

    Only what a table cannot do without is looked for: a loss, and two of params, tokens and flops. Where two columns
    may be the same quantity neither is taken.

    Args:
        convention: what N counts. Where it is the total, and no column counts that, one that leaves embeddings or
            experts out is taken.

    Returns:
        The columns, and for each quantity that was looked for the names that may be it.
    """
    usual = _usual_columns(convention)
    absent = [key for key, name in usual.items() if getattr(columns, key) is None and name not in table]
    enough = len(set(COUNTS).intersection(absent)) < 2
    sought = [key for key in absent if key == "loss" or not enough]
    stated = {columns.params, columns.tokens, columns.flops, columns.loss, columns.weight, columns.group}
    stated |= {*columns.others.values()}
    candidates: dict[str, list[str]] = {key: [] for key in sought}
    second: dict[str, list[str]] = {key: [] for key in sought}
    for name, column in table.items():
        if name in stated or (meaning := meaning_of(str(name))) is None or not _can_hold(column, str(name)):
            continue
        key, spare = _sought_as(meaning, convention)
        if key in candidates:
            (second if spare else candidates)[key].append(str(name))
    candidates = {key: names or second[key] for key, names in candidates.items()}
    recognised: dict[str, Any] = {key: names[0] for key, names in candidates.items() if len(names) == 1}
    return dataclasses.replace(columns, **recognised), candidates


def stated_budgets(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that by their names state budgets, as floats; what they hold may be anything, dollars even."""
    named = sorted((name for name in table if bare_name(name) in BUDGETS), key=lambda n: BUDGETS.index(bare_name(n)))
    numbers = {name: pd.to_numeric(table[name], errors="coerce").astype(float) for name in named}
    return pd.DataFrame(numbers, index=table.index).dropna(axis="columns", how="all")


def _can_hold(column: pd.Series, name: str) -> bool:
    """Whether there are numbers in it; an L that is whole in every run is of layers."""
    if not holds_numbers(column):
        return False
    known = pd.to_numeric(column, errors="coerce").dropna()
    return bare_name(name) != "l" or len(known) < 2 or not (known % 1 == 0).all()


def _sought_as(meaning: Meaning, convention: str) -> tuple[str, bool]:
    """The quantity that a column may be taken for, and whether only where nothing better is there."""
    if meaning.quantity == CONVENTIONS[convention]:
        return "params", meaning.second
    if meaning.quantity.startswith("params"):
        return ("params", True) if convention == "total" else ("", True)
    return meaning.quantity, meaning.second


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

    @property
    def loss_unit(self) -> LossUnit:
        """What the loss is told in, as far as the name of its column says."""
        return loss_unit_of(self.of["loss"])

    def factor(self, quantity: str) -> tuple[float, str]:
        """What the figures of a count's column are multiplied by, as its name says, and that unit."""
        meaning = meaning_of(self.of[quantity]) if quantity in (*COUNTS, "params_active") else None
        return (meaning.factor, meaning.unit) if meaning else (1.0, "")


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
        ways = ways_to_compute(table, {key: source_of[key] for key in present})
        mend = "; ".join(doubts.values()) or (f"compute them, such as by {ways}" if ways else _NAME_THEM)
        mend += ", or take a law in compute alone, --law saturating" if present == ["flops"] else ""
        if table.attrs.get("curve"):
            mend += ", compute them (--with params=1.2e8), or join a table of them (nextscale import --join)"
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
    if active := _active_column(table, sources, convention):
        sources["params_active"] = active
    taken = ", ".join(f"{names[0]} for {key}" for key, names in candidates.items() if len(names) == 1)
    notes = [f"taken by the names of columns: {taken}"] if taken else []
    if columns.loss is None and (others := _other_losses(table)):
        notes.append(f"column 'loss' is taken, not {' or '.join(others)}: --loss-column NAME takes another")
    return ColumnSources(columns, sources, (*notes, *doubts.values()), listing)


def _other_losses(table: pd.DataFrame) -> list[str]:
    """Columns that may be the loss as well as the one that is called so: many tools log that of training under it."""
    if "loss" not in table or table.attrs.get("counted"):
        return []
    known = {str(name): meaning_of(str(name)) for name in table if name != "loss"}
    return [
        name
        for name, m in known.items()
        if m and m.quantity == "loss" and not m.second and _can_hold(table[name], name)
    ]


def _active_column(table: pd.DataFrame, sources: Mapping[str, str], convention: str) -> str | None:
    """The column of the parameters that a token passes through, where N is another count and FLOPs rest on it."""
    if convention != "total" or "params" not in sources or {"tokens", "flops"} <= sources.keys():
        return None
    named = [str(name) for name in table if (known := meaning_of(str(name))) and known.quantity == "params_active"]
    others = [name for name in named if name not in sources.values() and holds_numbers(table[name])]
    return others[0] if len(others) == 1 else None


def _usual_columns(convention: str) -> dict[str, str]:
    """Our own name of the column of each quantity."""
    return {"params": CONVENTIONS[convention], "tokens": "tokens", "flops": "flops", "loss": "loss"}


def _further_sources(columns: Columns, needed: Sequence[str]) -> dict[str, str]:
    """Of weights, and of each variable needed that is no count, the column."""
    named = {column_of(name): source for name, source in columns.others.items()}
    sources = {name: named.get(name, name) for name in needed if name not in COUNTS}
    return sources | ({"weight": columns.weight} if columns.weight else {})
