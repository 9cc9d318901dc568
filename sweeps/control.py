"""Commands on a sweep that runs, here or elsewhere: `status`, `logs`, `stop`. They read and write files alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.terminal import Json, print_json, screen

app = typer.Typer()

Out = Annotated[Path, typer.Argument(metavar="OUT", help="the --out of `nextscale run`")]


@app.command()
def status(out: Out, json_: Json = False) -> None:
    """How a sweep stands: runs, spend, what is at work. Works while the cluster is down."""
    from nextscale.sweeps.tables import Table, number
    from nextscale.sweeps.watch import status as status_of

    found = status_of(out)
    if json_:
        print_json(found.to_dict())
        return
    done, planned = found.flops
    counts = [[state, str(count)] for state, count in found.runs.items() if count]
    screen.print(Table(f"{out}: controller {found.controller}", ["runs", ""], counts).rich())
    spent = found.spent
    cost = [
        ["FLOPs of runs done, of all", f"{number(done, 3)} of {number(planned, 3)}"],
        ["FLOPs kept, lost", f"{number(spent['flops_kept'], 3)}, {number(spent['flops_lost'], 3)}"],
        ["device-hours", f"{spent['device_hours']:.2f}"],
        ["dollars", f"{spent['usd']:.2f}"],
        ["attempts", str(spent["attempts"])],
    ]
    screen.print(Table("Spent so far", ["", ""], cost).rich())
    if found.running:
        rows = [
            [
                one.run_id,
                one.slot,
                f"{one.share:.0%}",
                f"{one.seconds:.0f} s",
                "-" if one.loss is None else f"{one.loss:.3f}",
            ]
            for one in found.running
        ]
        screen.print(Table("At work", ["run", "where", "done", "for", "loss"], rows, left=2).rich())
    for run_id, reason in found.failures.items():
        screen.print(f"{run_id} failed: {reason}", style="yellow", markup=False)


@app.command()
def logs(
    out: Out,
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="of one run alone")] = None,
    lines: Annotated[int, typer.Option(min=1, help="the newest so many")] = 50,
    json_: Json = False,
) -> None:
    """What happened in a sweep, the newest last."""
    from nextscale.sweeps.journal import Journal
    from nextscale.sweeps.store import Store

    rows = Journal(Store.existing(out).root).rows(run_id)[-lines:]
    if json_:
        print_json({"events": rows})
        return
    for row in rows:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["time"]))
        text = f"{when}  {row['run_id'] or '':12}  {row['event']:8}  {row['text']}"
        screen.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)
    if not rows:
        screen.print("nothing has happened yet")


@app.command()
def stop(out: Out) -> None:
    """Asks whoever runs a sweep, wherever that is, to save all runs and leave. `nextscale run` goes on from there."""
    from nextscale.sweeps.watch import ask_to_stop

    asked = ask_to_stop(out)
    screen.print("asked; it saves its runs and leaves" if asked else "nobody is at work on it")
