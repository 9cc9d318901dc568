"""Text as tokens: bytes as they are, or a lossless seven-bit code, kept on disk once per content."""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from nextscale.model.errors import InputError

STDLIB = "python-stdlib"
_STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_SHIFT_OUT, _ESCAPE = 14, 16
"""ASCII's own shift-out and data-link-escape: in the seven-bit code, the first says that a byte above 127
follows, the second that one of these two control characters does."""
_END_OF_FILE = b"\0"


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

    Args:
        expected: the fingerprint that the text must have.

    Raises:
        InputError: the text is not there, or has changed.
    """
    folder = cache_folder() / "text"
    cached, facts = folder / f"{expected}-{vocab}.bin", folder / f"{expected}-{vocab}.json"
    if not facts.exists():
        documents = list(_documents(path))
        if (found := _digest(documents)) != expected:
            raise InputError(
                f"data.path: the text of {path} has changed ({found}, was {expected}); restore it, or start a new sweep"
            )
        content = _END_OF_FILE.join(content for _, content in documents)
        codes = np.frombuffer(content, np.uint8) if vocab == 256 else seven_bit(content)
        folder.mkdir(parents=True, exist_ok=True)
        _write(cached, codes.tobytes())
        _write(facts, json.dumps({"bytes": len(content), "tokens": len(codes)}).encode())
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


def _documents(path: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each text file, in order of name; hidden files and binaries are passed over."""
    root = Path(sysconfig.get_paths()["stdlib"]) if path == STDLIB else Path(path).expanduser()
    if not root.exists():
        raise InputError(f"data.path: there is no file or folder {root}; name one, or {STDLIB}")
    if root.is_file():
        yield root.name, root.read_bytes()
        return
    found = False
    for file in sorted(root.rglob("*.py" if path == STDLIB else "*")):
        inside = file.relative_to(root).parts
        left_out = any(part.startswith(".") for part in inside)
        if path == STDLIB:
            left_out = not _STDLIB_LEFT_OUT.isdisjoint(inside)
        if left_out or not file.is_file():
            continue
        content = file.read_bytes()
        if b"\0" not in content[:8192]:
            found = True
            yield "/".join(inside), content
    if not found:
        raise InputError(f"data.path: {root} holds no text files; name a folder or a file that does")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, whoever else is writing it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
