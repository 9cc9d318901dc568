"""The journal of a sweep: one line per event in `OUT/events.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from etils import epath

from nextscale.cluster.controller.events import Event, event_problem
from nextscale.model.record import Row, append_row, read_rows

_QUIET = ("tick",)


class Journal:
    """The events of the sweeps in an output folder."""

    def __init__(self, out: Path):
        self._file = epath.Path(out / "events.jsonl")

    def note(self, event: Event) -> None:
        """Writes an event down. A disk that has no room for it must not end the sweep."""
        if event.kind in _QUIET:
            return
        run_id = None if event.job is None else event.job.run_id
        try:
            append_row(self._file, {"time": time.time(), "event": event.kind, "run_id": run_id, "text": event.message})
        except OSError:
            return

    def rows(self, run_id: str | None = None, on_damage: Callable[[str], None] = lambda text: None) -> list[Row]:
        """The events so far, all or those of one run.

        Args:
            on_damage: is told of each row that is none, which is left out.
        """
        found = []
        for line, row in enumerate(read_rows(self._file), 1):
            if (problem := event_problem(row)) is not None:
                on_damage(f"{self._file}: row {line} is damaged: {problem}")
            elif run_id is None or row["run_id"] == run_id:
                found.append(row)
        return found
