"""Text as tokens: bytes as they are, or a lossless seven-bit code, kept on disk once per content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nextscale.model.errors import InputError

STDLIB = "python-stdlib"
_STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_SHIFT_OUT, _ESCAPE = 14, 16
"""ASCII's own shift-out and data-link-escape: in the seven-bit code, the first says that a byte above 127
follows, the second that one of these two control characters does."""
_END_OF_FILE = b"\0"
_PIECE_BYTES = 1 << 20
"""The seven-bit code takes 27 bytes of memory for each byte that it is given at once."""


def cache_folder() -> Path:
    """Per user: $NEXTSCALE_CACHE, else nextscale/ in $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get("NEXTSCALE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextscale"


def fingerprint(path: str) -> str:
    """sha256 over the files of a text: their names in the folder, lengths and bytes.

    Raises:
        InputError: there is no text at `path`.
    """
    return _digest(_documents(path))


def tokens(path: str, vocab: int, expected: str) -> tuple[np.ndarray, float]:
    """The tokens of a text, memory-mapped, and how many there are per byte.

    They are kept under the fingerprint: what was read once stays the same while the text changes.

    Args:
        expected: the fingerprint that the text must have.

    Raises:
        InputError: the text is not there, or has changed, or there is no place to keep its tokens.
    """
    folder = cache_folder() / "text"
    cached, facts = folder / f"{expected}-{vocab}.bin", folder / f"{expected}-{vocab}.json"
    if not _is_whole(cached, facts):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _encode(path, vocab, expected, cached, facts)
        except OSError as error:
            raise InputError(
                f"data.path: the tokens of {path} cannot be kept: {error.filename or folder}: {error.strerror}; make "
                "room, or name another folder in $NEXTSCALE_CACHE"
            ) from None
    known = json.loads(facts.read_text())
    return np.memmap(cached, np.uint8, "r"), known["tokens"] / known["bytes"]


def seven_bit(content: bytes) -> np.ndarray:
    """Bytes as tokens below 128, without loss: ASCII is itself, the rest is marked and takes two tokens."""
    data = np.frombuffer(content, np.uint8)
    high, control = data > 127, (data == _SHIFT_OUT) | (data == _ESCAPE)
    start = np.arange(len(data)) + np.concatenate([[0], np.cumsum(high | control)[:-1]]).astype(np.int64)
    codes = np.empty(len(data) + int((high | control).sum()), np.uint8)
    codes[start[high]], codes[start[control]] = _SHIFT_OUT, _ESCAPE
    codes[start + (high | control)] = data & 127
    return codes


def from_seven_bit(codes: np.ndarray) -> bytes:
    """The inverse of `seven_bit`."""
    content, remaining = bytearray(), iter(codes.tolist())
    for code in remaining:
        content.append(next(remaining) | 128 if code == _SHIFT_OUT else next(remaining) if code == _ESCAPE else code)
    return bytes(content)


def _digest(documents: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in documents:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _is_whole(cached: Path, facts: Path) -> bool:
    try:
        return cached.stat().st_size == json.loads(facts.read_text())["tokens"]
    except (OSError, ValueError):
        return False


def _encode(path: str, vocab: int, expected: str, cached: Path, facts: Path) -> None:
    """Writes the tokens of a text, piece by piece, and how many there are."""
    lengths: list[int] = []

    def written(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
        for name, content in _documents(path):
            whole = _END_OF_FILE + content if lengths else content
            lengths.append(len(whole))
            for start in range(0, len(whole), _PIECE_BYTES):
                piece = whole[start : start + _PIECE_BYTES]
                file.write(piece if vocab == 256 else seven_bit(piece).tobytes())
            yield name, content

    with _new_file(cached) as file:
        if (found := _digest(written(file))) != expected:
            raise InputError(
                f"data.path: the text of {path} has changed ({found}, was {expected}); restore it, or start a new sweep"
            )
        size = file.tell()
    with _new_file(facts) as file:
        file.write(json.dumps({"bytes": sum(lengths), "tokens": size}).encode())


def _documents(path: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each text file, in order of name; hidden files, binaries and what a sweep wrote are passed
    over."""
    root = Path(sysconfig.get_paths()["stdlib"]) if path == STDLIB else Path(path).expanduser()
    if not root.exists():
        raise InputError(f"data.path: there is no file or folder {root}; name one, or {STDLIB}")
    if _is_output(root):
        raise InputError(f"data.path: {root} is the output of a sweep; name a folder of text, or another --out")
    files = [root] if root.is_file() else _files(root, library=path == STDLIB)
    found = False
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"data.path: {file} cannot be read: {error.strerror}; mend it, or leave it out") from None
        if root.is_file() or b"\0" not in content[:8192]:
            found |= len(content) > 0
            yield file.name if root.is_file() else file.relative_to(root).as_posix(), content
    if not found:
        raise InputError(f"data.path: {root} holds no text; name a folder or a file that does")


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
    """Whether a sweep has written to this folder (see `nextscale.sweeps.store`)."""
    return (folder / "runs").is_dir() and (folder / "sweeps").is_dir()


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when it is whole, or not at all, whoever else is writing it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
