"""The command `import`: runs that another tool recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.commands.analysis.options import TableOptions
from nextscale.sweeps.store.foreign_tables import TableKind, Take
from nextscale.sweeps.terminal.console import Json, note, print_json, screen, with_option_groups

app = typer.Typer()


@app.command("import")
@with_option_groups
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="tables (CSV, TSV, JSON, JSONL, Parquet, Excel), logs of training, exports of Weights & Biases (the "
            "CSV of a table of runs or of a chart, folders of runs) or of TensorBoard (folders with event files, the "
            "CSV of a scalar)",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder of runs that they are put beside")],
    options: TableOptions,
    kind: Annotated[
        TableKind | None,
        typer.Option("--from", help="what the files are \\[default: by their names and what is in them]"),
    ] = None,
    take: Annotated[
        Take, typer.Option(help="of a curve (TensorBoard, charts, logs): the value of its last step, or the lowest")
    ] = "last",
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="join the files: curves, such as charts, by run and step, and a table of runs by their names"
        ),
    ] = False,
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
    from nextscale.sweeps.store.joined_curves import read_joined
    from nextscale.sweeps.store.store import Store

    results: list[ImportResult] = []
    # All are read before any is kept: a mistake in the last leaves nothing behind of the first.
    if join:
        read = [(files[0], read_joined(files, kind, take))]
    else:
        read = [(path, read_foreign(path, kind, take)) for path in files]
    ready = []
    for path, foreign in read:
        table = options.prepared(foreign.table, path)
        variables = ("N", "D", *options.columns.others)
        runs = options.as_runs(table.assign(run_id=table.index), path, variables)
        ready.append((path, foreign, runs))
    meaning = dataclasses.asdict(options) | {"take": take, "join": join}
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
