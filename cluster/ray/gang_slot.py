"""Slot of the gang lane: a reserved slice on which each run has fresh processes."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence

from nextscale.cluster.controller.backend import Slot
from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.gang import Gang
from nextscale.cluster.ray.hosts import Host
from nextscale.cluster.ray.hub import RESTART, Hub, environment_of
from nextscale.cluster.ray.slices import HostReservation, reserve
from nextscale.model.errors import describe_error

_RESERVING = 30.0
"""Seconds for a slice to be reserved."""
_REFUSALS = 10
"""After how many times in a row that no slice was to be had, for no reason that Ray gives, it is said."""


class GangSlot:
    """A slice of the gang lane, or as many as train one run: reserved, held from run to run, and reserved again, maybe
    elsewhere, when a host is gone or about to be."""

    def __init__(self, name: str, pool_name: str, pool: Pool, kind: str | None, hub: Hub):
        self.name, self.pool = name, pool_name
        self.idle_since: float | None = None
        self._hub, self._pool, self._kind = hub, pool, kind
        self.kind = f"{kind or pool.accelerator} {pool.hosts}x{pool.chips}"
        """What others want that want the same."""
        self._held: HostReservation | None = None
        self.running: Job | None = None
        self._gang: Gang | None = None
        self._asking = False
        self._refusals = 0
        self._closed = False
        self._reserve()

    def as_slot(self) -> Slot | None:
        """As the controller sees it; None while it is not reserved."""
        if self._held is None:
            return None
        return Slot(self.name, self.pool, tuple(host.name for host in self._held.hosts), draining=self._draining())

    @property
    def leaving(self) -> bool:
        """Whether one of its hosts is gone, or about to be."""
        return self._held is not None and self._broken()

    def start(self, job: Job, seat: Seat) -> None:
        assert self.idle_since is not None, f"{self.name} is not idle"
        assert self._held is not None
        self.idle_since, self.running = None, job
        gang = self._gang = Gang(self._held, self._pool, environment_of(self._pool), self._hub.uses_jax)

        def train() -> None:
            try:
                outcome = gang.run(job, seat)
            except Exception as error:  # Ray's own trouble; the run is as it was
                outcome = Outcome("lost", describe_error(error))
            self._hub.call_soon(functools.partial(self._ended, job, outcome))

        threading.Thread(target=train, daemon=True).start()

    def stop(self) -> None:
        if self._gang is not None:
            self._gang.stop()

    def kill(self) -> None:
        if self._gang is not None:
            self._gang.kill()

    def renew(self) -> None:
        """Processes are fresh for every run; so is the slice, where this one lacks a host."""
        if self._gang is None and self._held is not None and self._broken():
            self._release()
            self._reserve()

    def give_way(self) -> None:
        """Leaves its slice, idle, to whoever has asked for one by now, and asks for another."""
        self._release()
        self._hub.call_later(RESTART, self._reserve)

    def close(self) -> None:
        self._closed = True
        if self._gang is not None:
            self._gang.kill()

    def _draining(self) -> bool:
        now = self._hub.hosts()
        return self._held is not None and any(now[h.node].draining for h in self._held.hosts if h.node in now)

    def _broken(self) -> bool:
        now = self._hub.hosts()
        return self._draining() or self._held is None or any(host.node not in now for host in self._held.hosts)

    def _ended(self, job: Job, outcome: Outcome) -> None:
        if self._closed:
            return
        self._gang, self.running, self.idle_since = None, None, time.monotonic()
        self._hub.ended(self.name, job, outcome)
        if (outcome.status == "lost" and outcome.hosts) or self._broken():
            self._release()
            self._reserve()
        elif self._hub.gives_way(self.kind):
            self.give_way()

    def _release(self) -> None:
        held, self._held, self.idle_since = self._held, None, None
        if held is not None:
            held.release()

    def _reserve(self) -> None:
        if self._asking or self._closed or self._held is not None:
            return
        self._asking = True
        hosts: Sequence[Host] = list(self._hub.hosts().values())
        ledger, unseen = self._hub.ledger, self._hub.may_grow

        def ask() -> None:
            held, problem = None, None
            try:
                held = reserve(self._pool, self._kind, hosts, ledger, _RESERVING, unseen=unseen)
            except Exception as error:  # what Ray thinks of a pool comes as errors of many kinds
                problem = describe_error(error)
            self._hub.call_soon(functools.partial(self._reserved, held, problem))

        threading.Thread(target=ask, daemon=True).start()

    def _reserved(self, held: HostReservation | None, problem: str | None) -> None:
        self._asking = False
        if self._closed:
            return
        if held is None:
            self._refusals += 1
            if problem is None and self._refusals == _REFUSALS:
                problem = "the hosts that it asks for are not there, or partly busy"
            if problem is not None:
                self._hub.notice(f"pool {self.pool}: no slice was to be had: {problem}")
            self._hub.call_later(RESTART if problem else 1.0, self._reserve)
            return
        self._held, self.idle_since, self._refusals = held, time.monotonic(), 0
