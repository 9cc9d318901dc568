"""A list schedule of runs over the slots of pools: how long all of them take."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nextscale.cluster.controller.queue import Order


class Task(NamedTuple):
    """A run that is left to train.

    Attributes:
        seconds: by pool, the preferred first.
        after: the task that it is a branch of, if that is left too.
        share: of that one's time, until the state is there that this one begins from.
        begins: seconds until it may start.
    """

    key: str
    seconds: Mapping[str, float]
    after: str | None = None
    share: float = 0.0
    begins: float = 0.0

    @property
    def shortest(self) -> float:
        """Seconds in the pool that is quickest for it."""
        return min(self.seconds.values())


class Schedule(NamedTuple):
    """How all goes.

    Attributes:
        seconds: until all are done.
        pools: of each task, where it is done.
    """

    seconds: float
    pools: dict[str, str]


def schedule(
    tasks: Sequence[Task],
    slots: Mapping[str, int],
    busy: Mapping[str, Sequence[float]] | None = None,
    order: Order = "longest",
) -> Schedule:
    """Whichever slot is free first gets the longest task that can start, or the cheapest; with the branches that wait
    for it a trunk is as long as the longest way through it. Each goes where it is done soonest, and among equals where
    it prefers.

    Args:
        busy: by pool, of each slot that is at work how long it still will be.
    """
    sign = -1 if order == "longest" else 1
    places = {key: sign * way for key, way in _ways(tasks).items()}
    taken = {pool: sorted((busy or {}).get(pool, ())) for pool in slots}
    free = {pool: [0.0] * (count - len(taken[pool])) + taken[pool] for pool, count in slots.items()}
    branches: dict[str, list[Task]] = {}
    for task in tasks:
        if task.after is not None:
            branches.setdefault(task.after, []).append(task)
    number = itertools.count()
    first = [task for task in tasks if task.after is None]
    ready = [(places[task.key], next(number), task, 0.0) for task in first if not task.begins]
    later = [(task.begins, next(number), task) for task in first if task.begins]
    heapq.heapify(ready)
    heapq.heapify(later)
    end, pools = max((slot for slots in taken.values() for slot in slots), default=0.0), {}
    while ready or later:
        now = min(slot[0] for slot in free.values())
        while later and (later[0][0] <= now or not ready):
            begins, _, task = heapq.heappop(later)
            heapq.heappush(ready, (places[task.key], next(number), task, begins))
        _, _, task, begins = heapq.heappop(ready)
        starts = {pool: max(free[pool][0], begins) for pool in task.seconds}
        pool = min(starts, key=lambda pool: starts[pool] + task.seconds[pool])
        done = starts[pool] + task.seconds[pool]
        heapq.heapreplace(free[pool], done)
        end, pools[task.key] = max(end, done), pool
        for branch in branches.get(task.key, ()):
            heapq.heappush(later, (starts[pool] + branch.share * task.seconds[pool], next(number), branch))
    return Schedule(end, pools)


def critical(tasks: Sequence[Task]) -> float:
    """Seconds of the longest way through: with any number of slots it would still take so long."""
    return max(_ways(tasks).values(), default=0.0)


def _ways(tasks: Sequence[Task]) -> dict[str, float]:
    """Of each task, from its start to the end of it and of all that waits for it. A branch has no branches."""
    lengths = {task.key: task.shortest for task in tasks}
    ways = dict(lengths)
    for task in tasks:
        if task.after is not None:
            ways[task.after] = max(ways[task.after], task.share * lengths[task.after] + task.shortest)
    return ways
