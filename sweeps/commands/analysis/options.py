"""The options of every command on a table of runs: the runs, and their columns; of laws see `law_options.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal import completion

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.fit.table.columns import Columns
    from nextscale.fit.table.runs import Runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What the columns of a table of runs mean, and which of its rows to use."""

    panel: ClassVar = "Columns and rows"

    params_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="column of N; of params, tokens and flops two are enough")
    ] = None
    tokens_column: Annotated[str | None, typer.Option(metavar="NAME", help="column of D")] = None
    flops_column: Annotated[str | None, typer.Option(metavar="NAME", help="column of C")] = None
    loss_column: Annotated[str | None, typer.Option(metavar="NAME", help="column of the loss, nats per token")] = None
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="VARIABLE=NAME", help="column of another variable of the law; may be given again"),
    ] = None
    weight_column: Annotated[str | None, typer.Option(metavar="NAME", help="how much each run counts")] = None
    group_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="which rows belong to one run, for the cluster bootstrap")
    ] = None
    params: Annotated[
        str,
        typer.Option(
            "--count",
            metavar="WHICH",
            help="what N counts in a sweep: total, non_embedding or active",
            autocompletion=completion.one_of("total", "non_embedding", "active"),
        ),
    ] = "total"
    add_to_loss: Annotated[
        float,
        typer.Option(metavar="C", help="a constant added to every loss, where losses are normalised and lie below 0"),
    ] = 0.0
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="rows to use, of every table, as pandas queries: 'split == \"train\"'"),
    ] = None

    rows_of_runs: Annotated[
        str | None,
        typer.Option(
            "--rows",
            metavar="WHICH",
            help="of rows that are steps of a run the last, or the best by its loss, and of runs tuned otherwise the "
            "best; or all \\[default: last; all with groups or weights]",
            autocompletion=completion.one_of("last", "best", "all"),
        ),
    ] = None
    keep_unfinished: Annotated[
        bool, typer.Option("--keep-unfinished", help="take runs that a column says crashed, failed or still run")
    ] = False
    as_is: Annotated[
        bool, typer.Option("--as-is", help="take the figures as they are, in no unit and however little plausible")
    ] = False

    computed: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME=EXPRESSION",
            help="a further column, such as params=1.2e8 or 'tokens=step*2048'; may be given again",
        ),
    ] = None

    @property
    def columns(self) -> Columns:
        from nextscale.fit.table.columns import Columns

        return Columns(
            params=self.params_column,
            tokens=self.tokens_column,
            flops=self.flops_column,
            loss=self.loss_column,
            weight=self.weight_column,
            group=self.group_column,
            others=dict(map(_variable, self.column or ())),
        )

    def as_runs(self, rows: pd.DataFrame, path: Path, variables: Sequence[str] = ("N", "D"), drop: int = 0) -> Runs:
        """The rows of a table as runs, with what a law of these variables needs."""
        from nextscale.fit.table.runs import as_runs

        which = self.rows_of_runs
        if which not in (None, "last", "best", "all"):
            raise SpecError(f"--rows {which}: is not one of last, best and all")
        return as_runs(
            rows,
            columns=self.columns,
            convention=self.params,
            variables=variables,
            drop_largest_losses=drop,
            add_to_loss=self.add_to_loss,
            rows=which,  # type: ignore[arg-type]
            keep_unfinished=self.keep_unfinished,
            as_is=self.as_is,
            where=str(path),
        )

    def prepared(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """A table with computed columns, and without rows that are not to be used."""
        if self.computed or self.where:
            from nextscale.fit.table.expressions import with_columns, with_numerals

            named = [self.params_column, self.tokens_column, self.flops_column, self.loss_column]
            table = with_columns(with_numerals(table, named, str(path)), self.computed or (), str(path))
        return self._selected(table, path)

    def _selected(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """The rows of a table that are to be used."""
        if self.where is None:
            return table
        try:
            table = table.query(self.where)
        except Exception as error:  # pandas raises of every kind
            reason = " ".join(str(error).replace("\\n", " ").split())[:100]
            raise SpecError(f"--where {self.where}: cannot be used ({reason})") from None
        if table.empty:
            raise SpecError(f"--where {self.where}: holds for no row of {path}")
        return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source(TableOptions):
    """Which runs, and what their columns mean."""

    runs: Annotated[
        Path, typer.Argument(metavar="RUNS", help="a table (text, JSON, Parquet, Excel), or the --out of a sweep")
    ]
    drop_largest_losses: Annotated[
        int, typer.Option(min=0, metavar="K", help="leave out the K runs of the largest loss, and say so")
    ] = 0

    def read(self, variables: Sequence[str] = ("N", "D")) -> Runs:
        """The runs, with what a law of these variables needs."""
        return self.of_rows(self.rows(), variables)

    def rows(self) -> pd.DataFrame:
        """The table as it is, but for rows that are not to be used."""
        return self._rows(self.runs)

    def of_rows(self, rows: pd.DataFrame, variables: Sequence[str] = ("N", "D")) -> Runs:
        """Of these rows, what `read` says."""
        return self.as_runs(rows, self.runs, variables, self.drop_largest_losses)

    def read_other(self, path: Path, variables: Sequence[str] = ("N", "D")) -> Runs:
        """Another table of the same columns, of which no run is left out for its loss."""
        return self.as_runs(self._rows(path), path, variables)

    def read_all(self, laws: Sequence[str] = ()) -> Runs:
        """The runs, with the variables of every law that suits them, and of those that are to be tried."""
        rows = self.rows()
        return self.of_rows(rows, self.variables_in(rows, laws))

    def of_all(self, rows: pd.DataFrame) -> Runs:
        """Of these rows, what `read_all` says."""
        return self.of_rows(rows, self.variables_in(rows))

    def variables_in(self, rows: pd.DataFrame, laws: Sequence[str] = ()) -> tuple[str, ...]:
        """The variables of laws that these rows have columns for, and of those that are to be tried."""
        from nextscale.fit.trust.candidates import variables_in

        return variables_in(rows, self.columns, self.params, laws)

    def _rows(self, path: Path) -> pd.DataFrame:
        from nextscale.fit.table.reading import read_table

        if str(path).startswith("published:"):
            raise SpecError(f"{path}: is of constants without runs; inference, overtrain and family take it")
        if not path.is_dir():
            return self.prepared(read_table(path), path)
        from nextscale.sweeps.store.finished_runs import check_one_data_source, load_finished

        table = self.prepared(load_finished(path), path)
        check_one_data_source(table, path)
        return table


def numbers_by_name(texts: Sequence[str], option: str, form: str) -> dict[str, float]:
    """From `NAME=VALUE` each.

    Raises:
        SpecError: one is written otherwise, is named twice, or is no number.
    """
    found = {}
    for text in texts:
        name, value = _pair(text, option, form)
        if name in found:
            raise SpecError(f"{option} {text}: {name} is given twice; give it once")
        try:
            found[name] = float(value)
        except ValueError:
            raise SpecError(f"{option} {text}: '{value}' is not a number") from None
    return found


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise SpecError(f"{option} {text}: write it as {form}")
    return name, value


def _variable(text: str) -> tuple[str, str]:
    """A variable of some law, and the column that holds it."""
    from nextscale.fit.laws.catalogue import LAWS
    from nextscale.fit.table.columns import column_of

    name, column = _pair(text, "--column", "VARIABLE=NAME")
    named = {"N": "--params-column", "D": "--tokens-column", "C": "--flops-column"}
    known = {v: column_of(v) for law in LAWS.values() for v in law.variables if v not in named}
    if name in named:
        raise SpecError(f"--column {text}: name the column of {name} with {named[name]}")
    if name not in {*known, *known.values()}:
        raise SpecError(f"--column {text}: no law has a variable '{name}'; they have {', '.join(known)}")
    return name, column


def notes_of(path: Path, runs: Runs) -> list[str]:
    """The notes on a table, where a command reads two."""
    return [f"{path}: {text}" for text in runs.notes]
