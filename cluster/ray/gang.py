"""Gang: the processes of one run on all hosts of a slice, or of several; one fresh process on each host."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.hosts import resource_of
from nextscale.cluster.ray.rank import Rank
from nextscale.cluster.ray.slices import HostReservation
from nextscale.model.errors import describe_error

SIBLINGS = 10.0
"""Seconds that the others of a gang have to show how they fare, once one of them ended."""
_ANSWER = 5.0
"""Seconds in which a process that lives says so."""
_START = 300.0
"""Seconds for the processes to come up."""
_PEER = (
    *("gloo", "peer", "connection", "heartbeat", "coordination service", "unavailable", "deadline exceeded"),
    *("aborted", "cancelled", "nccl", "barrier", "socket closed", "shutdown"),
)
"""Words of an error that tells of another process, not of its own."""


class Gang:
    """The processes of one run on the hosts of a reservation. `run` blocks; other threads may `stop` and `kill`."""

    def __init__(self, reservation: HostReservation, pool: Pool, environment: Mapping[str, str], uses_jax: bool = True):
        self._hosts, self._pool = reservation.hosts, pool
        self._killed = threading.Event()
        resource = resource_of(pool.accelerator)
        common: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 4}
        if resource == "CPU":
            common["num_cpus"] = pool.chips
        elif resource == "GPU":
            common["num_gpus"] = pool.chips
        else:
            common["resources"] = {"TPU": pool.chips}
        self._ranks: list[Any] = [
            ray.remote(Rank)
            .options(
                **common,
                runtime_env={"env_vars": {**environment, **self._neighbours(i)}},
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    reservation.group, placement_group_bundle_index=bundle
                ),
            )
            .remote(uses_jax)
            for i, bundle in enumerate(reservation.bundles)
        ]

    def _neighbours(self, i: int) -> dict[str, str]:
        """What a process of one of several TPU slices is told of the others."""
        if resource_of(self._pool.accelerator) != "TPU" or self._pool.slices_per_run == 1:
            return {}
        from ray.util.tpu import get_tpu_coordinator_env_vars

        number = i // self._pool.hosts
        return get_tpu_coordinator_env_vars(self._hosts[0].address, self._pool.slices_per_run, number)

    def run(self, job: Job, seat: Seat) -> Outcome:
        """Trains a run to its end; the processes are gone when this returns."""
        try:
            outcome = self._run(job, seat)
            with contextlib.suppress(RayError, TimeoutError):
                names = tuple(host.name for host in self._hosts)
                ray.get(self._ranks[0].end.remote(job, outcome, names), timeout=_ANSWER)
        finally:
            for rank in self._ranks:
                ray.kill(rank)
        return outcome

    def stop(self) -> None:
        for rank in self._ranks:
            rank.stop.remote(0)

    def kill(self) -> None:
        self._killed.set()

    def _run(self, job: Job, seat: Seat) -> Outcome:
        since = time.monotonic()
        # All say that they are up before one takes the run: none is to be held for processes that do not come.
        up = self._ends([rank.free_port.remote() for rank in self._ranks], _START)
        if any(isinstance(end, Outcome) or end is None for end in up):
            return self._verdict(up)
        coordinator = f"{self._hosts[0].address}:{up[0]}"
        begun = self._ends([self._ranks[0].begin.remote(job, time.monotonic() - since)], _START)[0]
        if begun is not True:
            return begun or self._lost(0, "it was not told whether the run is ours")
        accelerated = resource_of(self._pool.accelerator) != "CPU"
        n = len(self._ranks)
        ends = self._ends(
            [rank.train.remote(job, seat, coordinator, n, i, accelerated) for i, rank in enumerate(self._ranks)]
        )
        return self._verdict(ends)

    def _ends(self, references: list[Any], timeout: float = float("inf")) -> list[Any]:
        """What came of a call to each process: its result; an Outcome `lost` where it died, `error` where it raised;
        None where it had come to nothing when it was given up."""
        ends: list[Any] = [None] * len(references)
        pending = {reference: i for i, reference in enumerate(references)}
        until = time.monotonic() + timeout
        while pending and time.monotonic() < until and not self._killed.is_set():
            done, _ = ray.wait(list(pending), num_returns=1, timeout=0.5)
            for reference in done:
                i = pending.pop(reference)
                ends[i] = self._end(reference, i)
                if isinstance(ends[i], Outcome):
                    until = min(until, time.monotonic() + (0 if ends[i].status == "held" else SIBLINGS))
        return ends

    def _end(self, reference: Any, i: int) -> Any:
        try:
            return ray.get(reference)
        except RayTaskError as error:  # the process lives, and raised this
            return Outcome("error", describe_error(getattr(error, "cause", None) or error))
        except RayError as error:
            return self._lost(i, type(error).__name__)

    def _lost(self, i: int, reason: str) -> Outcome:
        host = self._hosts[i].name
        return Outcome("lost", f"process {i} of {len(self._hosts)}, on {host}, is gone ({reason})", hosts=(host,))

    def _verdict(self, ends: Sequence[Any]) -> Outcome:
        """How a gang ended, from what came of each process: a host that went away shows as errors on all the others."""
        if self._killed.is_set():
            return Outcome("lost", "it was taken for stuck, and killed")
        by_status: dict[str, list[Outcome]] = {}
        for end in ends:
            if isinstance(end, Outcome):
                by_status.setdefault(end.status, []).append(end)
        for status in ("finished", "held", "stopped"):  # the run's own state says so
            if status in by_status:
                return by_status[status][0]
        gone = by_status.get("lost", [])
        silent = [i for i, end in enumerate(ends) if end is None]
        if silent:
            gone = gone + [self._lost(i, "silent") for i in self._mute(silent)]
        if gone:
            hosts = tuple(dict.fromkeys(host for outcome in gone for host in outcome.hosts))
            return Outcome("lost", gone[0].message, hosts=hosts)
        for status in ("memory", "unfit", "uprooted", "input"):
            if status in by_status:
                return by_status[status][0]
        errors = by_status.get("error", [])
        own = [error for error in errors if not any(word in error.message.lower() for word in _PEER)]
        if own:
            alone = [host.name for host, end in zip(self._hosts, ends, strict=True) if end is own[0]]
            return dataclasses.replace(own[0], hosts=tuple(alone) if len(own) == 1 < len(ends) else ())
        message = errors[0].message if errors else "it did not come up"
        return Outcome("lost", f"its processes lost each other ({message})")

    def _mute(self, indices: Sequence[int]) -> list[int]:
        """Which processes do not even answer."""
        answers = [self._ranks[i].free_port.remote() for i in indices]
        ready, _ = ray.wait(answers, num_returns=len(answers), timeout=_ANSWER)
        alive = set()
        for reference in ready:
            with contextlib.suppress(RayActorError, RayError):
                ray.get(reference)
                alive.add(reference)
        return [i for i, reference in zip(indices, answers, strict=True) if reference not in alive]
