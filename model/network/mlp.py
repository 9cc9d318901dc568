"""Weights that know their parametrization group, and the MLP of a block.

Shapes are in names, as in `transformer.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from nextscale.model.config.parametrization import Group, initial_std
from nextscale.model.config.run import Network
from nextscale.model.network.variants import activate


class Weight(nnx.Param):
    """A float32 parameter that knows its parametrization group."""

    def __init__(self, value: jax.Array, *, group: Group):
        super().__init__(value, group=group)


def matrix(rngs: nnx.Rngs, group: Group, fan_in: int, fan_out: int, *, experts: tuple[int, ...] = ()) -> Weight:
    """A matrix at its start, or one of each of so many experts in one array."""
    std, shape = initial_std(group, fan_in), (*experts, fan_in, fan_out)
    if std == 0:
        return Weight(jnp.zeros(shape), group=group)
    return Weight(std * jax.random.normal(rngs.params(), shape), group=group)


class MLP(nnx.Module):
    """Products into a hidden layer, its activation (see `variants.py`), and a product out of it."""

    def __init__(self, c: Network, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.c, self.dtype = c, dtype
        self.up = matrix(rngs, "hidden", c.width, width)
        self.gate = matrix(rngs, "hidden", c.width, width) if c.into_hidden == 2 else None
        self.down = matrix(rngs, "output", width, c.width)

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        into = [self.up] if self.gate is None else [self.up, self.gate]
        hidden = (x_NxD @ weight[...].astype(self.dtype) for weight in into)
        return activate(self.c, *hidden) @ self.down[...].astype(self.dtype)
