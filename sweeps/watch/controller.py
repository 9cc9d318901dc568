"""Who runs the sweeps of a folder, by the lease that it holds: no clock of another machine is trusted."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

from nextscale.cluster.controller.lease import BEAT, TIME_TO_LIVE, Life, life

_DOUBT = 2 * BEAT + 1
"""Seconds for which one who looks but once waits for a sign of life, where the clocks do not tell."""


@dataclasses.dataclass(frozen=True)
class Controller:
    """Who runs the sweeps of a folder.

    Attributes:
        state: `at work`, `silent` for so long that it must be dead, or `none`.
        host, pid, started: of the last that did, as far as it left them; when it started is by its own clock.
        ahead: seconds that its clock is ahead of ours, 0 where the two are about the same.
    """

    state: str
    host: str | None = None
    pid: int | None = None
    started: float = math.inf
    ahead: float = dataclasses.field(default=0.0, compare=False)

    def now(self) -> float:
        """The time by its clock, as its accounts have it."""
        return time.time() + self.ahead


class ControllerWatch:
    """Looks at a folder's controller again and again, and takes it for silent once it has seen no new sign of life for
    so long by its own clock. The first look has but the time of the last sign to go by."""

    def __init__(self, out: Path):
        self._directory = out / "controller"
        self._sign: tuple[float, float] | None = None
        self._since = -math.inf
        self._began = time.monotonic()
        self.certain = True
        """Whether the last look left no doubt: more may be seen in a while."""

    def look(self) -> Controller:
        told, now = life(self._directory), time.monotonic()
        if told is None or told.released:
            self.certain = True
            return Controller("none")
        sign = told.started, told.seconds
        if sign != self._sign:
            first, self._sign = self._sign is None, sign
            age = _age(self._directory, told) if first else 0.0
            # In the future, or long ago: so it is of one that is dead, and of one whose clock is not ours.
            self._since, self.certain = (now - age, True) if 0 <= age < TIME_TO_LIVE else (-math.inf, False)
        self.certain |= now - self._began > _DOUBT or told.dead
        alive = now - self._since < TIME_TO_LIVE and not told.dead
        last = told.started + told.seconds - time.time()
        ahead = 0.0 if told.here or abs(last) < TIME_TO_LIVE else last
        return Controller("at work" if alive else "silent", told.host, told.pid, told.started, ahead)


def controller_of(out: Path) -> Controller:
    """Who runs the sweeps of a folder. Where its clock seems not to be ours this waits for its next sign of life."""
    watch = ControllerWatch(out)
    found = watch.look()
    while not watch.certain:
        time.sleep(0.25)
        found = watch.look()
    return found


def _age(directory: Path, told: Life) -> float:
    """Seconds since its last sign of life, as far as clocks tell: its own where that is ours, else the file's."""
    if told.here:
        return max(time.time() - told.started - told.seconds, 0.0)
    try:
        return time.time() - max((directory / "leases").glob("*.json")).stat().st_mtime
    except (OSError, ValueError):
        return math.inf
