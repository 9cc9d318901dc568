"""The contents of a file: from a path or standard input, unpacked, and as text in whichever encoding it is."""

from __future__ import annotations

import bz2
import codecs
import dataclasses
import gzip
import lzma
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from nextscale.fit.errors import InputError

_ADDRESS = re.compile(r"[a-z][a-z0-9]+:/", re.IGNORECASE)
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""What a file begins with that says its encoding; that of UTF-32 before that of UTF-16, which it begins with."""
_OF_THE_FOLDER = re.compile(r"metrics|trainer_state|log|logs|train|output|stdout|history")
"""Files that are called the same in the folder of every run, which is then what the run is called by."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is in a file.

    Attributes:
        data: as it is once unpacked.
        suffix: of its name, small, without that of its packing: `.csv` of `runs.csv.gz`.
        run: what its run is called if it is the curve of one: its name without suffixes, or its folder's.
        logger: whether it is called as the files are that loggers such as Lightning's leave of each run.
    """

    data: bytes
    suffix: str
    run: str
    logger: bool = False

    @property
    def text(self) -> tuple[str, list[str]]:
        """As text with lines that end by a newline, and notes on its encoding.

        Raises:
            InputError: it is no text.
        """
        encoding = next((name for bom, name in _BOMS.items() if self.data.startswith(bom)), "utf-8")
        notes = []
        try:
            text = self.data.decode(encoding)
        except UnicodeDecodeError:
            # Every byte is a sign in it, so that only names with accents can be wrong, and no number.
            text = self.data.decode("latin-1")
            notes = ["its text is not UTF-8 and is read as Latin-1"]
        if "\0" in text:
            raise InputError("is no text; save it as CSV")
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text, notes


def contents_of(path: Path) -> Contents:
    """What is in a file, or on standard input where the path is `-`.

    Raises:
        InputError: there is no such file, or what packs it is damaged.
    """
    if _ADDRESS.match(str(path)):
        raise InputError("is an address; download it, and give the file")
    if str(path) == "-":
        data, names = sys.stdin.buffer.read(), [""]
    elif path.is_file():
        data, names = path.read_bytes(), [path.name]
    else:
        raise InputError("there is no such file")
    for magic, unpack in _PACKED.items():
        if data.startswith(magic):
            try:
                data = unpack(data)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise InputError(f"cannot be unpacked ({error}); get it again") from error
            names.append(re.sub(r"\.(gz|bz2|xz|zst|zstd)$", "", names[-1], flags=re.IGNORECASE))
            break
    name = Path(names[-1])
    stem = own = name.stem
    folder = path.absolute().parent
    if _OF_THE_FOLDER.fullmatch(stem.casefold()):
        # Trainer keeps its state in each checkpoint of a run.
        stem = (folder.parent if folder.name.startswith("checkpoint-") else folder).name or stem
    return Contents(data, name.suffix.lower(), stem or "run", own == "metrics")


def _zstd(data: bytes) -> bytes:
    import pyarrow as pa

    return bytes(pa.CompressedInputStream(pa.py_buffer(data), "zstd").read())


_PACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\0": lzma.decompress,
    b"\x28\xb5\x2f\xfd": _zstd,
}
"""By the first bytes, since names may be wrong."""
