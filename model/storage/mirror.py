"""`Mirror`: a folder of this machine whose states are kept in a bucket, from which any machine makes it again.

A bucket has no append, no rename and no lock. What it has is that an object is written whole or not at all, and that of
several that create one of a name a single one succeeds. So a place in a bucket holds

states/<generation>-<number>.json  all files of the folder: what is short itself, of others the parts that they are of
parts/<generation>-<number>        content; written once, under a name that nobody else uses

and one state is put in the place of the other, a later generation in that of any earlier one. A generation is one
holder of the folder's lease. One that was thought dead, and still writes, therefore writes what nobody reads.

What grows at its end, as accounts and curves do, is uploaded by what it grew, and parts are put together so that the
last of n lines is in about log n of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nextscale.model.record import new_file
from nextscale.model.storage.bucket import Bucket, BucketError, Object, in_parallel

Parts = list[list]
Entry = str | Parts
"""Of a file: its text, or the parts that it is of, each a name and a size in bytes."""
Files = dict[str, Entry]

STATES, _PARTS = "states/", "parts/"
_SHORT = 1 << 14
_PIECE_BYTES = 1 << 23
_GROWS = (".jsonl", ".log")
_LARGE = ("checkpoints/", "trainer/")
"""Folders that only who trains a run needs."""
_TRIES = 10
_NOTE = ".bucket.json"
_FIRST = (".head", "record.json")
"""What says of other files that they hold something: it is read before them."""


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A file as it was when it was up- or downloaded, which a state says, or is about to say.

    Attributes:
        digest: of its content, where it may grow.
    """

    stamp: tuple[int, int, int]
    entry: Entry
    digest: str = ""


class Mirror:
    """A folder and its place in a bucket; see above. Several threads may use it.

    Args:
        left_out: whether a file of the folder, by its path in there, stays here.
        generation: of whoever writes.
        check: raises where another has the folder now.
        whole: whether it has large files too; without, there are empty ones in their places, which are as long and take
            no room; who deletes one has it deleted in the bucket by the next push.
        remembers: whether a later process knows what of the folder it need not read again.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        *,
        left_out: Callable[[str], bool] = lambda path: False,
        generation: int = 0,
        check: Callable[[], None] = lambda: None,
        whole: bool = True,
        remembers: bool = False,
    ):
        self.address, self.folder = address, folder
        self._bucket, self._left_out, self._check, self._whole = Bucket(address), left_out, check, whole
        self._generation, self._number, self._count = generation, 0, 0
        self._state: str | None = None
        self._files: Files = {}
        self._seen: dict[str, _Seen] = {}
        self._unused: set[str] = set()
        self._lock = threading.RLock()
        self.is_there = False
        """Whether there was anything when it was last pulled."""
        self._note = folder / _NOTE if remembers else None
        self._remember()

    def pull(self, newest: str | None = None) -> bool:
        """Makes the folder as it is in the bucket; tells whether anything was new.

        Args:
            newest: the name of its newest state, where that was just listed.

        Raises:
            OSError: the bucket cannot be read, or this machine has no room.
        """
        with self._lock:
            for _ in range(_TRIES):
                newest = newest or max((one.name for one in self._bucket.list(STATES)), default=None)
                if newest is None or newest == self._state:
                    self.is_there = newest is not None
                    return False
                try:
                    files: Files = json.loads(self._bucket.get(newest))
                    self._make(files)
                except FileNotFoundError:  # another has taken its place
                    newest = None
                    continue
                self._state, self._files, self.is_there = newest, files, True
                self._note_down()
                return True
        raise BucketError(self.address, "its states are replaced faster than they can be read")

    def push(self) -> None:
        """Makes the bucket's as the folder is. When this returns, whoever takes the folder over finds that, or more.

        Raises:
            OSError: the bucket cannot be written; it is as it was.
            Exception: what `check` raises: nobody will read it.
        """
        with self._lock:
            files = self._uploaded()
            if files != self._files or self._state is None:
                self._number += 1
                name = f"{STATES}{self._generation:06d}-{self._number:08d}.json"
                if self._state is not None and name <= self._state:
                    raise BucketError(self.address, f"holds {self._state}, which is no earlier holder's")
                self._bucket.put(name, json.dumps(files).encode())
                # In this order whoever takes over between the two finds the new state, and else we find them.
                self._check()
                used = _parts_of(files)
                self._unused |= _parts_of(self._files) - used
                gone = [*self._unused - used, *([self._state] if self._state else [])]
                self._state, self._files, self._unused = name, files, set()
                try:
                    self._bucket.delete(gone)
                except OSError:  # that takes room, and no more
                    self._unused = set(gone)

    def take(self, generation: int, check: Callable[[], None]) -> None:
        """Makes whoever only read the folder its writer; see the class."""
        self._generation, self._check = generation, check

    @property
    def differs(self) -> bool:
        """Whether the folder is no longer as it was pulled, by sizes and times of change."""
        stand_ins = self._stand_ins()
        return {*self._paths(), *stand_ins} != self._files.keys() or any(
            _stamp(self.folder / path) != seen.stamp for path, seen in self._seen.items()
        )

    def _stand_ins(self) -> Files:
        """The large files that there are but in the bucket."""
        if self._whole:
            return {}
        large = {path: entry for path, entry in self._files.items() if path.startswith(_LARGE)}
        return {path: entry for path, entry in large.items() if (self.folder / path).exists()}

    def _remember(self) -> None:
        """Takes up what an earlier process noted, as far as the files are still as it left them."""
        if self._note is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads(self._note.read_text())
            if noted["address"] == self.address:
                seen = {path: _Seen(tuple(stamp), noted["files"][path]) for path, stamp in noted["stamps"].items()}
                self._seen = {path: one for path, one in seen.items() if _stamp(self.folder / path) == one.stamp}
                self._files = noted["files"]
                self._state = noted["state"] if self._seen.keys() == seen.keys() else None

    def _note_down(self) -> None:
        if self._note is not None:
            stamps = {path: seen.stamp for path, seen in self._seen.items()}
            noted = {"address": self.address, "state": self._state, "files": self._files, "stamps": stamps}
            self.folder.mkdir(parents=True, exist_ok=True)  # a state may be of no file
            with new_file(self._note, "w") as file:
                file.write(json.dumps(noted))

    def _make(self, files: Files) -> None:
        wanted = {path: entry for path, entry in files.items() if self._whole or not path.startswith(_LARGE)}
        for path in files.keys() - wanted.keys():
            _stand_in(self.folder / path, files[path])
        fresh = [path for path in wanted if wanted[path] != self._files.get(path) or path not in self._seen]
        in_parallel(lambda path: self._download(path, wanted[path]), sorted(fresh))
        for path in self._files.keys() - files.keys():
            (self.folder / path).unlink(missing_ok=True)
            self._seen.pop(path, None)
        for name in {_checkpoint(path) for path in self._files} - {_checkpoint(path) for path in files}:
            _remove_empty(self.folder / name)

    def _download(self, path: str, entry: Entry) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file, "wb") as stream:
            for content in [entry.encode()] if isinstance(entry, str) else self._contents(entry):
                stream.write(content)
        stamp = _stamp(file)
        self._seen[path] = _Seen(stamp, entry, _digest(file, stamp[1]) if _grows(path) else "")

    def _contents(self, parts: Parts) -> Iterator[bytes]:
        for name, size in parts:
            yield from self._bucket.pieces(Object(name, size, ""))

    def _uploaded(self) -> Files:
        """The files as they are now, what is new of them in the bucket."""
        files: Files = {}
        before = self._paths()
        for path in before:
            for _ in range(_TRIES):
                with contextlib.suppress(FileNotFoundError):  # cut while it was read, or deleted since it was listed
                    files[path] = self._upload(path)
                    break
                if not (self.folder / path).exists():
                    break
        # A checkpoint is there whole or not at all: of one that is being deleted the rest is none.
        whole, now = self._checkpoints(before), self._checkpoints(self._paths())
        kept = {name for name, inside in whole.items() if inside == now.get(name) and inside <= files.keys()}
        known = self._checkpoints(self._files)
        kept = {name for name in kept if whole[name] == known.get(name, whole[name])}
        now_whole = {path: entry for path, entry in files.items() if (name := _checkpoint(path)) == "" or name in kept}
        return now_whole | self._stand_ins()

    def _upload(self, path: str) -> Entry:
        file, seen = self.folder / path, self._seen.get(path)
        stamp = _stamp(file)
        if seen is not None and seen.stamp == stamp:
            return seen.entry
        short = _text(file) if stamp[1] <= _SHORT else None
        if short is not None:
            entry: Entry = short
        else:
            entry = self._upload_parts(path, stamp[1], seen)
        self._seen[path] = _Seen(stamp, entry, _digest(file, stamp[1]) if _grows(path) else "")
        return entry

    def _upload_parts(self, path: str, size: int, seen: _Seen | None) -> Parts:
        file, parts = self.folder / path, list[Any]()
        if seen is not None and isinstance(seen.entry, list) and seen.digest and seen.stamp[1] <= size:
            parts = [*seen.entry] if _digest(file, seen.stamp[1]) == seen.digest else []
        start = sum(part[1] for part in parts)
        while parts and parts[-1][1] <= size - start:
            start -= parts.pop()[1]
        self._count += 1
        name, read = f"{_PARTS}{self._generation:06d}-{self._count:08d}", 0

        def counted() -> Iterator[bytes]:
            nonlocal read
            for piece in _pieces(file, start, size):
                read += len(piece)
                yield piece

        self._unused.add(name)
        content = counted() if size - start > _PIECE_BYTES else b"".join(counted())
        self._bucket.put(name, content, size - start)
        if read < size - start:  # it was cut meanwhile
            raise FileNotFoundError(errno.ENOENT, "was cut while it was read", str(file))
        return [*parts, [name, size - start]]

    def _paths(self) -> list[str]:
        """The files of the folder, as paths in it, in the order in which they are to be read."""
        found = []
        for folder, subfolders, names in os.walk(self.folder):
            here = os.path.relpath(folder, self.folder).replace(os.sep, "/") + "/"
            inside = "" if here == "./" else here
            subfolders[:] = [
                name
                for name in subfolders
                if not name.startswith(".")
                and name != "leases"
                and not self._left_out(f"{inside}{name}/")
                and (inside != "checkpoints/" or name.isdecimal())
                and (self._whole or not f"{inside}{name}/".startswith(_LARGE))
            ]
            found += [inside + name for name in names if not name.startswith(".") and not self._left_out(inside + name)]
        return sorted(found, key=lambda path: (not path.endswith(_FIRST), _checkpoint(path) == "", path))

    @staticmethod
    def _checkpoints(paths: Files | list[str]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for path in paths:
            if name := _checkpoint(path):
                found.setdefault(name, set()).add(path)
        return found


def newest_states(address: str, under: str) -> dict[str, str]:
    """Of each folder right below `under` that has one, the name of its newest state."""
    found: dict[str, str] = {}
    for one in Bucket(address).list(under):
        folder, _, name = one.name.removeprefix(under).partition("/")
        if name.startswith(STATES):
            found[folder] = max(name, found.get(folder, ""))
    return found


def _checkpoint(path: str) -> str:
    """The folder of the checkpoint that a file is of; nothing where it is of none."""
    first, _, rest = path.partition("/")
    return f"checkpoints/{rest.partition('/')[0]}" if first == "checkpoints" else ""


def _parts_of(files: Files) -> set[str]:
    return {name for entry in files.values() if isinstance(entry, list) for name, _ in entry}


def _stand_in(file: Path, entry: Entry) -> None:
    size = len(entry.encode()) if isinstance(entry, str) else sum(part[1] for part in entry)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as empty:
            empty.truncate(size)


def _grows(path: str) -> bool:
    return path.endswith(_GROWS)


def _stamp(file: Path) -> tuple[int, int, int]:
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _digest(file: Path, size: int) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(file, 0, size):
        digest.update(piece)
    return digest.hexdigest()


def _text(file: Path) -> str | None:
    """The content of a file, where it is text."""
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError:
        return None


def _pieces(file: Path, start: int, end: int) -> Iterator[bytes]:
    """A part of a file, which may be growing; shorter where it was cut meanwhile."""
    with file.open("rb") as stream:
        stream.seek(start)
        while start < end and (piece := stream.read(min(_PIECE_BYTES, end - start))):
            start += len(piece)
            yield piece


def _remove_empty(folder: Path) -> None:
    try:
        for place, _, _ in os.walk(folder, topdown=False):
            Path(place).rmdir()
    except OSError:  # something is in it that is not ours
        return
