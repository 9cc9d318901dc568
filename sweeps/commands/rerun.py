"""The commands `rerun` and `drop`: a run is done again, or not trained at all."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from nextscale.sweeps.terminal.console import Folder, Json, note, print_json, screen

app = typer.Typer()

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="runs of it, or how their names begin")]


@app.command()
def rerun(out: Folder, runs: Runs, json_: Json = False) -> None:
    """Sets finished, failed or diverged runs aside, so that `nextscale run` does them again from the start.

    What they were is kept in OUT/set-aside. A forecast that was scored by one keeps its score.
    """
    from nextscale.sweeps.run.rerun import rerun as set_aside

    found = set_aside(out, runs)
    if json_:
        print_json({"runs": [dataclasses.asdict(one) for one in found]})
        return
    for one in found:
        text = f"{one.run_id} ({one.was}) is trained again by the next `nextscale run`; what it was is in {one.kept}"
        screen.print(text, markup=False, highlight=False, soft_wrap=True)
        note([f"forecast {name} was scored by {one.run_id}, and keeps that score" for name in one.scored])


@app.command()
def drop(
    out: Folder,
    runs: Runs,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="why; shown by `nextscale runs`")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="let dropped runs be trained after all")] = False,
    json_: Json = False,
) -> None:
    """Takes runs that have no result from what a sweep is to train.

    They count as neither failed nor left. What is trained of them already is kept.
    """
    from nextscale.sweeps.errors import SpecError
    from nextscale.sweeps.run.rerun import drop as drop_runs
    from nextscale.sweeps.run.rerun import take_back

    if undo and reason is not None:
        raise SpecError("--undo and --reason: one excludes the other; leave one out")
    chosen = take_back(out, runs) if undo else drop_runs(out, runs, reason)
    if json_:
        print_json({"dropped": not undo, "runs": chosen})
        return
    for run_id in chosen:
        screen.print(f"{run_id} is {'dropped no more' if undo else 'dropped'}", markup=False, highlight=False)
