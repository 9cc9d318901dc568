"""A sweep's output folder in a bucket, as a folder of this machine to be read: its runs, and who is at work in it.

The folder is one mirror, but for `runs/`, where each run is one of its own, since each has a holder of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nextscale.model.record import new_file
from nextscale.model.storage.address import address_of
from nextscale.model.storage.bucket import Bucket, in_parallel
from nextscale.model.storage.cache import cache_folder, one_at_a_time
from nextscale.model.storage.mirror import STATES, Mirror, newest_states
from nextscale.model.storage.working import scratch_folder

CONTROLLER = "controller"
"""Where the lease of whoever runs the sweeps of a folder is."""
_FRESH = 2.0
"""Seconds for which a copy is not made anew."""
_MARK = ".copy-of"
_EDITED = ".edit-of"
_read: dict[Path, float] = {}


def stays_here(path: str) -> bool:
    """Whether a file of an output folder is none of its state: it is made again, or kept on its own."""
    return path.startswith(("runs/", f"{CONTROLLER}/")) or path in ("index.parquet", "stop")


def pull_runs(
    address: str, folder: Path, *, remembers: bool = False, whole: Callable[[str], bool] = lambda run_id: False
) -> dict[str, Mirror]:
    """Makes the runs of an output folder as they are in the bucket; no others stay.

    Args:
        whole: of which runs there are checkpoints too.

    Raises:
        OSError: the bucket cannot be read, or this machine has no room.
    """
    (folder / "runs").mkdir(parents=True, exist_ok=True)

    def pulled(run: tuple[str, str]) -> Mirror:
        run_id, newest = run
        place = folder / "runs" / run_id
        mirror = Mirror(f"{address}/runs/{run_id}", place, whole=whole(run_id), remembers=remembers)
        mirror.pull(newest)
        return mirror

    states = newest_states(address, "runs/")
    for other in {place.name for place in (folder / "runs").iterdir()} - states.keys():
        shutil.rmtree(folder / "runs" / other)
    return dict(zip(sorted(states), in_parallel(pulled, sorted(states.items())), strict=True))


def copy_of(address: str) -> Path:
    """A folder of this machine that is what a sweep in a bucket is now; there is nothing in it where there is no sweep.
    It is to be read, not to be written to.

    Raises:
        OSError: the bucket cannot be read, or this machine has no room.
    """
    name = f"{address.rpartition('/')[2]}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    folder = cache_folder() / "sweeps" / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if time.monotonic() - _read.get(folder, -_FRESH) >= _FRESH:
        with one_at_a_time(folder):
            (folder / _MARK).write_text(address)
            mirror = Mirror(address, folder, left_out=stays_here, remembers=True)
            mirror.pull()
            if mirror.is_there:
                pull_runs(address, folder, remembers=True)
                _copy_lease(Bucket(f"{address}/{CONTROLLER}/leases"), folder / CONTROLLER / "leases")
            else:
                shutil.rmtree(folder / "runs", ignore_errors=True)
        _read[folder] = time.monotonic()
    return folder


@contextlib.contextmanager
def copies_below(address: str) -> Iterator[Path]:
    """A folder with copies of the sweeps that are at an address, or right below it, as they are now; see `copy_of`."""
    if Bucket(address).list(STATES):
        yield copy_of(address)
        return
    with scratch_folder() as folder:
        for name in Bucket(address).folders():
            if Bucket(f"{address}/{name}").list(STATES):
                (folder / name).symlink_to(copy_of(f"{address}/{name}"))
        yield folder


def original_of(folder: Path) -> str | None:
    """The address that a folder is a copy of; None where it is none."""
    mark = folder / _MARK
    return address_of(mark.read_text()) if mark.is_file() else None


def mark_edited(folder: Path, address: str) -> None:
    """Notes that what is done in a folder is done in a bucket."""
    (folder / _EDITED).write_text(address)


def told(folder: Path) -> str:
    """Where whoever asked thinks that a folder is: in a bucket, where what is done in it is done there."""
    mark = folder / _EDITED
    return mark.read_text() if mark.is_file() else original_of(folder) or str(folder)


def _copy_lease(bucket: Bucket, folder: Path) -> None:
    """What the holder of the folder tells of itself, at the time at which it last did."""
    found = bucket.list()
    folder.mkdir(parents=True, exist_ok=True)
    for other in {file.name for file in folder.glob("*.json")} - {one.name for one in found[-1:]}:
        (folder / other).unlink()
    for one in found[-1:]:
        text = bucket.get(one.name)
        with new_file(folder / one.name, "wb") as file:
            file.write(text)
        os.utime(folder / one.name, (one.modified, one.modified))
