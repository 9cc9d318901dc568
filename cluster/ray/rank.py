"""Rank: one process of a gang, which joins the others and trains its part of one run."""

from __future__ import annotations

import os
import socket
import time

from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.controller.lease import Lease
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.worker import (
    Worker,
    add_attempt,
    attempt_row,
    external_attempt,
    note_fallen,
    take_lease,
    train_attempt,
)
from nextscale.model.config.external import ExternalRun
from nextscale.model.external.train import Place
from nextscale.model.record import Row

_JOINING = 120
"""Seconds to wait for the others."""


class Rank(Worker):
    """One process of a gang, for one run. The first holds the lease, and writes; the others end when it does."""

    def __init__(self, uses_jax: bool = True) -> None:
        super().__init__(uses_jax)
        self._lease: Lease | None = None
        self._row: Row = {"host": socket.gethostname(), "started": time.time()}

    def begin(self, job: Job, lived: float) -> Outcome | bool:
        """Takes the run, in the first process alone: True when it is ours to train.

        Args:
            lived: seconds that the processes took to come up.
        """
        if job.bucket:
            return Outcome(
                "input",
                f"{job.bucket}: one run over several hosts writes its checkpoints into a folder that they share, and "
                "into no bucket; name such a folder as --out, or pools whose runs are of one host each",
            )
        lease = take_lease(job, lived)
        if isinstance(lease, Outcome):
            return lease
        note_fallen(job, lease)
        self._lease = lease
        return True

    def free_port(self) -> int:
        """One that the first process may listen on for the others."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return listener.getsockname()[1]

    def train(
        self, job: Job, seat: Seat, coordinator: str, processes: int, process: int, accelerated: bool
    ) -> Outcome | bool:
        """Joins the others and trains, or has its part trained; True where that is done and says nothing of the run.

        Args:
            coordinator: where the first process listens, as host:port.
            accelerated: whether it is to be trained on anything but a CPU.
        """
        if isinstance(job.config, ExternalRun):
            self._row = attempt_row(job, seat)
            place = Place(processes, process, coordinator)
            outcome = external_attempt(job, self._lease, lambda: 0 in self._stopped, self._row, place)
            return outcome if process == 0 or outcome.status != "finished" else True
        import jax

        from nextscale.model.network.processes import join

        if processes > 1:
            # Unless told not to look, it would under Slurm take each host's first GPU alone for ours.
            options = {"initialization_timeout": _JOINING, "cluster_detection_method": "deactivate"}
            join(coordinator, processes, process, **options)
        if accelerated and jax.default_backend() == "cpu" and "JAX_PLATFORMS" not in os.environ:
            return Outcome(
                "input", f"JAX cannot use the accelerators of {socket.gethostname()}; is its extra installed?"
            )
        self._row = attempt_row(job, seat)
        return train_attempt(job, seat, self._lease, lambda: 0 in self._stopped, self._row)

    def end(self, job: Job, outcome: Outcome, hosts: tuple[str, ...]) -> None:
        """Writes down how the gang's attempt ended and gives the run back, in the first process, which may be stuck."""
        if self._lease is None:
            return
        if outcome.status != "held" and not (outcome.status == "finished" and "status" not in self._row):
            ended = {"seconds": time.time() - self._row["started"], "status": outcome.status}
            add_attempt(job, self._row | ended | {"message": outcome.message, "hosts": hosts})
        self._lease.close()
