"""Several sweeps on one Ray cluster: how many slots each may hold.

Slots are held from run to run, and Ray gives what is free to whoever asked first: by that alone, the first sweep would
hold all to its last run. So each tells an actor what it holds and wants, and gives way, as its runs end, with what is
more than its share.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ACTOR, _NAMESPACE = "nextscale-shares", "nextscale"
_SILENT, _IN_TRANSIT = 30.0, 60.0
"""Seconds after which a sweep that says nothing is gone; and in which a slot passes from one to another."""
_HALF_LIFE = 86400.0
"""Seconds after which half of what a sweep has used is forgotten."""
_AHEAD, _KEPT = 3600.0, 300.0
"""Slot-seconds that a slot counts for as it is given; and what another must have used less for one to change hands: a
fresh worker takes seconds to be there."""

Counts = Mapping[str, int]
"""By kind of slot."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sweep's, on slots of a kind.

    Attributes:
        priority: those of a higher one come first.
        held, wanted: slots that it has, and that it has runs for.
        used: slot-seconds of late.
    """

    priority: int
    held: int
    wanted: int
    used: float


def shares_of(total: int, claims: Sequence[Claim]) -> list[int]:
    """How many of all slots of a kind each is to have: by priority and, among equals, one by one to whoever has used
    least of late."""
    given = [0] * len(claims)
    for priority in sorted({claim.priority for claim in claims}, reverse=True):
        group = [i for i, claim in enumerate(claims) if claim.priority == priority]
        while total and (open_ := [i for i in group if given[i] < claims[i].wanted]):

            def standing(i: int) -> float:
                return claims[i].used + _AHEAD * given[i] - _KEPT * (given[i] < claims[i].held)

            given[min(open_, key=standing)] += 1
            total -= 1
    return given


def give_away(total: int, claims: Sequence[Claim]) -> list[int]:
    """How many slots each is to give up: what it has beyond its share, as far as others lack it, those of the most
    first."""
    shares = shares_of(total, claims)
    lacking = sum(max(share - claim.held, 0) for share, claim in zip(shares, claims, strict=True))
    beyond = [max(claim.held - share, 0) for share, claim in zip(shares, claims, strict=True)]
    given = [0] * len(claims)
    for i in sorted(range(len(claims)), key=lambda i: -beyond[i]):
        given[i] = min(beyond[i], lacking)
        lacking -= given[i]
    return given


@dataclasses.dataclass
class _Sweep:
    priority: int
    held: Counts
    wanted: Counts
    seen: float
    used: dict[str, float] = dataclasses.field(default_factory=dict)


class Shares:
    """What all sweeps of a cluster hold and want; an actor of the cluster.

    Args:
        clock: seconds, on a clock that only goes forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._sweeps: dict[str, _Sweep] = {}
        self._totals: dict[str, collections.deque[tuple[float, int]]] = {}
        """By kind, when so many slots were held by all: one that changes hands is nobody's for a while."""

    def report(self, name: str, priority: int, held: Counts, wanted: Counts) -> tuple[Counts, list[str]]:
        """Takes down what a sweep holds and wants.

        Returns:
            how many slots of each kind it is to give up as its runs end; and the others for whom.
        """
        now = self._clock()
        sweep = self._sweeps.setdefault(name, _Sweep(priority, {}, {}, now))
        passed = now - sweep.seen
        kept = 0.5 ** (passed / _HALF_LIFE)
        sweep.used = {kind: used * kept for kind, used in sweep.used.items()}
        if passed < _SILENT:
            for kind, count in sweep.held.items():
                sweep.used[kind] = sweep.used.get(kind, 0.0) + passed * count
        sweep.priority, sweep.held, sweep.wanted, sweep.seen = priority, held, wanted, now
        there = {other: one for other, one in self._sweeps.items() if now - one.seen < _SILENT}
        given: dict[str, int] = {}
        for kind in held:
            claims = {other: _claim(one, kind) for other, one in there.items()}
            total = self._total(kind, sum(claim.held for claim in claims.values()), now)
            given[kind] = dict(zip(claims, give_away(total, list(claims.values())), strict=True))[name]
        lacking = [other for other, one in there.items() if any(one.wanted[k] > one.held.get(k, 0) for k in one.wanted)]
        return given, [other for other in lacking if other != name] if any(given.values()) else []

    def leave(self, name: str) -> None:
        """A sweep has ended; what it has used of late is kept."""
        if name in self._sweeps:
            self._sweeps[name].held = self._sweeps[name].wanted = {}

    def _total(self, kind: str, held: int, now: float) -> int:
        totals = self._totals.setdefault(kind, collections.deque())
        totals.append((now, held))
        while totals[0][0] < now - _IN_TRANSIT:
            totals.popleft()
        return max(count for _, count in totals)


def _claim(sweep: _Sweep, kind: str) -> Claim:
    held = sweep.held.get(kind, 0)
    return Claim(sweep.priority, held, sweep.wanted.get(kind, 0), sweep.used.get(kind, 0.0))


class Membership:
    """A sweep's part in the shares of a cluster.

    Args:
        ray: the module, connected.
        name: of the sweep, for others.
        on_result: see `hub.Hub`.
        notice: what a person should know.
    """

    def __init__(
        self,
        ray: Any,
        name: str,
        priority: int,
        on_result: Callable[[Any, Callable[[Any, Exception | None], None]], None],
        notice: Callable[[str], None],
    ):
        self._ray, self._name, self._priority = ray, name, priority
        self._on_result, self._notice = on_result, notice
        self._actor: Any = None
        self._to_give: dict[str, int] = {}
        self._gave = 0
        """Counts what was given up: an answer to what was told before it is out of date."""

    def report(self, held: Counts, wanted: Counts) -> None:
        """Tells what the sweep holds and wants; what comes of it is known some time later."""
        if self._actor is None:
            options = {"name": _ACTOR, "namespace": _NAMESPACE, "lifetime": "detached", "get_if_exists": True}
            self._actor = self._ray.remote(Shares).options(num_cpus=0, max_restarts=-1, **options).remote()
        told, gave = self._actor.report.remote(self._name, self._priority, dict(held), dict(wanted)), self._gave

        def answered(answer: Any, error: Exception | None) -> None:
            if error is not None:
                self._actor, self._to_give = None, {}  # asked for anew, wherever it is by then
            elif gave == self._gave:
                self._to_give, others = dict(answer[0]), answer[1]
                for other in others:
                    self._notice(
                        f"sweep {other} shares this cluster: slots beyond this one's share go to it as runs end"
                    )

        self._on_result(told, answered)

    def gives_way(self, kind: str) -> bool:
        """Whether an idle slot is to be given up; if so, it is taken to be."""
        if not self._to_give.get(kind):
            return False
        self._to_give[kind] -= 1
        self._gave += 1
        return True

    def leave(self) -> None:
        if self._actor is not None:
            self._actor.leave.remote(self._name)
