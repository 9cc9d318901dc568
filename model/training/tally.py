"""Sums of loss and gradient norm over the steps of one row of the curve, kept on the device until it is complete."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from nextscale.model.record import Row

Tally = dict[str, jax.Array]


def empty(*, skips: bool) -> Tally:
    """Sums and maxima of loss and gradient norm over no steps; where steps may be skipped, their number too."""
    names = ["loss", "gradient_norm", "loss_max", "gradient_norm_max"] + ["skipped"] * skips
    return {name: jnp.zeros((), jnp.float32) for name in names}


def add(tally: Tally, found: dict[str, jax.Array], taken: jax.Array | None = None) -> Tally:
    """A tally with one more step in it.

    Args:
        found: its loss and gradient norm.
        taken: whether it was, where steps may be skipped. One that was not is in no sum, and in the maxima unless it is
            no number.
    """
    if taken is None:
        sums = {name: tally[name] + value for name, value in found.items()}
        return sums | {f"{name}_max": jnp.maximum(tally[f"{name}_max"], value) for name, value in found.items()}
    counted = {name: jnp.where(taken, value, 0) for name, value in found.items()}
    finite = {f"{name}_max": jnp.where(jnp.isfinite(value), value, 0) for name, value in found.items()}
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
