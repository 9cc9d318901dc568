"""How a sweep stands, from its files alone: no Ray is asked, so it works while the head is down.

Whoever runs the sweep may be on another machine: it is known by its lease and by the time of its last sign.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from nextscale.cluster.accounts import Accounts, Reservation
from nextscale.cluster.lease import TIME_TO_LIVE
from nextscale.model.record import Row
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.store import Store, load

STOP = "stop"
"""The file that asks whoever runs the sweeps of a folder to save all runs and leave."""


@dataclasses.dataclass(frozen=True)
class Running:
    """A run that is being trained.

    Attributes:
        share: of its tokens that it has seen.
        seconds: since it was started.
    """

    run_id: str
    slot: str
    pool: str
    seconds: float
    share: float
    loss: float | None


@dataclasses.dataclass(frozen=True)
class Status:
    """How the sweeps of a folder stand.

    Attributes:
        controller: `at work`, `silent` for so long that it must be dead, or `none`.
        runs: how many are done, diverged, failed, running, and unfinished but not at work.
        flops: trained FLOPs of all runs that are done, and planned ones of all.
        spent: attempts, device_hours, usd, flops_kept and flops_lost so far (see `nextscale.cluster.accounts`).
        running: the runs at work.
        failures: of each run that failed for good its reason.
    """

    controller: str
    runs: dict[str, int]
    flops: tuple[float, float]
    spent: dict[str, Any]
    running: list[Running]
    failures: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"spent": {name: _plain(value) for name, value in self.spent.items()}}


def status(out: str | Path) -> Status:
    """How the sweeps of a folder stand.

    Raises:
        SpecError: the folder holds no sweep, or a record is damaged.
    """
    from nextscale.sweeps.design import planned_runs

    store = Store.existing(out)
    planned = {run.config.run_id: run for spec in store.specs() for run in planned_runs(spec)}
    table = load(out)
    rows = {row["run_id"]: row for row in table.to_dict("records")} if len(table) else {}
    accounts = Accounts(store.root / "accounts.jsonl")
    controller = _controller(store.root)
    running = (
        [_running(store, reservation) for reservation in accounts.open.values()] if controller == "at work" else []
    )
    names = {one.run_id for one in running}
    counts = dict.fromkeys(("done", "diverged", "failed", "running", "unfinished", "not started"), 0)
    for run_id in {*planned, *rows}:
        row = rows.get(run_id)
        state = "running" if run_id in names else "not started" if row is None else str(row["status"])
        counts[state] += 1
    done = sum(run.own_flops for run_id, run in planned.items() if rows.get(run_id, {}).get("status") == "done")
    failures = {run_id: str(row["reason"]) for run_id, row in rows.items() if row["status"] == "failed"}
    return Status(
        controller=controller,
        runs=counts,
        flops=(done, sum(run.own_flops for run in planned.values())),
        spent=accounts.totals(),
        running=sorted(running, key=lambda one: one.slot),
        failures=failures,
    )


def ask_to_stop(out: str | Path) -> bool:
    """Asks whoever runs the sweeps of a folder to save all runs and leave; tells whether anybody is there to hear it.

    Raises:
        SpecError: the folder holds no sweep.
    """
    store = Store.existing(out)
    if _controller(store.root) != "at work":
        return False
    (store.root / STOP).write_text("")
    return True


def _controller(out: Path) -> str:
    newest = max((out / "controller" / "leases").glob("*.json"), default=None)
    if newest is None:
        return "none"
    try:
        age, text = time.time() - newest.stat().st_mtime, newest.read_text()
    except FileNotFoundError:
        return "none"
    if text.startswith("released"):
        return "none"
    return "at work" if age < TIME_TO_LIVE else "silent"


def _running(store: Store, reservation: Reservation) -> Running:
    curve: list[Row] = store.run(reservation.run_id).metrics()
    try:
        tokens = store.config(reservation.run_id).tokens
    except (FileNotFoundError, SpecError):  # it is about to begin
        tokens = 1
    newest: Row = curve[-1] if curve else {"tokens": 0, "loss": None}
    return Running(
        run_id=reservation.run_id,
        slot=reservation.slot,
        pool=reservation.seat.pool,
        seconds=time.time() - reservation.started,
        share=newest["tokens"] / tokens,
        loss=newest["loss"],
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else float(value)
