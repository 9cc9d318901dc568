"""Lanes and pools: which slot ran which run when, by the accounts of the sweep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nextscale.cluster.controller.accounts import Accounts
from nextscale.model.record import Row
from nextscale.sweeps.watch.watcher import Watcher

_LANES = 256
"""Of more slots those at work are shown."""


def slots_of(accounts: Accounts, since: float) -> dict[str, Row]:
    """Of each slot that has been used since then the newest row of the accounts."""
    found = {row["slot"]: row for row in accounts.rows if row["started"] >= since}
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def pools(rows: Iterable[Row], slots: Mapping[str, Row]) -> list[dict[str, Any]]:
    """What each pool has done: `attempts`, those of them in `vain`, `device_hours`, `usd`, `utilisation` (None where no
    peak is known), `slots` that were used by whoever is at work now, `busy` ones."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["pool"] not in found:
            sums = dict.fromkeys(("attempts", "vain", "device_hours", "usd", "timed", "used", "slots", "busy"), 0)
            found[row["pool"]] = {"pool": row["pool"], "accelerator": row["accelerator"]} | sums
        if row["kind"] != "settled":
            continue
        pool, hours = found[row["pool"]], row["device_us"] / 3.6e9
        pool["attempts"] += 1
        pool["vain"] += row["outcome"] not in ("finished", "stopped")
        pool["device_hours"] += hours
        pool["usd"] += row["usd"]
        if row["utilisation"] is not None:
            pool["timed"] += hours
            pool["used"] += hours * row["utilisation"]
    for row in slots.values():
        found[row["pool"]]["slots"] += 1
        found[row["pool"]]["busy"] += row["kind"] == "reserved"
    for pool in found.values():
        timed, used = pool.pop("timed"), pool.pop("used")
        pool["utilisation"] = used / timed if timed else None
    return list(found.values())


def lanes(watcher: Watcher, slots: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Who runs what where: of each slot its `run_id` since when, or None since it is idle; those at work first where
    there are many."""
    found, ahead = [], watcher.controller.ahead
    for name, row in slots.items():
        one = {"slot": name, "pool": row["pool"], "accelerator": row["accelerator"], "chips": row["chips"]}
        if row["kind"] == "reserved" and row["run_id"] in watcher.curves:
            curve, tokens = watcher.curves[row["run_id"]], watcher.tokens(row["run_id"])
            share = curve.position / tokens if tokens else 0.0
            one |= {"run_id": row["run_id"], "what": watcher.label(row["run_id"]), "since": row["started"] - ahead}
            one |= {"share": share, "loss": curve.losses[-1] if curve.losses else None}
        else:
            one |= {"run_id": None, "what": "", "since": ended(row) - ahead, "share": None, "loss": None}
        found.append(one)
    return found if len(found) <= _LANES else sorted(found, key=lambda one: one["run_id"] is None)[:_LANES]


def ended(row: Row) -> float:
    """When an attempt was over, or is to be."""
    return float(row["started"] + row["seconds"])


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts h100-2 before h100-10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
