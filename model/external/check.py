"""Whether a trainer keeps its contract: a short run is killed, stopped, and trained to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

from etils import epath

from nextscale.model.config.external import ExternalRun
from nextscale.model.errors import InputError, Stopped
from nextscale.model.external.curve import TrainerCurve
from nextscale.model.external.process import Exit, TrainerProcess
from nextscale.model.external.result import RESULT, record_of
from nextscale.model.external.source import check_unchanged
from nextscale.model.external.train import SAVED, TrainerFailed, TrainerLost, check_exit, prepare, start_trainer
from nextscale.model.record import Row, RunDirectory

_LOOK = 0.05
_ALIKE = 1e-6
"""A loss that differs by a smaller share is the same."""
_RESTARTS = 10


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of the contract, and what came of it.

    Attributes:
        kept: None where nothing tells, or nothing is promised.
    """

    point: str
    kept: bool | None
    seen: str


class _Over(Exception):
    """There is nothing more to be seen of this trainer."""


def check_trainer(config: ExternalRun, folder: Path, within: float) -> list[Point]:
    """Trains a short run in a folder: killed at its first row, started again and asked to stop, started again; and once
    more, left alone.

    Args:
        within: seconds that the trainer has for its first row, and then for its end.

    Raises:
        InputError: the trainer is not there.
    """
    check_unchanged(config.trainer)
    check = _Check(config, within)
    with contextlib.suppress(_Over):
        disturbed, alone = (RunDirectory(epath.Path(folder / name)) for name in ("disturbed", "alone"))
        if check.is_killed(disturbed):
            check.is_stopped(disturbed)
        check.has_a_curve(disturbed, check.ends(disturbed))
        check.ends_alike(disturbed, alone)
    return check.points


class _Check:
    def __init__(self, config: ExternalRun, within: float):
        self._config, self._within = config, within
        self.points: list[Point] = []
        self._first, self._reached, self._saved = 0, 0, False
        """Tokens of the first row and of the newest; and whether it exited with 75."""

    def is_killed(self, directory: RunDirectory) -> bool:
        """Whether it wrote a row, and could then be killed."""
        what = "writes its curve while it trains"
        ended, curve = self._attempt(directory, lambda process: process.close())
        if curve.fresh is None:
            seen = "it ended without a row of metrics.jsonl with `step` or `tokens`, and `loss`"
            self._say(what, False, seen if ended is None or ended.code == 0 else self._failure(ended))
            if ended is not None and ended.code == 0:
                return False
            raise _Over
        self._say(what, True, f"its first row was at token {curve.fresh} of {self._config.tokens}")
        self._first, self._reached = curve.fresh, curve.position
        if ended is not None and ended.code is not None:
            self._say("goes on after kill -9", None, "it ended before it could be killed; try more --steps")
            return False
        return True

    def is_stopped(self, directory: RunDirectory) -> None:
        """How it goes on after the kill, and whether it stops when it is asked to."""
        asked: list[float] = []

        def ask(process: TrainerProcess) -> None:
            process.terminate()
            asked.append(time.monotonic())

        ended, curve = self._attempt(directory, ask, self._config.trainer.stop_seconds)
        took = time.monotonic() - asked[0] if asked else 0.0
        if curve.fresh is not None:
            again = curve.fresh <= self._first
            seen = f"it had come to token {self._reached}, and went on with {curve.fresh}"
            self._say("goes on after kill -9", None if again else True, seen + ": a kill loses all" * again)
        self._reached = max(self._reached, curve.position)
        what = "saves itself and exits with 75 on SIGTERM"
        if ended is None and asked:
            seconds = self._config.trainer.stop_seconds
            self._say(what, False, f"it was still there {seconds:g} s after (trainer.stop_seconds), and was killed")
        elif ended is None or not asked or (Path(directory.trainer) / RESULT).exists():
            self._say(what, None, "it ended before it could be asked; try more --steps")
        else:
            self._saved = ended.code == SAVED
            kept = True if self._saved else None if ended.code == 0 else False
            self._say(what, kept, f"{ended}, {took:.1f} s after")

    def ends(self, directory: RunDirectory) -> Row:
        """Its result, after as many starts as it asks for."""
        for _ in range(_RESTARTS):
            ended, curve = self._attempt(directory, None)
            if self._saved and curve.fresh is not None:
                again = curve.fresh <= self._first
                seen = f"it had come to token {self._reached}, and went on with {curve.fresh}"
                self._say("goes on after it has exited with 75", not again, seen + ": nothing was saved" * again)
            self._reached, self._saved = max(self._reached, curve.position), ended is not None and ended.code == SAVED
            if not self._saved:
                break
        for problem, line in curve.bad.items():
            self._say("writes rows that can be read", False, f"a line of metrics.jsonl {problem}: {line}")
        what = f"exits with 0, and leaves a {RESULT}"
        if ended is None or ended.code != 0:
            self._say(
                what, False, f"it was not done within {self._within:g} s" if ended is None else self._failure(ended)
            )
            raise _Over
        try:
            record = record_of(self._config, Path(directory.trainer) / RESULT)
        except InputError as error:
            self._say(what, False, str(error))
            raise _Over from None
        if record["status"] == "diverged":
            self._say(what, None, f"{record['reason']}: it diverged")
        else:
            self._say(what, True, f"its loss is {record['loss']:.6g}")
        for note in record["notes"]:
            self._say("does what it was asked to", None, note)
        return record

    def has_a_curve(self, directory: RunDirectory, record: Row) -> None:
        """Whether its curve goes up to the end."""
        end = max((row["tokens"] for row in directory.metrics()), default=0)
        if end != record["tokens"]:
            self._say("writes its curve up to the end", None, f"it ends at token {end} of {record['tokens']}")
        self._loss = record["loss"]

    def ends_alike(self, disturbed: RunDirectory, alone: RunDirectory) -> None:
        """Whether what it was disturbed by changed its result."""
        ended, _ = self._attempt(alone, None)
        if ended is None or ended.code != 0:
            raise _Over
        loss = record_of(self._config, Path(alone.trainer) / RESULT)["loss"]
        if loss is not None and self._loss is not None:
            same = math.isclose(loss, self._loss, rel_tol=_ALIKE)
            seen = f"its loss is {self._loss:.6g} after a kill, and {loss:.6g} where it was left alone"
            self._say("ends alike, killed or left alone", True if same else None, seen)

    def _attempt(
        self, directory: RunDirectory, act: Callable[[TrainerProcess], None] | None, patience: float = 0.0
    ) -> tuple[Exit | None, TrainerCurve]:
        """How a start of the trainer ended, None where it took too long; and its curve.

        Args:
            act: what is done to it once it has written a row.
            patience: seconds that it has from then on; all that there are if 0.
        """
        prepare(self._config, directory)
        curve = TrainerCurve(directory, self._config.training.batch_tokens)
        curve.look()
        until, acted = time.monotonic() + self._within, False
        with start_trainer(self._config, directory) as process:
            while (ended := process.wait(_LOOK)) is None and time.monotonic() < until:
                curve.look()
                if curve.fresh is not None and act is not None and not acted:
                    act(process)
                    acted, until = True, time.monotonic() + (patience or self._within)
        curve.look(ended=True)
        return ended, curve

    def _failure(self, ended: Exit) -> str:
        try:
            check_exit(self._config, ended, self._reached, asked=False)
        except (Stopped, TrainerFailed, TrainerLost) as error:
            return str(error)
        return str(ended)

    def _say(self, point: str, kept: bool | None, seen: str) -> None:
        self.points.append(Point(point, kept, seen))
