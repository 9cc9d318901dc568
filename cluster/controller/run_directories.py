"""State of the runs as the controller reads it from their directories, the only lasting truth about them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Protocol

from etils import epath

from nextscale.cluster.controller import lease
from nextscale.cluster.controller.job import Job
from nextscale.model.record import RunDirectory
from nextscale.model.storage.address import sibling
from nextscale.model.storage.mirror import Mirror

_TAIL = 16_384


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where the curve of a run ends.

    Attributes:
        tokens: its newest position, 0 while there is none.
        mark: another whenever the curve was written to.
        beat: another whenever anything else was, that it does beside.
    """

    tokens: int = 0
    mark: str = ""
    beat: str = ""

    @property
    def pulse(self) -> str:
        """Another whenever it moved."""
        return f"{self.mark} {self.beat}"


class Runs(Protocol):
    """The lasting state of runs."""

    def done(self, job: Job) -> bool:
        """Whether it has its record."""

    def saved(self, job: Job) -> int:
        """Tokens of its newest state, 0 while it has none."""

    def progress(self, job: Job) -> Progress:
        """The newest of its curve."""

    def ready(self, job: Job) -> bool:
        """Of a branch: whether the state that it begins from is there, its trunk's or, if it has begun, its own."""

    def holder(self, job: Job) -> lease.Heartbeat | None:
        """The newest sign of life of a process that is at work on it, and may be dead; None where there is none."""

    def life(self, job: Job, attempt: int) -> lease.Life | None:
        """What the worker of an attempt tells of itself; None where it is not the newest, or never had the run."""


class RunDirectories:
    """The runs of a store, on a file system that all workers share, or in a bucket."""

    def __init__(self) -> None:
        self._mirrors: dict[str, Mirror] = {}

    def _directory(self, job: Job, run_id: str | None = None) -> RunDirectory:
        """Of a job's run, or another of the same store, as it is now."""
        found = RunDirectory(epath.Path(job.directory))
        bucket = job.bucket
        if run_id is not None and run_id != job.run_id:
            found, bucket = found.sibling(run_id), sibling(bucket, run_id)
        if job.bucket:
            if bucket not in self._mirrors:
                self._mirrors[bucket] = Mirror(bucket, Path(found.path), whole=False)
            self._mirrors[bucket].pull()
        return found

    def done(self, job: Job) -> bool:
        try:
            return self._directory(job).record() is not None
        except ValueError:  # damaged: its next attempt says so
            return False

    def saved(self, job: Job) -> int:
        return self._directory(job).saved

    def progress(self, job: Job) -> Progress:
        self._directory(job)
        try:
            with Path(job.directory, "metrics.jsonl").open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(size - _TAIL, 0))
                lines = file.read().splitlines()
        except OSError:
            return Progress()
        stat = Path(job.directory, "metrics.jsonl").stat()
        for line in reversed(lines):
            with contextlib.suppress(ValueError, TypeError, KeyError):  # cut short, at either end
                mark = f"{stat.st_ino}.{stat.st_mtime_ns}.{size}"
                return Progress(int(json.loads(line)["tokens"]), mark, self._beat(job))
        return Progress(beat=self._beat(job))

    @staticmethod
    def _beat(job: Job) -> str:
        times = []
        for name in ("evaluations.jsonl", "checkpoints"):
            with contextlib.suppress(OSError):
                times.append(str(Path(job.directory, name).stat().st_mtime_ns))
        return " ".join(times)

    def ready(self, job: Job) -> bool:
        assert job.start is not None
        trunk = self._directory(job, job.start.run_id)
        return trunk.checkpoint(job.start.tokens).exists() or self.saved(job) > 0

    def holder(self, job: Job) -> lease.Heartbeat | None:
        return lease.holder(job.place)

    def life(self, job: Job, attempt: int) -> lease.Life | None:
        found = lease.life(job.place)
        return found if found is not None and found.attempt == attempt else None
