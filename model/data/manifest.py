"""Whether files are as they were when their content was hashed: by their sizes and times of change, without reading."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar, cast

from nextscale.model.data.remote import RemoteFile
from nextscale.model.errors import InputError
from nextscale.model.record import new_file
from nextscale.model.storage.address import absolute
from nextscale.model.storage.cache import cache_folder, one_at_a_time

T = TypeVar("T")

_TICK = 2.0
"""Seconds within which two changes of a file may bear one time: FAT's, the coarsest of file systems in use."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Files, each with its size in bytes and the time of its last change in nanoseconds; in a bucket, with its size and
    etag, and whatever is read of it is of that state."""

    entries: tuple[tuple[Path | RemoteFile, int, int | str], ...]

    @classmethod
    def of(cls, files: Iterable[Path | RemoteFile]) -> Manifest:
        return cls(tuple((file, *_state(file)) for file in files))

    @functools.cached_property
    def stamp(self) -> str:
        """Names the states of the files, in whatever folder they are seen."""
        text = json.dumps([(file.name, size, changed) for file, size, changed in self.entries])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def settled(self) -> bool:
        """Whether a change from now on shows."""
        times = [changed for _, _, changed in self.entries if isinstance(changed, int)]
        return all(changed / 1e9 < time.time() - _TICK for changed in times)

    def check(self) -> None:
        """
        Raises:
            InputError: a file is not as it was.
        """
        for file, *state in self.entries:
            if _state(file) != tuple(state):
                raise InputError(
                    f"data.path: {file} was written to while it was read, which is not kept; restore it, and run "
                    "again: it goes on from the newest checkpoint"
                )

    def kept(self, path: str, what: str, compute: Callable[[], T]) -> T:
        """What `compute` makes of the files. It is kept, and computed once in the states that they are in, by whichever
        of this machine's processes comes first.

        Args:
            path: where the files lie.
            what: it is called.
            compute: gives what JSON can hold.

        Raises:
            InputError: a file was written to meanwhile.
        """
        folder, name = cache_folder() / "tokens", hashlib.sha256(absolute(path).encode()).hexdigest()[:16]
        kept = folder / (f"{name}.json" if what == "digest" else f"{name}-{what}.json")
        with contextlib.ExitStack() as alone:
            with contextlib.suppress(OSError):  # without a place to keep it, it is computed again
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                alone.enter_context(one_at_a_time(folder))
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if (known := json.loads(kept.read_text()))["stamp"] == self.stamp:
                    return cast(T, known[what])
            settled = self.settled
            found = compute()
            self.check()
            if settled:
                with contextlib.suppress(OSError), new_file(kept, "w") as file:
                    file.write(json.dumps({"path": path, "stamp": self.stamp, what: found}) + "\n")
            return found


def _state(file: Path | RemoteFile) -> tuple[int, int | str]:
    if isinstance(file, RemoteFile):
        return file.object.size, file.object.etag
    try:
        status = file.stat()
    except FileNotFoundError:
        raise InputError(f"data.path: {file} is gone; restore it, and run again") from None
    return status.st_size, status.st_mtime_ns
