"""Compiles the steps of runs, for devices here or described: a process that is asked by `compiler.py`.

The compiler of TPUs, libtpu, needs no TPU: a slice is described by its topology.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from nextscale.model.config.run import RunConfig
from nextscale.model.errors import InputError, describe_error
from nextscale.model.external.asked import answer_lines
from nextscale.model.network.sharding import Layout, mesh_of, mesh_on
from nextscale.model.training.memory import lowered_steps
from nextscale.model.training.step import MemorySaving


@functools.cache
def described(topology: str, slices: int, hosts: tuple[int, ...] | None) -> list[Any]:
    """The devices of TPU slices that are not here.

    Args:
        topology: a kind of TPU and the shape of a slice, such as `v5e:2x4`.
        hosts: the shape of a host's chips, where that is not the usual one.

    Raises:
        InputError: libtpu is not installed, or knows no such slice.
    """
    options: dict[str, Any] = {} if slices == 1 else {"num_slices": slices}
    if hosts is not None:
        options["chips_per_host_bounds"] = list(hosts)
    try:
        return list(topologies.get_topology_desc(topology, "tpu", **options).devices)
    except Exception as error:
        raise InputError(f"libtpu: {describe_error(error)}") from error


def mesh_for(
    layout: Layout, topology: str | None, slices: int = 1, hosts: tuple[int, ...] | None = None
) -> Mesh | None:
    """The mesh of a layout: on described TPUs, or on the devices here where no topology is given."""
    if topology is None:
        return mesh_of(layout)
    return mesh_on(layout, described(topology, slices, hosts)[: layout.devices])


def compiled(
    config: RunConfig, mesh: Mesh | None, saving: MemorySaving
) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """The steps of a run, compiled, and what that took and says: `seconds`, `cpu_seconds` of all threads, and bytes of
    each device, `state_bytes` (with the batches of a call) and `temporary_bytes`, all else.

    Raises:
        InputError: the compiler does not say.
    """
    lowered = lowered_steps(config, mesh, saving)
    began, worked = time.perf_counter(), time.process_time()
    program = lowered.compile()
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - worked}
    if (memory := program.memory_analysis()) is None:
        raise InputError("the compiler does not say what memory the program takes")
    return program, took | {
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    """What `compiled` says, or `{error}`, to `{config, layout, micro_batches, recompute, topology, slices, hosts}`."""
    try:
        config = RunConfig.model_validate(asked["config"])
        hosts = None if asked["hosts"] is None else tuple(asked["hosts"])
        mesh = mesh_for(Layout.parse(asked["layout"]), asked["topology"], asked["slices"], hosts)
        return compiled(config, mesh, MemorySaving(asked["micro_batches"], asked["recompute"]))[1]
    except Exception as error:
        return {"error": describe_error(error)[:300]}


if __name__ == "__main__":
    answer_lines(_answer)
