"""Dispatch: chooses the waiting run for an idle slot, and starts it there.

A slot gets the first run in order that would not be done sooner by waiting for a seat that it prefers.
"""

from __future__ import annotations

import dataclasses
import errno
import heapq
from collections.abc import Callable, Mapping, Sequence

from nextscale.cluster.controller.attempt import Attempt
from nextscale.cluster.controller.backend import Slot
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.failures import Watch
from nextscale.cluster.controller.lifecycle import Context, Lifecycle
from nextscale.cluster.controller.queue import Queue, Run
from nextscale.cluster.controller.supervision import Supervisor

_NOBODY = "there is no worker{}: what the cluster had is gone, or busy for another driver; waiting until some is free"
_FULL = 10.0
"""Seconds between two looks at a disk that is full."""
_WALK = 200
"""Runs looked at, in order, before the rest is judged by how long everything will take."""


class OtherPools:
    """When the slots of other pools come free, as far as is known, while their own runs are handed out to them.

    Args:
        free: by pool, seconds until each of its slots is free.
    """

    def __init__(self, free: Mapping[str, Sequence[float]], queue: Queue):
        self._free_in, self._queue = free, queue
        self._free: dict[str, list[float]] = {}

    def takes(self, run: Run, pool: str) -> bool:
        """Whether it would be done sooner by waiting for a seat that it prefers to one in `pool`; if so it is given
        to that, and those asked about later come after it."""
        here = run.seats[pool].seconds * run.slowdown
        if not here or run.history.failed_slots:  # one that failed goes wherever it is let
            return False
        best, preferred = here, None
        for other, seat in run.seats.items():
            if other == pool:
                break
            if self._free_in.get(other) and other not in run.parked:
                if other not in self._free:
                    self._free[other] = list(self._free_in[other])
                    heapq.heapify(self._free[other])
                done = self._free[other][0] + seat.seconds * run.slowdown
                if done <= best:
                    best, preferred = done, other
        if preferred is None:
            return False
        heapq.heapreplace(self._free[preferred], best)
        return True

    def all_done(self) -> float:
        """Seconds until all that runs and waits is done, were it spread evenly over all pools."""
        share = taken = 0.0
        for pool, free in self._free_in.items():
            if free and (load := self._queue.load(pool)):
                share += len(free) / load
                taken += sum(free) / load
        return (1 + taken) / share if share else 0.0


def select_run(
    queue: Queue, pool: str, shape: str | None, allowed: Callable[[Run], bool], free: Mapping[str, Sequence[float]]
) -> Run | None:
    """The run that an idle slot gets.

    Args:
        shape: that it has compiled.
        allowed: whether a run may be tried there.
        free: by pool, seconds until each of its slots is free, 0 for idle ones.
    """
    others = OtherPools(free, queue)
    following = None
    for n, run in enumerate(queue.in_order(pool)):
        if not allowed(run):
            if n > _WALK:
                return None
            continue
        if n > _WALK:
            following = run if run.seats[pool].seconds <= others.all_done() else None
            break
        if not others.takes(run, pool):
            following = run
            break
    if following is None or following.job.shape == shape:
        return following
    for n, run in enumerate(queue.warm(pool, shape, following)):
        if n > _WALK:
            break
        if allowed(run) and (next(iter(run.seats)) == pool or not others.takes(run, pool)):
            return run
    return following


class Dispatcher:
    """Gives idle slots what they are to do, and asks those that are draining to stop."""

    def __init__(self, context: Context, lifecycle: Lifecycle, supervisor: Supervisor):
        self._context, self._lifecycle, self._supervisor = context, lifecycle, supervisor
        self._seen_up = dict.fromkeys(lifecycle.pools, context.backend.now())
        self._held_until: float | None = None
        """When room on the disk is looked for again; None where nothing wanted any."""
        self._missed: set[str] = set()
        """Pools of which it was said that nothing is up."""

    def dispatch(self, now: float) -> None:
        context, lifecycle = self._context, self._lifecycle
        slots = context.backend.slots()
        up = [slot for slot in slots if not slot.draining]
        for slot in slots if len(up) < len(slots) else ():
            attempt = context.running.get(slot.name)
            if slot.draining and attempt is not None:
                self._supervisor.request_stop(attempt, "draining")
        self._report_missing(up, now)
        idle = [slot for slot in up if slot.name not in context.running] if lifecycle.queue else []
        if not idle or (self._held_until is not None and now < self._held_until):
            return
        if any(slot.pool not in lifecycle.pools for slot in idle):
            lifecycle.update_pools()
        barred = {slot.name for slot in up if context.quarantine.bars(slot, now)}
        healthy = {slot.pool for slot in up if slot.name not in barred}
        for patient in (True, False):  # while nothing runs there is nothing to wait for
            for slot in sorted(idle, key=lambda slot: slot.name in barred):
                run = None
                if slot.name not in context.running and (patient or not context.running):
                    run = self._next(slot, up, barred, healthy, now, patient=patient)
                if run is not None:
                    self._start(run, slot, now)
                if self._held_until is not None and now < self._held_until:
                    return

    def _report_missing(self, up: list[Slot], now: float) -> None:
        """Says, once, that nothing is up of the pools that runs wait for, those left out that a cap closes to them."""
        self._seen_up |= dict.fromkeys([slot.pool for slot in up], now)
        self._missed.difference_update(slot.pool for slot in up)
        if self._context.running and not up:  # those whose host is gone are about to end
            return
        gone = {name for name, seen in self._seen_up.items() if now - seen >= self._context.limits.no_slot_notice}
        if gone <= self._missed:
            return
        waiting = [run for run in self._lifecycle.queue if run.seats.keys() - run.parked.keys() <= gone]
        if waiting:
            self._missed |= gone
            where = "" if not up else f" of pool {', '.join(sorted(gone))}, and {len(waiting)} runs need one"
            self._context.emit(Event("notice", message=_NOBODY.format(where)))

    def _next(
        self, slot: Slot, up: list[Slot], barred: set[str], healthy: set[str], now: float, *, patient: bool
    ) -> Run | None:
        """The run that an idle slot gets, those left out for which a cap has no room.

        Args:
            up: slots that are up.
            barred: those of them that are in quarantine, by name.
            healthy: pools that have others.
            patient: whether a run may wait for a seat that it prefers.
        """
        budget, queue = self._context.budget, self._lifecycle.queue

        def allowed(run: Run) -> bool:
            # A sick GPU fails fast, so it is nearly always the one that is idle: it would use up all attempts.
            if slot.name in barred and not healthy.isdisjoint(run.seats.keys() - run.parked.keys()):
                return False
            failed = run.history.failed_slots
            return slot.name not in failed or not any(
                other.pool in run.seats
                and other.pool not in run.parked
                and other.name not in failed
                and other.name not in barred
                for other in up
            )

        free: dict[str, list[float]] = {}
        if patient and len(self._lifecycle.pools) > 1:
            for other in up:
                if other.name not in barred:
                    free.setdefault(other.pool, []).append(self._busy_for(other, now))
        while True:
            queue.readmit(slot.pool, budget.room())
            run = select_run(queue, slot.pool, self._context.shapes.get(slot.name), allowed, free)
            if run is None:
                return None
            needed = budget.needs(run, run.seats[slot.pool], self._lifecycle.saved(run))
            cap = budget.crossed_cap(needed)
            if cap is None:
                return run
            queue.park(run, slot.pool, cap, needed[cap])

    def _busy_for(self, slot: Slot, now: float) -> float:
        attempt = self._context.running.get(slot.name)
        if attempt is None:
            return 0.0
        # Whatever is overdue takes, for all that is known, a tenth of its time more.
        return max(attempt.expected_end - now, 0.1 * (now - attempt.started))

    def _hold(self, error: OSError, now: float) -> None:
        """Starts nothing for a while, where the disk has no room to write down that it is started.

        Raises:
            OSError: it is another error.
        """
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        if self._held_until is None:
            text = f"{error.filename}: {error.strerror}: no run is started until there is room"
            self._context.emit(Event("notice", message=text))
        self._held_until = now + _FULL
        self._context.timers.at(self._held_until, lambda now: None)

    def _start(self, run: Run, slot: Slot, now: float) -> None:
        context, lifecycle = self._context, self._lifecycle
        job, seat, saved = run.job, run.seats[slot.pool], lifecycle.saved(run)
        expected = context.budget.expected_seconds(run, seat, saved)
        pool = lifecycle.pools.get(slot.pool)
        accelerator = pool.accelerator if pool else ""
        try:
            reservation = context.budget.reserve(run, slot, seat, accelerator, saved)
        except OSError as error:
            self._hold(error, now)
            return
        lifecycle.queue.remove(run)
        stop_at = now + reservation.seconds - context.budget.stop_seconds(job, expected)
        watch = Watch(context.runs.progress(job).pulse, now)
        attempt = Attempt(run, slot, seat, reservation, now, now + expected, stop_at, watch)
        context.running[slot.name], context.shapes[slot.name] = attempt, job.shape
        context.backend.start(slot.name, dataclasses.replace(job, attempt=reservation.attempt), seat)
        context.emit(Event("started", job))
        self._held_until = None
        self._supervisor.watch(attempt, now)
