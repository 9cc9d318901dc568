"""The time until a sweep is done: the runs that are left, at the pace of those that were timed."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from nextscale.cluster.controller.accounts import Reservation
from nextscale.cluster.controller.queue import Order
from nextscale.cluster.hardware.speed import SlotKind, Speed
from nextscale.model.config.external import AnyRun
from nextscale.model.record import Row
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.plan.plan import rounds
from nextscale.sweeps.plan.schedule import Task, schedule

_TELLING = 0.1
"""Of an attempt: less, with all that comes before the first step, does not tell how long the rest takes."""
_OVERDUE = 0.1
"""Whatever is overdue takes, for all that is known, a tenth of its time more."""


class AtWork(NamedTuple):
    """A run that is being trained.

    Attributes:
        seconds: since it was started.
        tokens: that it has come to.
    """

    reservation: Reservation
    seconds: float
    tokens: int


class TimeLeft(NamedTuple):
    """When all is done.

    Attributes:
        seconds: from now on.
        timed: attempts that have ended and tell of it; where there are none, those at work do.
        slots: that do the work.
    """

    seconds: float
    timed: int
    slots: int


def time_left(
    runs: Mapping[str, PlannedRun],
    waiting: Iterable[str],
    at_work: Sequence[AtWork],
    slots: Sequence[Row],
    accounts: Iterable[Row],
    config_of: Callable[[str], AnyRun | None],
    order: Order = "longest",
) -> TimeLeft | None:
    """Until a sweep is done; None where nothing tells yet how long a run takes.

    Args:
        runs: of the sweep, by id.
        waiting: ids of those that are to be trained yet.
        at_work: of the same sweep.
        slots: that are up: of each a row of the accounts.
        accounts: rows of `nextscale.cluster.controller.accounts`, of any sweep of the folder.
        config_of: the run of such a row.
        order: which of those that wait is next.
    """
    ended = [row for row in accounts if row["kind"] == "settled" and row["flops_kept"] > 0]
    pace = _Pace(ended, at_work, runs, config_of)
    kinds = {row["pool"]: (row["accelerator"], row["chips"]) for row in slots}
    seconds: dict[str, dict[str, float]] = {}
    for run_id in waiting:
        found = {pool: pace.seconds(runs[run_id], runs[run_id].own_flops, kind) for pool, kind in kinds.items()}
        seconds[run_id] = {pool: value for pool, value in found.items() if value is not None}
        if not seconds[run_id]:
            return None
    rests = {one.reservation.run_id: (one, pace.rest(one, runs[one.reservation.run_id])) for one in at_work}
    total, count = 0.0, collections.Counter(row["pool"] for row in slots)
    for role, tasks in rounds(runs, seconds).items():
        busy: dict[str, list[float]] = {}
        for run_id, (one, rest) in rests.items():
            if rest is None:
                return None
            if runs[run_id].role == role:
                busy.setdefault(one.reservation.seat.pool, []).append(rest)
        total += schedule([_branch(task, runs[task.key], rests) for task in tasks], count, busy, order).seconds
    return TimeLeft(total, len(ended), count.total())


def _branch(task: Task, run: PlannedRun, rests: Mapping[str, tuple[AtWork, float | None]]) -> Task:
    """The same; a branch of a trunk that is at work begins when that one has come so far."""
    trunk, rest = (None, None) if run.trunk is None else rests.get(run.trunk.run_id, (None, None))
    if run.trunk is None or trunk is None or rest is None or trunk.tokens >= run.branches_at:
        return task
    return task._replace(begins=rest * (run.branches_at - trunk.tokens) / (run.trunk.tokens - trunk.tokens))


class _Pace:
    """How long runs take here: by those like them that were timed, else by the FLOP/s of all."""

    def __init__(
        self,
        ended: Sequence[Row],
        at_work: Iterable[AtWork],
        runs: Mapping[str, PlannedRun],
        config_of: Callable[[str], AnyRun | None],
    ):
        self._speed = Speed.from_accounts(ended, config_of)
        self._made: dict[SlotKind, tuple[float, float]] = {}
        for row in ended:
            self._add((row["accelerator"], row["chips"]), row["flops_kept"] + row["flops_lost"], row["seconds"])
        if not ended:
            for one in at_work:
                share = _share(one, runs[one.reservation.run_id])
                self._add(_kind(one), share * one.reservation.amount.flops, one.seconds)

    def seconds(self, run: PlannedRun, flops: float, kind: SlotKind) -> float | None:
        """Of so many FLOPs of a run in a slot of a kind."""
        known = self._speed.seconds(run.config, flops, *kind)
        if known is not None:
            return known
        made, seconds = self._made.get(kind, (0.0, 0.0))
        return flops * seconds / made if made else None

    def rest(self, one: AtWork, run: PlannedRun) -> float | None:
        """Of an attempt: by its own pace, once that tells."""
        share = _share(one, run)
        if share >= _TELLING:
            return one.seconds * (1 - share) / share
        expected = self.seconds(run, one.reservation.amount.flops, _kind(one))
        return None if expected is None else max(expected - one.seconds, _OVERDUE * one.seconds)

    def _add(self, kind: SlotKind, flops: float, seconds: float) -> None:
        made, taken = self._made.get(kind, (0.0, 0.0))
        self._made[kind] = made + flops, taken + seconds


def _kind(one: AtWork) -> SlotKind:
    return one.reservation.accelerator, one.reservation.seat.chips


def _share(one: AtWork, run: PlannedRun) -> float:
    """Of what an attempt is to train, what it has."""
    begun = max(one.reservation.position, run.branches_at)
    return min(max(one.tokens - begun, 0) / max(run.tokens - begun, 1), 1.0)
