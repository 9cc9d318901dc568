"""The ledger: forecasts registered before their runs are trained, their scores, and approvals of sweeps.

Entries are only ever appended, and each carries the hash of the one before: one that was changed, removed or moved is
noticed. The newest hash is noted in a file beside it, `ledger.head`, so that entries cut off the end are missed too;
not by whoever cuts that file with it.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etils import epath

from nextscale.model.record import write_atomically
from nextscale.model.storage.sweep_copy import original_of
from nextscale.sweeps.errors import SpecError

Entry = dict[str, Any]


class Ledger:
    """A ledger, such as that of an output folder."""

    def __init__(self, path: Path):
        self.path = path
        self.head = path.with_suffix(".head")

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        Raises:
            SpecError: an entry was changed, moved or removed.
        """
        noted = self._noted()  # first: what is appended meanwhile is in the ledger before it is noted
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            text = b""
        return self._whole(_verified(_whole_lines(text), self.path), noted)

    def forecasts_of(self, entry: Entry) -> list[Entry]:
        """Those that were registered for the targets of an entry, the first in front."""
        return [e for e in self.entries() if e["kind"] == "forecast" and _about(e) == _about(entry)]

    def registered(self, entry: Entry) -> Entry | None:
        """The forecast that was registered for the targets of an entry: from the same inputs, or else the first."""
        found = self.forecasts_of(entry)
        same = [e for e in found if e["inputs"] == entry["inputs"]]
        return next(iter(same + found), None)

    def register(self, entry: Entry) -> Entry:
        """Registers a forecast, or returns the one registered before from the same inputs for the same targets.

        Args:
            entry: with `sweep`; `inputs`, the digest of all it rests on; and `targets`, each with its `run_id`, or None
                and its `flops` where the run has none yet.
        """
        return self._append_once({"kind": "forecast"} | entry, lambda e: (e["sweep"], e["inputs"], _about(e)))

    def score(self, forecast: Entry, targets: list[Entry]) -> Entry:
        """Writes down how a forecast came out, or returns the score that it has."""
        entry = {"kind": "score", "sweep": forecast["sweep"], "forecast": forecast["hash"], "targets": targets}
        return self._append_once(entry, lambda e: (e["forecast"], _about(e)))

    def approve(self, entry: Entry) -> Entry:
        """Writes down that somebody let a sweep through a gate with a value, or returns the entry that says so.

        Args:
            entry: with `sweep`, `gate` and `value`.
        """
        return self._append_once({"kind": "approval"} | entry, lambda e: (e["sweep"], e["gate"], e["value"]))

    def approvals(self) -> list[Entry]:
        """All of them, oldest first."""
        return [entry for entry in self.entries() if entry["kind"] == "approval"]

    def _append_once(self, entry: Entry, meaning: Callable[[Entry], Any]) -> Entry:
        """Appends an entry unless one of its kind and meaning is there; returns the one that is there then.

        Raises:
            SpecError: this is a copy of what lies in a bucket.
        """
        if (address := original_of(self.path.parent)) is not None:
            why = "this is a copy of its ledger; in Python write to that of what `sweeps.run.bucket.edited` gives"
            raise SpecError(f"{address}: {why}")
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = _whole_lines(file.read())
            known = self._whole(_verified(text, self.path), self._noted())
            for other in known:
                if other["kind"] == entry["kind"] and meaning(other) == meaning(entry):
                    return other
            entry = entry | {
                "time": datetime.datetime.now(datetime.UTC).isoformat(),
                "previous": known[-1]["hash"] if known else None,
            }
            entry = entry | {"hash": _digest(entry)}
            file.truncate(len(text))
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # a full disk: an older note misses less
                write_atomically(epath.Path(self.head), entry["hash"] + "\n")
        return entry

    def _noted(self) -> str | None:
        """The hash of the newest entry, as noted beside the ledger."""
        try:
            return self.head.read_text().strip()
        except OSError:
            return None

    def _whole(self, entries: list[Entry], noted: str | None) -> list[Entry]:
        if noted is None or any(entry["hash"] == noted for entry in reversed(entries)):
            return entries
        raise SpecError(
            f"{self.path}: ends before entry {noted}, which {self.head.name} beside it knows of: entries were cut off; "
            "restore the ledger from a copy, or move both away to begin a new one"
        )


def score_of(target: Entry, measured: float | None) -> Entry:
    """How what was foretold of a run came out; None of all where the run diverged."""
    if measured is None:
        return {"measured": None, "error": None, "inside": None}
    low, high = target["interval"]
    error, inside = target["predicted"] / measured - 1, bool(low <= measured <= high)
    return {"measured": measured, "error": error, "inside": inside}


def _about(entry: Entry) -> list[Any]:
    """What a forecast or a score is of: runs or, where a run has no name yet, budgets."""
    return [target["flops"] if target["run_id"] is None else target["run_id"] for target in entry["targets"]]


def _whole_lines(text: bytes) -> bytes:
    """Without a last line that a crash cut short: it was never an entry."""
    return text[: text.rfind(b"\n") + 1]


def digest_of(value: Any) -> str:
    """16 hex digits that name a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _digest(entry: Entry) -> str:
    return digest_of({key: value for key, value in entry.items() if key != "hash"})


def _verified(text: bytes, path: Path) -> list[Entry]:
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        previous = entries[-1]["hash"] if entries else None
        try:
            entry = json.loads(line)
            sound = entry["hash"] == _digest(entry) and entry["previous"] == previous
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise SpecError(
                f"{path}:{number}: this entry, or one before it, is not as it was written; restore the ledger from a "
                "copy, or move it away to begin a new one"
            )
        entries.append(entry)
    return entries
