"""TensorBoard: one event file per run, in OUT/tensorboard/SWEEP/RUN_ID.

The file itself tells what was exported. A point is one record, so it is there whole or not at all; what a crash cut
short is cut off before anything follows it. Values are 32-bit floats, the most that TensorBoard keeps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nextscale.model.record import Row
from nextscale.sweeps.loggers.base import LoggedRun, hparams, results
from nextscale.sweeps.loggers.curve import Point
from nextscale.sweeps.spec.loggers import TensorBoard
from nextscale.sweeps.store import event_files

FOLDER = "tensorboard"
_NAME = f"events.out.{event_files.MARK}.nextscale"


class TensorBoardLogger:
    """Event files in a folder."""

    kind = "tensorboard"
    client = None
    place = ""

    def __init__(self, config: TensorBoard, out: Path):
        self.folder = out / FOLDER

    def open(self, run: LoggedRun) -> _EventFile:
        return _EventFile(self.folder / run.sweep / run.run_id / _NAME, run)


class _EventFile:
    def __init__(self, path: Path, run: LoggedRun):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._run = path, run
        self.last: int | None = -1
        self.ended = False
        whole, empty = 0, True
        if path.exists():
            for end, _ in event_files.events(path):
                whole, empty = end, False
            os.truncate(path, whole)
            written = event_files.read_run([path])
            steps = [pairs[-1][0] for tag, pairs in written.scalars.items() if not tag.startswith("result/")]
            self.last, self.ended = max(steps, default=-1), written.ended
        if empty:
            self._add([event_files.encoded(event_files.version_event())])

    def rewind(self, tokens: int) -> bool:
        self._add([event_files.encoded(event_files.restart_event(tokens + 1))])
        self.last, self.ended = tokens, False
        return True

    def write(self, points: Sequence[Point]) -> None:
        self._add([event_files.encoded(event_files.scalars_event(point.tokens, point.values)) for point in points])
        self.last = points[-1].tokens

    def end(self, record: Row) -> None:
        given = hparams(self._run.config()) | {"run_id": self._run.run_id, "status": record["status"]}
        self._add([event_files.encoded(event_files.result_event(record["tokens"], given, results(record)))])
        self.ended = True

    def close(self) -> None:
        """Nothing is held open: there may be a thousand runs at work."""

    def _add(self, records: list[bytes]) -> None:
        with self._path.open("ab") as file:
            file.write(b"".join(records))


LOGGER = TensorBoardLogger
