"""What slots of both lanes share: the interface of their backend, and the environment of their processes.

All here is called by one thread. What takes time ends in `Hub.call_soon`, which is called by that thread too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.hardware.placement import USABLE_SHARE
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.ray.hosts import Host, resource_of
from nextscale.cluster.ray.slices import SliceLedger

RESTART = 10.0
"""Seconds before a worker that did not come up is started again, or a slice that was not to be had is asked for."""
_ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
"""One run a core: small matrices gain nothing from threads, and runs side by side lose much to each other's."""


class Hub(Protocol):
    """What slots need of the backend."""

    ledger: SliceLedger
    uses_jax: bool
    """Whether processes train by themselves; else the devices are for those that they start."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Has something called by the backend's thread; any thread may say so."""

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """The same, in a while; its own thread says so."""

    def on_result(self, reference: Any, call: Callable[[Any, Exception | None], None]) -> None:
        """Calls with the result of a Ray reference, or with its error."""

    def ended(self, slot: str, job: Job, outcome: Outcome) -> None: ...

    def notice(self, text: str) -> None: ...

    def gives_way(self, kind: str) -> bool:
        """Whether an idle slot of that kind is to be given up, for another sweep; if so, it is taken to be."""

    def drop_unusable(self, slot: str) -> None:
        """Leaves a slot out whose devices JAX cannot use."""

    def hosts(self) -> Mapping[str, Host]:
        """By node, those that are up."""

    @property
    def may_grow(self) -> bool:
        """Whether slots may be asked for that no host is there for."""


def environment_of(pool: Pool) -> dict[str, str]:
    """What a process of a pool finds in its environment: the cores or the share of a GPU's memory that it may use."""
    n = pool.chips if pool.gang else pool.chips_per_run
    return _limits(pool, n) | {"NPROC_PER_NODE": "1" if resource_of(pool.accelerator) == "CPU" else str(max(int(n), 1))}


def _limits(pool: Pool, n: float) -> dict[str, str]:
    if resource_of(pool.accelerator) == "CPU":
        if n <= 1:
            return _ONE_THREAD
        cores = str(int(n))
        threads = {"OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": cores, "NPROC": cores}
        return {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"} | threads  # NPROC: the threads of XLA
    if resource_of(pool.accelerator) == "GPU":
        # Ray shares out devices, not their memory; and JAX by itself would take less than runs are placed by.
        return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{USABLE_SHARE * min(n, 1):.3f}"}
    return {}
