"""The commands `runs`, `verify` and `gc`: the runs of a folder, checked and cleared of old checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.terminal.console import Folder, Json, complain, note, print_json, screen

app = typer.Typer()


@app.command()
def runs(
    out: Annotated[list[Path], typer.Argument(metavar="OUT...", help="output folders")],
    sweep: Annotated[
        str | None, typer.Option(metavar="NAME", help="the runs of one sweep alone, and what it wants them for")
    ] = None,
    json_: Json = False,
) -> None:
    """Shows the table of all runs in one or more output folders.

    With --json it has all its columns.
    """
    from nextscale.sweeps.show.formats import count, loss, number, text
    from nextscale.sweeps.show.tables import table_of
    from nextscale.sweeps.store.store import load

    table = load(*out, sweep=sweep, unreadable=True)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    for problem in table.attrs["problems"]:
        complain(problem)
    if json_:
        print_json({"runs": rows})
        return
    if not rows:
        screen.print("no runs yet")
        return
    columns = (
        ("run", "run_id", text),
        ("status", "status", text),
        ("sweep", "sweeps", lambda names: names or "-"),
        ("for", "role", lambda role: role or "-"),
        ("params", "params", count),
        ("tokens", "tokens", count),
        ("flops", "flops", number),
        ("loss", "loss", loss),
        ("device-hours", "device_hours", lambda hours: number(hours, 3)),
        ("$", "usd", lambda usd: number(usd, 3)),
        ("reason", "reason", text),
    )
    screen.print(table_of(f"{len(rows)} runs", rows, *columns).rich())


@app.command()
def verify(
    out: Folder,
    deep: Annotated[bool, typer.Option("--deep", help="restore every checkpoint, and read all token files")] = False,
    json_: Json = False,
) -> None:
    """Checks that the records of a folder, its ledger and its accounts agree with each other.

    Every record is held against its config, curve and checkpoints, and the accounts are added up. One line per fault,
    with how to mend it; exit code 1 if there are any.
    """
    from nextscale.model.storage.sweep_copy import told
    from nextscale.sweeps.store.faults import Fault
    from nextscale.sweeps.store.verify import verify as verify_folder

    checked, faults = verify_folder(out, deep=deep)
    here, there = str(out), told(out)
    faults = [Fault(*(text.replace(here, there) for text in dataclasses.astuple(one))) for one in faults]
    if json_:
        print_json({"runs": checked, "faults": [dataclasses.asdict(fault) for fault in faults]})
    else:
        for fault in faults:
            screen.print(str(fault), markup=False, highlight=False, soft_wrap=True)
        screen.print(f"{checked} runs, {len(faults) or 'no'} fault{'s' * (len(faults) != 1)}", highlight=False)
    if faults:
        raise typer.Exit(1)


@app.command()
def gc(
    out: Folder,
    finals: Annotated[bool, typer.Option("--finals", help="free the trained models too")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="delete; without it nothing is")] = False,
    json_: Json = False,
) -> None:
    """Tells which checkpoints nothing needs, and with --yes deletes them.

    Runs that are at work are left alone, as is what trunks keep for longer runs (training.keep_trunk).
    """
    from nextscale.sweeps.show.tables import Table
    from nextscale.sweeps.store.garbage import collect, garbage, kept_states, unreadable
    from nextscale.sweeps.store.store import Store

    for problem in unreadable(Store.existing(out)).values():
        complain(f"{problem}; nothing of this run is freed")
    found = collect(out, finals=finals) if yes else garbage(out, finals=finals)
    kept, total = kept_states(out), sum(one.bytes for one in found)
    if json_:
        freed = [{"run_id": one.run_id, "bytes": one.bytes, "checkpoints": _named(one.checkpoints)} for one in found]
        held = [dataclasses.asdict(one) for one in kept]
        print_json({"deleted": yes, "bytes": total, "runs": freed, "kept_trunks": held})
        return
    if kept:
        size = _bytes(sum(one.bytes for one in kept))
        note([f"{size} are held by the states of {len(kept)} trunks, for longer runs (training.keep_trunk)"])
    if not found:
        screen.print("nothing to free")
        return
    rows = [[one.run_id, ", ".join(_named(one.checkpoints)), _bytes(one.bytes)] for one in found]
    title = f"{'Freed' if yes else 'Can be freed'}: {_bytes(total)} of {len(found)} runs"
    screen.print(Table(title, ["run", "checkpoints", "size"], rows).rich())
    if not yes:
        screen.print("nothing was deleted; --yes deletes them")


def _named(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


def _bytes(size: int) -> str:
    from nextscale.sweeps.show.formats import number

    for unit, letter in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{number(size / unit, 3)} {letter}"
    return f"{size} B"
