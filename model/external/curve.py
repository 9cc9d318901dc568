"""The curve of an external trainer: rows of its metrics.jsonl, as every other run's curve has them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from nextscale.model.record import Row, RunDirectory, is_number, naming


class TrainerCurve:
    """Follows what a trainer writes, and keeps the run's curve the same: rising positions, each a row, no more.

    A trainer that goes on from an earlier state writes positions once more: the later row is the one that counts.

    The trainer's file, of which it is made anew, may be appended to, cut back or written anew.

    Args:
        directory: of the run.
        batch_tokens: of a step, for rows that count steps.

    Attributes:
        position: tokens of the newest row, 0 while there is none.
        fresh: tokens of the first row that came after the first look; None while there is none.
        bad: lines that were no rows, by what is wrong with them: the first of each kind.
    """

    def __init__(self, directory: RunDirectory, batch_tokens: int):
        self._directory, self._batch_tokens = directory, batch_tokens
        self._file = Path(directory.trainer / "metrics.jsonl")
        self.bad: dict[str, str] = {}
        self.fresh: int | None = None
        self._looked = False
        self.position, self._any, self._read = 0, False, 0
        self._inode: int | None = None
        self._begin()

    def look(self, *, ended: bool = False) -> None:
        """Takes over what is new.

        Args:
            ended: whether nothing more will come, so that a line without an end is whole.
        """
        try:
            with self._file.open("rb") as file:
                size, self._inode, before = file.seek(0, 2), self._file.stat().st_ino, self._inode
                if size < self._read or before not in (None, self._inode):
                    inode = self._inode
                    self._begin()
                    self._inode = inode
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            self._looked = True
            return
        whole = len(text) if ended else text.rfind(b"\n") + 1
        self._read += whole
        rows: list[Row] = []
        looked, self._looked = self._looked, True
        for line in text[:whole].splitlines():
            row = self._row(line)
            if row is None:
                continue
            if row["tokens"] <= self.position and self._any:
                self._write(rows)
                rows = []
                self._directory.cut_curves(row["tokens"] - 1)
            rows.append(row)
            self.fresh = row["tokens"] if looked and self.fresh is None else self.fresh
            self.position, self._any = row["tokens"], True
        self._write(rows)

    def _begin(self) -> None:
        self._read, self._inode = 0, None
        self.position, self._any = 0, False
        self._directory.cut_curves(-1)

    def _row(self, line: bytes) -> Row | None:
        if not line.strip():
            return None
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            self._refuse("is no JSON", line)
            return None
        if not isinstance(row, dict):
            self._refuse("is no object of names and values", line)
            return None
        tokens = row.get("tokens")
        if tokens is None and is_number(step := row.get("step")):
            tokens = step * self._batch_tokens
        if not (is_number(tokens) and 0 <= tokens < 2**63 and float(tokens).is_integer()):
            self._refuse("says neither `tokens` nor `step`, as a whole number", line)
            return None
        loss = row.get("loss")
        if loss is not None and not is_number(loss):
            self._refuse("has a `loss` that is no number", line)
            return None
        others = {name: value for name, value in row.items() if name not in ("tokens", "loss") and _is_finite(value)}
        return {"tokens": int(tokens), "loss": float(loss) if loss is not None and _is_finite(loss) else None} | others

    def _refuse(self, what: str, line: bytes) -> None:
        self.bad.setdefault(what, line[:80].decode(errors="replace"))

    def _write(self, rows: list[Row]) -> None:
        if rows:
            with naming(self._directory.metrics_file), self._directory.metrics_file.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
