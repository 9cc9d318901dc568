"""The curve of a run as it grows: training and evaluations together, one point per position, in order.

A point is told once nothing can be added to it. Workers write an evaluation at some position before the first row of
training beyond it; so whatever lies before the newest row of training is complete, and with the record all is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from nextscale.model.record import Row, RunDirectory


@dataclasses.dataclass(frozen=True)
class Point:
    """What was measured of a run when it had seen so many tokens: `train/loss`, `eval/loss` and so on."""

    tokens: int
    values: dict[str, float]


class Curve:
    """The points of a run so far."""

    def __init__(self, run: RunDirectory):
        self._training = _Rows(Path(run.metrics_file))
        self._evaluations = _Rows(Path(run.evaluations_file))

    def points(self, *, ended: bool) -> list[Point]:
        """In order of tokens, which rise from one to the next.

        Args:
            ended: the run has its record, and no more will come.
        """
        # In this order: an evaluation that a row of training promises is then there.
        training, evaluations = self._training.read(), self._evaluations.read()
        found: dict[int, dict[str, float]] = {}
        for name, rows in (("train", training), ("eval", evaluations)):
            for row in rows:
                found.setdefault(row["tokens"], {}).update(numbers(row, name))
        before = None if ended else training[-1]["tokens"] if training else 0
        return [Point(t, found[t]) for t in sorted(found) if found[t] and (before is None or t < before)]


def digests(points: list[Point]) -> list[str]:
    """For each point a name of the curve up to and with it."""
    running, names = hashlib.sha256(), []
    for point in points:
        running.update(json.dumps(dataclasses.asdict(point), sort_keys=True).encode())
        names.append(running.copy().hexdigest()[:16])
    return names


def numbers(row: dict[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of a row, but its position: what was none, or not finite, was written as null."""
    return {
        f"{prefix}/{name}": value
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "tokens"
    }


class _Rows:
    """The whole lines of a JSONL file that is appended to, or replaced by another one; each is read once."""

    def __init__(self, path: Path):
        self._path = path
        self._inode, self._read, self._last = -1, 0, b""
        self._rows: list[Row] = []

    def read(self) -> list[Row]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            self._forget()
            return self._rows
        with file:
            state = os.fstat(file.fileno())
            # A resumed run has cut its file, which is another one then.
            file.seek(max(0, self._read - len(self._last)))
            if state.st_ino != self._inode or file.read(len(self._last)) != self._last:
                self._forget()
                self._inode = state.st_ino
                file.seek(0)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        self._rows += [row for line in lines if isinstance(row := _json(line), dict) and "tokens" in row]
        self._read += len(whole)
        self._last = lines[-1] if lines else self._last
        return self._rows

    def _forget(self) -> None:
        self._inode, self._read, self._last, self._rows = -1, 0, b"", []


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # cut short by a crash
        return None
