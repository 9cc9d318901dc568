"""Job: one run to be trained, as the controller hands it to a slot; Outcome: how an attempt at it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from nextscale.cluster.controller.lease import Heartbeat
from nextscale.cluster.hardware.seat import Seat
from nextscale.model.config.external import AnyRun
from nextscale.model.config.run import Parent


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to be done.

    Attributes:
        directory: where it lives, on a file system that all workers share; with a `bucket`, of this machine alone.
        flops: its training FLOPs, in so many `steps`; of a branch those after its trunk's.
        shape: runs of equal shape share a compiled program.
        seats: where it may be trained, the preferred first.
        start: the state of another run that it waits for, and begins from.
        every_seconds, keep, final, pinned: see `nextscale.model.training.checkpoint.CheckpointPolicy`.
        whole_flops: of a branch, from its first token on: what it takes where that state is gone.
        stop_seconds: that it asks for to save itself in.
        bucket: its address, where it lives in a bucket: a worker makes its directory anew; empty where it does not.
        silent, attempt: see `nextscale.cluster.controller.lease.Lease`.
    """

    run_id: str
    config: AnyRun
    directory: str
    flops: float
    steps: int
    shape: str
    seats: tuple[Seat, ...] = ()
    start: Parent | None = None
    every_seconds: float = 30.0
    keep: int = 2
    final: bool = True
    pinned: tuple[int, ...] = ()
    silent: Heartbeat | None = None
    attempt: int = 0
    whole_flops: float | None = None
    stop_seconds: float = 0.0
    bucket: str = ""

    @property
    def place(self) -> Path | str:
        """Where its leases are."""
        return self.bucket or Path(self.directory)

    @property
    def whole(self) -> Job:
        """The same from its first token on."""
        flops = self.whole_flops or self.flops
        seats = tuple(dataclasses.replace(seat, seconds=seat.seconds * flops / self.flops) for seat in self.seats)
        return dataclasses.replace(self, start=None, flops=flops, seats=seats)


Status = Literal["finished", "stopped", "held", "input", "error", "memory", "unfit", "uprooted", "lost"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        status: `finished`: the run has its record; `stopped`: it was asked to stop, and has saved itself; `held`:
            another process is at work on the run, with `heartbeat` its last; `input`: for a person to mend; `error`:
            the run's own failure; `memory`: it ran out, and less is next (the attempt is noted in the run's directory);
            `unfit`: not even the least fits there, so another pool is next; `uprooted`: the state that it was to begin
            from is gone or damaged, so all of it is next; `lost`: the worker, its host or one of a gang's hosts went
            away, or was taken away.
        hosts: those that failed, where that is known; empty where it is nobody's fault or everybody's.
    """

    status: Status
    message: str = ""
    heartbeat: Heartbeat | None = None
    hosts: tuple[str, ...] = ()
