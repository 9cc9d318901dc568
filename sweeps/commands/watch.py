"""The commands `status`, `serve`, `logs` and `stop`: a running sweep, through its files alone."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nextscale.sweeps.terminal.console import Folder, Json, aside, complain, print_json, screen

app = typer.Typer()

_SPEED = ["tokens/s", "of the peak", "memory", "for data", "checkpoints"]


def _speed(speed: dict[str, Any]) -> list[str]:
    """How fast a run is, in cells: of its time the shares that its devices waited for data and for checkpoints."""
    from nextscale.sweeps.show.formats import count, in_bytes

    def cell(name: str, form: Callable[[float], str]) -> str:
        return "-" if speed.get(name) is None else form(float(speed[name]))

    def share(waited: float) -> str:
        return f"{waited / speed['seconds']:.1%}" if speed["seconds"] else "-"

    return [
        cell("tokens_per_second", count),
        cell("utilisation", lambda used: f"{used:.1%}"),
        cell("memory_bytes", in_bytes),
        cell("data_seconds", share),
        cell("checkpoint_seconds", share),
    ]


@app.command()
def status(out: Folder, json_: Json = False) -> None:
    """Tells how a sweep stands: runs, spend, what is at work.

    Reads files alone, and so works while the cluster is down.
    """
    from nextscale.model.storage.sweep_copy import original_of
    from nextscale.sweeps.show.formats import number
    from nextscale.sweeps.show.tables import Table
    from nextscale.sweeps.watch.status import status as status_of

    found = status_of(out)
    if json_:
        print_json(found.to_dict())
        return
    done, planned = found.flops
    counts = [[state, str(count)] for state, count in found.runs.items() if count]
    silent = {"none": "nobody is at work on it", "silent": "its controller is silent, and taken for dead"}
    title = f"{original_of(out) or out}: {silent.get(found.controller, 'controller at work')}"
    screen.print(Table(title, ["runs", ""], counts).rich())
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
        timed = any(one.speed for one in found.running)
        rows = [
            [
                one.run_id,
                one.slot,
                f"{one.share:.0%}",
                f"{one.seconds:.0f} s",
                "-" if one.loss is None else f"{one.loss:.3f}",
                *(_speed(one.speed or {}) if timed else []),
            ]
            for one in found.running
        ]
        columns = ["run", "where", "done", "for", "loss", *(_SPEED if timed else [])]
        screen.print(Table("At work", columns, rows, left=2).rich())
    if (left := found.left_open)["attempts"]:
        reserved = f"{left['device_hours']:.3g} device-hours, ${left['usd']:.2f} and {number(left['flops'], 3)} FLOPs"
        text = f"{left['attempts']} attempts are open, and their controller is gone: against caps all counts that was"
        text += f" reserved for them, {reserved}, until the sweep goes on and settles them"
        screen.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for problem in found.problems:
        complain(problem)
    for gate in found.waits_for:
        screen.print(f"waits for an approval: {gate}", style="yellow", markup=False, soft_wrap=True)
    if found.waits_for:
        command = f"nextscale run SPEC --out {shlex.quote(str(out))} --approve REASON"
        text = f"to approve: {command}, with the spec that it was run from, and why it may"
        screen.print(text, markup=False, highlight=False, soft_wrap=True)
    for run_id, reason in found.failures.items():
        screen.print(f"{run_id} failed: {reason}", style="yellow", markup=False)


@app.command()
def serve(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="the --out of `nextscale run`, or a folder that holds several")
    ],
    host: Annotated[
        str, typer.Option(help="an address of this machine; others than loopback let whoever reaches it read the page")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free")] = 8420,
    json_: Json = False,
) -> None:
    """Shows a sweep as a page that follows it: progress, spend, lanes, losses, failures; its report in the end.

    Reads files alone, and so works while the cluster is down, before the sweep has begun and after it has ended. Ctrl-C
    ends it. Of a folder that holds several sweeps, all on one page, and below it the page of each.
    """
    from nextscale.sweeps.watch.server import Pages, Server, Site

    pages: Pages = Site(out)
    if out.is_dir() and not (out / "runs").exists():
        from nextscale.sweeps.board.found import find_sweeps
        from nextscale.sweeps.board.server import BoardSite

        pages = BoardSite(out) if find_sweeps(out) else pages
    with Server(pages, host, port) as server:
        if not server.loopback:
            warning = f"whoever reaches {server.url} can read this page, and nobody is asked for a password"
            aside.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
        if json_:
            print_json(
                {"url": server.url, "host": host, "port": server.server_port, "out": str(out.expanduser().absolute())}
            )
        else:
            screen.print(f"{out}: {server.url} (Ctrl-C ends it)", markup=False, highlight=False, soft_wrap=True)
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


@app.command()
def logs(
    out: Folder,
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="of one run alone")] = None,
    lines: Annotated[int, typer.Option(min=1, help="the newest so many")] = 50,
    json_: Json = False,
) -> None:
    """Tells what happened in a sweep, the newest last.

    Of one run also what its trainer printed, where that is not nextscale itself.
    """
    from nextscale.model.record import read_lines
    from nextscale.sweeps.run.journal import Journal
    from nextscale.sweeps.store.store import Store
    from nextscale.sweeps.watch.status import open_attempts

    store = Store.existing(out)
    root = store.root
    rows = Journal(root).rows(run_id, on_damage=complain)[-lines:]
    printed = [] if run_id is None else read_lines(store.run(run_id).output_file)[-lines:]
    if json_:
        print_json({"events": rows} | ({"output": printed} if run_id else {}))
        return
    for row in rows:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["time"]))
        text = f"{when}  {row['run_id'] or '':12}  {row['event']:8}  {row['text']}"
        screen.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)
    for line in printed:
        screen.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if not rows:
        screen.print("nothing has happened yet")
    for one in open_attempts(root):
        if run_id in (None, one.run_id):
            text = f"attempt {one.attempt} at {one.run_id} is open, and its controller is gone"
            screen.print(f"{text}: settled when the sweep goes on", style="yellow", markup=False, soft_wrap=True)


@app.command()
def stop(
    out: Folder,
    within: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="kill runs that are not saved by then \\[default: 300]"),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="do not wait for runs to save themselves: kill them")] = False,
    json_: Json = False,
) -> None:
    """Asks whoever runs a sweep, wherever that is, to save all runs and leave.

    `nextscale run` goes on from there. Asked again with less time, it takes less. What is killed goes on from its
    newest checkpoint.
    """
    from nextscale.sweeps.errors import SpecError
    from nextscale.sweeps.watch.status import PATIENCE, ask_to_stop

    if now and within is not None:
        raise SpecError("--now and --within: one excludes the other; leave one out")
    asked = ask_to_stop(out, 0.0 if now else PATIENCE if within is None else within)
    if json_:
        print_json({"asked": asked})
        return
    screen.print("asked; it saves its runs and leaves" if asked else "nobody is at work on it")
