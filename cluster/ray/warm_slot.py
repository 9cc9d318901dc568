"""The slots of both lanes: a worker on a share of a host, kept warm; a slice, held for gangs.

All here is called by one thread. What takes time ends in `Hub.then`, which is called by that thread too.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from nextscale.cluster.controller.backend import Slot
from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.hardware.placement import USABLE_SHARE
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.gang import Gang, Ledger, Reservation, reserve
from nextscale.cluster.ray.hosts import Host, resource_of
from nextscale.cluster.ray.worker import Worker, in_one_line

_ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
"""One run a core: small matrices gain nothing from threads, and runs side by side lose much to each other's."""
RESTART = 10.0
"""Seconds before a worker that did not come up is started again, or a slice that was not to be had is asked for."""
_RESERVING = 30.0
"""Seconds for a slice to be reserved."""


_REFUSALS = 10
"""After how many times in a row that no slice was to be had, for no reason that Ray gives, it is said."""


class Hub(Protocol):
    """What slots need of the backend."""

    ledger: Ledger

    def then(self, call: Callable[[], None]) -> None:
        """Has something called by the backend's thread; any thread may say so."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """The same, in a while; its own thread says so."""

    def when(self, reference: Any, call: Callable[[Any, Exception | None], None]) -> None:
        """Calls with the result of a Ray reference, or with its error."""

    def ended(self, slot: str, job: Job, outcome: Outcome) -> None: ...

    def notice(self, text: str) -> None: ...

    def unusable(self, slot: str) -> None:
        """Leaves a slot out whose devices JAX cannot use."""

    def hosts(self) -> Mapping[str, Host]:
        """By node, those that are up."""

    @property
    def growing(self) -> bool:
        """Whether slots may be asked for that no host is there for."""


def environment_of(pool: Pool) -> dict[str, str]:
    """What a process of a pool finds in its environment: the cores or the share of a GPU's memory that it may use."""
    n = pool.chips if pool.gang else pool.chips_per_run
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


def options_of(pool: Pool, kind: str | None) -> dict[str, Any]:
    """What Ray is to be asked for one warm worker.

    Args:
        kind: of the pool's accelerators, as Ray says it.

    Raises:
        ValueError: Ray does not share out its chips so.
    """
    n, resource = pool.chips_per_run, resource_of(pool.accelerator)
    wanted: dict[str, float] = {f"accelerator_type:{kind}": 0.001} if kind and resource != "CPU" else {}
    options: dict[str, Any] = {"num_cpus": 0, "runtime_env": {"env_vars": environment_of(pool)}}
    if resource == "CPU":
        options["num_cpus"] = n
    elif resource == "GPU":
        options["num_gpus"] = n
    elif n in (1, 2, 4, 8) or n == pool.chips:
        wanted["TPU"] = n
        if pool.topology is not None:  # hosts of larger slices, whose chips are the same, are for gangs
            options["label_selector"] = {"ray.io/tpu-topology": pool.topology}
    else:
        raise ValueError(f"chips_per_run {n}: TPU chips of a host are shared out by 1, 2, 4 or 8")
    return options | ({"resources": wanted} if wanted else {})


class _Process(Worker):
    """A worker as a Ray actor; several threads call it."""

    def where(self) -> tuple[str, str]:
        """The platform that JAX trains on here, and the node."""
        return self.ready(), ray.get_runtime_context().get_node_id()

    def watch(self) -> None:
        """Never returns: that it fails says that the worker is gone."""
        threading.Event().wait()


class WarmSlot:
    """A worker of the warm lane, started again wherever Ray finds room for it when it is gone."""

    def __init__(self, name: str, pool_name: str, pool: Pool, kind: str | None, hub: Hub):
        self.name, self.pool = name, pool_name
        self.idle_since: float | None = None
        self._hub, self._resource = hub, resource_of(pool.accelerator)
        self._options = options_of(pool, kind)
        self._life = 0
        """Counts the workers: what comes from one that was given up is not heard."""
        self._attempt = 0
        self.running: Job | None = None
        self._node = ""
        self._actor: Any = None
        self.renew()

    def shown(self) -> Slot | None:
        """As the controller sees it; None while it is not up."""
        host = self._hub.hosts().get(self._node)
        if self.idle_since is None and self.running is None:
            return None
        name = host.name if host else self._node[:6]
        return Slot(self.name, self.pool, (name,), draining=host is not None and host.draining)

    @property
    def leaving(self) -> bool:
        """Whether its host is about to go; that it is gone, the worker tells."""
        host = self._hub.hosts().get(self._node)
        return host is not None and host.draining

    def start(self, job: Job, seat: Seat) -> None:
        assert self.idle_since is not None, f"{self.name} is not idle"
        self.idle_since, self.running = None, job
        self._attempt += 1
        done = functools.partial(self._done, self._life)
        self._hub.when(self._actor.run.remote(job, seat, self._attempt), done)

    def stop(self) -> None:
        if self.running is not None:
            self._actor.stop.remote(self._attempt)

    def kill(self) -> None:
        self._end(Outcome("lost", "it was taken for stuck, and killed"))
        self.renew()

    def renew(self) -> None:
        """Puts a fresh worker in the place of the one there is, if it has nothing to do."""
        if self.running is not None:
            return
        self._life += 1
        self.idle_since = None
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = ray.remote(_Process).options(max_concurrency=3, **self._options).remote()
        self._hub.when(self._actor.where.remote(), functools.partial(self._up, self._life))

    def close(self) -> None:
        self._life += 1
        with contextlib.suppress(Exception):  # where Ray is gone, so is the worker
            ray.kill(self._actor)

    def _up(self, life: int, answer: Any, error: Exception | None) -> None:
        if life != self._life:
            return
        if error is not None:
            self._hub.notice(f"a worker is not up, and is started again: {reason(error)}")
            self._hub.later(RESTART, functools.partial(self._again, life))
            return
        platform, self._node = answer
        if self._resource != "CPU" and platform == "cpu":
            self._hub.unusable(self.name)
            return
        self.idle_since = time.monotonic()
        self._hub.when(self._actor.watch.remote(), functools.partial(self._gone, life))

    def _again(self, life: int) -> None:
        if life == self._life:
            self.renew()

    def _gone(self, life: int, answer: Any, error: Exception | None) -> None:
        if life == self._life:
            host = self._hub.hosts().get(self._node)
            why = reason(error) if error else "it left"
            self._end(Outcome("lost", f"the worker died ({why})", hosts=(host.name if host else self._node[:6],)))
            self.renew()

    def _done(self, life: int, outcome: Any, error: Exception | None) -> None:
        if life != self._life or self.running is None:
            return
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            self._gone(life, None, error)
            return
        self.idle_since = time.monotonic()
        self._end(Outcome("error", reason(error)) if error is not None else outcome)

    def _end(self, outcome: Outcome) -> None:
        job, self.running = self.running, None
        if job is not None:
            self._hub.ended(self.name, job, outcome)


class GangSlot:
    """A slice of the gang lane, or as many as train one run: reserved, held from run to run, and reserved again, maybe
    elsewhere, when a host is gone or about to be."""

    def __init__(self, name: str, pool_name: str, pool: Pool, kind: str | None, hub: Hub):
        self.name, self.pool = name, pool_name
        self.idle_since: float | None = None
        self._hub, self._pool, self._kind = hub, pool, kind
        self._held: Reservation | None = None
        self.running: Job | None = None
        self._gang: Gang | None = None
        self._asking = False
        self._refusals = 0
        self._closed = False
        self._reserve()

    def shown(self) -> Slot | None:
        """As the controller sees it; None while it is not reserved."""
        if self._held is None:
            return None
        return Slot(self.name, self.pool, tuple(host.name for host in self._held.hosts), draining=self._draining())

    @property
    def leaving(self) -> bool:
        """Whether one of its hosts is gone, or about to be."""
        return self._held is not None and self._broken()

    def start(self, job: Job, seat: Seat) -> None:
        assert self.idle_since is not None, f"{self.name} is not idle"
        assert self._held is not None
        self.idle_since, self.running = None, job
        gang = self._gang = Gang(self._held, self._pool, environment_of(self._pool))

        def train() -> None:
            try:
                outcome = gang.run(job, seat)
            except Exception as error:  # Ray's own trouble; the run is as it was
                outcome = Outcome("lost", in_one_line(error))
            self._hub.then(functools.partial(self._ended, job, outcome))

        threading.Thread(target=train, daemon=True).start()

    def stop(self) -> None:
        if self._gang is not None:
            self._gang.stop()

    def kill(self) -> None:
        if self._gang is not None:
            self._gang.kill()

    def renew(self) -> None:
        """Processes are fresh for every run; so is the slice, where this one lacks a host."""
        if self._gang is None and self._held is not None and self._broken():
            self._release()
            self._reserve()

    def close(self) -> None:
        self._closed = True
        if self._gang is not None:
            self._gang.kill()

    def _draining(self) -> bool:
        now = self._hub.hosts()
        return self._held is not None and any(now[h.node].draining for h in self._held.hosts if h.node in now)

    def _broken(self) -> bool:
        now = self._hub.hosts()
        return self._draining() or self._held is None or any(host.node not in now for host in self._held.hosts)

    def _ended(self, job: Job, outcome: Outcome) -> None:
        if self._closed:
            return
        self._gang, self.running, self.idle_since = None, None, time.monotonic()
        self._hub.ended(self.name, job, outcome)
        if (outcome.status == "lost" and outcome.hosts) or self._broken():
            self._release()
            self._reserve()

    def _release(self) -> None:
        held, self._held, self.idle_since = self._held, None, None
        if held is not None:
            held.undo()

    def _reserve(self) -> None:
        if self._asking or self._closed or self._held is not None:
            return
        self._asking = True
        hosts: Sequence[Host] = list(self._hub.hosts().values())
        ledger, unseen = self._hub.ledger, self._hub.growing

        def ask() -> None:
            held, problem = None, None
            try:
                held = reserve(self._pool, self._kind, hosts, ledger, _RESERVING, unseen=unseen)
            except Exception as error:  # what Ray thinks of a pool comes as errors of many kinds
                problem = in_one_line(error)
            self._hub.then(functools.partial(self._reserved, held, problem))

        threading.Thread(target=ask, daemon=True).start()

    def _reserved(self, held: Reservation | None, problem: str | None) -> None:
        self._asking = False
        if self._closed:
            return
        if held is None:
            self._refusals += 1
            if problem is None and self._refusals == _REFUSALS:
                problem = "the hosts that it asks for are not there, or partly busy"
            if problem is not None:
                self._hub.notice(f"pool {self.pool}: no slice was to be had: {problem}")
            self._hub.later(RESTART if problem else 1.0, self._reserve)
            return
        self._held, self.idle_since, self._refusals = held, time.monotonic(), 0


def reason(error: Exception) -> str:
    """One line of an error of Ray's, which runs to pages: its cause if it has one, else its last line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return in_one_line(cause)
    last = [line for line in str(error).splitlines() if line.strip()][-1:]
    return f"{type(error).__name__}: {''.join(last).strip()}"
