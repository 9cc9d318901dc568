"""Decides which steps to skip: loss or gradient is no number, or the gradient is far larger than is usual."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

RunningAverage = dict[str, jax.Array]
"""A running average of gradient norms, `norm` / `weight`; both are 0 before the first step, as Adam's moments are."""

_MEMORY, _SETTLED_STEPS = 0.98, 50
"""The average is over about fifty steps, and after so many it is one to judge by."""


def initial_average() -> RunningAverage:
    """The average before the first step."""
    return {"norm": jnp.zeros((), jnp.float32), "weight": jnp.zeros((), jnp.float32)}


def judge_step(
    usual: RunningAverage, loss: jax.Array, norm: jax.Array, factor: ArrayLike
) -> tuple[jax.Array, RunningAverage]:
    """Whether to take a step, and the average after it.

    Args:
        loss: of the step, before it is taken.
        norm: global norm of the gradient, before it is clipped.
        factor: how many times the average is too much; also what a spike counts as in the average, so that a change
            that lasts is followed within some tens of steps, and a single spike hardly moves it.
    """
    settled = usual["weight"] >= 1 - _MEMORY**_SETTLED_STEPS - 1e-6
    limit = jnp.where(settled, factor * usual["norm"] / jnp.maximum(usual["weight"], 1e-6), jnp.inf)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    seen = {"norm": jnp.minimum(norm, limit), "weight": jnp.ones_like(norm)}
    after = {name: _MEMORY * usual[name] + (1 - _MEMORY) * seen[name] for name in usual}
    return finite & (norm <= limit), {name: jnp.where(finite, after[name], usual[name]) for name in usual}
