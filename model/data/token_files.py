"""Reads token files: nanoGPT's without a header, llm.c's with one of 256 x int32, and numpy's `.npy`."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nextscale.model.data.manifest import Manifest
from nextscale.model.errors import InputError, first_line

_HEADER_BYTES = 256 * 4
_LLMC_TYPES = {(20240520, 1): np.uint16, (20240801, 7): np.uint32}
"""By magic number and version, as llm.c's dev/data/data_common.py writes them."""
_LLMC_MAGICS = range(20240101, 20250101)
"""llm.c dates every kind of file that it writes: models, optimizer states and evaluation sets too."""
_NUMPY_TYPES = ("uint8", "uint16", "uint32", "int32", "int64")
_HELD_OUT = re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])", re.IGNORECASE)
_SAMPLE_BYTES, _SAMPLES = 1 << 20, 64


def shards(path: str) -> tuple[list[Path], list[Path]]:
    """The training and the held-out files at `path`.

    In a folder, files with the word `val`, `valid` or `validation` in their name are held out.

    Raises:
        InputError: there is nothing to train on.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return [root], []
    if not root.exists():
        raise InputError(f"data.path: there is no file or folder {root}; name a .bin or .npy file, or a folder of them")
    kinds = {suffix: sorted(root.glob(f"*{suffix}")) for suffix in (".bin", ".npy")}
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
    """The tokens of a file, whole numbers of 8 to 64 bits: opened when the first of them is wanted, and read on
    demand."""

    def __init__(self, place: Place):
        self.place = place

    def __len__(self) -> int:
        return self.place.length

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._tokens, dtype)

    @functools.cached_property
    def _tokens(self) -> np.ndarray:
        if self.place.length == 0:
            return np.empty(0, self.place.dtype)
        return np.memmap(
            self.place.file, np.dtype(self.place.dtype), "r", offset=self.place.offset, shape=(self.place.length,)
        )


def places(path: str, dtype: str) -> tuple[list[Place], list[Place]]:
    """Of the training files and of those held out, by their headers; each is opened for it.

    Args:
        dtype: of tokens in `.bin` files without a header.

    Raises:
        InputError: a file is empty, cut short, of another version, or an array that is no list of tokens.
    """
    train, held_out = ([place_in(file, dtype) for file in files] for files in shards(path))
    return train, held_out


def place_in(file: Path, dtype: str = "uint16") -> Place:
    """See `places`."""
    if file.suffix == ".npy":
        array = _numpy_file(file)
        return Place(str(file.absolute()), array.dtype.str, getattr(array, "offset", 0), len(array), True)
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = np.frombuffer(stream.read(_HEADER_BYTES)[: size // 4 * 4], np.int32)
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
        return Place(str(file.absolute()), own.str, _HEADER_BYTES, promised, True)
    bytes_each = np.dtype(dtype).itemsize
    if size == 0 or size % bytes_each:
        raise InputError(
            f"data.path: {file} is not whole: {size} bytes is no number of {dtype} tokens; copy or write it again"
        )
    return Place(str(file.absolute()), np.dtype(dtype).str, 0, size // bytes_each, False)


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


def _numpy_file(file: Path) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(
            f"data.path: {file} is no whole .npy file ({first_line(error)}); copy or save it again"
        ) from None
    if array.ndim != 1:
        raise InputError(
            f"data.path: {file} is an array of shape {array.shape}; save one row of tokens, `array.ravel()`"
        )
    if array.dtype.name not in _NUMPY_TYPES:
        raise InputError(f"data.path: {file} holds {array.dtype.name}; save tokens as one of {', '.join(_NUMPY_TYPES)}")
    return array


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
    for file in train + held_out:
        place_in(file, dtype)
        size = file.stat().st_size
        digest.update(f"{'val' if file in held_out else 'train'}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= _SAMPLE_BYTES * _SAMPLES:
                digest.update(stream.read())
            else:
                for start in np.linspace(0, size - _SAMPLE_BYTES, _SAMPLES).astype(np.int64):
                    stream.seek(int(start))
                    digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
