"""Ray, behind as narrow a face as the controller needs."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import time
from typing import Any, Literal, Protocol

from nextscale.cluster.job import Job, Outcome
from nextscale.cluster.worker import Worker, in_one_line

_ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
"""One run a core: small matrices gain nothing from threads, and runs side by side lose much to each other's."""

_RESTART = 10.0
"""Seconds before a worker that did not come up is started again."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """An attempt that has ended."""

    worker: str
    job: Job
    outcome: Outcome


class Backend(Protocol):
    """Workers that each do one job at a time; they may come and go."""

    def idle(self) -> list[str]:
        """Names of the workers that are up and have nothing to do, the longest idle first."""

    def start(self, worker: str, job: Job) -> None:
        """Gives an idle worker a job; returns at once."""

    def wait(self, timeout: float) -> list[Finished]:
        """The attempts that ended, after `timeout` seconds at the latest."""

    def replace(self, worker: str) -> None:
        """Puts a fresh worker in the place of one that failed; it is idle again once it is up."""

    def notices(self) -> list[str]:
        """What a person should know of the workers since this was last asked."""

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
        self._actors: dict[str, Any] = {}
        self._idle: list[str] = []
        self._asked: dict[Any, str] = {}  # workers that have yet to answer whether they are up
        self._down: dict[str, float] = {}  # workers that did not come up, and when each is to be started again
        self._running: dict[Any, tuple[str, Job]] = {}
        self._notices: dict[str, bool] = {}  # by text, whether it has been read: nothing is said twice
        self._populate("GPU" if ray.cluster_resources().get("GPU", 0) >= 1 else "CPU")
        if not self._actors:
            raise ConnectionError(f"--address {address}: the Ray cluster has neither a GPU nor a CPU core to train on")

    def idle(self) -> list[str]:
        return list(self._idle)

    def start(self, worker: str, job: Job) -> None:
        self._idle.remove(worker)
        self._running[self._actors[worker].run.remote(job)] = (worker, job)

    def wait(self, timeout: float) -> list[Finished]:
        for worker in [worker for worker, when in self._down.items() if when <= time.monotonic()]:
            del self._down[worker]
            self._begin(worker)
        pending = [*self._asked, *self._running]
        if not pending:
            time.sleep(timeout)
            return []
        done, _ = self._ray.wait(pending, num_returns=1, timeout=timeout)
        finished = []
        for reference in done:
            if reference in self._asked:
                self._answered(self._asked.pop(reference), reference)
            else:
                worker, job = self._running.pop(reference)
                self._idle.append(worker)
                finished.append(Finished(worker, job, self._outcome(reference)))
        return finished

    def replace(self, worker: str) -> None:
        self._idle.remove(worker)
        self._ray.kill(self._actors[worker])
        self._begin(worker)
        # What took this one may have taken some that were idle: before they get a job they say that they are there.
        for other in self._idle:
            self._ask(other)
        self._idle.clear()

    def notices(self) -> list[str]:
        unread = [text for text, read in self._notices.items() if not read]
        self._notices |= dict.fromkeys(unread, True)
        return unread

    def close(self) -> None:
        self._ray.shutdown()

    def _populate(self, kind: Literal["CPU", "GPU"]) -> None:
        """A worker for each there is in all: what others hold of them now, ours wait for."""
        self._kind = kind
        for i in range(int(self._ray.cluster_resources().get(kind, 0))):
            self._begin(f"{kind.lower()}-{i}")

    def _begin(self, worker: str) -> None:
        if self._kind == "GPU":
            options: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0}
        else:
            options = {"num_cpus": 1, "runtime_env": {"env_vars": _ONE_THREAD}}
        self._actors[worker] = self._ray.remote(Worker).options(**options).remote()
        self._ask(worker)

    def _ask(self, worker: str) -> None:
        self._asked[self._actors[worker].ready.remote()] = worker

    def _answered(self, worker: str, reference: Any) -> None:
        try:
            platform = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._notice(f"a worker is not up, and is started again: {_reason(error)}")
            self._ray.kill(self._actors[worker])
            self._down[worker] = time.monotonic() + _RESTART
            return
        if self._kind == "GPU" and platform == "cpu":
            self._ray.kill(self._actors.pop(worker))
            self._notice("JAX cannot use a GPU that Ray offers, so it is left out; is the extra `gpu` installed there?")
            if not self._actors:
                self._notice("no GPU is left: training on the CPU cores")
                self._populate("CPU")
            return
        self._idle.append(worker)

    def _outcome(self, reference: Any) -> Outcome:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # the worker lives, and raised this
            return Outcome("error", _reason(error))
        except self._ray.exceptions.RayError as error:
            return Outcome("lost", f"the worker died ({_reason(error)})")

    def _notice(self, text: str) -> None:
        self._notices.setdefault(text, False)


def _reason(error: Exception) -> str:
    """One line of an error of Ray's, which runs to pages: its cause if it has one, else its last line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return in_one_line(cause)
    last = [line for line in str(error).splitlines() if line.strip()][-1:]
    return f"{type(error).__name__}: {''.join(last).strip()}"


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
