"""Weights that know their parametrization group, and the MLP of a block.

Shapes are in names, as in `transformer.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from nextscale.model.config.parametrization import Group, initial_std
from nextscale.model.config.run import Network


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
    """GELU, squared ReLU (So et al. 2021) or SwiGLU (Shazeer 2020)."""

    def __init__(self, c: Network, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.c, self.dtype = c, dtype
        self.up = matrix(rngs, "hidden", c.width, width)
        self.gate = matrix(rngs, "hidden", c.width, width) if c.mlp == "swiglu" else None
        self.down = matrix(rngs, "output", width, c.width)

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        up_NxF = x_NxD @ self.up[...].astype(self.dtype)
        gate_NxF = None if self.gate is None else x_NxD @ self.gate[...].astype(self.dtype)
        return activate(self.c.mlp, up_NxF, gate_NxF) @ self.down[...].astype(self.dtype)


def activate(mlp: str, up_NxF: jax.Array, gate_NxF: jax.Array | None = None) -> jax.Array:
    """The hidden layer, N x F."""
    if gate_NxF is not None:
        return jax.nn.silu(gate_NxF) * up_NxF
    return jnp.square(jax.nn.relu(up_NxF)) if mlp == "relu2" else jax.nn.gelu(up_NxF)
