"""Forecasts, written down before the runs they are about, and scored after. Entries are only ever appended, and each
carries the hash of the one before: a changed one is noticed."""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nextscale.sweeps.errors import SpecError

Entry = dict[str, Any]


class Ledger:
    """The ledger of an output folder."""

    def __init__(self, path: Path):
        self.path = path

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        Raises:
            SpecError: an entry was changed, or one before another removed.
        """
        if not self.path.exists():
            return []
        return _verified(_whole_lines(self.path.read_bytes()), self.path)

    def standing(self, entry: Entry) -> Entry | None:
        """The forecast that was registered for the targets of an entry: from the same inputs, or else the first."""
        found = [e for e in self.entries() if e["kind"] == "forecast" and _run_ids(e) == _run_ids(entry)]
        same = [e for e in found if e["inputs"] == entry["inputs"]]
        return next(iter(same + found), None)

    def forecast(self, entry: Entry) -> Entry:
        """Registers a forecast, or returns the one registered before from the same inputs for the same targets.

        Args:
            entry: with `sweep`; `inputs`, the digest of all it rests on; and `targets`, each with its `run_id`.
        """
        return self._append_once({"kind": "forecast"} | entry, lambda e: (e["sweep"], e["inputs"], _run_ids(e)))

    def score(self, forecast: Entry, targets: list[Entry]) -> Entry:
        """Writes down how a forecast came out, or returns the score that it has."""
        entry = {"kind": "score", "sweep": forecast["sweep"], "forecast": forecast["hash"], "targets": targets}
        return self._append_once(entry, lambda e: (e["forecast"], _run_ids(e)))

    def _append_once(self, entry: Entry, meaning: Callable[[Entry], Any]) -> Entry:
        """Appends an entry unless one of its kind and meaning is there; returns the one that is there then."""
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = _whole_lines(file.read())
            known = _verified(text, self.path)
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
        return entry


def _run_ids(entry: Entry) -> list[str]:
    return [target["run_id"] for target in entry["targets"]]


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
