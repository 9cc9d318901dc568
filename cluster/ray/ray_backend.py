"""Ray cluster as a backend of the controller: slots of all its pools, of both lanes, as they come and go."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from nextscale.cluster.controller.backend import ClusterLost, Ended, Slot
from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.head import SILENT, Head, answers, named, stranger_at
from nextscale.cluster.ray.hosts import Host, cpu_pools_of, hosts_of, kind_of, pools_of, resource_of
from nextscale.model.errors import InputError

if TYPE_CHECKING:
    from nextscale.cluster.ray.gang_slot import GangSlot
    from nextscale.cluster.ray.shares import Counts, Membership
    from nextscale.cluster.ray.warm_slot import WarmSlot

_REFRESH = 2.0
"""Seconds between two looks at which hosts there are."""
_COMING = 180.0
"""Seconds that this host has to join a cluster whose head answers: on a busy one it takes longer than Ray waits."""
_STARTS = 3
"""Times that Ray is started on this machine, for which it takes 30 s at the most."""


class RayBackend:
    """Slots on a Ray cluster.

    Args:
        address: of a running cluster; None starts one on this machine, and stops it with `close`.
        pools: by name; `auto` reads them off the cluster, again and again: every GPU and every TPU slice or, where
            there are none, every CPU core.
        uses_jax: whether workers train by themselves; else devices are left to what they start.
        sweep: what it is called among those that share a running cluster; by none, it takes what Ray gives.
        priority: among these; see `shares.py`.

    Raises:
        ConnectionError: nothing answers at the address.
        ClusterLost: there is a cluster, which this machine did not come to.
        InputError: Ray cannot share out a pool as it asks.
    """

    def __init__(
        self,
        address: str | None = None,
        pools: Literal["auto"] | Mapping[str, Pool] = "auto",
        *,
        uses_jax: bool = True,
        sweep: str = "",
        priority: int = 0,
    ):
        # Set before Ray is imported: it prints, reports and asks for tokens by default.
        for name, value in {
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_raylet_start_wait_time_s": "180",
            "RAY_ENABLE_AUTO_CONNECT": "0",  # what is still on its way when all is closed must not start another Ray
        }.items():
            os.environ.setdefault(name, value)
        import ray

        from nextscale.cluster.ray.shares import Membership
        from nextscale.cluster.ray.slices import SliceLedger

        self._ray = ray
        self.ledger, self.uses_jax = SliceLedger(), uses_jax
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = itertools.count()
        self._slots: dict[str, WarmSlot | GangSlot] = {}
        self._ended: list[Ended] = []
        self._notices: dict[str, bool] = {}  # by text, whether it has been read: nothing is said twice
        self._hosts: dict[str, Host] = {}
        self._left_out: set[str] = set()
        self._pools: dict[str, Pool] = {}
        self._auto = pools == "auto"
        self._address = address
        self._head: Head | None = None
        self._connect()
        self._look()
        self._waiting = 0
        self._membership: Membership | None = None
        if address is not None and sweep:
            self._membership = Membership(ray, sweep, priority, self.on_result, self.notice)
        found = pools_of(list(self._hosts.values())) if pools == "auto" else dict(pools)
        try:
            self._add(found)
        except ValueError as error:
            self.close()
            raise InputError(f"pools: {error}") from None
        self._looked = time.monotonic()

    def pools(self) -> Mapping[str, Pool]:
        return dict(self._pools)

    def slots(self) -> list[Slot]:
        idle_first = sorted(self._slots.values(), key=lambda slot: slot.idle_since or float("inf"))
        return [shown for slot in idle_first if (shown := slot.as_slot()) is not None]

    def start(self, slot: str, job: Job, seat: Seat) -> None:
        self._slots[slot].start(job, seat)

    def stop(self, slot: str) -> None:
        if slot in self._slots:
            self._slots[slot].stop()

    def kill(self, slot: str) -> None:
        if slot in self._slots:
            self._slots[slot].kill()

    def renew(self, slot: str) -> None:
        if slot in self._slots:
            self._slots[slot].renew()

    def wait(self, timeout: float) -> list[Ended]:
        until = time.monotonic() + timeout
        while not self._ended:
            now = time.monotonic()
            if now - self._looked > _REFRESH:
                self._refresh()
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            next_at = min([until, self._looked + _REFRESH] + [when for when, *_ in self._later[:1]])
            try:
                self._calls.get(timeout=max(next_at - now, 0.001))()
            except queue.Empty:
                if time.monotonic() >= until:
                    break
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()()
        ended, self._ended = self._ended, []
        return ended

    def now(self) -> float:
        return time.monotonic()

    def waiting(self, runs: int) -> None:
        self._waiting = runs

    def notices(self) -> list[str]:
        unread = [text for text, read in self._notices.items() if not read]
        self._notices |= dict.fromkeys(unread, True)
        return unread

    def close(self) -> None:
        if self._head is not None:
            self._head.close()
            if self._head.lost:  # nobody is there to be told
                return
        if self._membership is not None:
            self._membership.leave()
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()
        self._ray.shutdown()

    # What slots need (see `hub.Hub`).

    def call_soon(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._counter), call))

    def on_result(self, reference: Any, call: Callable[[Any, Exception | None], None]) -> None:
        def answered(future: Any) -> None:
            error = future.exception()
            result = None if error else future.result()
            self.call_soon(lambda: call(result, error))

        reference.future().add_done_callback(answered)

    def ended(self, slot: str, job: Job, outcome: Outcome) -> None:
        self._ended.append(Ended(slot, job, outcome))

    def notice(self, text: str) -> None:
        self._notices.setdefault(text, False)

    def hosts(self) -> Mapping[str, Host]:
        return self._hosts

    @property
    def may_grow(self) -> bool:
        return not self._auto

    def gives_way(self, kind: str) -> bool:
        return self._membership is not None and self._membership.gives_way(kind)

    def drop_unusable(self, slot: str) -> None:
        left_out = self._slots.pop(slot)
        left_out.close()
        self._left_out.add(slot)
        resource = resource_of(self._pools[left_out.pool].accelerator)
        extra = resource.lower()
        self.notice(
            f"JAX cannot use a {resource} that Ray offers, so it is left out; is the extra `{extra}` installed there?"
        )
        if not self._slots and self._auto:
            self.notice(f"no {resource} is left: training on the CPU cores")
            self._pools.clear()
            self._add(cpu_pools_of(self._hosts.values()))

    def _connect(self) -> None:
        address = self._address
        options: dict[str, Any] = {} if address else {"include_dashboard": False}
        name = "" if address is None else named(address)
        unreachable = ConnectionError(
            f"{name}: no Ray cluster answers there; start one, or leave it out to use this machine"
        )
        if address is not None and not answers(address):
            raise unreachable
        if address is not None and (stranger := stranger_at(address)) is not None:
            text = f"{name}: no Ray head answers there, but {stranger}"
            if stranger == SILENT:
                raise ClusterLost(
                    f"{text}: a head that is stopped or overwhelmed, if any; run this again when it answers"
                )
            raise InputError(f"{text}; name the head, such as HEAD:6379")
        until, tries = time.monotonic() + _COMING, _STARTS
        while True:
            try:
                # Where the head goes meanwhile, Ray ends this process with a code that says nothing, or waits.
                with _own_signals(), contextlib.nullcontext() if address is None else contextlib.closing(Head(address)):
                    self._ray.init(
                        address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options
                    )
                break
            except (ConnectionError, ValueError):
                self._ray.shutdown()
                if address is None:
                    raise unreachable from None
                if not answers(address):
                    raise ClusterLost(f"{name}: the head answered, and was gone while this connected to it") from None
                if time.monotonic() > until:
                    text = f"{name}: the head answers, but Ray is not up on this host; start it here too"
                    raise ClusterLost(text) from None
            except Exception as error:
                tries -= 1
                self._ray.shutdown()
                if "timed out during startup" not in str(error):
                    raise
                if not tries:
                    text = f"Ray did not come up on this machine within 30 s, {_STARTS} times: it is too busy"
                    raise ClusterLost(f"{text}; run this again when it is less so") from None
        if address is None or not address.startswith("ray://"):  # whose server stands between
            self._head = Head(self._ray.get_runtime_context().gcs_address)

    def _look(self) -> None:
        from ray._private.state import state  # which nodes drain is not told elsewhere

        draining: Mapping[str, int] = {}
        with contextlib.suppress(Exception):
            draining = state.get_draining_nodes()
        self._hosts = {host.node: host for host in hosts_of(self._ray.nodes(), draining)}

    def _restart(self) -> None:
        """Begins anew where Ray went down that was started here: what it trained is lost, but for what is saved."""
        pools, self._pools = self._pools, {}
        slots, self._slots = self._slots, {}
        for name, slot in slots.items():
            slot.close()
            if slot.running is not None:
                self.ended(name, slot.running, Outcome("lost", "Ray went down on this machine"))
        self._ray.shutdown()
        if self._head is not None:
            self._head.close()
        self._connect()
        self._look()
        self._looked = time.monotonic()
        self.notice("Ray went down on this machine, and is started again")
        self._add(pools)

    def _refresh(self) -> None:
        self._looked = time.monotonic()
        if self._head is not None and self._head.silent_for() > 2 * _REFRESH:
            self._head.check()
            return
        self._look()
        if not self._hosts and self._address is None:
            self._restart()
        if self._auto and not self._pools:
            self._add(pools_of(list(self._hosts.values())))
        elif self._auto and not all(pool.accelerator == "cpu" for pool in self._pools.values()):
            found = pools_of(list(self._hosts.values()))
            self._add({self._name(n, pool): pool for n, pool in found.items() if pool.accelerator != "cpu"})
        elif self._auto and not self._left_out:
            self._add(cpu_pools_of(self._hosts.values()))
        for slot in list(self._slots.values()):
            # What is idle on a host that is gone, or going, moves on; what runs there is the controller's to stop.
            if slot.idle_since is not None and slot.leaving:
                slot.renew()
            elif slot.idle_since is not None and self.gives_way(slot.kind):
                slot.give_way()
        if self._membership is not None:
            self._membership.report(*self._held_and_wanted())

    def _held_and_wanted(self) -> tuple[Counts, Counts]:
        """Slots by kind, and those that there are runs for."""
        held: Counter[str] = Counter()
        busy: Counter[str] = Counter()
        others: Counter[str] = Counter()
        for slot in self._slots.values():
            held[slot.kind] += slot.as_slot() is not None
            busy[slot.kind] += slot.running is not None
            others[slot.kind] += slot.running is None
        return held, {kind: busy[kind] + min(others[kind], self._waiting) for kind in held}

    def _name(self, name: str, pool: Pool) -> str:
        """What a pool that was read off the cluster is called: as it was at first, whatever has joined it since."""
        for known, other in self._pools.items():
            if other == pool.model_copy(update={"slices": other.slices}):
                return known
        return f"{name}-{pool.hosts}x{pool.chips}" if name in self._pools else name

    def _add(self, pools: Mapping[str, Pool]) -> None:
        """Slots for pools, or for what they have grown by; a slot whose host is gone waits for another."""
        from nextscale.cluster.ray.gang_slot import GangSlot
        from nextscale.cluster.ray.warm_slot import WarmSlot

        for name, pool in pools.items():
            known = self._pools.get(name)
            if known is not None and known.slices >= pool.slices:
                continue
            self._pools[name] = pool
            kind = kind_of(pool.accelerator, self._hosts.values())
            lane = GangSlot if pool.gang else WarmSlot
            for i in range(pool.slots):
                slot = f"{name}-{i}"
                if slot not in self._slots and slot not in self._left_out:
                    self._slots[slot] = lane(slot, name, pool, kind, self)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and prints stacks: whoever has a use for it keeps it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before not in (signal.SIG_DFL, None) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
