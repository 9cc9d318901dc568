"""Slot of the warm lane: a worker on a share of a host, kept from run to run."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from nextscale.cluster.controller.backend import Slot
from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.hosts import resource_of
from nextscale.cluster.ray.hub import RESTART, Hub, environment_of
from nextscale.cluster.ray.worker import Worker
from nextscale.model.errors import describe_error


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


class _WarmWorker(Worker):
    """A worker as a Ray actor; several threads call it."""

    def location(self) -> tuple[str, str]:
        """The platform that JAX trains on here, and the node."""
        return self.platform(), ray.get_runtime_context().get_node_id()

    def wait_forever(self) -> None:
        """Never returns: that it fails says that the worker is gone."""
        threading.Event().wait()


class WarmSlot:
    """A worker of the warm lane, started again wherever Ray finds room for it when it is gone."""

    def __init__(self, name: str, pool_name: str, pool: Pool, kind: str | None, hub: Hub):
        self.name, self.pool = name, pool_name
        self.idle_since: float | None = None
        self._hub, self._resource = hub, resource_of(pool.accelerator)
        self._options = options_of(pool, kind)
        self.kind = f"{kind or self._resource} {pool.chips_per_run:g}"
        """What others want that want the same."""
        self._life = 0
        """Counts the workers: what comes from one that was given up is not heard."""
        self._attempt = 0
        self.running: Job | None = None
        self._node = ""
        self._actor: Any = None
        self.renew()

    def as_slot(self) -> Slot | None:
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
        self._hub.on_result(self._actor.run.remote(job, seat, self._attempt), done)

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
        self._actor = ray.remote(_WarmWorker).options(max_concurrency=3, **self._options).remote(self._hub.uses_jax)
        self._hub.on_result(self._actor.location.remote(), functools.partial(self._up, self._life))

    def give_way(self) -> None:
        """Leaves its place, idle, to whoever has asked for one by now, and asks for another."""
        self._life += 1
        self.idle_since = None
        ray.kill(self._actor)
        self._actor = None
        self._hub.call_later(RESTART, functools.partial(self._again, self._life))

    def close(self) -> None:
        self._life += 1
        with contextlib.suppress(Exception):  # where Ray is gone, so is the worker
            ray.kill(self._actor)

    def _up(self, life: int, answer: Any, error: Exception | None) -> None:
        if life != self._life:
            return
        if error is not None:
            self._hub.notice(f"a worker is not up, and is started again: {reason(error)}")
            self._hub.call_later(RESTART, functools.partial(self._again, life))
            return
        platform, self._node = answer
        if self._resource != "CPU" and platform == "cpu":
            self._hub.drop_unusable(self.name)
            return
        self.idle_since = time.monotonic()
        self._hub.on_result(self._actor.wait_forever.remote(), functools.partial(self._gone, life))

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
        if self._hub.gives_way(self.kind):
            self.give_way()

    def _end(self, outcome: Outcome) -> None:
        job, self.running = self.running, None
        if job is not None:
            self._hub.ended(self.name, job, outcome)


def reason(error: Exception) -> str:
    """One line of an error of Ray's, which runs to pages: its cause if it has one, else its last line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return describe_error(cause)
    last = [line for line in str(error).splitlines() if line.strip()][-1:]
    return f"{type(error).__name__}: {''.join(last).strip()}"
