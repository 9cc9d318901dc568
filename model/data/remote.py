"""Token files and text that lie in a bucket: listed there, copied to this machine when they are first read."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from nextscale.model.errors import InputError
from nextscale.model.storage.bucket import Bucket, Object
from nextscale.model.storage.cache import copied


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file in a bucket, in the state in which it was listed: whatever is read of it is of that state."""

    folder: str
    object: Object

    @property
    def name(self) -> str:
        return PurePosixPath(self.object.name).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        return f"{self.folder}/{self.object.name}"

    def read(self, start: int, size: int) -> bytes:
        """So many bytes, or as many as there are.

        Raises:
            InputError: it has changed since.
        """
        with _as_listed(str(self)):
            return Bucket(self.folder).read(self.object, start, max(min(size, self.object.size - start), 0))

    def local(self) -> Path:
        """A copy on this machine, made when it is first asked for.

        Raises:
            InputError: it has changed since.
        """
        with _as_listed(str(self)):
            return copied(self.folder, [self.object]) / self.object.name


def files_in(address: str) -> list[RemoteFile]:
    """The files of a folder in a bucket, those of its folders left out, or the one file of that name; none where there
    is neither.

    Raises:
        InputError: there is no such bucket.
    """
    folder, found = _listed(address)
    return [RemoteFile(folder, one) for one in found if "/" not in one.name]


def local_copy(address: str) -> Path:
    """A file, or a folder with all that is below it, copied to this machine as it is now.

    Raises:
        InputError: there is nothing, or it changed while it was copied.
    """
    folder, found = _listed(address)
    if not found:
        raise InputError(f"data.path: there is no file or folder {address}; name one")
    with _as_listed(address):
        copy = copied(folder, found)
    return copy if folder == address else copy / found[0].name


def _listed(address: str) -> tuple[str, list[Object]]:
    """A folder, and what of it is meant."""
    inside = [one for one in Bucket(address).list() if ".." not in PurePosixPath(one.name).parts]
    if inside:
        return address, inside
    folder, name = posixpath.split(address)
    one = None if folder.endswith("/") else Bucket(folder).head(name)
    return (address, []) if one is None else (folder, [one])


@contextlib.contextmanager
def _as_listed(where: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if error.errno != errno.ENOENT or not str(error.filename).startswith(("s3://", "gs://")):
            raise
        raise InputError(
            f"data.path: {error.filename} {error.strerror}; restore it, and run again"
            if error.strerror == "has changed"
            else f"data.path: {where} is gone; restore it, and run again"
        ) from None
