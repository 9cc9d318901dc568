"""The loop that gets every run done: longest first, equal shapes together, failures tried again."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Literal

from etils import epath

from nextscale.cluster.backend import Backend, Ended
from nextscale.cluster.job import Job, Seat
from nextscale.cluster.lease import TIME_TO_LIVE, Sign
from nextscale.model.record import RunDirectory

_PAUSES = (2.0, 8.0, 30.0)
"""Seconds before a run that failed is tried again: what ails a file server or a machine often passes."""
RETRIES = len(_PAUSES)
"""How often a run that failed is tried again."""
_POLL = 0.25
_HELD_AGAIN = 2.0
"""Seconds before asking again for a run that another process holds."""
_PATIENCE = 60.0
"""Seconds without any worker after which that is said."""
_NOBODY = "there is no worker: what the cluster had is gone, or busy for another driver; waiting until some is free"
_WARM_SHARE = 0.5
"""A worker keeps to the shape it has compiled while it finds one of at least this share of the longest run left."""


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a run; or, with no `job`, a `notice` for a person to read or a `tick` of the loop."""

    kind: Literal["started", "finished", "failed", "retried", "held", "tick", "notice"]
    job: Job | None = None
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """How the runs ended: ids of those done, and why the others are not."""

    finished: tuple[str, ...]
    failed: dict[str, str]
    mendable: bool
    """Whether one failed for a reason that a person must mend first."""


def run_all(jobs: Sequence[Job], backend: Backend, on_event: Callable[[Event], None] = lambda event: None) -> Report:
    """Does every job once; returns when each has finished or failed for good.

    A run that raised or whose worker died is tried again three times, after a pause that grows, each time from its
    newest checkpoint and on a fresh worker. A worker's death does not count if the run had saved something new: a
    preempted run goes on for ever, and one that kills its workers comes to an end. A run held by another process is
    asked for again until that one is done with it, or silent. A branch waits until its trunk has come to where it
    begins, and fails with a trunk that does not.
    """
    waiting = list(jobs)
    later: list[tuple[float, Job]] = []
    running: dict[str, Job] = {}
    histories = {job.run_id: _History() for job in jobs}
    shape_of: dict[str, str] = {}
    finished: list[str] = []
    failed: dict[str, str] = {}
    mendable = False

    def fail(job: Job, reason: str) -> None:
        failed[job.run_id] = reason
        on_event(Event("failed", job, reason))

    alone_since = time.monotonic()
    while len(finished) + len(failed) < len(jobs):
        now = time.monotonic()
        waiting = sorted(waiting + [job for when, job in later if when <= now], key=_longest_first)
        later = [entry for entry in later if entry[0] > now]
        slots = {slot.name: slot for slot in backend.slots()}
        idle = [name for name, slot in slots.items() if name not in running and not slot.draining]
        alive = {*idle, *running}
        ready = []
        for candidate in waiting.copy():
            trunk = None if candidate.start is None else candidate.start.run_id
            if trunk not in histories or trunk in finished or _far_enough(candidate):
                ready.append(candidate)
            elif trunk in failed:
                waiting.remove(candidate)
                fail(candidate, f"its trunk {trunk} failed: {failed[trunk]}")
        for worker in idle:
            job = _next([job for job in ready if histories[job.run_id].allows(worker, alive)], shape_of.get(worker))
            if job is None:
                continue
            waiting.remove(job)
            ready.remove(job)
            running[worker], shape_of[worker] = job, job.shape
            histories[job.run_id].saved = _saved(job)
            pool = slots[worker].pool
            backend.start(worker, job, next((seat for seat in job.seats if seat.pool == pool), Seat(pool)))
            on_event(Event("started", job))
        for done in backend.wait(_POLL):
            job, outcome = running.pop(done.slot), done.outcome
            history = histories[job.run_id]
            if outcome.status == "finished":
                finished.append(job.run_id)
                on_event(Event("finished", job))
                continue
            if outcome.status == "held":
                silent = history.silent(outcome.sign)
                later.append((time.monotonic() + _HELD_AGAIN, dataclasses.replace(job, silent=silent)))
                on_event(Event("held", job, outcome.message))
                continue
            if outcome.status == "stopped":
                later.append((time.monotonic(), job))
                continue
            if outcome.status != "input":
                backend.renew(done.slot)
                shape_of.pop(done.slot, None)
                pause = history.pause_after(done)
                if pause is not None:
                    later.append((time.monotonic() + pause, job))
                    on_event(Event("retried", job, outcome.message))
                    continue
            mendable |= outcome.status == "input"
            fail(job, outcome.message)
        for notice in backend.notices():
            on_event(Event("notice", message=notice))
        if alive:
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > _PATIENCE:
            on_event(Event("notice", message=_NOBODY))
            alone_since = math.inf  # said once, until one comes and goes
        on_event(Event("tick"))
    return Report(tuple(finished), failed, mendable)


@dataclasses.dataclass
class _History:
    """What has come of a run so far."""

    failures: int = 0
    saved: int = 0
    """Tokens in its newest checkpoint when it was last started."""
    unlucky: set[str] = dataclasses.field(default_factory=set)
    """Workers on which it failed without saving anything."""
    sign: Sign | None = None
    seen: float = 0.0
    """When `sign`, the newest sign of life of another holder, was first seen."""

    def allows(self, worker: str, alive: set[str]) -> bool:
        """Whether to try it there: not where it failed, while any other worker might take it.

        A sick GPU fails fast, so it is nearly always the one that is idle: it would use up all attempts of all runs.
        """
        return worker not in self.unlucky or alive <= self.unlucky

    def pause_after(self, done: Ended) -> float | None:
        """Seconds to wait after a failed attempt before the next; None when there have been enough."""
        further = _saved(done.job) > self.saved
        if not further:
            self.unlucky.add(done.slot)
        # Preemptions are no fault of the run's, and there may be thousands. But a run that is too big for its machine
        # looks just the same, save that it gets nowhere.
        if done.outcome.status != "lost" or not further:
            self.failures += 1
        return _PAUSES[max(self.failures, 1) - 1] if self.failures <= RETRIES else None

    def silent(self, sign: Sign | None) -> Sign | None:
        """The holder's sign of life if it has long been its last, by this process's own clock."""
        if sign != self.sign:
            self.sign, self.seen = sign, time.monotonic()
        return sign if time.monotonic() - self.seen >= TIME_TO_LIVE else None


def _far_enough(job: Job) -> bool:
    """Whether the state that a branch begins from is there, its trunk's or, of a branch begun before, its own."""
    directory = RunDirectory(epath.Path(job.directory))
    assert job.start is not None
    return directory.sibling(job.start.run_id).checkpoint(job.start.tokens).exists() or _saved(job) > 0


def _saved(job: Job) -> int:
    """Tokens in the newest checkpoint of a run, 0 while it has none."""
    try:
        names = [path.name for path in RunDirectory(epath.Path(job.directory)).checkpoints.iterdir()]
    except OSError:
        return 0
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _longest_first(job: Job) -> tuple[float, int]:
    """Runs of a budget cost the same FLOPs to within a step; the one of most steps takes longest, its being small."""
    return -round(math.log10(job.flops), 1), -job.steps


def _next(waiting: list[Job], shape: str | None) -> Job | None:
    """The longest run left, or one nearly as long whose program the worker already has."""
    for job in waiting:
        if job.flops < _WARM_SHARE * waiting[0].flops:
            break
        if job.shape == shape:
            return job
    return waiting[0] if waiting else None
