"""Where a user keeps what can be had again: tokens, compiled programs, and copies of what lies in buckets."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nextscale.model.record import new_file
from nextscale.model.storage.bucket import Bucket, Object, in_parallel


def cache_folder() -> Path:
    """Per user: $NEXTSCALE_CACHE, else nextscale/ in $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get("NEXTSCALE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextscale"


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes that write into a folder wait for each other: most want the same. Where the file system knows no locks,
    each does the work."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def copied(address: str, objects: Sequence[Object]) -> Path:
    """A folder of this machine with copies of objects, under their names, in the very states that are named. What was
    copied once is not read again.

    Raises:
        OSError: there is no room, the bucket cannot be read, or (FileNotFoundError) an object is gone, or changed.
    """
    state = json.dumps([address, *((one.name, one.size, one.etag) for one in objects)])
    folder = cache_folder() / "objects" / hashlib.sha256(state.encode()).hexdigest()[:24]

    def missing() -> list[Object]:
        return [one for one in objects if not _has_size(folder / one.name, one.size)]

    if missing():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with one_at_a_time(folder):
            bucket = Bucket(address)
            in_parallel(lambda one: _copy(bucket, one, folder / one.name), missing())
    return folder


def _copy(bucket: Bucket, one: Object, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with new_file(file, "wb") as copy:
        for piece in bucket.pieces(one):
            copy.write(piece)


def _has_size(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size
    except OSError:
        return False
