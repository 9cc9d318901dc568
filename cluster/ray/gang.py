"""The gang lane: a run over all hosts of a slice, or of several; one fresh process on each host.

Here alone are placement groups and `ray.util.tpu`, whose face is alpha.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.hosts import Host, hosts_of, resource_of, slices_of, whole
from nextscale.cluster.ray.rank import Rank

SIBLINGS = 10.0
"""Seconds that the others of a gang have to show how they fare, once one of them ended."""
_ANSWER = 5.0
"""Seconds in which a process that lives says so."""
_START = 300.0
"""Seconds for the processes to come up."""
_VERSIONS = {"tpu-v5e": "v5litepod"}
"""TPUs that go by another name in Ray."""
_PEER = (
    *("gloo", "peer", "connection", "heartbeat", "coordination service", "unavailable", "deadline exceeded"),
    *("aborted", "cancelled", "nccl", "barrier", "socket closed", "shutdown"),
)
"""Words of an error that tells of another process, not of its own."""


@dataclasses.dataclass(frozen=True)
class Reservation:
    """The hosts of a slot, in the order of its processes, held until they are released.

    Attributes:
        bundles: the index of each host's bundle in the group.
        slices: by name, of TPUs of several hosts.
    """

    group: Any
    hosts: tuple[Host, ...]
    bundles: tuple[int, ...]
    slices: tuple[str, ...] = ()
    undo: Callable[[], None] = lambda: None


class Ledger:
    """Which TPU slices are ours: none is reserved twice, whatever Ray may say is free."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._lock = threading.Lock()

    def take(self, n: int, free: Sequence[str]) -> tuple[str, ...]:
        """The first n that are not taken, now ours; none where there are fewer."""
        with self._lock:
            found = tuple(name for name in free if name not in self._taken)[:n]
            if len(found) < n:
                return ()
            self._taken.update(found)
            return found

    def give_back(self, names: Sequence[str]) -> None:
        with self._lock:
            self._taken.difference_update(names)


def reserve(
    pool: Pool, kind: str | None, hosts: Sequence[Host], ledger: Ledger, timeout: float, *, unseen: bool
) -> Reservation | None:
    """Reserves what one run of a pool takes; blocks until it is ours, or for about `timeout` seconds.

    Args:
        kind: of the pool's accelerators, as Ray says it.
        hosts: of the cluster.
        unseen: whether to ask for slices also where no whole one is free: what an autoscaler waits for.

    Returns:
        None where there is nothing to be had.
    """
    if resource_of(pool.accelerator) == "TPU" and pool.hosts > 1:
        return _reserve_slices(pool, kind, hosts, ledger, timeout, unseen=unseen)
    bundle = {resource_of(pool.accelerator): float(pool.chips)} | ({f"accelerator_type:{kind}": 0.001} if kind else {})
    group = placement_group([bundle] * pool.hosts * pool.slices_per_run, strategy="STRICT_SPREAD")
    return _held(group, timeout, lambda: remove_placement_group(group))


def _reserve_slices(
    pool: Pool, kind: str | None, hosts: Sequence[Host], ledger: Ledger, timeout: float, *, unseen: bool
) -> Reservation | None:
    from ray.util.tpu import slice_placement_group

    def fits(members: list[Host]) -> bool:
        first = members[0]
        alike = len(members) == pool.hosts and first.count("TPU") == pool.chips and kind in (None, first.kind)
        return alike and whole(members) and not any(host.draining for host in members)

    known = {name: members for name, members in slices_of(hosts).items() if fits(members)}
    names = ledger.take(pool.slices_per_run, list(known))
    if not names and not unseen:
        return None
    heads: list[Any] = []
    handle: Any = None

    def undo() -> None:
        if handle is not None:
            handle.shutdown()
        for head in heads:
            remove_placement_group(head)
        ledger.give_back(names)

    # A head belongs to whoever holds its slice, and is held as long: by it other drivers know that the slice is busy.
    # Ray reserves it by itself, on any slice that has one; where whole slices are known it is to be of one of them.
    try:
        for name in names:
            head = next((r for r in known[name][0].resources if r.startswith("TPU-") and r.endswith("-head")), None)
            if head is not None:
                heads.append(placement_group([{head: 1}], bundle_label_selector=[{"ray.io/tpu-slice-name": name}]))
        if heads and len(ray.wait([head.ready() for head in heads], num_returns=len(heads), timeout=timeout)[1]):
            undo()
            return None
        topology = known[names[0]][0].labels.get("ray.io/tpu-topology") if names else None
        handle = slice_placement_group(
            topology or pool.topology or topology_of(pool),
            (kind or _VERSIONS.get(pool.accelerator, pool.accelerator)).lower().removeprefix("tpu-"),
            num_slices=pool.slices_per_run,
            chips_per_vm=pool.chips,
            head_reservation_timeout_s=timeout,
            bundle_label_selector=[{"ray.io/tpu-slice-name": name} for name in names for _ in range(pool.hosts)]
            or None,
        )
        reservation = _held(handle.placement_group, timeout, undo)
    except TimeoutError:
        undo()
        return None
    except BaseException:
        undo()
        raise
    if reservation is None or names:
        return reservation and dataclasses.replace(reservation, slices=names)
    names = tuple(dict.fromkeys(host.slice_name or "" for host in reservation.hosts))
    if ledger.take(len(names), names) != names:  # Ray gave us what we have
        names = ()
        undo()
        return None
    return dataclasses.replace(reservation, slices=names)


def _held(group: Any, timeout: float, undo: Callable[[], None]) -> Reservation | None:
    """A group once Ray has placed it; undone where it has not in time."""
    ready, _ = ray.wait([group.ready()], timeout=timeout)
    try:
        if not ready:
            undo()
            return None
        ray.get(ready)
    except RayError:
        undo()
        return None
    placed: Mapping[int, str] = placement_group_table(group)["bundles_to_node_id"]
    by_node = {host.node: host for host in hosts_of(ray.nodes())}
    if not set(placed.values()) <= by_node.keys():
        undo()
        return None
    # The index of a bundle says nothing of the worker that it came to lie on.
    order = sorted(placed, key=lambda i: (by_node[placed[i]].slice_name or "", by_node[placed[i]].worker, int(i)))
    hosts = tuple(by_node[placed[i]] for i in order)
    return Reservation(group, hosts, tuple(map(int, order)), undo=undo)


def topology_of(pool: Pool) -> str:
    """The usual topology of a slice: of 16 chips 4x4, or 2x2x4 where chips have neighbours in three dimensions.

    Raises:
        ValueError: there is none of so many chips.
    """
    sides = [2, 2, 1] if pool.accelerator in ("tpu-v4", "tpu-v5p", "tpu-v7x") else [2, 2]
    while math.prod(sides) < pool.hosts * pool.chips:
        smallest = max(i for i, side in enumerate(sides) if side == min(sides))
        sides[smallest] *= 2
    if math.prod(sides) != pool.hosts * pool.chips:
        raise ValueError(f"there is no slice of {pool.hosts} hosts of {pool.chips} chips, unless you name its topology")
    return "x".join(map(str, sides))


class Gang:
    """The processes of one run on the hosts of a reservation. `run` blocks; other threads may `stop` and `kill`."""

    def __init__(self, reservation: Reservation, pool: Pool, environment: Mapping[str, str]):
        self._hosts, self._pool = reservation.hosts, pool
        self._killed = threading.Event()
        resource = resource_of(pool.accelerator)
        common: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 4}
        if resource == "CPU":
            common["num_cpus"] = pool.chips
        elif resource == "GPU":
            common["num_gpus"] = pool.chips
        else:
            common["resources"] = {"TPU": pool.chips}
        self._ranks: list[Any] = [
            ray.remote(Rank)
            .options(
                **common,
                runtime_env={"env_vars": {**environment, **self._neighbours(i)}},
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    reservation.group, placement_group_bundle_index=bundle
                ),
            )
            .remote()
            for i, bundle in enumerate(reservation.bundles)
        ]

    def _neighbours(self, i: int) -> dict[str, str]:
        """What a process of one of several TPU slices is told of the others."""
        if resource_of(self._pool.accelerator) != "TPU" or self._pool.slices_per_run == 1:
            return {}
        from ray.util.tpu import get_tpu_coordinator_env_vars

        number = i // self._pool.hosts
        return get_tpu_coordinator_env_vars(self._hosts[0].address, self._pool.slices_per_run, number)

    def run(self, job: Job, seat: Seat) -> Outcome:
        """Trains a run to its end; the processes are gone when this returns."""
        try:
            outcome = self._run(job, seat)
            with contextlib.suppress(RayError, TimeoutError):
                names = tuple(host.name for host in self._hosts)
                ray.get(self._ranks[0].end.remote(job, outcome, names), timeout=_ANSWER)
        finally:
            for rank in self._ranks:
                ray.kill(rank)
        return outcome

    def stop(self) -> None:
        for rank in self._ranks:
            rank.stop.remote(0)

    def kill(self) -> None:
        self._killed.set()

    def _run(self, job: Job, seat: Seat) -> Outcome:
        # All say that they are up before one takes the run: none is to be held for processes that do not come.
        up = self._ends([rank.free_port.remote() for rank in self._ranks], _START)
        if any(isinstance(end, Outcome) or end is None for end in up):
            return self._verdict(up)
        coordinator = f"{self._hosts[0].address}:{up[0]}"
        begun = self._ends([self._ranks[0].begin.remote(job)], _START)[0]
        if begun is not True:
            return begun or self._lost(0, "it was not told whether the run is ours")
        accelerated = resource_of(self._pool.accelerator) != "CPU"
        n = len(self._ranks)
        ends = self._ends(
            [rank.train.remote(job, seat, coordinator, n, i, accelerated) for i, rank in enumerate(self._ranks)]
        )
        return self._verdict(ends)

    def _ends(self, references: list[Any], timeout: float = float("inf")) -> list[Any]:
        """What came of a call to each process: its result; an Outcome `lost` where it died, `error` where it raised;
        None where it had come to nothing when it was given up."""
        ends: list[Any] = [None] * len(references)
        pending = {reference: i for i, reference in enumerate(references)}
        until = time.monotonic() + timeout
        while pending and time.monotonic() < until and not self._killed.is_set():
            done, _ = ray.wait(list(pending), num_returns=1, timeout=0.5)
            for reference in done:
                i = pending.pop(reference)
                ends[i] = self._end(reference, i)
                if isinstance(ends[i], Outcome):
                    until = min(until, time.monotonic() + (0 if ends[i].status == "held" else SIBLINGS))
        return ends

    def _end(self, reference: Any, i: int) -> Any:
        try:
            return ray.get(reference)
        except RayTaskError as error:  # the process lives, and raised this
            cause = getattr(error, "cause", None) or error
            return Outcome("error", f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}")
        except RayError as error:
            return self._lost(i, type(error).__name__)

    def _lost(self, i: int, reason: str) -> Outcome:
        host = self._hosts[i].name
        return Outcome("lost", f"process {i} of {len(self._hosts)}, on {host}, is gone ({reason})", hosts=(host,))

    def _verdict(self, ends: Sequence[Any]) -> Outcome:
        """How a gang ended, from what came of each process: a host that went away shows as errors on all the others."""
        if self._killed.is_set():
            return Outcome("lost", "it was taken for stuck, and killed")
        by_status: dict[str, list[Outcome]] = {}
        for end in ends:
            if isinstance(end, Outcome):
                by_status.setdefault(end.status, []).append(end)
        for status in ("finished", "held", "stopped"):  # the run's own state says so
            if status in by_status:
                return by_status[status][0]
        gone = by_status.get("lost", [])
        silent = [i for i, end in enumerate(ends) if end is None]
        if silent:
            gone = gone + [self._lost(i, "silent") for i in self._mute(silent)]
        if gone:
            hosts = tuple(dict.fromkeys(host for outcome in gone for host in outcome.hosts))
            return Outcome("lost", gone[0].message, hosts=hosts)
        for status in ("memory", "unfit", "input"):
            if status in by_status:
                return by_status[status][0]
        errors = by_status.get("error", [])
        own = [error for error in errors if not any(word in error.message.lower() for word in _PEER)]
        if own:
            alone = [host.name for host, end in zip(self._hosts, ends, strict=True) if end is own[0]]
            return dataclasses.replace(own[0], hosts=tuple(alone) if len(own) == 1 < len(ends) else ())
        message = errors[0].message if errors else "it did not come up"
        return Outcome("lost", f"its processes lost each other ({message})")

    def _mute(self, indices: Sequence[int]) -> list[int]:
        """Which processes do not even answer."""
        asked = [self._ranks[i].free_port.remote() for i in indices]
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER)
        alive = set()
        for reference in ready:
            with contextlib.suppress(RayActorError, RayError):
                ray.get(reference)
                alive.add(reference)
        return [i for i, reference in zip(indices, asked, strict=True) if reference not in alive]
