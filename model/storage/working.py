"""A folder of this machine while it is worked in: its states are kept in a bucket all the while."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from nextscale.model.storage.cache import cache_folder
from nextscale.model.storage.mirror import Mirror

PUSH_SECONDS = 5.0
"""Between two states that are kept while there is work: a checkpoint, or the newest of the curve, is in the bucket so
soon after it was written."""


@contextlib.contextmanager
def pushing(mirror: Mirror, every: float = PUSH_SECONDS, also: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keeps the folder's newest state in the bucket while there is work; what fails is tried again the next time.

    Args:
        also: is called each time before.
    """
    over = threading.Event()

    def push() -> None:
        while not over.wait(every):
            with contextlib.suppress(Exception):  # whoever works here is told by the lease, or at the end
                also()
                mirror.push()

    thread = threading.Thread(target=push, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of this process alone, gone afterwards. Those of processes that were killed are deleted."""
    top = cache_folder() / "work"
    top.mkdir(parents=True, exist_ok=True, mode=0o700)
    for other in top.iterdir():
        with contextlib.suppress(OSError), _locked(other):
            shutil.rmtree(other, ignore_errors=True)
    folder = top / uuid.uuid4().hex[:12]
    folder.mkdir()
    with _locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """
    Raises:
        OSError: a process has it, or it is gone.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
