"""What it costs to watch a sweep: `python benchmarks/live.py [RUNS]` (10 000), of which nine in ten have landed.

A folder is written as training leaves it (see `store.py`), with eight runs at work, and looked at as `nextscale serve`
does: at first; again, when nothing has happened; when the curves of those at work have grown; when a run has landed.
Seconds and files opened are those of one look and the answer made of it; imports apart.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from store import leave_behind, spec_of

from nextscale.cluster.controller.accounts import Accounts, Reservation
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.job import Job
from nextscale.cluster.controller.lease import Lease
from nextscale.cluster.hardware.seat import Seat
from nextscale.model.record import append_row
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.run.journal import Journal
from nextscale.sweeps.show.tables import Table
from nextscale.sweeps.store.store import Store
from nextscale.sweeps.watch.snapshot import Live

RUNS, AT_WORK = 10_000, 8
_opened: list[str] = []
sys.addaudithook(lambda event, arguments: _opened.append(str(arguments[0])) if event == "open" else None)


def journaled(store: Store, run: PlannedRun, kind: str) -> None:
    config = run.config
    job = Job(config.run_id, config, str(store.root), run.own_flops, config.training.steps, "")
    Journal(store.root).note(Event(kind, job))  # type: ignore[arg-type]


def main(runs: int = RUNS) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        store = Store.at(root)
        spec = spec_of(runs)
        store.write_spec(spec)
        planned = planned_runs(spec)
        done, at_work = planned[: len(planned) * 9 // 10], planned[-AT_WORK:]
        stack.enter_context(Lease(root / "controller"))
        told = Accounts()
        for run in done:
            leave_behind(store, run.config, told)
        (root / "accounts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told.rows))
        rows = [{"time": time.time(), "event": "finished", "run_id": run.config.run_id, "text": ""} for run in done]
        (root / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        accounts = Accounts(root / "accounts.jsonl")
        stack.callback(accounts.close)
        open_: dict[int, Reservation] = {}
        for i, run in enumerate(at_work):
            store.run(run.config.run_id).write_config(run.config)
            journaled(store, run, "started")
            seat, flops = Seat("cpu"), int(run.own_flops)
            open_[i] = accounts.reserve(run.config.run_id, f"cpu-{i}", seat, "cpu", 0, 90.0, flops)
        live, shown = Live(root), []

        def look(what: str) -> None:
            _opened.clear()
            began = time.perf_counter()
            version = live.version
            body = json.dumps(live.look())
            seconds = time.perf_counter() - began
            sent = f"{len(body) / 1e3:.0f}" if live.version != version else "0"
            shown.append([what, f"{1e3 * seconds:.1f}", str(len(_opened)), sent])

        look("first")
        for tenth in range(3):
            look("nothing has happened")
            for run in at_work:
                tokens = run.tokens * (tenth + 1) // 10
                append_row(store.run(run.config.run_id).metrics_file, {"tokens": tokens, "loss": 2.3})
            look(f"{len(at_work)} curves have grown")
        leave_behind_again(store, at_work[0], accounts, open_[0])
        look("a run has landed")
        Console().print(Table(f"{len(planned)} runs", ["", "ms", "files opened", "kB sent"], shown).rich())


def leave_behind_again(store: Store, run: PlannedRun, accounts: Accounts, reservation: Reservation) -> None:
    """A run that was at work comes to its end."""
    store.run(run.config.run_id).write_record({"run_id": run.config.run_id, "status": "done", "loss": 2.2})
    accounts.settle(reservation, 60.0, kept=int(run.own_flops), outcome="finished", peak=1e11)
    journaled(store, run, "finished")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
