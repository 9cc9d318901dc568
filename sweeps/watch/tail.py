"""Reads the rows that are appended to a JSONL file, from where the last look ended."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from nextscale.model.record import Row


class Appended(NamedTuple):
    """What a look found.

    Attributes:
        rows: that were not there at the last look.
        restarted: whether the file is another one than then, or was cut back: no row of before is in it any more.
    """

    rows: list[Row]
    restarted: bool


class Tail:
    """A JSONL file that grows. A last line that is not whole yet is left for the next look."""

    def __init__(self, path: Path):
        self._path = path
        self._inode, self._end = 0, 0

    def look(self) -> Appended:
        try:
            stat = os.stat(self._path)  # noqa: PTH116 (a Path takes longer than the question)
        except FileNotFoundError:
            restarted, self._inode, self._end = self._end > 0, 0, 0
            return Appended([], restarted)
        if stat.st_ino == self._inode and stat.st_size == self._end:
            return Appended([], False)
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            size = file.seek(0, os.SEEK_END)
            restarted = self._end > 0 and (inode != self._inode or size < self._end)
            begin = 0 if restarted else self._end
            file.seek(begin)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._inode, self._end = inode, begin + whole
        rows = []
        for line in text[:whole].splitlines():
            with contextlib.suppress(ValueError, RecursionError):  # cut short by a crash, or damaged
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
        return Appended(rows, restarted)
