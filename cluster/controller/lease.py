"""Leases: the right to write a run, one holder at a time. A run's lease is the newest numbered file in its `leases/`.

Taking a lease creates the next number, which can only be done once; its holder writes into the file, as long as it
lives, for how long it has. A holder that finds a newer number has lost the run and must stop: it was thought dead, and
another took over.

No clock is compared with another machine's: a holder is silent when whoever watches it has seen the same `Heartbeat`
for `TIME_TO_LIVE` seconds of the watcher's own clock, and how long it lived is told by its own. The times of the files
say nothing of that: whoever copies or touches a folder changes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from nextscale.model.record import naming
from nextscale.model.storage.address import address_of
from nextscale.model.storage.bucket import Bucket

TIME_TO_LIVE = 20.0
"""Seconds without a new sign of life after which a lease may be taken over."""
BEAT = TIME_TO_LIVE / 5
_RELEASED = b"released"
"""What the file of a run begins with that was given back by an earlier version, which told no more."""

_KINDS: dict[str, type] = {"attempt": int, "seconds": float, "begun": bool, "released": bool, "host": str, "pid": int}
_KINDS |= {"started": float, "machine": str}
"""Of what a holder tells."""

Heartbeat = tuple[str, int]
"""A sign of life: the lease's name and when its holder last touched it, in its file system's nanoseconds."""


@dataclasses.dataclass(frozen=True)
class Life:
    """What the holder of a lease tells of itself, or told before it gave the lease back or died.

    Attributes:
        attempt: that it was taken for; 0 where it was for none, or an earlier version took it.
        seconds: that it has lived so far, by its own clock.
        begun: whether it had come to where it trains: what stands in the run's curve is its own, or was taken over.
        released: whether it gave the lease back.
        started: when it took the lease, in seconds since the epoch; comparable with times of its own machine.
        here: whether that is this machine.
        dead: whether it has died on this machine.
    """

    attempt: int = 0
    seconds: float = 0.0
    begun: bool = False
    released: bool = False
    host: str | None = None
    pid: int | None = None
    started: float = math.inf
    here: bool = False
    dead: bool = False

    @property
    def at_most(self) -> float:
        """Seconds that it lived at most, unless a sign of life was lost: it may have died just before the next."""
        return self.seconds + (0.0 if self.released else BEAT)


class LeaseHeld(Exception):
    """Another process is at work on this run.

    Attributes:
        heartbeat: its newest sign of life; None where the lease changed hands while it was looked at.
    """

    def __init__(self, message: str, heartbeat: Heartbeat | None = None):
        super().__init__(message)
        self.heartbeat = heartbeat


class LeaseLost(Exception):
    """Another process has taken this run over; whoever sees this must not write to it any more."""


class Lease:
    """The right to write one run, kept alive by a thread until it is closed.

    Args:
        directory: of the run, on a file system that all workers share; or its address in a bucket.
        silent: the heartbeat of a holder that is taken for dead, having given no newer one for `TIME_TO_LIVE`.
        attempt: in the accounts of the sweep, that it is for.
        lived: seconds that this attempt took before, to come up.

    Raises:
        LeaseHeld: it is held by a process that may be alive.
    """

    def __init__(self, directory: Path | str, *, silent: Heartbeat | None = None, attempt: int = 0, lived: float = 0.0):
        self._place = _place(directory)
        newest = self._place.newest()
        self.replaced = None if newest is None else _fallen(self._place, newest, silent)
        """What a predecessor that died at work wrote of itself, or None."""
        self.generation = 1 if newest is None else int(newest.removesuffix(".json")) + 1
        self._directory, self._name = directory, f"{self.generation:06d}.json"
        self._since = time.monotonic() - lived
        self._told: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
        self._told |= {"started": time.time(), "attempt": attempt, "seconds": lived, "begun": False}
        self._length, self._writing = 0, threading.Lock()
        try:
            self._write(self._place.create)
        except FileExistsError:
            raise LeaseHeld(f"{directory} was taken at the same moment by another process") from None
        self._lost, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Tells that what stands in the run's curve is from now on its holder's own."""
        if not self._told["begun"]:
            self._told["begun"] = True
            self._write(self._place.write)

    def check(self) -> None:
        """Raises LeaseLost when the run is no longer ours, as far as is known: in a bucket since the last beat."""
        if self._closed.is_set():
            raise LeaseLost(f"{self._directory} was given up")
        if self._place.near:
            self.check_now()
        elif self._lost.is_set():
            raise LeaseLost(f"{self._directory} was taken over by another process")

    def check_now(self) -> None:
        """Raises LeaseLost when the run is no longer ours."""
        if self._lost.is_set() or self._place.newest() != self._name:
            self._lost.set()
            raise LeaseLost(f"{self._directory} was taken over by another process")

    def close(self) -> None:
        """Gives the run back. The file stays: a zombie of an older generation must go on finding a newer one."""
        self._closed.set()
        self._thread.join()
        if self._lost.is_set():
            return
        with contextlib.suppress(OSError):  # a full disk: whoever comes next finds us silent instead
            self._told["released"] = True
            self._write(self._place.write)
            self._place.delete_older(self._name)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT):
            with contextlib.suppress(OSError):  # a file server that stutters: the next beat may come through
                if self._place.newest() != self._name:
                    self._lost.set()
                    return
                self._write(self._place.write)

    def _write(self, write: Callable[[str, bytes], None]) -> None:
        """Tells how its holder stands, at the same length or more: a full disk has room for that."""
        with self._writing:
            self._told["seconds"] = time.monotonic() - self._since
            text = json.dumps(self._told)
            self._length = max(self._length, len(text))
            write(self._name, text.ljust(self._length).encode())


class _Files:
    """The leases of a directory."""

    near = True
    """Whether it costs nothing to ask for the newest."""

    def __init__(self, directory: Path):
        self.directory, self._folder = directory, directory / "leases"

    def newest(self) -> str | None:
        try:
            return max((path.name for path in self._folder.glob("*.json")), default=None)
        except FileNotFoundError:  # deleted while it was listed
            return None

    def read(self, name: str) -> tuple[int, bytes]:
        """What is another number whenever it was touched, and its text."""
        with (self._folder / name).open("rb") as file:  # opened first: NFS then asks its server for the time
            return os.fstat(file.fileno()).st_mtime_ns, file.read()

    def create(self, name: str, text: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        try:
            with naming(path), path.open("xb") as file:
                file.write(text)
        except FileExistsError:
            raise
        except OSError:  # a full disk has room for the name alone: nobody is to wait for whoever could not sign
            path.unlink(missing_ok=True)
            raise

    def write(self, name: str, text: bytes) -> None:
        path = self._folder / name
        os.utime(path)  # on a full disk this is a sign of life too
        with naming(path), path.open("r+b") as file:
            file.write(text)

    def delete_older(self, name: str) -> None:
        for older in self._folder.glob("*.json"):
            if older.name < name:
                older.unlink(missing_ok=True)


class _Objects:
    """The leases of a place in a bucket."""

    near = False

    def __init__(self, address: str):
        self.directory, self._bucket = address, Bucket(address + "/leases")

    def newest(self) -> str | None:
        return max((one.name for one in self._bucket.list()), default=None)

    def read(self, name: str) -> tuple[int, bytes]:
        text = self._bucket.get(name)
        return int.from_bytes(hashlib.sha256(text).digest()[:6]), text

    def create(self, name: str, text: bytes) -> None:
        if not self._bucket.create(name, text):  # nobody else is this process, at this moment
            raise FileExistsError(errno.EEXIST, "is there already", name)

    def write(self, name: str, text: bytes) -> None:
        self._bucket.put(name, text)

    def delete_older(self, name: str) -> None:
        self._bucket.delete([one.name for one in self._bucket.list() if one.name < name])


def _place(directory: Path | str) -> _Files | _Objects:
    address = address_of(directory)
    return _Files(Path(directory)) if address is None else _Objects(address)


def life(directory: Path | str) -> Life | None:
    """What the newest holder of a run tells of itself; None where there was none."""
    place = _place(directory)
    newest = place.newest()
    try:
        told = None if newest is None else _read(place.read(newest)[1])
    except FileNotFoundError:  # deleted this very moment
        return None
    if told is None:
        return None
    here = told.get("machine") == _machine()
    known = {field.name: told[field.name] for field in dataclasses.fields(Life) if field.name in told}
    return Life(**known, here=here, dead=here and not _alive(told.get("pid", 0)))


def holder(directory: Path | str) -> Heartbeat | None:
    """The newest sign of life of whoever holds a run; None where nobody does, or one that died on this machine."""
    place = _place(directory)
    newest = place.newest()
    if newest is None:
        return None
    try:
        _fallen(place, newest, None)
    except LeaseHeld as held:
        return held.heartbeat or (newest, 0)
    return None


def _fallen(place: _Files | _Objects, name: str, silent: Heartbeat | None) -> dict[str, Any] | None:
    """What the holder wrote of itself if it died at work; None if it gave the run back.

    Raises:
        LeaseHeld: it may be alive.
    """
    try:
        sign, text = place.read(name)
    except FileNotFoundError:
        raise LeaseHeld(f"{place.directory} changed hands this very moment") from None
    heartbeat, holder = (name, sign), _read(text)
    if holder.get("released"):
        return None
    gone = holder.get("machine") == _machine() and not _alive(holder.get("pid", 0))
    if heartbeat != silent and not gone:
        who = f"process {holder.get('pid')} on {holder.get('host')}"
        raise LeaseHeld(f"{place.directory} is held by {who}", heartbeat)
    return holder


def _read(text: bytes) -> dict[str, Any]:
    """What a holder wrote; nothing where it is being written this very moment, was cut short by a crash, or damaged."""
    if text.startswith(_RELEASED):
        return {"released": True}
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) and all(isinstance(told.get(n, k()), k) for n, k in _KINDS.items()) else {}


@functools.cache
def _machine() -> str:
    """Where a process id means one process: a host, since it was booted, and a namespace of process ids."""
    marks = [socket.gethostname()]
    with contextlib.suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        marks.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(marks)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
