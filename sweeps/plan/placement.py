"""Where the runs of a plan would be trained, how long that takes and what it costs. No Ray, no devices."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etils import epath

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.caps import Amount, Caps, cap_text, needs
from nextscale.cluster.hardware.catalogue import Accelerator, by_device_kind, with_measured_cpu
from nextscale.cluster.hardware.placement import FitCache, price, seats
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.hardware.speed import Speed
from nextscale.model.config.external import AnyRun
from nextscale.model.record import RunDirectory, read_rows
from nextscale.sweeps.design.planned_run import PlannedRun

if TYPE_CHECKING:
    from nextscale.cluster.hardware.site import Site
    from nextscale.sweeps.spec.sweep_spec import SweepSpec

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def seats_of_runs(
    planned: Sequence[PlannedRun],
    pools: Mapping[str, Pool],
    accelerators: Mapping[str, Accelerator],
    speed: Speed | None = None,
) -> list[tuple[Seat, ...]]:
    """The seats of each run, the one it would rather have first.

    Raises:
        InputError: a run fits nowhere.
    """
    if any(pool.accelerator == "cpu" for pool in pools.values()):
        accelerators = with_measured_cpu(accelerators)
    fits: FitCache = {}
    return [seats(run.config, run.own_flops, pools, accelerators, speed, fits) for run in planned]


def speed_in(out: Path) -> Speed:
    """What the runs of a folder took that are in its accounts."""

    @functools.cache
    def config_of(run_id: str) -> AnyRun | None:
        with contextlib.suppress(OSError, ValueError):  # gone, or of another version
            return RunDirectory(epath.Path(out / "runs" / run_id)).config()
        return None

    return Speed.from_accounts(read_rows(epath.Path(out / "accounts.jsonl")), config_of)


def pools_of_spec(spec: SweepSpec, site: Site) -> tuple[dict[str, Pool], dict[str, Accelerator], list[str]]:
    """The pools that a spec is trained in, the accelerators that are known there, and what to know of prices."""
    from nextscale.sweeps.spec.site_file import pools_of, price_notes

    accelerators = site.catalogue()
    pools = pools_of(spec.pools, site, accelerators)
    if pools is None:
        pools, notes = pools_here(accelerators)
        return pools, accelerators, notes
    return pools, accelerators, price_notes(spec.pools, site, accelerators)


def pools_here(accelerators: Mapping[str, Accelerator]) -> tuple[dict[str, Pool], list[str]]:
    """What `pools: auto` finds on this machine where it is no part of a cluster: its GPUs, or else its cores, with the
    prices that hold; and what to know of them, in words."""
    found: dict[str, Pool] = {}
    notes: list[str] = []
    for model, count in Counter(_cards()).items():
        known = by_device_kind(model, accelerators)
        if known is None:
            notes.append(f"{count} x {model}: no accelerator that is known, so it is left out; add it to a site file")
        else:
            usd, _ = price(Pool(accelerator=known.name), known)
            found[known.name] = Pool(accelerator=known.name, chips=count, usd_per_chip_hour=usd)
    return found or {"cpu": Pool(accelerator="cpu", chips=os.cpu_count() or 1)}, notes


def _cards() -> list[str]:
    """Models of the NVIDIA cards here, as their driver calls them, and so does JAX."""
    files = [file.read_text().splitlines() for file in sorted(_NVIDIA.glob("*/information"))]
    return [line.partition(":")[2].strip() for lines in files for line in lines if line.startswith("Model:")]


def totals(
    rows: Sequence[Mapping[str, Any]],
    pools: Mapping[str, Pool],
    accelerators: Mapping[str, Accelerator],
    carbon: float | None,
) -> list[dict[str, Any]]:
    """Of each pool what the runs that would rather be there take: `runs`, `device_hours`, `usd`, `kwh`, `co2_kg`; None
    where no price or power is known.

    Args:
        carbon: grams of CO2 per kWh.
    """
    found = []
    for name, pool in pools.items():
        here = [row for row in rows if row["pool"] == name]
        hours = sum(row["seconds"] for row in here) / 3600 * pool.chips_per_slot
        usd, watts = pool.usd_per_chip_hour, accelerators[pool.accelerator].watts
        kwh = None if watts is None else hours * watts / 1000
        found.append(
            {
                "pool": name,
                "accelerator": pool.accelerator,
                "slots": pool.slots,
                "chips_per_slot": pool.chips_per_slot,
                "runs": len(here),
                "device_hours": hours,
                "usd": None if usd is None else hours * usd,
                "kwh": kwh,
                "co2_kg": None if kwh is None or carbon is None else kwh * carbon / 1000,
            }
        )
    return found


def capped(caps: Caps, out: Path, flops: float, pools: Sequence[Mapping[str, Any]], seconds: float) -> Iterator[str]:
    """The caps that what is left to do would cross, in words. In dollars where they are known.

    Args:
        out: whose accounts tell what is spent.
        flops, seconds: that are left to do.
        pools: what it takes of each, see `totals`.
    """
    accounts = Accounts(out / "accounts.jsonl")
    usd, hours = (sum(pool[name] or 0.0 for pool in pools) for name in ("usd", "device_hours"))
    needed = needs(Amount(int(flops), int(usd * 1e6), int(hours * 3.6e9)), seconds)
    for cap, room in caps.room(accounts.used, accounts.wall_seconds).items():
        if needed[cap] > room:
            yield (
                f"caps.{cap}: the sweep would stop there: what is left takes {cap_text(cap, needed[cap])}, and "
                f"{cap_text(cap, max(room, 0))} are left; raise it, or take fewer or smaller runs"
            )
