"""Sums of what the steps of one row of the curve find, kept on the device until it is complete: loss, gradient norm,
and where tokens are routed to experts how evenly."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from nextscale.model.network.experts import Routing
from nextscale.model.record import Row

Tally = dict[str, jax.Array]

_WITH_MAXIMA = ("loss", "gradient_norm")
ROUTING = ("expert_load", "balance", "router_entropy")
"""Of a mixture of experts: the load of the expert that has most / the mean, in the block where that is largest; and,
the mean over blocks, the balance and entropy of `Routing`."""


def empty(*, skips: bool, routes: bool = False) -> Tally:
    """Sums and maxima of loss and gradient norm over no steps; sums of `ROUTING` where tokens are routed; and where
    steps may be skipped, their number."""
    names = [*_WITH_MAXIMA, *(f"{name}_max" for name in _WITH_MAXIMA)] + ["skipped"] * skips + [*ROUTING] * routes
    return {name: jnp.zeros((), jnp.float32) for name in names}


def of_routing(routing: Routing) -> dict[str, jax.Array]:
    """`ROUTING` of one step."""
    load = (routing.load_E.max(axis=1) / routing.load_E.mean(axis=1)).max()
    return dict(zip(ROUTING, (load, routing.balance.mean(), routing.entropy.mean()), strict=True))


def add(tally: Tally, found: dict[str, jax.Array], taken: jax.Array | None = None) -> Tally:
    """A tally with one more step in it.

    Args:
        found: its loss and gradient norm, and `ROUTING` where tokens are routed.
        taken: whether it was, where steps may be skipped. One that was not is in no sum, and in the maxima unless it is
            no number.
    """
    if taken is None:
        sums = {name: tally[name] + value for name, value in found.items()}
        return sums | {f"{name}_max": jnp.maximum(tally[f"{name}_max"], found[name]) for name in _WITH_MAXIMA}
    counted = {name: jnp.where(taken, value, 0) for name, value in found.items()}
    finite = {f"{name}_max": jnp.where(jnp.isfinite(found[name]), found[name], 0) for name in _WITH_MAXIMA}
    sums = {name: tally[name] + value for name, value in counted.items()}
    sums |= {name: jnp.maximum(tally[name], value) for name, value in finite.items()}
    return sums | {"skipped": tally["skipped"] + ~taken}


def row_of(tally: Tally, steps: int) -> Row:
    """Means over the steps that were taken, and maxima over all; null where there is none, or it is no number."""
    found = {name: float(value) for name, value in tally.items()}
    taken = steps - found.get("skipped", 0)
    row: Row = {}
    for name, value in found.items():
        if name == "skipped":
            row[name] = int(value)
        else:
            number = value if name.endswith("_max") else value / taken if taken else math.nan
            row[name] = number if math.isfinite(number) else None
    return row
