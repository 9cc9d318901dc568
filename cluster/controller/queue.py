"""Queue of the runs that wait for a slot, by pool and in order, and of those that a cap keeps from starting."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from nextscale.cluster.controller.accounts import Reservation
from nextscale.cluster.controller.failures import History
from nextscale.cluster.controller.job import Job
from nextscale.cluster.hardware.seat import Seat

Key = tuple[float, int, int]
Order = Literal["longest", "cheapest"]
"""Which run is next: the longest, so that all are done soonest; or the cheapest, so that something is known early."""
_WARM_SHARE = 0.5
"""A worker keeps to the shape it has compiled while it finds a run that is longer or shorter than the next in order by
no more than this."""


@dataclasses.dataclass(frozen=True)
class LostAttempt:
    """An attempt whose worker was lost, as it was booked: its seconds, and its FLOPs that were kept."""

    reservation: Reservation
    seconds: float
    kept: int


@dataclasses.dataclass(eq=False)
class Run:
    """A job, and what the controller knows of it.

    Attributes:
        key: its place in the queue.
        length: by which it is compared: seconds on its first seat, or FLOPs where those are not known.
        seats: by pool, the preferred first.
        saved: tokens in its newest checkpoint; None where that is to be looked up.
        slowdown: how many times longer than expected it was seen to take.
    """

    job: Job
    key: Key
    length: float
    seats: dict[str, Seat]
    history: History = dataclasses.field(default_factory=History)
    saved: int | None = None
    furthest: int = 0
    """Tokens to which its curve has ever come, where nobody here sees its states."""
    slowdown: float = 1.0
    parked: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    """By pool, the cap that keeps it from starting there, and what it needs of that."""
    held_reported: float = -math.inf
    """When it was last said that somebody else holds it."""
    lost_attempt: LostAttempt | None = None
    """The last attempt, if that was lost: it may not have been dead."""

    @property
    def parked_everywhere(self) -> bool:
        """Whether caps keep it from starting anywhere."""
        return bool(self.seats) and len(self.parked) == len(self.seats)


def as_runs(jobs: list[Job], seats_of: Callable[[Job], dict[str, Seat]], order: Order = "longest") -> list[Run]:
    """In order: by the seconds expected on the first seat if those are known of all, else by FLOPs."""
    seats = [seats_of(job) for job in jobs]
    seconds = [next(iter(found.values())).seconds if found else 0.0 for found in seats]
    known = bool(jobs) and all(seconds)
    sign = -1 if order == "longest" else 1
    runs = []
    for i, job in enumerate(jobs):
        length = seconds[i] if known else job.flops
        # Runs of a budget cost the same FLOPs to within a step; the one of most steps takes longest, its being small.
        place = length if known else round(math.log10(job.flops), 1)
        runs.append(Run(job, (sign * place, sign * job.steps, i), length, seats[i]))
    return runs


class Queue:
    """Every operation takes a time that hardly grows with the number of runs."""

    def __init__(self) -> None:
        self._lists: dict[str, list[tuple[Key, Run]]] = {}
        self._shapes: dict[tuple[str, str], list[tuple[Key, Run]]] = {}
        self._parked: dict[tuple[str, str], list[tuple[float, Key, Run]]] = {}
        self._runs: dict[str, Run] = {}
        self._startable = 0
        self._seconds: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs.values()))

    @property
    def all_parked(self) -> bool:
        """Whether a cap keeps each of them from starting anywhere."""
        return bool(self._runs) and not self._startable

    def load(self, pool: str) -> float:
        """Seconds of all those that may be trained there, one after another."""
        return self._seconds.get(pool, 0.0)

    def add(self, run: Run) -> None:
        run.parked = {}
        self._runs[run.job.run_id] = run
        self._startable += 1
        for pool in run.seats:
            self._insert(run, pool)

    def remove(self, run: Run) -> None:
        del self._runs[run.job.run_id]
        self._startable -= not run.parked_everywhere
        for pool in run.seats:
            if pool in run.parked:
                self._unpark(run, pool)
            else:
                self._delete(run, pool)

    def park(self, run: Run, pool: str, cap: str, need: float) -> None:
        """Keeps a run from starting in a pool until there is room for it under a cap."""
        self._delete(run, pool)
        run.parked[pool] = (cap, need)
        self._startable -= run.parked_everywhere
        bisect.insort(self._parked.setdefault((pool, cap), []), (need, run.key, run))

    def readmit(self, pool: str, room: Mapping[str, float]) -> None:
        """Lets those wait again that need most of what a cap has room for: one for each cap."""
        for cap, left in room.items():
            parked = self._parked.get((pool, cap))
            if not parked:
                continue
            i = bisect.bisect_right(parked, left, key=lambda entry: entry[0])
            if i:
                run = parked[i - 1][2]
                self._startable += run.parked_everywhere
                self._unpark(run, pool)
                self._insert(run, pool)

    def any_fits(self, room: Mapping[str, float]) -> bool:
        """Whether one that is kept from starting need not be any more."""
        return any(need <= room.get(cap, math.inf) for run in self for cap, need in run.parked.values())

    def park_for_good(self, run: Run, cap: str) -> None:
        for pool in [pool for pool in run.seats if pool not in run.parked]:
            self.park(run, pool, cap, math.inf)

    def in_order(self, pool: str) -> Iterator[Run]:
        return (run for _, run in self._lists.get(pool, ()))

    def warm(self, pool: str, shape: str | None, following: Run) -> Iterator[Run]:
        """Those of a shape that are nearly as long as the next that may start, in order."""
        entries = self._shapes.get((pool, shape or ""), [])
        for i in range(bisect.bisect_left(entries, (following.key,)), len(entries)):
            if not _WARM_SHARE <= entries[i][1].length / following.length <= 1 / _WARM_SHARE:
                return
            yield entries[i][1]

    def _insert(self, run: Run, pool: str) -> None:
        entry = (run.key, run)
        bisect.insort(self._lists.setdefault(pool, []), entry)
        bisect.insort(self._shapes.setdefault((pool, run.job.shape), []), entry)
        self._seconds[pool] = self._seconds.get(pool, 0.0) + run.seats[pool].seconds

    def _delete(self, run: Run, pool: str) -> None:
        for entries in (self._lists[pool], self._shapes[pool, run.job.shape]):
            del entries[bisect.bisect_left(entries, (run.key,))]
        self._seconds[pool] = self._seconds[pool] - run.seats[pool].seconds if self._lists[pool] else 0.0

    def _unpark(self, run: Run, pool: str) -> None:
        cap, need = run.parked.pop(pool)
        entries = self._parked[pool, cap]
        del entries[bisect.bisect_left(entries, (need, run.key))]
