"""Text as tokens: bytes, a lossless seven-bit code, or those of a tokenizer, kept on disk once per content."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from nextscale.model.config.data import TextData, is_resolved
from nextscale.model.data import tokenizer
from nextscale.model.data.remote import local_copy
from nextscale.model.data.rows import SUFFIXES, holds_rows, rows
from nextscale.model.errors import InputError
from nextscale.model.record import new_file
from nextscale.model.storage.address import absolute, address_of
from nextscale.model.storage.cache import cache_folder, one_at_a_time

T = TypeVar("T")

STDLIB = "python-stdlib"
_STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
SHIFT_OUT, ESCAPE = 14, 16
"""ASCII's own shift-out and data-link-escape: in the seven-bit code, the first says that a byte above 127
follows, the second that one of these two control characters does."""
_END_OF_FILE = b"\0"
_BESIDE_ROWS = {".md", ".json"}
_PIECE_BYTES = 1 << 20
"""The seven-bit code takes 27 bytes of memory for each byte that it is given at once."""
_ABANDONED_SECONDS = 3600
_REPORT_SECONDS = 10


def resolved(data: TextData) -> TextData:
    """The same text with all filled in that names its content, its tokens kept from now on.

    Raises:
        InputError: text or tokenizer cannot be read, or the vocabulary is not that of the tokenizer.
    """
    path = data.path if data.path == STDLIB else absolute(data.path)
    found: dict[str, str | None] = {"path": path}
    # What was named before by its content was read as the files are.
    if data.column is None and data.fingerprint is None and _all_hold_rows(path):
        found["column"] = "text"
    data = data.model_copy(update=found)
    data = data.model_copy(update={"fingerprint": fingerprint(path, data.column)})
    if data.tokenizer is not None:
        encoder = tokenizer.load(data.tokenizer)
        if encoder.size > data.vocab:
            raise InputError(
                f"data.vocab: is {data.vocab}, and {data.tokenizer} has {encoder.size} tokens; set data.vocab to "
                f"{encoder.size} or more"
            )
        found = {
            "tokenizer": absolute(data.tokenizer),
            "tokenizer_fingerprint": encoder.fingerprint,
            "end": encoder.end_token(data.end),
        }
        data = data.model_copy(update=found)
    data = _packed(data)
    tokens(data)
    return data


def _packed(data: TextData) -> TextData:
    """The same text with the token that ends a document, where documents are kept apart."""
    if data.pack is None:
        return data
    end = _END_OF_FILE[0]
    if data.tokenizer is not None:
        assert data.end is not None
        end = tokenizer.load(data.tokenizer).encoder.token_to_id(data.end)
    if data.pack.end not in (None, end):
        raise InputError(f"data.pack.end: is {data.pack.end}, and documents of this text end with {end}; leave it out")
    return data.model_copy(update={"pack": data.pack.model_copy(update={"end": end})})


def fingerprint(path: str, column: str | None = None) -> str:
    """sha256 over the files of a text: their names in the folder, lengths and bytes.

    Args:
        column: where it is named, only files with rows count.

    Raises:
        InputError: there is no text at `path`.
    """
    digest, any_text = hashlib.sha256(), False
    for name, file in _named_files(path, column):
        size = _size(file)
        any_text |= size > 0
        digest.update(f"{name}\0{size}\0".encode())
        for piece in _pieces(file):
            digest.update(piece)
    if not any_text:
        raise InputError(f"data.path: {_root(path)} holds no text; name a folder or a file that does")
    return digest.hexdigest()[:16]


def tokens(data: TextData) -> tuple[np.memmap, float]:
    """The tokens of a text, memory-mapped, and how many there are per byte.

    They are kept under the fingerprints: what was read once stays the same while the text changes.

    Raises:
        InputError: the text is not there, or has changed, or there is no place to keep its tokens.
    """
    if not is_resolved(data):
        data = resolved(data)
    folder = cache_folder() / "text"
    name = _kept_as(data)
    cached, facts = folder / f"{name}.bin", folder / f"{name}.json"
    if not _is_whole(cached, facts):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with one_at_a_time(folder):
                if not _is_whole(cached, facts):
                    _delete_abandoned(folder)
                    _encode(data, cached, facts)
        except OSError as error:
            raise InputError(
                f"data.path: the tokens of {data.path} cannot be kept: {error.filename or folder}: {error.strerror}; "
                "make room, or name another folder in $NEXTSCALE_CACHE"
            ) from None
    known = json.loads(facts.read_text())
    return np.memmap(cached, np.dtype(known.get("dtype", "uint8")), "r"), known["tokens"] / known["bytes"]


def seven_bit(content: bytes) -> np.ndarray:
    """Bytes as tokens below 128, without loss: ASCII is itself, the rest is marked and takes two tokens."""
    data = np.frombuffer(content, np.uint8)
    high, control = data > 127, (data == SHIFT_OUT) | (data == ESCAPE)
    start = np.arange(len(data)) + np.concatenate([[0], np.cumsum(high | control)[:-1]]).astype(np.int64)
    codes = np.empty(len(data) + int((high | control).sum()), np.uint8)
    codes[start[high]], codes[start[control]] = SHIFT_OUT, ESCAPE
    codes[start + (high | control)] = data & 127
    return codes


def from_seven_bit(codes: np.ndarray) -> bytes:
    """The inverse of `seven_bit`; a mark at the end, which marks nothing, is none."""
    content, remaining = bytearray(), iter(codes.tolist())
    for code in remaining:
        marks = code in (SHIFT_OUT, ESCAPE)
        byte = next(remaining, None) if marks else code
        if byte is not None:
            content.append(byte | 128 if code == SHIFT_OUT else byte)
    return bytes(content)


def _kept_as(data: TextData) -> str:
    if data.column is None and data.tokenizer is None:
        return f"{data.fingerprint}-{data.vocab}"
    read_as = [data.column, data.vocab if data.tokenizer is None else data.tokenizer_fingerprint, data.end]
    return f"{data.fingerprint}-{hashlib.sha256(json.dumps(read_as).encode()).hexdigest()[:12]}"


def _is_whole(cached: Path, facts: Path) -> bool:
    try:
        known = json.loads(facts.read_text())
        return cached.stat().st_size == known["tokens"] * np.dtype(known.get("dtype", "uint8")).itemsize
    except (OSError, ValueError):
        return False


def _encode(data: TextData, cached: Path, facts: Path) -> None:
    """Writes the tokens of a text, piece by piece, and how many there are."""
    if data.tokenizer is None:
        dtype, encoded = np.dtype(np.uint8), _as_bytes(data)
    else:
        encoder = tokenizer.load(data.tokenizer)
        _unchanged(data.tokenizer, encoder.fingerprint, data.tokenizer_fingerprint, "tokenizer")
        assert data.end is not None
        dtype, encoded = encoder.dtype, encoder.encode(_as_text(data), data.end)
    _unchanged(data.path, fingerprint(data.path, data.column), data.fingerprint)
    count = size = 0
    report = _Progress(data.path)
    with new_file(cached, "wb") as file:
        for codes, read in encoded:
            file.write(codes.tobytes())
            count, size = count + len(codes), size + read
            report(count, size)
        if size == 0:
            raise InputError(f"data.column: no row of {data.path} has text in {data.column}; name another field")
        # What is kept under a name is what the name says, also where the text was written to meanwhile.
        _unchanged(data.path, fingerprint(data.path, data.column), data.fingerprint)
    known = {"bytes": size, "tokens": count} | ({"dtype": dtype.name} if data.tokenizer is not None else {})
    with new_file(facts, "wb") as file:
        file.write(json.dumps(known).encode())


def _unchanged(path: str, found: str, expected: str | None, key: str = "path") -> None:
    if found != expected:
        raise InputError(f"data.{key}: {path} has changed ({found}, was {expected}); restore it, or start a new sweep")


def _as_bytes(data: TextData) -> Iterator[tuple[np.ndarray, int]]:
    """The codes of a text, and how many bytes they stand for; a document ends where the next begins."""
    end = b""
    for document in _documents(data, _pieces, lambda row: [row.encode()]):
        for content in itertools.chain([end], document):
            for start in range(0, len(content), _PIECE_BYTES):
                piece = content[start : start + _PIECE_BYTES]
                yield np.frombuffer(piece, np.uint8) if data.vocab == 256 else seven_bit(piece), len(piece)
        end = _END_OF_FILE


def _as_text(data: TextData) -> Iterator[Iterable[str]]:
    return _documents(data, lambda file: tokenizer.decode_utf8(_pieces(file), file), lambda row: [row])


def _documents(
    data: TextData, of_file: Callable[[Path], Iterable[T]], of_row: Callable[[str], Iterable[T]]
) -> Iterator[Iterable[T]]:
    """Each document in pieces, read as they are asked for."""
    for _, file in _named_files(data.path, data.column):
        if data.column is None:
            yield of_file(file)
        else:
            with _readable(file):
                yield from map(of_row, rows(file, data.column))


def _named_files(path: str, column: str | None) -> Iterator[tuple[str, Path]]:
    """Text files by their names in the folder, in order of name; hidden files, binaries and what a sweep wrote are
    passed over. With a column, files with rows, and only those."""
    root = _root(path)
    files = [root] if root.is_file() else _files(root, library=path == STDLIB)
    if column is not None:
        files = [file for file in files if holds_rows(file)]
        if not files:
            raise InputError(
                f"data.column: names a field of rows, and {root} holds no {', '.join(SUFFIXES)} file; leave it out"
            )
    for file in files:
        if root.is_file() or column is not None or not _is_binary(file):
            yield file.name if root.is_file() else file.relative_to(root).as_posix(), file


def _all_hold_rows(path: str) -> bool:
    """Whether a path names rows and no other text; a README may lie beside them."""
    root = _root(path)
    files = [root] if root.is_file() else _files(root, library=path == STDLIB)
    return any(map(holds_rows, files)) and all(holds_rows(file) or file.suffix in _BESIDE_ROWS for file in files)


def _root(path: str) -> Path:
    if (address := address_of(path)) is not None:
        return local_copy(address)
    root = Path(sysconfig.get_paths()["stdlib"]) if path == STDLIB else Path(path).expanduser()
    if not root.exists():
        raise InputError(f"data.path: there is no file or folder {root}; name one, or {STDLIB}")
    if _is_output(root):
        raise InputError(f"data.path: {root} is the output of a sweep; name a folder of text, or another --out")
    return root


def _size(file: Path) -> int:
    with _readable(file):
        return file.stat().st_size


def _is_binary(file: Path) -> bool:
    with _readable(file), file.open("rb") as content:
        return b"\0" in content.read(8192)


def _pieces(file: Path) -> Iterator[bytes]:
    with _readable(file), file.open("rb") as content:
        while piece := content.read(_PIECE_BYTES):
            yield piece


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"data.path: {file} cannot be read: {error.strerror}; mend it, or leave it out") from None


def _files(root: Path, library: bool) -> list[Path]:
    def left_out(name: str) -> bool:
        return name in _STDLIB_LEFT_OUT if library else name.startswith(".")

    found = []
    for folder, subfolders, names in os.walk(root):
        here = Path(folder)
        # A sweep that writes below its own text must not change it.
        subfolders[:] = [name for name in subfolders if not left_out(name) and not _is_output(here / name)]
        found += [here / name for name in names if not left_out(name) and (name.endswith(".py") or not library)]
    return sorted(file for file in found if file.is_file())


def _is_output(folder: Path) -> bool:
    """Whether a sweep has written to this folder (see `nextscale.sweeps.store.store`)."""
    return (folder / "runs").is_dir() and (folder / "sweeps").is_dir()


class _Progress:
    """Says on stderr every ten seconds how far tokenising has come: a short one passes in silence."""

    def __init__(self, path: str):
        self._path, self._start = path, time.monotonic()
        self._reported_at = self._start

    def __call__(self, tokens: int, size: int) -> None:
        if (now := time.monotonic()) - self._reported_at > _REPORT_SECONDS:
            self._reported_at = now
            rate = tokens / (now - self._start)
            print(
                f"tokenising {self._path}, once: {size / 1e9:.2f} GB of text, {tokens / 1e6:.0f}M tokens, "
                f"{rate / 1e6:.2f}M a second",
                file=sys.stderr,
                flush=True,
            )


def _delete_abandoned(folder: Path) -> None:
    """Deletes what a killed process left half-written; a living one writes every few seconds."""
    for file in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                file.unlink()
