"""Hosts of a Ray cluster, in our words, and the pools that they make: what `pools: auto` stands for."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from nextscale.cluster.hardware.catalogue import CATALOGUE, by_ray_type
from nextscale.cluster.hardware.pool import Pool

_KIND, _SLICE, _WORKER = "ray.io/accelerator-type", "ray.io/tpu-slice-name", "ray.io/tpu-worker-id"
_TOPOLOGY = "ray.io/tpu-topology"

Kind = tuple[str, int, int, str | None]
"""Of slices: accelerator, hosts, chips of each, topology."""


@dataclasses.dataclass(frozen=True)
class Host:
    """One node of the cluster that is up.

    Attributes:
        name: for people, and one host's alone.
        node: by which Ray knows it.
        kind: of its accelerators, as Ray says it.
    """

    name: str
    node: str
    address: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    kind: str | None = None
    draining: bool = False

    @property
    def slice_name(self) -> str | None:
        """Of the TPU slice that it belongs to."""
        return self.labels.get(_SLICE)

    @property
    def worker(self) -> int:
        """Its number in its TPU slice."""
        return int(self.labels.get(_WORKER) or 0)

    def count(self, resource: str) -> int:
        return int(self.resources.get(resource, 0))


def hosts_of(nodes: Iterable[Mapping[str, Any]], draining: Container[str] = ()) -> list[Host]:
    """What `ray.nodes()` says is alive."""
    found = []
    for node in nodes:
        if node["Alive"]:
            resources, labels = node["Resources"], node.get("Labels") or {}
            types = (name.partition(":")[2] for name in resources if name.startswith("accelerator_type:"))
            address, id_ = node["NodeManagerAddress"], node["NodeID"]
            kind = labels.get(_KIND) or next(types, None)
            found.append(Host(f"{address}-{id_[:6]}", id_, address, resources, labels, kind, id_ in draining))
    return found


def accelerator_of(kind: str | None) -> str:
    """The catalogue's name of what Ray calls `kind`: of `TPU-V5LITEPOD` tpu-v5e, of `H100` h100."""
    known = None if kind is None else by_ray_type(kind)
    return (kind or "gpu").lower() if known is None else known.name


def resource_of(accelerator: str) -> str:
    """The resource that Ray counts its chips in."""
    return "CPU" if accelerator == "cpu" else "TPU" if accelerator.startswith("tpu") else "GPU"


def kind_of(accelerator: str, hosts: Iterable[Host]) -> str | None:
    """What Ray calls an accelerator of the catalogue: where a host has it, as that says it.

    None where some host does not tell what it has, so that it may be that.
    """
    there = {host.kind for host in hosts if host.count(resource_of(accelerator))}
    kinds = {kind or "" for kind in there if accelerator_of(kind) == accelerator} - {""}
    if not kinds and accelerator.startswith("a100"):  # Ray often tells no more of them
        kinds = {"A100"} & there
    known = CATALOGUE.get(accelerator)
    if kinds or None in there or known is None or known.platform == "cpu":
        return min(kinds, default=None)
    return known.ray_types[0] if known.ray_types else None


def slices_of(hosts: Iterable[Host]) -> dict[str, list[Host]]:
    """TPU slices of several hosts by name, each in the order of its workers; also those that lack hosts."""
    slices: dict[str, list[Host]] = defaultdict(list)
    for host in hosts:
        if host.slice_name and host.count("TPU"):
            slices[host.slice_name].append(host)
    return {
        name: sorted(members, key=lambda host: host.worker)
        for name, members in slices.items()
        if len(members) > 1 or not is_whole(members)
    }


def is_whole(members: Sequence[Host]) -> bool:
    """Whether these are all hosts of their slice, as far as its topology tells."""
    topology = members[0].labels.get(_TOPOLOGY)
    return topology is None or chips_of(topology) <= sum(host.count("TPU") for host in members)


def chips_of(topology: str) -> int:
    """16 of 4x4."""
    return math.prod(int(side) for side in topology.split("x"))


def pools_of(hosts: Sequence[Host]) -> dict[str, Pool]:
    """The pools that there are: every GPU and every whole TPU slice or, where there are none, every CPU core.

    Hosts alike make one pool, a warm lane of one chip a run; TPU slices of several hosts alike make one of a gang lane.
    """
    slices = slices_of(hosts)
    in_slice = {host.node for members in slices.values() for host in members}
    alike: dict[Kind, int] = defaultdict(int)
    for members in slices.values():
        if is_whole(members):
            first = members[0]
            alike[accelerator_of(first.kind), len(members), first.count("TPU"), first.labels.get(_TOPOLOGY)] += 1
    for host in hosts:
        if host.count("GPU"):
            alike[accelerator_of(host.kind), 1, host.count("GPU"), None] += 1
        elif host.count("TPU") and host.node not in in_slice:
            alike[accelerator_of(host.kind or "tpu"), 1, host.count("TPU"), host.labels.get(_TOPOLOGY)] += 1
    return _named(alike) or cpu_pools_of(hosts)


def cpu_pools_of(hosts: Iterable[Host]) -> dict[str, Pool]:
    """Pools of CPU cores, one for each number of cores that hosts have."""
    alike: dict[Kind, int] = defaultdict(int)
    for host in hosts:
        if host.count("CPU"):
            alike["cpu", 1, host.count("CPU"), None] += 1
    return _named(alike)


def _named(alike: Mapping[Kind, int]) -> dict[str, Pool]:
    """A pool for each kind of slice and how many there are: named for what it is made of, as shortly as tells it from
    the others."""
    accelerators = [accelerator for accelerator, *_ in alike]
    pools = {}
    for (accelerator, hosts, chips, topology), slices in sorted(alike.items(), key=str):
        alone = accelerators.count(accelerator) == 1
        name = accelerator if alone else f"{accelerator}-{topology or (f'{hosts}x{chips}' if hosts > 1 else chips)}"
        name = name if name not in pools else f"{name}-{hosts}x{chips}"
        pools[name] = Pool(accelerator=accelerator, hosts=hosts, chips=chips, slices=slices, topology=topology)
    return pools
