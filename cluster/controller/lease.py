"""Leases: the right to write a run, one holder at a time. A run's lease is the newest numbered file in its `leases/`.

Taking a lease creates the next number, which can only be done once; its holder touches the file as long as it
lives. A holder that finds a newer number has lost the run and must stop: it was thought dead, and another took over.

No clock is compared with another machine's: a holder is silent when whoever watches it has seen the same `Heartbeat`
for `TIME_TO_LIVE` seconds of the watcher's own clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

TIME_TO_LIVE = 20.0
"""Seconds without a new sign of life after which a lease may be taken over."""
_BEAT = TIME_TO_LIVE / 5
_RELEASED = "released\n"

Heartbeat = tuple[str, int]
"""A sign of life: the lease's name and when its holder last touched it, in its file system's nanoseconds."""


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
        directory: of the run, on a file system that all workers share.
        silent: the heartbeat of a holder that is taken for dead, having given no newer one for `TIME_TO_LIVE`.

    Raises:
        LeaseHeld: it is held by a process that may be alive.
    """

    def __init__(self, directory: Path, *, silent: Heartbeat | None = None):
        folder = directory / "leases"
        folder.mkdir(parents=True, exist_ok=True)
        newest = _newest(folder)
        self.replaced = None if newest is None else _fallen(newest, silent)
        """What a predecessor that died at work wrote of itself, or None."""
        self.generation = 1 if newest is None else int(newest.stem) + 1
        self._folder, self._file = folder, folder / f"{self.generation:06d}.json"
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "started": time.time()}
        try:
            with self._file.open("x") as file:
                json.dump(holder, file)
        except FileExistsError:
            raise LeaseHeld(f"{directory} was taken at the same moment by another process") from None
        except OSError:  # a full disk has room for the name alone: nobody is to wait for whoever could not sign
            self._file.unlink(missing_ok=True)
            raise
        self._lost, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseLost when the run is no longer ours."""
        if self._closed.is_set():
            raise LeaseLost(f"{self._folder.parent} was given up")
        if self._lost.is_set() or _newest(self._folder) != self._file:
            self._lost.set()
            raise LeaseLost(f"{self._folder.parent} was taken over by another process")

    def close(self) -> None:
        """Gives the run back. The file stays: a zombie of an older generation must go on finding a newer one."""
        self._closed.set()
        self._thread.join()
        if self._lost.is_set():
            return
        with contextlib.suppress(OSError):  # a full disk: whoever comes next finds us silent instead
            self._file.write_text(_RELEASED)
            for older in self._folder.glob("*.json"):
                if older < self._file:
                    older.unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT):
            with contextlib.suppress(OSError):  # a file server that stutters: the next beat may come through
                if _newest(self._folder) != self._file:
                    self._lost.set()
                    return
                os.utime(self._file)


def holder(directory: Path) -> Heartbeat | None:
    """The newest sign of life of whoever holds a run; None where nobody does, or one that died on this machine."""
    newest = _newest(directory / "leases")
    if newest is None:
        return None
    try:
        _fallen(newest, None)
    except LeaseHeld as held:
        return held.heartbeat or (newest.name, 0)
    return None


def _newest(folder: Path) -> Path | None:
    try:
        return max(folder.glob("*.json"), default=None)
    except FileNotFoundError:  # deleted while it was listed
        return None


def _fallen(lease: Path, silent: Heartbeat | None) -> dict[str, Any] | None:
    """What the holder wrote of itself if it died at work; None if it gave the run back.

    Raises:
        LeaseHeld: it may be alive.
    """
    try:
        with lease.open() as file:  # opened first: NFS then asks its server for the time, not its cache
            heartbeat = (lease.name, os.fstat(file.fileno()).st_mtime_ns)
            text = file.read()
    except FileNotFoundError:
        raise LeaseHeld(f"{lease.parent.parent} changed hands this very moment") from None
    if text == _RELEASED:
        return None
    try:
        holder: dict[str, Any] = json.loads(text)
    except ValueError:  # being written this very moment, or cut short by a crash
        holder = {}
    gone = holder.get("machine") == _machine() and not _alive(holder["pid"])
    if heartbeat != silent and not gone:
        who = f"process {holder.get('pid')} on {holder.get('host')}"
        raise LeaseHeld(f"{lease.parent.parent} is held by {who}", heartbeat)
    return holder


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
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
