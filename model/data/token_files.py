"""Reads token files: nanoGPT's without a header, llm.c's with one of 256 x int32, and numpy's `.npy`."""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nextscale.model.data.manifest import Manifest
from nextscale.model.data.remote import RemoteFile, files_in
from nextscale.model.errors import InputError, first_line
from nextscale.model.storage.address import address_of
from nextscale.model.storage.bucket import in_parallel

_HEADER_BYTES = 256 * 4
_LLMC_TYPES = {(20240520, 1): np.uint16, (20240801, 7): np.uint32}
"""By magic number and version, as llm.c's dev/data/data_common.py writes them."""
_LLMC_MAGICS = range(20240101, 20250101)
"""llm.c dates every kind of file that it writes: models, optimizer states and evaluation sets too."""
_NUMPY_TYPES = ("uint8", "uint16", "uint32", "int32", "int64")
_HELD_OUT = re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.IGNORECASE)
_SAMPLE_BYTES, _SAMPLES = 1 << 20, 64


TokenFile = Path | RemoteFile


def shards(path: str) -> tuple[list[TokenFile], list[TokenFile]]:
    """The training and the held-out files at `path`.

    In a folder, files with the word `val`, `valid` or `validation` in their name are held out.

    Raises:
        InputError: there is nothing to train on.
    """
    if (address := address_of(path)) is not None:
        listed: list[TokenFile] = [*files_in(address)]
        root, whole = address, len(listed) == 1 and str(listed[0]) == address
    else:
        place = Path(path).expanduser()
        listed = [*([place] if place.is_file() else sorted(place.glob("*")))]
        root, whole = str(place), place.is_file()
    if whole:
        return listed, []
    if not listed and (address is not None or not Path(root).exists()):
        raise InputError(f"data.path: there is no file or folder {root}; name a .bin or .npy file, or a folder of them")
    kinds = {kind: [file for file in listed if file.name.endswith(kind)] for kind in (".bin", ".npy")}
    if all(kinds.values()):
        raise InputError(f"data.path: {root} holds .bin and .npy files; move those of one kind elsewhere")
    files = kinds[".bin"] or kinds[".npy"]
    train = [file for file in files if not _HELD_OUT.search(file.stem)]
    held_out = [file for file in files if _HELD_OUT.search(file.stem)]
    if not train:
        raise InputError(f"data.path: {root} holds no .bin or .npy file to train on; name a folder that does")
    return train, held_out


class Place(NamedTuple):
    """Where the tokens of a file lie: how many, of which dtype, after how many bytes; and whether the file says so
    itself."""

    file: str
    dtype: str
    offset: int
    length: int
    has_header: bool


class Shard:
    """The tokens of a file, whole numbers of 8 to 64 bits: opened when the first of them is wanted, and read on demand;
    of one in a bucket a copy is made then."""

    def __init__(self, place: Place, file: TokenFile):
        self.place, self._file = place, file

    def __len__(self) -> int:
        return self.place.length

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._tokens, dtype)

    def part(self, start: int, stop: int) -> np.ndarray:
        """Some of the tokens, for which a file in a bucket is not copied."""
        if not isinstance(self._file, RemoteFile) or "_tokens" in self.__dict__:
            return self._tokens[start:stop]
        dtype = np.dtype(self.place.dtype)
        content = self._file.read(self.place.offset + start * dtype.itemsize, (stop - start) * dtype.itemsize)
        return np.frombuffer(content, dtype)

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        _, dtype, offset, length, _ = self.place
        if length == 0:
            return np.empty(0, dtype)
        file = self._file.local() if isinstance(self._file, RemoteFile) else self._file
        return np.memmap(file, np.dtype(dtype), "r", offset=offset, shape=(length,))


def places(path: str, dtype: str) -> tuple[list[Place], list[Place]]:
    """Of the training files and of those held out, by their headers; each is opened for it.

    Args:
        dtype: of tokens in `.bin` files without a header.

    Raises:
        InputError: a file is empty, cut short, of another version, or an array that is no list of tokens.
    """
    train, held_out = (in_parallel(functools.partial(place_in, dtype=dtype), files) for files in shards(path))
    return train, held_out


def place_in(file: TokenFile, dtype: str = "uint16") -> Place:
    """See `places`."""
    size, head = _size(file), _read(file, 0, _HEADER_BYTES)
    if file.suffix == ".npy":
        return Place(str(file), *_numpy_layout(file, head, size), True)
    header = np.frombuffer(head[: len(head) // 4 * 4], np.int32)
    magic = int(header[0]) if len(header) else 0
    if magic in _LLMC_MAGICS:
        version = int(header[1]) if len(header) > 1 else 0
        if (magic, version) not in _LLMC_TYPES:
            raise InputError(
                f"data.path: {file} is no llm.c token file that can be read (magic {magic}, version {version}); "
                f"known are {' and '.join(f'{m} version {v}' for m, v in _LLMC_TYPES)}"
            )
        own = np.dtype(_LLMC_TYPES[magic, version])
        promised = int(header[2]) if len(header) == 256 else 0
        held = max(size - _HEADER_BYTES, 0) // own.itemsize
        if len(header) < 256 or held < promised:
            raise InputError(
                f"data.path: {file} is cut short: its header promises {promised} tokens, it holds {held}; copy it again"
            )
        return Place(str(file), own.str, _HEADER_BYTES, promised, True)
    bytes_each = np.dtype(dtype).itemsize
    if size == 0 or size % bytes_each:
        raise InputError(
            f"data.path: {file} is not whole: {size} bytes is no number of {dtype} tokens; copy or write it again"
        )
    return Place(str(file), np.dtype(dtype).str, 0, size // bytes_each, False)


def check_vocab(files: Iterable[Place], vocab: int) -> None:
    """
    Raises:
        InputError: tokens may be larger than can be read from a file that does not say how they are written.
    """
    for place in files:
        if not place.has_header and place.dtype == np.dtype(np.uint16).str and vocab > 2**16:
            raise InputError(
                f"data.dtype: data.vocab is {vocab}, and {place.file} has no header, so its tokens are read as uint16, "
                "of which none is above 65535; give dtype: uint32 if they are written so, else a vocab of 65536 or less"
            )


def _numpy_layout(file: TokenFile, head: bytes, size: int) -> tuple[str, int, int]:
    """Of which dtype the tokens are, at which byte they begin, and how many they are."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
    except (ValueError, EOFError, KeyError) as error:
        raise InputError(
            f"data.path: {file} is no whole .npy file ({first_line(error)}); copy or save it again"
        ) from None
    if len(shape) != 1:
        raise InputError(f"data.path: {file} is an array of shape {shape}; save one row of tokens, `array.ravel()`")
    if dtype.name not in _NUMPY_TYPES:
        raise InputError(f"data.path: {file} holds {dtype.name}; save tokens as one of {', '.join(_NUMPY_TYPES)}")
    if size < (whole := stream.tell() + shape[0] * dtype.itemsize):
        raise InputError(
            f"data.path: {file} is no whole .npy file (it holds {size} bytes of {whole}); copy or save it again"
        )
    return dtype.str, stream.tell(), shape[0]


def manifest(path: str) -> Manifest:
    """Of all files at `path`.

    Raises:
        InputError: there is nothing to train on.
    """
    train, held_out = shards(path)
    return Manifest.of(train + held_out)


def fingerprint(path: str, dtype: str = "uint16") -> str:
    """sha256 over names, sizes and content: all of a file up to 64 MiB, else 64 evenly spaced samples of 1 MiB."""
    digest = hashlib.sha256()
    train, held_out = shards(path)
    in_parallel(functools.partial(place_in, dtype=dtype), train + held_out)
    for file in train + held_out:
        size = _size(file)
        digest.update(f"{'val' if file in held_out else 'train'}\0{size}\0".encode())
        starts = [0] if size <= _SAMPLE_BYTES * _SAMPLES else np.linspace(0, size - _SAMPLE_BYTES, _SAMPLES).astype(int)
        count = size if len(starts) == 1 else _SAMPLE_BYTES
        for content in in_parallel(functools.partial(_read, file, size=count), map(int, starts)):
            digest.update(content)
    return digest.hexdigest()[:16]


def _size(file: TokenFile) -> int:
    return file.object.size if isinstance(file, RemoteFile) else file.stat().st_size


def _read(file: TokenFile, start: int, size: int) -> bytes:
    if isinstance(file, RemoteFile):
        # What is read whole is wanted here anyway.
        if start == 0 and size == file.object.size:
            return file.local().read_bytes()
        return file.read(start, size)
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(size)
