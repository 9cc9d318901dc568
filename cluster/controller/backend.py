"""Interface of a cluster to the controller: slots that each train one run at a time, and may come and go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat

LOST = 75
"""Exit code of a process that ends for want of its cluster: EX_TEMPFAIL of sysexits.h, so that it is started again."""


class ClusterLost(ConnectionError):
    """The cluster went away, and nothing is wrong with what it was to do: the same again goes on from there."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """A share of a device (warm lane) or a slice (gang lane), where one run at a time can be trained.

    Attributes:
        name: unique; a slot that comes back after its host was lost may have the same.
        hosts: that it is on, as the cluster names them.
        draining: whether its hosts are about to be taken away: nothing is started there, what runs is stopped.
    """

    name: str
    pool: str
    hosts: tuple[str, ...] = ()
    draining: bool = False


@dataclasses.dataclass(frozen=True)
class Ended:
    """An attempt that has ended; its slot is idle again, or gone."""

    slot: str
    job: Job
    outcome: Outcome


class Backend(Protocol):
    """Where runs are trained. One thread calls it; nothing but `wait` takes time."""

    def pools(self) -> Mapping[str, Pool]:
        """By name; with `auto`, those that were read off the cluster."""

    def slots(self) -> list[Slot]:
        """All that are up, busy ones too, the longest idle first."""

    def start(self, slot: str, job: Job, seat: Seat) -> None:
        """Gives an idle slot a job."""

    def stop(self, slot: str) -> None:
        """Asks the run there to save itself and end, as `stopped`; it may also end otherwise."""

    def kill(self, slot: str) -> None:
        """Ends what is there at once, as `lost`, and renews the slot: for a run that is stuck."""

    def renew(self, slot: str) -> None:
        """Puts a fresh worker in the place of an idle one that failed."""

    def wait(self, timeout: float) -> list[Ended]:
        """The attempts that ended, after `timeout` seconds at the latest.

        Raises:
            ClusterLost: there is no cluster any more.
        """

    def now(self) -> float:
        """Seconds, on a clock that only goes forward."""

    def waiting(self, runs: int) -> None:
        """Is told again and again how many runs wait for a slot: for the others that share a cluster."""

    def notices(self) -> list[str]:
        """What a person should know of the cluster since this was last asked."""

    def close(self) -> None:
        """Stops all workers."""
