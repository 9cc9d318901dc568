"""What a model may have in more than one way: the activation of its MLPs, and how queries and keys know their position.

Each is a table of what is known here by name; `package.module:function` of one's own is called in its place. Such a
function is of one token, so that none can see those that come after it. Shapes are in names, as in `transformer.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nextscale.model.config.code import Function
from nextscale.model.config.run import Network
from nextscale.model.errors import InputError, describe_error
from nextscale.model.external.code import check_call, load


def _squared_relu(up_NxF: jax.Array) -> jax.Array:
    return jnp.square(jax.nn.relu(up_NxF))


def _swiglu(up_NxF: jax.Array, gate_NxF: jax.Array) -> jax.Array:
    return jax.nn.silu(gate_NxF) * up_NxF


_ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {
    "gelu": jax.nn.gelu,
    "relu2": _squared_relu,  # So et al. 2021
    "swiglu": _swiglu,  # Shazeer 2020
}


def activate(c: Network, *hidden_NxF: jax.Array) -> jax.Array:
    """The hidden layer, N x F, of the products that lead into it: of `up` and, where the MLP is gated, of `gate`.

    Raises:
        InputError: a function of one's own fails, or gives something else.
    """
    if c.mlp in _ACTIVATIONS:
        return _ACTIVATIONS[c.mlp](*hidden_NxF)
    own = c.function(c.mlp)
    function = load(own, "model.mlp")
    gated = "up and gate, as mlp_gated says" if c.mlp_gated else "up alone; a gate comes with mlp_gated: true"
    check_call(function, f"model.mlp: {own.target}", gated, *hidden_NxF)
    return _called("model.mlp", own, jax.vmap(function), *hidden_NxF)


def turn(c: Network, x_BxTxHxK: jax.Array) -> jax.Array:
    """Queries or keys that know their position.

    Raises:
        InputError: a function of one's own fails, or gives something else.
    """
    if c.position in _TURNS:
        return _TURNS[c.position](x_BxTxHxK)
    own = c.function(c.position)
    function = load(own, "model.position")
    check_call(
        function, f"model.position: {own.target}", "x, the features of a head, and t, its position", x_BxTxHxK, 0
    )
    of_heads = jax.vmap(function, in_axes=(0, None))
    of_sequences = jax.vmap(jax.vmap(of_heads), in_axes=(0, None))
    return _called("model.position", own, of_sequences, x_BxTxHxK, jnp.arange(x_BxTxHxK.shape[1]))


def _called(where: str, own: Function, function: Callable[..., jax.Array], x: jax.Array, *more: jax.Array) -> jax.Array:
    """What a function of one token gives of all, like `x`."""
    what = f"{where}: {own.target}"
    try:
        y = function(x, *more)
    except Exception as error:
        raise InputError(f"{what} fails: {describe_error(error)}") from error
    if not isinstance(y, jax.Array) or y.shape != x.shape:
        found = f"shape {y.shape[x.ndim - 1 :]}" if isinstance(y, jax.Array) else f"a {type(y).__name__}"
        raise InputError(f"{what} makes {found} of the {x.shape[-1]} features of a token; give as many")
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise InputError(f"{what} makes {y.dtype}, which has no gradient; give floating-point numbers")
    return y.astype(x.dtype)


_TURNED_AT_ONCE = 1024
"""Positions whose angles stand in a program; those further on are computed from them."""


def rotate(x_BxTxHxK: jax.Array) -> jax.Array:
    """Rotary position embedding (Su et al. 2021): the pair (k, k + K/2) at position t turns by t·10000^(-2k/K)."""
    _, T, _, K = x_BxTxHxK.shape
    cos, sin = (angle_TxK2[:, None].astype(x_BxTxHxK.dtype) for angle_TxK2 in turns(T, K))
    left, right = jnp.split(x_BxTxHxK, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def turns(T: int, K: int) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of each angle, T x K/2, in float32.

    Angles are in float64, for in float32 those at a context of 10^5 are off by a hundredth. Far ones are a sum of two,
    so that a program hardly grows with the context.
    """
    near, far = _turns(min(T, _TURNED_AT_ONCE), 1, K), _turns(T, _TURNED_AT_ONCE, K)
    near_cos, near_sin = map(jnp.asarray, near)
    if T <= _TURNED_AT_ONCE:
        return near_cos, near_sin
    far_cos, far_sin = (jnp.asarray(x)[:, None] for x in far)
    cos, sin = far_cos * near_cos - far_sin * near_sin, far_sin * near_cos + far_cos * near_sin
    return cos.reshape(-1, K // 2)[:T], sin.reshape(-1, K // 2)[:T]


@functools.lru_cache
def _turns(stop: int, step: int, K: int) -> tuple[np.ndarray, np.ndarray]:
    angle_txK2 = np.arange(0, stop, step)[:, None] * 10000.0 ** (-np.arange(0, K, 2) / K)
    return np.cos(angle_txK2).astype(np.float32), np.sin(angle_txK2).astype(np.float32)


_TURNS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "rope": rotate,
    "alibi": lambda x_BxTxHxK: x_BxTxHxK,  # acts on scores
    "none": lambda x_BxTxHxK: x_BxTxHxK,
}
