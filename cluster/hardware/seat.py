"""Seat: how a run would be trained in one pool, how long that would take and at what price."""

from __future__ import annotations

import dataclasses

from nextscale.model.network.kernels import Recompute


@dataclasses.dataclass(frozen=True)
class Seat:
    """How a run would be trained in one pool.

    Attributes:
        layout: over the devices of a slot, as `nextscale.model.network.sharding.Layout.parse` reads it; empty
            where an external trainer has all of it.
        seconds: that the whole run is expected to take there.
        usd_per_hour: of the slot.
        chips: of the slot.
        micro_batches, recompute: what it takes to fit there (see `nextscale.model.training.step.MemorySaving`).
        bytes: of each device that it takes.
        measured: whether its seconds are those of runs that were timed, not the catalogue's.
    """

    pool: str
    layout: str = "data=1"
    seconds: float = 0.0
    usd_per_hour: float = 0.0
    chips: float = 1.0
    micro_batches: int = 1
    recompute: Recompute = "none"
    bytes: float = 0.0
    measured: bool = False
