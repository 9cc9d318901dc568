"""Which waiting run an idle slot gets: the longest that would not be done sooner by waiting for a seat it prefers."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from nextscale.cluster.controller.queue import Run, Waiting

_WALK = 200
"""Runs looked at, the longest first, before the rest is judged by how long everything will take."""


class Elsewhere:
    """When the slots of other pools come free, as far as is known, while their own runs are handed out to them.

    Args:
        free: by pool, seconds until each of its slots is free.
    """

    def __init__(self, free: Mapping[str, Sequence[float]], waiting: Waiting):
        self._given, self._waiting = free, waiting
        self._free: dict[str, list[float]] = {}

    def takes(self, run: Run, pool: str) -> bool:
        """Whether it would be done sooner by waiting for a seat that it prefers to one in `pool`; if so it is given
        to that, and those asked about later come after it."""
        here = run.seats[pool].seconds * run.slow
        if not here or run.history.unlucky:  # one that failed goes wherever it is let
            return False
        best, preferred = here, None
        for other, seat in run.seats.items():
            if other == pool:
                break
            if self._given.get(other) and other not in run.parked:
                if other not in self._free:
                    self._free[other] = list(self._given[other])
                    heapq.heapify(self._free[other])
                done = self._free[other][0] + seat.seconds * run.slow
                if done <= best:
                    best, preferred = done, other
        if preferred is None:
            return False
        heapq.heapreplace(self._free[preferred], best)
        return True

    def all_done(self) -> float:
        """Seconds until all that runs and waits is done, were it spread evenly over all pools."""
        share = taken = 0.0
        for pool, free in self._given.items():
            if free and (load := self._waiting.load(pool)):
                share += len(free) / load
                taken += sum(free) / load
        return (1 + taken) / share if share else 0.0


def pick(
    waiting: Waiting, pool: str, shape: str | None, allowed: Callable[[Run], bool], free: Mapping[str, Sequence[float]]
) -> Run | None:
    """The run that an idle slot gets.

    Args:
        shape: that it has compiled.
        allowed: whether a run may be tried there.
        free: by pool, seconds until each of its slots is free, 0 for idle ones.
    """
    elsewhere = Elsewhere(free, waiting)
    longest = None
    for n, run in enumerate(waiting.in_order(pool)):
        if not allowed(run):
            if n > _WALK:
                return None
            continue
        if n > _WALK:
            longest = run if run.seats[pool].seconds <= elsewhere.all_done() else None
            break
        if not elsewhere.takes(run, pool):
            longest = run
            break
    if longest is None or longest.job.shape == shape:
        return longest
    for n, run in enumerate(waiting.warm(pool, shape, longest)):
        if n > _WALK:
            break
        if allowed(run) and (next(iter(run.seats)) == pool or not elsewhere.takes(run, pool)):
            return run
    return longest
