"""`Exporter`: follows the files of runs and passes what is new to a logger, from a thread of its own.

Whatever goes wrong there is noted once and tried again, ever more seldom: training does not wait for it, nor does it
know. What was exported of each run is kept beside it, so that a restart goes on from there; where a service can say
itself what it holds, that counts, so that a crash between the two leaves neither a gap nor a point twice.

A run that lost its machine goes on from its last checkpoint and takes some steps again, to the same numbers: then there
is nothing to do. Where they came out otherwise (on other hardware, say), a logger that can takes the old ones back.
"""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from etils import epath

from nextscale.cluster.controller.lease import TIME_TO_LIVE, Heartbeat, Lease, LeaseHeld, LeaseLost, holder
from nextscale.model.record import write_atomically
from nextscale.sweeps.loggers.base import LoggedRun, Logger, Sink
from nextscale.sweeps.loggers.curve import Curve, Point, digests

_EVERY, _SELDOM = 2.0, 300.0
"""Seconds between two looks at the files; and after trouble, at most."""


class Exporter:
    """One logger, and the runs that it is to show.

    Args:
        out: the output folder of the runs.
        notify: called with each trouble in words, once, from a thread.
    """

    def __init__(self, logger: Logger, out: Path, notify: Callable[[str], None], every: float = _EVERY):
        self._logger, self._out, self._notify, self._every = logger, out, notify, every
        self._folder = logger.folder / "-".join(filter(None, (".exported", _name_of(logger.place))))
        self._new_runs: queue.SimpleQueue[LoggedRun] = queue.SimpleQueue()
        self._following: dict[tuple[str, str], _Following] = {}
        self._ending = threading.Event()
        self._notified: set[str] = set()
        self._left = False
        self._thread = threading.Thread(target=self._follow, daemon=True, name=f"export to {logger.kind}")

    def start(self) -> None:
        self._thread.start()

    def follow(self, run: LoggedRun) -> None:
        """From now on, until it has been exported to its end."""
        self._new_runs.put(run)

    def close(self, timeout: float) -> None:
        """Exports what is new, for so many seconds at most. What is then left, the next exporter will find."""
        self._ending.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._warn(f"had not taken everything {timeout:.0f} s after the end")
            self._left = True

    def export(self) -> int:
        """Exports what is new of all runs, here and now; returns how many are done with.

        Raises:
            LeaseHeld: another process is at it.
            Exception: whatever the logger raises.
        """
        with self._taken() as lease:
            self._take_up()
            before = len(self._following)
            try:
                for key in list(self._following):
                    self._advance(key, lease)
            finally:
                self._let_go()
        return before - len(self._following)

    def _taken(self) -> Lease:
        """The right to export, also after one who died on another machine: its silence must be waited for."""
        try:
            return Lease(self._folder)
        except LeaseHeld as held:
            heartbeat, since = held.heartbeat, time.monotonic()
            while time.monotonic() - since < TIME_TO_LIVE:
                if holder(self._folder) not in (heartbeat, None):
                    raise
                time.sleep(0.2)
        return Lease(self._folder, silent=heartbeat)

    def _follow(self) -> None:
        pause = 0.0
        lease: Lease | None = None
        heartbeat: Heartbeat | None = None
        since = 0.0
        try:
            while True:
                last = self._ending.wait(pause)
                self._take_up()
                try:
                    silent = heartbeat if time.monotonic() - since > TIME_TO_LIVE else None
                    lease = lease or Lease(self._folder, silent=silent)
                    for key in list(self._following):
                        self._advance(key, lease)
                    pause = self._every
                except LeaseHeld as held:  # whoever holds it exports these runs too, while it lives
                    pause = self._every
                    if held.heartbeat != heartbeat:
                        heartbeat, since = held.heartbeat, time.monotonic()
                except Exception as error:  # of every kind: it is somebody else's code
                    lease = None if isinstance(error, LeaseLost) else lease
                    pause = min(2 * max(pause, self._every), _SELDOM)
                    self._warn(" ".join(str(error).split())[:200] or type(error).__name__)
                if last:
                    return
        finally:
            self._let_go()
            if lease is not None:
                lease.close()

    def _take_up(self) -> None:
        while not self._new_runs.empty():
            run = self._new_runs.get()
            self._following.setdefault((run.sweep, run.run_id), _Following(self._logger, run, self._folder))

    def _advance(self, key: tuple[str, str], lease: Lease) -> None:
        following = self._following.pop(key)
        try:
            ended = following.advance(lease.check)
        except BaseException:
            self._following[key] = following  # behind the others, so that one alone cannot hold them up
            following.close()
            raise
        if not ended:
            self._following[key] = following

    def _let_go(self) -> None:
        for following in self._following.values():
            try:
                following.close()
            except Exception as error:
                self._warn(str(error))

    def _warn(self, trouble: str) -> None:
        if trouble not in self._notified and not self._left:
            self._notified.add(trouble)
            again = f"nextscale export {self._out} --to {self._logger.kind}"
            self._notify(f"{self._logger.kind}: {trouble}; no run is affected, and `{again}` catches up")


@dataclasses.dataclass(frozen=True)
class _Exported:
    """How far a run was exported: so many points, which went by that name, up to there."""

    points: int = 0
    tokens: int = -1
    digest: str = ""
    ended: bool = False


class _Following:
    """One run on its way to one logger."""

    def __init__(self, logger: Logger, run: LoggedRun, folder: Path):
        self._logger, self._run, self._curve = logger, run, Curve(run.directory)
        self._file = epath.Path(folder / run.sweep / f"{run.run_id}.json")
        self._exported: _Exported | None = None
        self._names: list[str] = []
        self._sink: Sink | None = None

    def advance(self, check: Callable[[], None]) -> bool:
        """Exports what is new; tells whether that was the last of it.

        Args:
            check: raises where another exporter has taken over.
        """
        exported = self._exported = self._exported or self._read()
        if exported.ended:
            return True
        record = self._run.directory.record()  # before the curve, which is whole if there is one
        points = self._curve.points(ended=record is not None)
        if record is None and len(points) <= exported.points:
            return False  # nothing new; or it takes steps again, and will be back
        check()
        sink = self._sink = self._sink or self._logger.open(self._run)
        names = digests(points)
        start = self._agreed(points, names, exported, sink)
        new = [point for point in points if point.tokens > start]
        if new:
            sink.write(new)
        if points:
            self._keep(_Exported(len(points), max(start, points[-1].tokens), names[-1]))
        self._names = names
        if record is None:
            return False
        if not sink.ended:
            sink.end(record)
        self.close()
        self._keep(dataclasses.replace(self._exported, ended=True))
        return True

    def close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()

    def _agreed(self, points: list[Point], names: list[str], exported: _Exported, sink: Sink) -> int:
        """Up to where, in tokens, the logger has the curve as it now is."""
        stands = exported.tokens if sink.last is None else sink.last
        same = exported.points == 0 or names[exported.points - 1 : exported.points] == [exported.digest]
        if same:
            return stands
        # Of a curve from before a restart nothing is known but its name.
        alike = [point.tokens for point, a, b in zip(points, names, self._names, strict=False) if a == b]
        back = alike[-1] if alike else -1
        return back if sink.rewind(back) else stands

    def _read(self) -> _Exported:
        try:
            return _Exported(**json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return _Exported()

    def _keep(self, exported: _Exported) -> None:
        self._exported = exported
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps(dataclasses.asdict(exported)) + "\n")


def _name_of(place: str) -> str:
    from nextscale.sweeps.ledger import digest_of

    return digest_of(place)[:8] if place else ""
