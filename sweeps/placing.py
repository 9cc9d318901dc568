"""Where the runs of a plan would be trained, how long that takes and what it costs. No Ray, no devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nextscale.cluster.hardware import Accelerator, measured
from nextscale.cluster.placement import seats
from nextscale.cluster.pool import Pool
from nextscale.sweeps.design import PlannedRun


def placed(
    planned: Sequence[PlannedRun], pools: Mapping[str, Pool], accelerators: Mapping[str, Accelerator]
) -> list[dict[str, Any]]:
    """One row per run: the seat it would rather have, what it takes there, and the other pools that it fits in.

    Raises:
        InputError: a run fits nowhere.
    """
    if any(pool.accelerator == "cpu" for pool in pools.values()):
        accelerators = measured(accelerators)
    rows = []
    for run in planned:
        first, *others = seats(run.config, run.own_flops, pools, accelerators)
        known = pools[first.pool].usd_per_chip_hour is not None
        rows.append(
            {
                "run_id": run.config.run_id,
                "pool": first.pool,
                "layout": first.layout,
                "micro_batches": first.micro_batches,
                "recompute": first.recompute,
                "seconds": first.seconds,
                "usd": first.seconds / 3600 * first.usd_per_hour if known else None,
                "others": [seat.pool for seat in others],
            }
        )
    return rows
