"""The command `import`: runs that another tool recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextscale.sweeps.commands.analysis.options import TableOptions
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.store.foreign_tables import TableKind, Take
from nextscale.sweeps.terminal.console import Json, note, print_json, screen, with_option_groups

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()


@app.command("import")
@with_option_groups
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="tables (CSV, TSV, JSON, JSONL, Parquet), exports of Weights & Biases (the CSV of a table of runs or "
            "of a chart, folders of runs) or of TensorBoard (folders with event files, the CSV of a scalar)",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder of runs that they are put beside")],
    options: TableOptions,
    kind: Annotated[
        TableKind | None,
        typer.Option("--from", help="what the files are \\[default: by their names and what is in them]"),
    ] = None,
    take: Annotated[
        Take, typer.Option(help="of a curve (TensorBoard, charts): the value of its last step, or the lowest")
    ] = "last",
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME=EXPRESSION",
            help="a further column, such as params=1.2e8 or 'tokens=step*2048'; may be given again",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="what they were trained on; runs of one text are fitted as one \\[default: the file]",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Takes finished runs from elsewhere into a folder of runs, where every command sees them beside its own.

    Each needs a loss and two of parameters, tokens and training FLOPs. Where they come from stays with them: file,
    sha256, row, columns. To import a file again changes nothing; with other columns, it takes the place of before.
    """
    from nextscale.sweeps.store.foreign_tables import read_foreign
    from nextscale.sweeps.store.imported_runs import ImportResult, write_import
    from nextscale.sweeps.store.store import Store

    results: list[ImportResult] = []
    # All are read before any is kept: a mistake in the last leaves nothing behind of the first.
    read = [(path, read_foreign(path, kind, take)) for path in files]
    ready = []
    for path, foreign in read:
        table = options.selected(_with(foreign.table, with_ or (), path), path)
        variables = ("N", "D", *options.columns.others)
        runs = options.as_runs(table.assign(run_id=table.index), path, variables)
        ready.append((path, foreign, runs))
    meaning = dataclasses.asdict(options) | {"with": list(with_ or ()), "take": take}
    root = Store.at(out).root
    for path, foreign, runs in ready:
        results.append(write_import(root, path, foreign, runs, meaning, data))
    if json_:
        print_json({"imported": [dataclasses.asdict(one) for one in results]})
        return
    for one in results:
        again = {"new": "", "same": ": nothing is new", "replaced": ", in place of what it gave before"}[one.change]
        known = f"; {one.known} of them another file had given before, and they count once" if one.known else ""
        text = f"{one.source}: {one.runs} runs, on data '{one.data}'{again}{known}"
        screen.print(text, highlight=False, soft_wrap=True, markup=False)
        note(one.notes)


def _with(table: pd.DataFrame, expressions: list[str] | tuple[()], path: Path) -> pd.DataFrame:
    for text in expressions:
        name, equals, expression = text.partition("=")
        if not (name and equals and expression):
            raise SpecError(f"--with {text}: write it as NAME=EXPRESSION")
        try:
            table = table.assign(**{name: lambda of, expression=expression: of.eval(expression)})
        except Exception as error:  # pandas raises of every kind
            reason = " ".join(str(error).split())[:100]
            held = ", ".join(map(str, table.columns[:12]))
            raise SpecError(f"--with {text}: cannot be used ({reason}); {path} has {held}") from None
    return table
