"""Verifies the accounts of a folder: every attempt is there, settled once, and at its price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from etils import epath

from nextscale.cluster.controller.accounts import RESTORE, row_problem
from nextscale.cluster.controller.caps import Amount
from nextscale.cluster.controller.lease import holder
from nextscale.cluster.hardware.seat import Seat
from nextscale.model.record import Row, RunDirectory, read_rows
from nextscale.sweeps.store.faults import Fault


def account_faults(root: Path, runs: Sequence[RunDirectory]) -> Iterator[Fault]:
    """What is wrong with the accounts of an output folder.

    Args:
        runs: of the folder.
    """
    path = root / "accounts.jsonl"
    reserved: dict[int, Row] = {}
    settled: set[int] = set()
    rows = read_rows(epath.Path(path))
    if not rows and any(run.attempts() for run in runs):
        yield Fault(str(path), "is not there or empty, and runs were attempted", RESTORE)
    for line, row in enumerate(rows, 1):
        if (problem := row_problem(row)) is not None:
            yield Fault(f"{path}: row {line}", f"is damaged: {problem}", RESTORE)
            continue
        number, where = row["attempt"], f"{path}: attempt {row['attempt']}"
        if row["kind"] == "reserved":
            reserved[number] = row
        elif number not in reserved:
            yield Fault(where, "is settled, and was never reserved", RESTORE)
            continue
        elif number in settled:
            yield Fault(where, "is settled twice", RESTORE)
        if row["kind"] == "settled":
            settled.add(number)
            yield from _flops_faults(where, row, reserved[number]["flops"])
        seat = Seat(row["pool"], usd_per_hour=reserved[number]["usd_per_hour"], chips=row["chips"])
        due = Amount.of(seat, row["seconds"])
        if (due.device_us, due.micro_usd) != (row["device_us"], round(row["usd"] * 10**6)):
            yield Fault(where, f"its cost is not that of {row['seconds']:.3g} s at its price", RESTORE)
    if gone := sorted(set(range(1, max(reserved, default=0))) - reserved.keys()):
        yield Fault(f"{path}: attempt {gone[0]}", f"is not there, and {len(gone) - 1} more are not", RESTORE)
    if holder(root / "controller") is None:
        for number in sorted(reserved.keys() - settled):
            run_id = reserved[number]["run_id"]
            mend = "`nextscale run` settles it; until then all that was reserved counts"
            yield Fault(f"{path}: attempt {number}", f"at run {run_id} was never settled", mend)


def _flops_faults(where: str, row: Row, reserved: float) -> Iterator[Fault]:
    """What finished its run made all that was left of it, and no attempt makes more."""
    flops = row["flops_kept"] + row["flops_lost"]
    if flops > reserved or (row.get("outcome") == "finished" and flops != reserved):
        yield Fault(where, f"made {flops:.4g} FLOPs of {reserved:.4g} and is {row.get('outcome')}", RESTORE)
