"""Failures: limits on retries and their pauses, quarantine of hosts, detection of runs that are stuck."""

from __future__ import annotations

import dataclasses

from nextscale.cluster.controller.backend import Slot
from nextscale.cluster.controller.job import Outcome
from nextscale.cluster.controller.lease import TIME_TO_LIVE, Heartbeat


@dataclasses.dataclass(frozen=True)
class Limits:
    """The patience of a controller; all times in seconds.

    Attributes:
        errors: how often a run that raised is tried again.
        losses: how often one whose worker or host went away, or which stopped by itself, and had saved something new.
        fruitless: how often in a row one that was lost with nothing new saved. A preemption is no fault of the run's,
            and there may be thousands; but a run that is too big for its machine looks just the same, save that it
            gets nowhere.
        memory: how often one that ran out of memory: each time less of it is asked for.
        pauses: before the first, second, ... new attempt: what ails a file server or a machine often passes.
        held_retry: before looking again at a run that another process holds.
        silence: without a sign of life after which a holder is taken for dead.
        host_failures: in a row on one host, after which it gets nothing for `host_pause`, then ever longer.
        stall_seconds, stall_times: a run whose curve does not move for `stall_seconds`, and so many times longer than
            it usually stood still, is stuck. Before its second move it has `first_stall_times` times that: it compiles,
            and nobody knows yet what is usual.
        stop_share, stop_least, stop_most: what is reserved for a run to save itself in, as a share of its time.
        unknown_seconds: reserved at a time for a run of which nobody knows how long it takes.
        slack: before the end of its reservation that a run which did not stop is killed.
        poll: between two looks at the cluster at most.
        no_slot_notice: without any slot, after which that is said.
    """

    errors: int = 3
    losses: int = 10_000
    fruitless: int = 5
    memory: int = 20
    pauses: tuple[float, ...] = (2.0, 8.0, 30.0)
    held_retry: float = 2.0
    silence: float = TIME_TO_LIVE
    host_failures: int = 2
    host_pause: float = 60.0
    host_pause_most: float = 3600.0
    stall_seconds: float = 600.0
    stall_times: float = 20.0
    first_stall_times: float = 3.0
    stop_share: float = 0.1
    stop_least: float = 20.0
    stop_most: float = 300.0
    unknown_seconds: float = 600.0
    slack: float = 10.0
    poll: float = 0.25
    no_slot_notice: float = 60.0

    def stop_seconds(self, seconds: float) -> float:
        """Seconds in which a run that would take `seconds` more is to save itself and end."""
        return min(max(self.stop_share * seconds, self.stop_least), self.stop_most)


@dataclasses.dataclass
class History:
    """What has come of a run so far."""

    errors: int = 0
    losses: int = 0
    fruitless: int = 0
    memory: int = 0
    refused: bool = False
    """Whether a host has refused it, as `input`."""
    failed_slots: set[str] = dataclasses.field(default_factory=set)
    """Slots on which it failed without saving anything."""
    heartbeat: Heartbeat | None = None
    since: float = 0.0
    """When `heartbeat`, the newest sign of life of another holder, was first seen."""

    def pause_after(self, outcome: Outcome, slot: str, progressed: bool, limits: Limits) -> float | None:
        """Seconds to wait after an attempt that failed before the next; None when there have been enough.

        Args:
            progressed: whether the attempt saved something new.
        """
        if outcome.status in ("input", "unfit"):
            return None
        if outcome.status == "memory":
            self.memory += 1
            return limits.pauses[0] if self.memory <= limits.memory else None
        if not progressed:
            self.failed_slots.add(slot)
        if outcome.status == "error":
            self.errors += 1
            return self._pause(self.errors, limits) if self.errors <= limits.errors else None
        self.losses += 1
        self.fruitless = 0 if progressed else self.fruitless + 1
        enough = self.losses > limits.losses or self.fruitless > limits.fruitless
        return None if enough else self._pause(max(self.fruitless, 1), limits)

    def silent_for(self, heartbeat: Heartbeat, now: float) -> float:
        """For how long a holder's sign of life has been its last, by this process's own clock."""
        if heartbeat != self.heartbeat:
            self.heartbeat, self.since = heartbeat, now
        return now - self.since

    @staticmethod
    def _pause(n: int, limits: Limits) -> float:
        return limits.pauses[min(n, len(limits.pauses)) - 1]


class Quarantine:
    """Hosts on which attempts failed in a row: they get nothing for a while, and longer each time."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._row: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def count_failure(self, slot: Slot, outcome: Outcome, now: float) -> list[str]:
        """Counts an attempt against its host; returns what is to be said of it.

        Of a gang's hosts those that the outcome names, else none: nobody knows which it was.
        """
        notices = []
        for host in outcome.hosts or (hosts_of(slot) if len(slot.hosts) <= 1 else ()):
            self._row[host] = row = self._row.get(host, 0) + 1
            if row >= self._limits.host_failures:
                longer = 4.0 ** (row - self._limits.host_failures)
                pause = min(self._limits.host_pause * longer, self._limits.host_pause_most)
                self._until[host] = now + pause
                notices.append(
                    f"{row} attempts in a row failed on {host}: it is left out for {pause:.0f} s where others may serve"
                )
        return notices

    def clear(self, slot: Slot) -> None:
        for host in hosts_of(slot):
            self._row.pop(host, None)
            self._until.pop(host, None)

    def bars(self, slot: Slot, now: float) -> bool:
        return bool(self._until) and any(self._until.get(host, 0.0) > now for host in hosts_of(slot))

    def next_release(self, now: float) -> float | None:
        """When the next host is let in again."""
        return min((until for until in self._until.values() if until > now), default=None)


def hosts_of(slot: Slot) -> tuple[str, ...]:
    """Where the cluster names no host, the slot stands for one."""
    return slot.hosts or (slot.name,)


@dataclasses.dataclass
class Watch:
    """Whether a run moves. What counts is how long it stands still, against how long it usually did.

    Args:
        mark: of its curve before it began, see `nextscale.cluster.controller.run_directories.Progress`.
        now: when it began.
    """

    mark: str
    now: float
    moves: int = 0
    usual: float = 0.0
    """The longest that it stood still and then moved; looks that found it moved each time say nothing of that."""
    _missed: bool = False

    def stuck_for(self, mark: str, now: float, limits: Limits) -> float | None:
        """Seconds without a move, when those are too many."""
        still = now - self.now
        if mark != self.mark:
            if self._missed and self.moves:
                self.usual = max(self.usual, still)
            self.mark, self.now, self._missed = mark, now, False
            self.moves += 1
            return None
        self._missed = True
        times = 1.0 if self.moves > 1 else limits.first_stall_times
        patience = max(limits.stall_seconds, limits.stall_times * self.usual) * times
        return still if still > patience else None
