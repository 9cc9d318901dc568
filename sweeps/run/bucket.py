"""A sweep that lives in a bucket: its output folder on this machine, for as long as it is at work here."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath

from nextscale.cluster.controller.accounts import lease_in_turn
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.lease import BEAT, LeaseLost
from nextscale.model.record import write_atomically
from nextscale.model.storage.address import address_of
from nextscale.model.storage.bucket import Bucket
from nextscale.model.storage.mirror import Mirror
from nextscale.model.storage.sweep_copy import CONTROLLER, pull_runs, stays_here
from nextscale.model.storage.working import pushing, scratch_folder
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


def _hear_stop(bucket: Bucket, folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        write_atomically(epath.Path(folder / STOP), bucket.get(STOP).decode())
