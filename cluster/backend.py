"""Ray, behind as narrow a face as the controller needs."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import time
from typing import Any, Protocol

from nextscale.cluster.worker import Job, Outcome, Worker

_ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
"""One run a core: small matrices gain nothing from threads, and runs side by side lose much to each other's."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """An attempt that has ended."""

    worker: str
    job: Job
    outcome: Outcome


class Backend(Protocol):
    """Workers that each do one job at a time."""

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of all workers."""

    def start(self, worker: str, job: Job) -> None:
        """Gives a free worker a job; returns at once."""

    def wait(self, timeout: float) -> list[Finished]:
        """The attempts that ended, after `timeout` seconds at the latest."""

    def replace(self, worker: str) -> None:
        """Puts a fresh worker in the place of one that failed."""

    def close(self) -> None:
        """Stops all workers."""


class RayBackend:
    """One warm actor per GPU of a Ray cluster, or per CPU core where it has no GPU.

    Args:
        address: of a running cluster; None starts one on this machine, and stops it with `close`.
    """

    def __init__(self, address: str | None = None):
        # Set before Ray is imported: it prints, reports and asks for tokens by default.
        for name, value in {
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_raylet_start_wait_time_s": "180",
        }.items():
            os.environ.setdefault(name, value)
        import ray

        self._ray = ray
        options: dict[str, Any] = {} if address else {"include_dashboard": False}
        unreachable = ConnectionError(
            f"--address {address}: no Ray cluster answers there; start one, or leave it out to use this machine"
        )
        if address is not None and not _answers(address):
            raise unreachable
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, ValueError):
            raise unreachable from None
        resources = ray.cluster_resources()
        self._gpu = resources.get("GPU", 0) >= 1
        count = int(resources.get("GPU" if self._gpu else "CPU", 0))
        if count == 0:
            raise ConnectionError(f"--address {address}: the Ray cluster has neither a GPU nor a CPU core to train on")
        self._actors = {f"{'gpu' if self._gpu else 'cpu'}-{i}": self._actor() for i in range(count)}
        self._running: dict[Any, tuple[str, Job]] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._actors)

    def start(self, worker: str, job: Job) -> None:
        self._running[self._actors[worker].run.remote(job)] = (worker, job)

    def wait(self, timeout: float) -> list[Finished]:
        if not self._running:
            time.sleep(timeout)
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        finished = []
        for reference in done:
            worker, job = self._running.pop(reference)
            try:
                outcome = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                last = [line for line in str(error).splitlines() if line.strip()][-1:]
                outcome = Outcome("lost", f"the worker died ({type(error).__name__}: {''.join(last).strip()})")
            finished.append(Finished(worker, job, outcome))
        return finished

    def replace(self, worker: str) -> None:
        self._ray.kill(self._actors[worker])
        self._actors[worker] = self._actor()

    def close(self) -> None:
        self._ray.shutdown()

    def _actor(self) -> Any:
        if self._gpu:
            return self._ray.remote(Worker).options(num_gpus=1, num_cpus=0).remote()
        environment = {"env_vars": _ONE_THREAD}
        return self._ray.remote(Worker).options(num_cpus=1, runtime_env=environment).remote()


def _answers(address: str) -> bool:
    """Whether anything listens there: Ray itself would go on asking for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return True  # a word such as `auto`, for Ray to understand
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
