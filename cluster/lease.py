"""Who may write a run: leases with generations. A run's lease is the newest numbered file in its `leases/`.

Taking a lease creates the next number, which can only be done once; its holder touches the file as long as it
lives. A holder that finds a newer number has lost the run and must stop: it was thought dead, and another took over.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

TIME_TO_LIVE = 20.0
"""Seconds without a sign of life after which a lease may be taken over."""
_BEAT = TIME_TO_LIVE / 5
_RELEASED = "released\n"


class LeaseHeld(Exception):
    """Another process is at work on this run."""


class LeaseLost(Exception):
    """Another process has taken this run over; whoever sees this must not write to it any more."""


class Lease:
    """The right to write one run, kept alive by a thread until it is closed.

    Args:
        directory: of the run, on a file system that all workers share.

    Raises:
        LeaseHeld: it is held by a process that is alive.
    """

    def __init__(self, directory: Path):
        folder = directory / "leases"
        folder.mkdir(parents=True, exist_ok=True)
        newest = _newest(folder)
        self.replaced = None if newest is None else _fallen(newest)
        """What a predecessor that died at work wrote of itself, or None."""
        self.generation = 1 if newest is None else int(newest.stem) + 1
        self._folder, self._file = folder, folder / f"{self.generation:06d}.json"
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        try:
            with self._file.open("x") as file:
                json.dump(holder, file)
        except FileExistsError:
            raise LeaseHeld(f"{directory} was taken at the same moment by another process") from None
        self._lost, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseLost when the run is no longer ours."""
        if self._lost.is_set() or _newest(self._folder) != self._file:
            self._lost.set()
            raise LeaseLost(f"{self._folder.parent} was taken over by another process")

    def close(self) -> None:
        """Gives the run back. The file stays: a zombie of an older generation must go on finding a newer one."""
        self._closed.set()
        self._thread.join()
        if not self._lost.is_set():
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
            if _newest(self._folder) != self._file:
                self._lost.set()
                return
            os.utime(self._file)


def _newest(folder: Path) -> Path | None:
    return max(folder.glob("*.json"), default=None)


def _fallen(lease: Path) -> dict[str, Any] | None:
    """What the holder wrote of itself if it died at work; None if it gave the run back.

    Raises:
        LeaseHeld: it is alive.
    """
    age = time.time() - lease.stat().st_mtime
    text = lease.read_text()
    if text == _RELEASED:
        return None
    holder: dict[str, Any] = json.loads(text) if text else {}  # empty: being taken this very moment
    gone = holder.get("host") == socket.gethostname() and not _alive(holder["pid"])
    if age < TIME_TO_LIVE and not gone:
        raise LeaseHeld(f"{lease.parent.parent} is held by process {holder.get('pid')} on {holder.get('host')}")
    return holder


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
