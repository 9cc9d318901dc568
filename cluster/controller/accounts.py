"""Accounts of a sweep: what each attempt may cost, reserved before it starts, and what it has cost, once it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from etils import epath

from nextscale.cluster.controller.caps import Amount
from nextscale.cluster.controller.lease import TIME_TO_LIVE, Heartbeat, Lease, LeaseHeld
from nextscale.cluster.hardware.seat import Seat
from nextscale.model.errors import InputError
from nextscale.model.network.kernels import recompute_of
from nextscale.model.record import Row, is_number, is_torn, naming, read_rows

if TYPE_CHECKING:
    import pandas as pd

_MICRO = 10**6
RESTORE = "restore the accounts from a copy: caps are held against these sums"
_ALWAYS = ("attempt", "chips", "started", "seconds", "device_us", "usd")
_TEXTS = ("run_id", "pool", "accelerator", "slot")
_NUMBERS = {
    "reserved": (*_ALWAYS, "usd_per_hour", "position", "flops"),
    "settled": (*_ALWAYS, "flops_kept", "flops_lost"),
}


@dataclasses.dataclass(frozen=True)
class Reservation:
    """What an attempt may cost at most.

    Attributes:
        attempt: its number in these accounts.
        started: by the clock on the wall.
        position: tokens that were saved when it started.
    """

    attempt: int
    run_id: str
    slot: str
    seat: Seat
    accelerator: str
    started: float
    position: int
    seconds: float
    amount: Amount


class Accounts:
    """An append-only file of `reserved` and `settled` rows; sums of it are exact.

    Dollars are in millionths, time in millionths of a device-second, FLOPs in whole ones. An attempt whose row
    `settled` is missing, because its controller died, is among `open`: it counts in full until it is settled.

    Args:
        path: None keeps no file.
        clock: seconds since the epoch, comparable over restarts.
        guard: called before each row; raises where the accounts are no longer ours.
        keep: called after each row of what starts next; sees to it that it is known of also without this machine.

    Raises:
        InputError: a row of the file is damaged.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
        guard: Callable[[], None] = lambda: None,
        keep: Callable[[], None] = lambda: None,
    ):
        self.clock = clock
        self._path, self._guard, self._keep = path, guard, keep
        self._file: TextIO | None = None
        self.rows: list[Row] = []
        self.open: dict[int, Reservation] = {}
        self.spent = self.pending = Amount()
        self.first_start: float | None = None
        """When the first attempt was reserved."""
        self._attempts = 0
        self._unwritten: list[Row] = []
        """Rows that count, and for which the disk had no room yet."""
        if path is not None:
            self.add_rows(read_rows(epath.Path(path)), path)

    def add_rows(self, rows: Iterable[Row], path: Path) -> None:
        """Counts rows that stand in a file already.

        Raises:
            InputError: a row is damaged.
        """
        for row in rows:
            if (problem := row_problem(row)) is not None:
                raise InputError(f"{path}: row {len(self.rows) + 1} is damaged: {problem}; {RESTORE}")
            self.rows.append(row)
            self._count(row)

    def reserve(
        self, run_id: str, slot: str, seat: Seat, accelerator: str, position: int, seconds: float, flops: int
    ) -> Reservation:
        """Notes what an attempt may cost, before it starts.

        Raises:
            OSError: it cannot be written down, so nothing may start.
        """
        amount = Amount.of(seat, seconds, flops)
        now = self.clock()
        number = self._attempts + 1
        reservation = Reservation(number, run_id, slot, seat, accelerator, now, position, seconds, amount)
        self._add(_as_row(reservation))
        return reservation

    def extend(self, reservation: Reservation, seconds: float) -> Reservation:
        """Lets an attempt take so long in all."""
        amount = Amount.of(reservation.seat, seconds, reservation.amount.flops)
        longer = dataclasses.replace(reservation, seconds=seconds, amount=amount)
        self._add(_as_row(longer))
        return longer

    def settle(
        self,
        reservation: Reservation,
        seconds: float,
        *,
        kept: int = 0,
        lost: int = 0,
        outcome: str,
        reason: str = "",
        peak: float | None = None,
    ) -> None:
        """Notes what an attempt has cost.

        Args:
            kept, lost: FLOPs, of which there is a state or a result, and which are to be done again.
            peak: FLOP/s of a chip, for the utilisation.
        """
        cost, seat = Amount.of(reservation.seat, seconds, kept + lost), reservation.seat
        used = None if peak is None or seconds <= 0 else (kept + lost) / (seconds * seat.chips * peak)
        self._add(
            _common("settled", reservation)
            | {
                "started": reservation.started,
                "seconds": seconds,
                "device_us": cost.device_us,
                "usd": cost.micro_usd / _MICRO,
                "flops_kept": kept,
                "flops_lost": lost,
                "utilisation": used,
                "outcome": outcome,
                "reason": reason,
            }
        )

    @property
    def used(self) -> Amount:
        """Spent, or reserved for what runs."""
        return self.spent + self.pending

    @property
    def wall_seconds(self) -> float:
        """Seconds since the first attempt."""
        return 0.0 if self.first_start is None else self.clock() - self.first_start

    def frame(self) -> pd.DataFrame:
        """One row per attempt that has ended."""
        import pandas as pd

        rows = [row for row in self.rows if row["kind"] == "settled"]
        return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["attempt"]).drop(columns="kind", errors="ignore")

    def totals(self) -> dict[str, Any]:
        """Sums, exact: `attempts`, `seconds`, `device_hours`, `usd` (a Decimal), `flops_kept`, `flops_lost`."""
        rows = [row for row in self.rows if row["kind"] == "settled"]
        return {
            "attempts": len(rows),
            "seconds": sum(row["seconds"] for row in rows),
            "device_hours": self.spent.device_hours,
            "usd": Decimal(self.spent.micro_usd) / _MICRO,
            "flops_kept": sum(row["flops_kept"] for row in rows),
            "flops_lost": sum(row["flops_lost"] for row in rows),
            "open": len(self.open),
        }

    def close(self) -> None:
        with contextlib.suppress(OSError):  # an attempt whose end has no room is settled when the sweep goes on
            self._write_all()
            if self._file is not None:
                self._file.close()
        self._file = None

    def _add(self, row: Row) -> None:
        self._guard()
        self._unwritten.append(row)
        try:
            self._write_all()
        except OSError:
            if row["kind"] == "reserved" and row["attempt"] not in self.open:
                self._unwritten.pop()
                raise
        self.rows.append(row)
        self._count(row)

    def _write_all(self) -> None:
        while self._unwritten:
            try:
                with naming(self._path or Path()):
                    self._write(self._unwritten[0])
            except OSError:
                with contextlib.suppress(OSError):
                    if self._file is not None:
                        self._file.close()
                self._file = None  # opened again, it goes on after what was cut short
                raise
            self._unwritten.pop(0)

    def _write(self, row: Row) -> None:
        if self._path is None:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            torn = is_torn(self._path)
            self._file = self._path.open("a")
            self._file.write("\n" * torn)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if row["kind"] == "reserved":  # what starts next is known of also when power fails
            os.fsync(self._file.fileno())
            self._keep()

    def _count(self, row: Row) -> None:
        number = row["attempt"]
        before = self.open.pop(number, None)
        if before is not None:
            self.pending -= before.amount
        if row["kind"] == "reserved":
            reservation = _from_row(row)
            self.open[number] = reservation
            self.pending += reservation.amount
            self._attempts = max(self._attempts, number)
            started = reservation.started
            self.first_start = started if self.first_start is None else min(self.first_start, started)
        else:
            self.spent += Amount(row["flops_kept"] + row["flops_lost"], round(row["usd"] * _MICRO), row["device_us"])


def row_problem(row: Row) -> str | None:
    """What keeps a row from being one of accounts; None where nothing does."""
    kind = row.get("kind")
    if kind not in _NUMBERS:
        return f"its kind is {kind}, neither reserved nor settled"
    for name in _NUMBERS[kind]:
        if not (is_number(row.get(name)) and math.isfinite(row[name])):
            return f"its {name} is {row.get(name)!s:.40}, no number"
    text = next((name for name in _TEXTS if not isinstance(row.get(name), str)), None)
    return None if text is None else f"its {text} is {row.get(text)!s:.40}, no text"


@contextlib.contextmanager
def open_accounts(
    out: Path,
    *,
    on_wait: Callable[[str], None] = lambda message: None,
    stop: Callable[[], float | None] = lambda: None,
    clock: Callable[[], float] = time.time,
    keep: Callable[[], None] = lambda: None,
) -> Iterator[Accounts]:
    """The accounts of the sweep in a folder, for one controller at a time: another waits until that one is done.

    Args:
        on_wait: is called, once, with the message that another controller is at work.
        stop: while it waits; see `nextscale.cluster.controller.controller.run_all`.
        keep: see `Accounts`.

    Raises:
        KeyboardInterrupt: it waited, and was asked to stop.
    """
    lease = lease_in_turn(out / "controller", on_wait, stop)
    with lease:
        accounts = Accounts(out / "accounts.jsonl", clock=clock, guard=lease.check, keep=keep)
        try:
            yield accounts
        finally:
            accounts.close()


def lease_in_turn(directory: Path | str, on_wait: Callable[[str], None], stop: Callable[[], float | None]) -> Lease:
    """The lease of the controllers of a sweep, when it is free or its holder has long been silent."""
    heartbeat: Heartbeat | None = None
    since, reported = time.monotonic(), False
    while True:
        silent = heartbeat if time.monotonic() - since >= TIME_TO_LIVE else None
        try:
            return Lease(directory, silent=silent)
        except LeaseHeld as held:
            if held.heartbeat != heartbeat:
                heartbeat, since = held.heartbeat, time.monotonic()
            if not reported:
                on_wait(f"another process runs this sweep; waiting for it: {held}")
                reported = True
        if stop() is not None:
            raise KeyboardInterrupt
        time.sleep(0.5)


def _common(kind: str, reservation: Reservation) -> Row:
    """What rows of both kinds begin with."""
    seat = reservation.seat
    return {
        "kind": kind,
        "attempt": reservation.attempt,
        "run_id": reservation.run_id,
        "pool": seat.pool,
        "accelerator": reservation.accelerator,
        "slot": reservation.slot,
        "chips": seat.chips,
        "recompute": seat.recompute,
    }


def _as_row(reservation: Reservation) -> Row:
    amount = reservation.amount
    return _common("reserved", reservation) | {
        "usd_per_hour": reservation.seat.usd_per_hour,
        "started": reservation.started,
        "position": reservation.position,
        "seconds": reservation.seconds,
        "device_us": amount.device_us,
        "usd": amount.micro_usd / _MICRO,
        "flops": amount.flops,
    }


def _from_row(row: Row) -> Reservation:
    same = ("attempt", "run_id", "slot", "accelerator", "started", "position", "seconds")
    return Reservation(
        **{name: row[name] for name in same},
        seat=Seat(
            row["pool"],
            usd_per_hour=row["usd_per_hour"],
            chips=row["chips"],
            recompute=recompute_of(row.get("recompute", False)),  # not said by earlier versions
        ),
        amount=Amount(row["flops"], round(row["usd"] * _MICRO), row["device_us"]),
    )
