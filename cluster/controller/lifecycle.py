"""The lifecycle of every run: it waits for its trunk, for a time or for a slot, and finishes or fails."""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import itertools
from collections.abc import Callable, Sequence

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.attempt import Attempt, Budget, settle_late, settle_orphan
from nextscale.cluster.controller.backend import Backend
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.failures import Limits, Quarantine
from nextscale.cluster.controller.job import Job
from nextscale.cluster.controller.queue import Key, Order, Queue, Run, as_runs
from nextscale.cluster.controller.run_directories import Runs
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat

_HELD_AGAIN = 300.0
"""Seconds after which it is said again that a run is held by somebody else."""


class Timers:
    """Calls that are due at a later time, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = itertools.count()

    def at(self, when: float, call: Callable[[float], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._count), call))

    def run_due(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2](now)

    @property
    def next(self) -> float | None:
        """When the first is due."""
        return self._heap[0][0] if self._heap else None


@dataclasses.dataclass(eq=False)
class Context:
    """What the parts of the controller share.

    Attributes:
        emit: is called with every event.
        running: attempts at work, by slot.
        shapes: that slots have compiled, by slot.
    """

    backend: Backend
    runs: Runs
    budget: Budget
    limits: Limits
    emit: Callable[[Event], None]
    quarantine: Quarantine
    timers: Timers = dataclasses.field(default_factory=Timers)
    running: dict[str, Attempt] = dataclasses.field(default_factory=dict)
    shapes: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def accounts(self) -> Accounts:
        return self.budget.accounts


class Lifecycle:
    """Which runs wait for what, which have finished and which have failed for good.

    Args:
        price: dollars per chip-hour of a pool, for runs that name no seats.
        known: other jobs of the accounts, by their run_id.
        order: which of those that wait is next.
    """

    def __init__(
        self,
        context: Context,
        jobs: Sequence[Job],
        price: Callable[[Pool], float | None],
        known: Callable[[str], Job | None],
        order: Order = "longest",
    ):
        self._context, self._price, self._known, self._order = context, price, known, order
        self.pools = dict(context.backend.pools())
        self.jobs = {run.job.run_id: run for run in self.as_runs(jobs)}
        self.queue = Queue()
        self.blocked: dict[str, list[tuple[int, Key, Run]]] = {}
        """Branches by their trunk, the one that begins first in front."""
        self.delayed = 0
        """Runs that wait for a time, not for a slot."""
        self.finished: dict[str, None] = {}
        self.failed: dict[str, str] = {}
        self._walled = False
        self._orphans = {reservation.run_id: reservation for reservation in context.accounts.open.values()}

    @property
    def all_done(self) -> bool:
        return len(self.finished) + len(self.failed) == len(self.jobs)

    def as_runs(self, jobs: Sequence[Job]) -> list[Run]:
        return as_runs(list(jobs), self._seats, self._order)

    def take_up_all(self) -> None:
        """Takes up every run from where it stands."""
        context, runs, now = self._context, self._context.runs, self._context.backend.now()
        for reservation in list(context.accounts.open.values()):
            if reservation.run_id not in self.jobs or reservation is not self._orphans[reservation.run_id]:
                job = self._known(reservation.run_id)
                context.emit(settle_orphan(reservation, job, runs, context.accounts))
        for run in self.jobs.values():
            start = run.job.start
            if start is None or start.run_id not in self.jobs or runs.done(run.job) or runs.ready(run.job):
                self._take_up(run, now)
            else:
                bisect.insort(self.blocked.setdefault(start.run_id, []), (start.tokens, run.key, run))
        for trunk in list(self.blocked):
            self.release(trunk)
        if context.budget.caps.max_wall is not None:
            self._check_wall(now)

    def try_again(self, run: Run, pause: float) -> None:
        """Lets a run wait for a slot after a pause, if nobody else is at work on it then."""
        self.delayed += 1
        self._context.timers.at(self._context.backend.now() + pause, lambda now: self._look(run, now))

    def release(self, trunk: str) -> None:
        """Lets the branches go whose state is there, and fails them with a trunk that will not bring it."""
        branches = self.blocked.get(trunk, [])
        while branches:
            run = branches[0][2]
            if trunk in self.finished or self._context.runs.ready(run.job):
                branches.pop(0)
                self._take_up(run, self._context.backend.now())
            elif trunk in self.failed:
                branches.pop(0)
                self.fail(run, f"its trunk {trunk} failed: {self.failed[trunk]}")
            else:
                return
        self.blocked.pop(trunk, None)

    def finish(self, run: Run) -> None:
        self.finished[run.job.run_id] = None
        self._context.emit(Event("finished", run.job))
        self.release(run.job.run_id)

    def fail(self, run: Run, reason: str) -> None:
        self.failed[run.job.run_id] = reason
        self._context.emit(Event("failed", run.job, reason))
        self.release(run.job.run_id)

    def report_held(self, run: Run, message: str, now: float) -> None:
        self._context.emit(Event("held", run.job, message))
        run.held_reported = now

    def saved(self, run: Run) -> int:
        """Tokens in its newest checkpoint."""
        if run.saved is None:
            run.saved = self._context.runs.saved(run.job)
        return run.saved

    def update_pools(self) -> None:
        """Those that may go anywhere may go to a new pool too, as may those whose pools are gone."""
        self.pools = dict(self._context.backend.pools())
        for run in self.queue:
            seats = self._seats(run.job)
            if seats.keys() != run.seats.keys():
                self.queue.remove(run)
                run.seats = seats
                self.queue.add(run)

    def _seats(self, job: Job) -> dict[str, Seat]:
        """By pool; a job that names none that there is may go anywhere."""
        seats = tuple(seat for seat in job.seats if seat.pool in self.pools) or tuple(
            Seat(name, usd_per_hour=(self._price(pool) or 0.0) * pool.chips_per_slot, chips=pool.chips_per_slot)
            for name, pool in self.pools.items()
        )
        return {seat.pool: seat for seat in seats}

    def _check_wall(self, now: float) -> None:
        """Keeps all that waits from starting once the time is over; it begins with the first attempt."""
        left = self._context.budget.room()["max_wall"]
        self._walled = left <= 0
        if not self._walled:
            self._context.timers.at(now + left, self._check_wall)
        for run in self.queue if self._walled else ():
            self.queue.park_for_good(run, "max_wall")

    def _take_up(self, run: Run, now: float) -> None:
        """Lets a run wait for a slot; one that an earlier controller left at work is first looked at."""
        if run.job.run_id in self._orphans:
            self.delayed += 1
            self._look(run, now)
        elif self._context.runs.done(run.job):
            self.finish(run)
        else:
            self._enqueue(run)

    def _look(self, run: Run, now: float) -> None:
        """Lets a run wait for a slot if nobody is at work on it, or whoever was has long been silent."""
        job, runs, limits = run.job, self._context.runs, self._context.limits
        done, heartbeat = runs.done(job), runs.holder(job)
        if not done and heartbeat is not None and run.history.silent_for(heartbeat, now) < limits.silence:
            if now - run.held_reported >= _HELD_AGAIN:
                self.report_held(run, "another process gives signs of working on it; waiting until it is done", now)
            self._context.timers.at(now + limits.held_retry, lambda now: self._look(run, now))
            return
        self.delayed -= 1
        if (orphan := self._orphans.pop(job.run_id, None)) is not None:
            self._context.emit(settle_orphan(orphan, job, runs, self._context.accounts))
        if done:
            settle_late(run, runs, self._context.accounts)
            self.finish(run)
        else:
            run.job, run.saved = dataclasses.replace(job, silent=heartbeat), None
            self._enqueue(run)

    def _enqueue(self, run: Run) -> None:
        run.job = self._whole(run.job)
        run.seats = self._seats(run.job)
        self.queue.add(run)
        if self._walled:
            self.queue.park_for_good(run, "max_wall")

    def _whole(self, job: Job) -> Job:
        """A branch as it is where the state that it should begin from is gone: from its first token on."""
        start = job.start
        if start is None:
            return job
        saved = self._context.runs.saved(job)
        if saved >= start.tokens or (not saved and self._context.runs.ready(job)):
            return job
        return job.whole
