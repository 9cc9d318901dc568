"""Reservation of hosts and whole TPU slices for gangs.

Here alone are placement groups and `ray.util.tpu`, whose face is alpha.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import placement_group, placement_group_table, remove_placement_group

from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.ray.hosts import Host, hosts_of, is_whole, resource_of, slices_of

_VERSIONS = {"tpu-v5e": "v5litepod"}
"""TPUs that go by another name in Ray."""


@dataclasses.dataclass(frozen=True)
class HostReservation:
    """The hosts of a slot, in the order of its processes, held until they are released.

    Attributes:
        bundles: the index of each host's bundle in the group.
        slices: by name, of TPUs of several hosts.
    """

    group: Any
    hosts: tuple[Host, ...]
    bundles: tuple[int, ...]
    slices: tuple[str, ...] = ()
    release: Callable[[], None] = lambda: None


class SliceLedger:
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
    pool: Pool, kind: str | None, hosts: Sequence[Host], ledger: SliceLedger, timeout: float, *, unseen: bool
) -> HostReservation | None:
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
    return _placed(group, timeout, lambda: remove_placement_group(group))


def _reserve_slices(
    pool: Pool, kind: str | None, hosts: Sequence[Host], ledger: SliceLedger, timeout: float, *, unseen: bool
) -> HostReservation | None:
    from ray.util.tpu import slice_placement_group

    def fits(members: list[Host]) -> bool:
        first = members[0]
        alike = len(members) == pool.hosts and first.count("TPU") == pool.chips and kind in (None, first.kind)
        return alike and is_whole(members) and not any(host.draining for host in members)

    known = {name: members for name, members in slices_of(hosts).items() if fits(members)}
    names = ledger.take(pool.slices_per_run, list(known))
    if not names and not unseen:
        return None
    heads: list[Any] = []
    handle: Any = None

    def release() -> None:
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
            release()
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
        reservation = _placed(handle.placement_group, timeout, release)
    except TimeoutError:
        release()
        return None
    except BaseException:
        release()
        raise
    if reservation is None or names:
        return reservation and dataclasses.replace(reservation, slices=names)
    names = tuple(dict.fromkeys(host.slice_name or "" for host in reservation.hosts))
    if ledger.take(len(names), names) != names:  # Ray gave us what we have
        names = ()
        release()
        return None
    return dataclasses.replace(reservation, slices=names)


def _placed(group: Any, timeout: float, release: Callable[[], None]) -> HostReservation | None:
    """A group once Ray has placed it; undone where it has not in time."""
    ready, _ = ray.wait([group.ready()], timeout=timeout)
    try:
        if not ready:
            release()
            return None
        ray.get(ready)
    except RayError:
        release()
        return None
    placed: Mapping[int, str] = placement_group_table(group)["bundles_to_node_id"]
    by_node = {host.node: host for host in hosts_of(ray.nodes())}
    if not set(placed.values()) <= by_node.keys():
        release()
        return None
    # The index of a bundle says nothing of the worker that it came to lie on.
    order = sorted(placed, key=lambda i: (by_node[placed[i]].slice_name or "", by_node[placed[i]].worker, int(i)))
    hosts = tuple(by_node[placed[i]] for i in order)
    return HostReservation(group, hosts, tuple(map(int, order)), release=release)


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
