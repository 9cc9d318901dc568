"""The status of a sweep, from its files alone: it needs no Ray, so it works while the head is down.

Whoever runs the sweep may be on another machine, with another clock: it is known by its lease (see `controller.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from etils import epath

from nextscale.cluster.controller.accounts import Accounts, Reservation, row_problem
from nextscale.model.record import read_rows, write_atomically
from nextscale.model.storage.bucket import Bucket
from nextscale.model.storage.sweep_copy import original_of
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.plan.gates import Gate, Gatekeeper
from nextscale.sweeps.store.run_rows import UNREADABLE
from nextscale.sweeps.store.store import Store, speed_columns
from nextscale.sweeps.watch.controller import controller_of
from nextscale.sweeps.watch.watcher import STATES, Watcher

STOP = "stop"
"""The file that asks whoever runs the sweeps of a folder to save all runs and leave; in it, within how many seconds."""
PATIENCE = 300.0
"""Seconds that runs have to save themselves where nobody says otherwise."""


@dataclasses.dataclass(frozen=True)
class Running:
    """A run that is being trained.

    Attributes:
        share: of its tokens that it has seen.
        seconds: since it was started.
        speed: how fast it was lately (see `nextscale.sweeps.store.store.load_curves`); None where it has not said.
    """

    run_id: str
    slot: str
    pool: str
    seconds: float
    share: float
    loss: float | None
    speed: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Status:
    """How the sweeps of a folder stand.

    Attributes:
        controller: `at work`, `silent` for so long that it must be dead, or `none`.
        runs: how many are done, diverged, failed, running, unfinished but not at work, and so on.
        flops: trained FLOPs of all runs that are done, and planned ones of all.
        spent: attempts, device_hours, usd, flops_kept and flops_lost so far (see `nextscale.cluster.controller`).
        running: the runs at work.
        failures: of each run that failed for good its reason.
        left_open: how many `attempts` are open whose controller is gone, and the `device_hours`, `usd` and `flops` that
            were reserved for them: these count in full until the sweep goes on and settles them.
        problems: what in the folder could not be read, a line each; all else here is of the rest.
        waits_for: the gates that the sweep waits at for an approval, what it comes to and the limit, in words.
    """

    controller: str
    runs: dict[str, int]
    flops: tuple[float, float]
    spent: dict[str, Any]
    running: list[Running]
    failures: dict[str, str]
    left_open: dict[str, Any]
    waits_for: list[str]
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"spent": {name: _plain(value) for name, value in self.spent.items()}}


def status(out: str | Path) -> Status:
    """How the sweeps of a folder stand.

    Raises:
        SpecError: the folder holds no sweep.
    """
    watcher = Watcher(out)
    watcher.look()
    while not watcher.certain:
        time.sleep(0.25)
        watcher.look()
    return status_of(watcher)


def status_of(watcher: Watcher) -> Status:
    """How the sweeps of a folder stand, as of the last look at it."""
    states = watcher.states()
    counts = dict.fromkeys(STATES, 0)
    for state in states.values():
        counts[state] += 1
    running = [_running(watcher, one) for one in watcher.accounts.open.values() if one.run_id in watcher.curves]
    return Status(
        controller=watcher.controller.state,
        runs=counts,
        flops=(
            sum(flops for run_id, flops in watcher.own_flops.items() if states[run_id] == "done"),
            sum(watcher.own_flops.values()),
        ),
        spent=watcher.accounts.totals(),
        running=sorted(running, key=lambda one: one.slot),
        failures={run_id: str(watcher.rows[run_id]["reason"]) for run_id, s in states.items() if s == "failed"},
        left_open=_left_open(watcher),
        waits_for=[] if watcher.controller.state == "at work" else _waits_for(watcher),
        problems=watcher.damage
        + [str(watcher.rows[run_id]["reason"]) for run_id, s in states.items() if s == UNREADABLE],
    )


def ask_to_stop(out: str | Path, within: float = PATIENCE) -> bool:
    """Asks whoever runs the sweeps of a folder to save all runs and leave; tells whether anybody is there to hear it.

    It is asked for in any case: whoever begins later takes no notice of it.

    Args:
        within: seconds after which runs that have not saved themselves are killed.

    Raises:
        SpecError: the folder holds no sweep.
    """
    store = Store.existing(out)
    if (address := original_of(store.root)) is not None:
        Bucket(address).put(STOP, f"{within}\n".encode())
    else:
        write_atomically(epath.Path(store.root / STOP), f"{within}\n")
    return controller_of(store.root).state == "at work"


def stop_asked(out: Path) -> float | None:
    """Within how many seconds whoever runs the sweeps of a folder is to leave; None where nobody asked for it."""
    try:
        within = float((out / STOP).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # an earlier version says no more than that it is asked for
        return PATIENCE
    return within if within >= 0 else PATIENCE


def open_attempts(out: Path) -> list[Reservation]:
    """The attempts that a controller which is gone has left open, by the rows of the accounts that can be read."""
    if controller_of(out).state == "at work":
        return []
    accounts, file = Accounts(), out / "accounts.jsonl"
    accounts.add_rows((row for row in read_rows(epath.Path(file)) if row_problem(row) is None), file)
    return [*accounts.open.values()]


def _running(watcher: Watcher, reservation: Reservation) -> Running:
    curve, tokens = watcher.curves[reservation.run_id], watcher.tokens(reservation.run_id)
    return Running(
        run_id=reservation.run_id,
        slot=reservation.slot,
        pool=reservation.seat.pool,
        seconds=watcher.controller.now() - reservation.started,
        share=curve.position / tokens if tokens else 0.0,
        loss=curve.losses[-1] if curve.losses else None,
        speed=None if curve.speed is None else speed_columns(curve.speed),
    )


def _left_open(watcher: Watcher) -> dict[str, Any]:
    accounts = Accounts() if watcher.controller.state == "at work" else watcher.accounts
    reserved = accounts.pending
    return {
        "attempts": len(accounts.open),
        "device_hours": reserved.device_hours,
        "usd": float(reserved.usd),
        "flops": reserved.flops,
    }


def _waits_for(watcher: Watcher) -> list[str]:
    """The gates that the summary names, unless they were approved or passed since it was written."""
    file = watcher.store.root / "summary.json"
    try:
        summary = json.loads(file.read_text())
        before = summary["spent"]["attempts"] + summary["spent"]["open"]
        gates = [Gate.from_dict(told) for told in summary["waiting_gates"]]
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is another version's
        return []
    spent = watcher.accounts.totals()
    if not gates or spent["attempts"] + spent["open"] != before:
        return []
    gatekeeper = Gatekeeper(Ledger(watcher.store.root / "ledger.jsonl"), summary["sweep"], None)
    with contextlib.suppress(SpecError):  # a damaged ledger tells of no approval
        gates = [gate for gate in gates if gatekeeper.approved(gate) is None]
    return [*map(str, gates)]


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else float(value)
