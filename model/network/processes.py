"""What the processes that train one run together agree on and exchange."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nextscale.model.network.sharding import replicated

_SILENCE = 30
"""Seconds without a sign of life after which a process is given up by the others; JAX would wait for 100."""


def join(coordinator: str, processes: int, process: int, **options: Any) -> None:
    """Makes this process one of several that train one run together.

    Args:
        coordinator: where process 0 listens, as host:port.
        options: further ones of `jax.distributed.initialize`.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    told: dict[str, Any] = {
        "heartbeat_timeout_seconds": _SILENCE,
        "shutdown_timeout_seconds": _SILENCE,
        # All is told. Else JAX would under Slurm take each host's first GPU alone for ours.
        "cluster_detection_method": "deactivate",
    }
    jax.distributed.initialize(coordinator, processes, process, **told | options)


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def of_first_process(numbers: Sequence[int]) -> list[int]:
    """What the first process has, in every process: whole numbers of 0 and above."""
    if jax.process_count() == 1:
        return list(numbers)
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    mine = np.array(numbers if jax.process_index() == 0 else [0] * count, np.uint64)
    # JAX takes no numbers of 64 bits.
    halves = np.asarray(multihost_utils.broadcast_one_to_all(mine.view(np.uint32)))
    return [int(number) for number in halves.view(np.uint64)]


def poll_processes(mesh: Mesh | None, ask: Callable[[], Sequence[bool]]) -> Callable[[], Sequence[bool]]:
    """What any process answers yes to.

    Where there is one process it is asked when the result is called. Of several, each is asked now, and what they
    agree on travels in front of what is given to the devices next: no process waits for another but in the steps that
    they do together anyway.

    Returns:
        gives the answers, the same in every process.
    """
    if mesh is None or jax.process_count() == 1:
        return ask
    answers = np.array([ask()], np.int32)
    every = NamedSharding(mesh, P(mesh.axis_names))
    shape = (mesh.size, answers.shape[1])
    agreed = _largest(mesh)(jax.make_array_from_callback(shape, every, lambda index: answers))
    return lambda: np.asarray(agreed).astype(bool).tolist()


@functools.lru_cache
def _largest(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda answers: answers.max(axis=0), out_shardings=replicated(mesh))


def gather(array: jax.Array) -> np.ndarray:
    """An array, whole, in every process, wherever it lies."""
    return np.asarray(array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True))
