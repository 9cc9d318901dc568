"""A sweep that lives in a bucket: its output folder on this machine, for as long as something is at work in it here."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from nextscale.cluster.controller.accounts import lease_in_turn
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.lease import BEAT, TIME_TO_LIVE, Heartbeat, Lease, LeaseHeld, LeaseLost, holder
from nextscale.model.record import write_atomically
from nextscale.model.storage.address import address_of
from nextscale.model.storage.bucket import Bucket, in_parallel
from nextscale.model.storage.mirror import STATES, Mirror
from nextscale.model.storage.sweep_copy import CONTROLLER, mark_edited, pull_runs, stays_here
from nextscale.model.storage.working import pushing, scratch_folder
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.store.store import SET_ASIDE, no_sweep
from nextscale.sweeps.watch.status import STOP

_SHOWN = ("report.html", "summary.json", "fit_card.json", "ledger.jsonl")
"""What is put into the bucket as it is too, for people to open."""


@dataclasses.dataclass(frozen=True)
class OutFolder:
    """Where a sweep is at work.

    Attributes:
        path: a folder of this machine.
        bucket: the address where all of it is kept; empty where the folder is all there is.
        keep: sees to it that what was written outlasts this machine.
    """

    path: Path
    bucket: str = ""
    keep: Callable[[], None] = lambda: None


@contextlib.contextmanager
def out_folder(
    out: str | Path, on_event: Callable[[Event], None], stop: Callable[[], float | None]
) -> Iterator[OutFolder]:
    """The folder itself; of an address a new one, as it is in the bucket, once whoever else is at work there has left.

    Raises:
        KeyboardInterrupt: `stop` was asked for while it waited.
        OSError, InputError: the bucket cannot be read or written.
        LeaseLost: another took the sweep over.
    """
    address = address_of(out)
    if address is None:
        yield OutFolder(Path(out))
        return
    bucket = Bucket(address)
    waiting = lease_in_turn(f"{address}/{CONTROLLER}", lambda text: on_event(Event("notice", message=text)), stop)
    with waiting as lease, scratch_folder() as top:
        folder = top / address.rpartition("/")[2]
        mirror = Mirror(address, folder, left_out=stays_here, generation=lease.generation, check=lease.check_now)
        mirror.pull()
        pull_runs(address, folder)
        bucket.delete([STOP])
        try:
            with pushing(mirror, BEAT, also=lambda: _hear_stop(bucket, folder)):
                yield OutFolder(folder, address, mirror.push)
        except BaseException:
            with contextlib.suppress(OSError, LeaseLost):
                mirror.push()
            raise
        mirror.push()
        for name in _SHOWN:
            if (folder / name).exists():
                bucket.put(name, (folder / name).read_bytes())
        for file in (folder / "figures").glob("*"):
            bucket.put(f"figures/{file.name}", file.read_bytes())


@contextlib.contextmanager
def edited(address: str, *, new: bool = False, whole: Callable[[str], bool] = lambda run_id: False) -> Iterator[Path]:
    """A folder of this machine that is what a sweep in a bucket is; what is changed in there is changed in the bucket
    when its user leaves without an error, and else nothing is.

    Args:
        new: whether there need not be a sweep.
        whole: of which runs there are checkpoints; of others there are empty files in their places.

    Raises:
        SpecError: there is no sweep, something is at work there, or at a run that was changed.
        OSError: the bucket cannot be read or written.
    """
    if not new and not Bucket(address).list(STATES):
        raise no_sweep(address, address)
    try:
        lease = Lease(f"{address}/{CONTROLLER}", silent=_silent(f"{address}/{CONTROLLER}"))
    except LeaseHeld:
        raise SpecError(f"{address}: a controller is at work there; `nextscale stop` it, and ask again") from None
    with lease, scratch_folder() as top:
        folder = top / address.rpartition("/")[2]
        writer: dict[str, Any] = {"generation": lease.generation, "check": lease.check_now}
        mirror = Mirror(address, folder, left_out=lambda path: stays_here(path) or _stands_in(path), **writer)
        mirror.pull()
        runs = pull_runs(address, folder, whole=whole)
        mark_edited(folder, address)
        yield folder
        with contextlib.ExitStack() as held:
            changed = {run_id: one for run_id, one in runs.items() if one.differs}
            for run_id, one in changed.items():
                try:
                    of_run = held.enter_context(Lease(one.address, silent=_silent(one.address)))
                except LeaseHeld:
                    text = "a worker may be at work on it; wait until it is done or dead, and ask again"
                    raise SpecError(f"run {run_id}: {text}") from None
                one.take(of_run.generation, of_run.check_now)
            mirror.push()  # what is set aside is here, before it is gone there
            in_parallel(Mirror.push, changed.values())


@contextlib.contextmanager
def whole_copy(address: str, whole: Callable[[str], bool] = lambda run_id: True) -> Iterator[Path]:
    """A folder of this machine that is what a sweep in a bucket is now, to be read.

    Args:
        whole: of which runs there are checkpoints too.

    Raises:
        SpecError: there is no sweep.
        OSError: the bucket cannot be read, or this machine has no room.
    """
    with scratch_folder() as top:
        folder = top / address.rpartition("/")[2]
        mirror = Mirror(address, folder, left_out=stays_here)
        mirror.pull()
        if not mirror.is_there:
            raise no_sweep(address, address)
        pull_runs(address, folder, whole=whole)
        mark_edited(folder, address)
        yield folder


def _stands_in(path: str) -> bool:
    """Whether it is of a checkpoint of a run that was set aside: what there is of it here is empty."""
    return fnmatch.fnmatch(path, f"{SET_ASIDE}/*/checkpoints/*")


def _silent(place: str) -> Heartbeat | None:
    """The sign of life of a holder that gives no other for as long as one that lives may; None where none is held."""
    since, sign = time.monotonic(), holder(place)
    while sign is not None and time.monotonic() - since < TIME_TO_LIVE:
        time.sleep(BEAT / 4)
        if holder(place) != sign:
            return None
    return sign


def _hear_stop(bucket: Bucket, folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        write_atomically(epath.Path(folder / STOP), bucket.get(STOP).decode())
