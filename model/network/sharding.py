"""How the arrays of one run are sharded over many devices.

A mesh has three axes. Sequences of a batch are spread over `data` and `fsdp`. Weights and moments of the optimiser are
whole along `data`, and split along `fsdp` (Zhao et al. 2023: each device keeps a part, and gathers the rest when it is
used) and `tensor` (Shoeybi et al. 2019: a matrix that reads the residual stream is split by its outputs, one that
writes it by its inputs, so that what is between them never leaves a device). XLA places the communication.

A dimension that an axis does not divide is whole along it: an odd width costs memory, never a run.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from nextscale.model.config.parametrization import Group
from nextscale.model.errors import InputError

PyTree = Any
AnyMesh = Mesh | AbstractMesh
"""Within a `shard_map`, or of devices that are not here, a mesh is known by its shape alone."""

SPLIT: dict[Group, tuple[str, ...]] = {
    "embedding": ("tensor", "fsdp"),  # V x D
    "hidden": ("fsdp", "tensor"),  # D x out
    "output": ("tensor", "fsdp"),  # in x D
    "mixed": ("tensor", "fsdp"),  # in x D
    "head": ("fsdp", "tensor"),  # D x V
}
"""The axis along which each dimension of a weight is split. Other groups, the norms, are whole everywhere."""

ROWS = ("data", "fsdp")
"""The axes that the sequences of a batch are spread over."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """So many devices along each axis of the mesh. It changes where a run is computed, never what it means.

    Raises:
        InputError: a number is below 1.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise InputError(f"layout {self}: there is at least 1 device along every axis")

    def __str__(self) -> str:
        return ",".join(f"{axis}={size}" for axis, size in dataclasses.asdict(self).items())

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Reads `data=4,fsdp=2`; an axis that is not named has 1 device.

        Raises:
            InputError: the text is no layout.
        """
        axes = {field.name for field in dataclasses.fields(cls)}
        sizes: dict[str, int] = {}
        for part in text.split(","):
            axis, _, size = part.partition("=")
            if axis not in axes or axis in sizes or not size.isdecimal():
                raise InputError(f"layout {text!r}: write it as data=4,fsdp=2,tensor=1")
            sizes[axis] = int(size)
        return cls(**sizes)

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor

    @property
    def batch_shards(self) -> int:
        """Into how many parts the sequences of a batch are spread."""
        return self.data * self.fsdp


@functools.lru_cache
def mesh_of(layout: Layout) -> Mesh | None:
    """The mesh of a layout on the devices at hand; None for one device of one process, which needs none.

    Raises:
        InputError: there are fewer devices, or some process would have none to do its part on.
    """
    found, processes = jax.device_count(), jax.process_count()
    if layout.devices > found or (processes > 1 and layout.devices != found):
        raise InputError(
            f"layout {layout} is of {layout.devices} devices, but {processes} process(es) see {found}; "
            f"take e.g. data={found}"
        )
    return None if layout.devices == 1 else mesh_on(layout, jax.devices()[: layout.devices])


def mesh_on(layout: Layout, devices: Sequence[Any]) -> Mesh:
    """The mesh of a layout on as many devices, so that what talks most is nearest: `data` alone reaches over slices of
    TPUs, which a slower network joins.

    Raises:
        InputError: `data` cannot be spread over the slices.
    """
    # JAX counts hosts of GPUs as slices too, between which the network is as fast for all.
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if slices > 1 and layout.data % slices:
        raise InputError(
            f"layout {layout} is of {slices} slices of TPUs, and only data reaches over several; take a multiple of "
            f"{slices} for data"
        )
    of_slice = (layout.data // slices, layout.fsdp, layout.tensor)
    if slices > 1:
        placed = mesh_utils.create_hybrid_device_mesh(of_slice, (slices, 1, 1), devices, allow_split_physical_axes=True)
    else:
        placed = mesh_utils.create_device_mesh(of_slice, devices, allow_split_physical_axes=True)
    return Mesh(placed, tuple(dataclasses.asdict(layout)), axis_types=(AxisType.Auto,) * 3)


def shardings(mesh: Mesh | None, groups: PyTree, state: PyTree) -> PyTree:
    """Where each array of a state lies.

    What the optimiser keeps of a weight lies as that weight does: it is known by the path at the end of its own.

    Args:
        groups: the parametrization group of each weight.
        state: arrays or shapes that hold weights, and trees shaped as they are, anywhere.

    Returns:
        a `Sharding` for each array, shaped as the state.
    """
    group_of: dict[Any, Group] = dict(jax.tree_util.tree_leaves_with_path(groups))

    def of(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Sharding:
        if mesh is None:
            return SingleDeviceSharding(jax.devices()[0])
        group = next((group_of[path[i:]] for i in range(len(path)) if path[i:] in group_of), None)
        return NamedSharding(mesh, P() if group is None else weight_spec(mesh, group, leaf.shape))

    return jax.tree_util.tree_map_with_path(of, state)


def weight_spec(mesh: AnyMesh, group: Group, shape: tuple[int, ...]) -> P:
    """The axis that each dimension of a weight is split along, if any.

    That is what the weight says itself (see `modules.SplitGroup`), else what its group says. Matrices of experts, E x
    in x out, are split by their experts along `tensor`. A weight of no group, or of other dimensions, is split by its
    largest along `fsdp`.
    """
    axes: Sequence[str | None] = getattr(group, "axes", SPLIT.get(group, ()))
    if len(shape) == 3 and len(axes) == 2:
        axes = ("tensor", *(None if axis == "tensor" else axis for axis in axes))
    if len(axes) != len(shape):
        largest = int(np.argmax(shape)) if shape and group in (*SPLIT, "other") else None
        axes = ["fsdp" if i == largest else None for i in range(len(shape))]
    return P(*(axis if axis and n % mesh.shape[axis] == 0 else None for axis, n in zip(axes, shape, strict=True)))


def replicated(mesh: AnyMesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def rows_sharding(mesh: AnyMesh) -> NamedSharding:
    """Of batches, K x B x (T+1)."""
    return NamedSharding(mesh, P(None, ROWS))


def free_axes(mesh: AnyMesh) -> tuple[str, ...]:
    """The axes that XLA spreads arrays over: all but those of a `shard_map` around us, in which a device has its own
    part of an array and knows no other."""
    return tuple(axis for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual)


def shard_map(f: Callable[..., Any], mesh: AnyMesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """A function that each device computes of its own parts."""
    return jax.shard_map(
        f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=set(free_axes(mesh)), check_vma=False
    )


def row_axes(mesh: AnyMesh, n: int) -> tuple[str, ...] | None:
    """The axes that n rows are spread over; None, so that every device has them all, where they do not divide."""
    axes = tuple(axis for axis in ROWS if axis in free_axes(mesh))
    return axes if n % math.prod(mesh.shape[axis] for axis in axes) == 0 else None


def shard_rows(mesh: AnyMesh | None, x_NxD: jax.Array) -> jax.Array:
    """A residual stream, spread as the sequences are, and whole along `tensor`.

    Unless told, XLA splits it by features where the weights along `fsdp` are, and every device computes every sequence.
    """
    if mesh is None:
        return x_NxD
    return jax.lax.with_sharding_constraint(x_NxD, NamedSharding(mesh, P(row_axes(mesh, len(x_NxD)))))


def local_rows(mesh: Mesh | None, B: int) -> tuple[int, int]:
    """(first, end) of the sequences of a batch that the devices of this process need."""
    if mesh is None:
        return 0, B
    held = NamedSharding(mesh, P(ROWS)).addressable_devices_indices_map((B,)).values()
    spans = [index[0].indices(B) for index in held if index is not None]
    return min(first for first, _, _ in spans), max(end for _, end, _ in spans)


def place_local_batches(mesh: Mesh | None, batches_KxbxT1: np.ndarray, B: int) -> np.ndarray | jax.Array:
    """Batches, K x B x (T+1), on the devices of a mesh.

    Args:
        batches_KxbxT1: this process's rows of them (see `local_rows`).
    """
    if mesh is None:
        return batches_KxbxT1
    K, _, T1 = batches_KxbxT1.shape
    first, _ = local_rows(mesh, B)

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, end, _ = index[1].indices(B)
        return batches_KxbxT1[:, start - first : end - first]

    return jax.make_array_from_callback((K, B, T1), rows_sharding(mesh), part)


def mesh_of_params(params: PyTree) -> Mesh | None:
    """The mesh that weights lie on; None on one device."""
    shardings = (leaf.sharding for leaf in jax.tree.leaves(params))
    return next((s.mesh for s in shardings if isinstance(s, NamedSharding) and isinstance(s.mesh, Mesh)), None)


def place_whole_batches(mesh: Mesh | None, batches_SxBxT1: np.ndarray) -> np.ndarray | jax.Array:
    """Batches that every process holds whole, on the devices of a mesh; as they are on one device."""
    if mesh is None:
        return batches_SxBxT1
    sharding = NamedSharding(mesh, P(None, row_axes(mesh, batches_SxBxT1.shape[1])))
    return jax.make_array_from_callback(batches_SxBxT1.shape, sharding, lambda index: batches_SxBxT1[index])


def scalar_sharding(array: jax.Array | jax.ShapeDtypeStruct) -> Sharding | None:
    """Where a scalar lies that comes with an array: on the same devices, whole on each."""
    sharding = getattr(array, "sharding", None)
    return replicated(sharding.mesh) if isinstance(sharding, NamedSharding) else sharding
