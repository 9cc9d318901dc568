"""A mixture of experts in place of a block's MLP: each token passes the few that its router scores highest.

Shapes are in names, as in `transformer.py`; also E experts, k of them to a token, S = N·k pairs of a token and an
expert. None is ever dropped: pairs are sorted by their expert, and each expert multiplies its own rows, however many.

Where the `tensor` axis of a mesh divides the experts it spreads them. Tokens are whole along it, so each device takes
from its own those that are sent to its own experts, and the sum over the axis, which one MLP needs too, joins them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from nextscale.model.config.experts import expert_width, mixture_blocks
from nextscale.model.config.run import Network
from nextscale.model.network.attention import FROM_KERNEL, platform
from nextscale.model.network.mlp import MLP, Weight, matrix
from nextscale.model.network.sharding import AnyMesh, row_axes, shard_map, weight_spec
from nextscale.model.network.variants import activate

PyTree = Any

_Weights = tuple[jax.Array, jax.Array, jax.Array | None]
_Kept = tuple[jax.Array, jax.Array, _Weights, list[jax.Array]]

_ROWS = (8, 32)
"""Least and most rows that a CPU multiplies at once, about as many as an expert has: of fewer a product is slower, of
more it multiplies more that are not there."""
_INTEGERS = 2**31
"""That an int32 may be, from 0 on."""


class Routing(NamedTuple):
    """Where the tokens of a batch went, in one mixture; or in several, with an axis for these in front.

    Attributes:
        load_E: pairs of each expert.
        balance: by which the load is uneven (see `balance_of`): 1 where it is even.
        z: mean square of the router's log-partition.
        entropy: of the router's weights over all experts, in nats, the mean over tokens.
    """

    load_E: jax.Array
    balance: jax.Array
    z: jax.Array
    entropy: jax.Array


class Experts(nnx.Module):
    """The matrices of all experts, of one kind in one array, E x in x out."""

    def __init__(self, c: Network, *, rngs: nnx.Rngs):
        F, E = expert_width(c), (c.experts,)
        self.up = matrix(rngs, "hidden", c.width, F, experts=E)
        self.gate = matrix(rngs, "hidden", c.width, F, experts=E) if c.into_hidden == 2 else None
        self.down = matrix(rngs, "output", F, c.width, experts=E)


class MixtureOfExperts(nnx.Module):
    """A router, its experts, and those that every token passes, which are one MLP as wide as they are together.

    The router is in float32 (Fedus et al. 2022, sec. 2.4). Its weights of a token's experts are softmax over the chosen
    logits (`renormalised`: Jiang et al. 2024, Mixtral, sec. 2.1; the same as softmax over all, over its sum), softmax
    over all (`softmax`: Fedus et al. 2022, eq. 1; Muennighoff et al. 2024, OLMoE, sec. 2), or sigmoids over the sum of
    the chosen, of one expert the sigmoid (`sigmoid`: DeepSeek-AI 2024, DeepSeek-V3, eq. 13 to 15).

    With a `balance_rate` experts are chosen by these scores plus a bias, which is in no weight (Wang et al. 2024,
    arXiv 2408.15664, eq. 3; see `balanced`).
    """

    def __init__(self, c: Network, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.c, self.dtype = c, dtype
        self.router = matrix(rngs, "router", c.width, c.experts)
        self.balance = Weight(jnp.zeros(c.experts), group="balance") if c.balance_rate else None
        self.experts = Experts(c, rngs=rngs)
        self.shared = MLP(c, c.shared_experts * expert_width(c), dtype=dtype, rngs=rngs) if c.shared_experts else None

    def __call__(self, x_NxD: jax.Array, T: int, mesh: AnyMesh | None = None) -> tuple[jax.Array, Routing]:
        weight_Nxk, chosen_Nxk, routing = self.route(x_NxD, T)
        y_NxD = self._routed(x_NxD, weight_Nxk, chosen_Nxk, mesh)
        return y_NxD if self.shared is None else y_NxD + self.shared(x_NxD), routing

    def route(self, x_NxD: jax.Array, T: int) -> tuple[jax.Array, jax.Array, Routing]:
        """(weight, index) of each token's experts, N x k, and what that comes to."""
        c = self.c
        logits_NxE = jnp.matmul(x_NxD.astype(jnp.float32), self.router[...], precision="float32")
        share_NxE = jax.nn.softmax(logits_NxE)
        score_NxE = share_NxE
        if c.router == "sigmoid":
            score_NxE = jax.nn.sigmoid(logits_NxE)
            share_NxE = score_NxE / score_NxE.sum(axis=-1, keepdims=True)
        choice_NxE = jax.lax.stop_gradient(score_NxE if self.balance is None else score_NxE + self.balance[...])
        chosen_Nxk = jax.lax.top_k(choice_NxE, c.experts_per_token)[1]
        weight_Nxk = jnp.take_along_axis(score_NxE, chosen_Nxk, axis=-1)
        if c.router == "renormalised" or (c.router == "sigmoid" and c.experts_per_token > 1):
            weight_Nxk = weight_Nxk / weight_Nxk.sum(axis=-1, keepdims=True)
        sent_NxE = (chosen_Nxk[..., None] == jnp.arange(c.experts)).sum(axis=1).astype(jnp.float32)
        # Of a share that underflows, 0·log 0 is 0.
        surprise_NxE = -share_NxE * jnp.log(jnp.maximum(share_NxE, jnp.finfo(jnp.float32).tiny))
        routing = Routing(
            load_E=sent_NxE.sum(axis=0),
            balance=balance_of(sent_NxE, share_NxE, T),
            z=jnp.square(jax.nn.logsumexp(logits_NxE, axis=-1)).mean(),
            entropy=jax.lax.stop_gradient(surprise_NxE.sum(axis=-1).mean()),
        )
        return c.routed_scale * weight_Nxk, chosen_Nxk, routing

    def _routed(
        self, x_NxD: jax.Array, weight_Nxk: jax.Array, chosen_Nxk: jax.Array, mesh: AnyMesh | None
    ) -> jax.Array:
        """What the chosen experts of each token give, weighted."""
        of = [
            w[...].astype(self.dtype) for w in (self.experts.up, self.experts.down, self.experts.gate) if w is not None
        ]
        local = functools.partial(_local, self.c, platform(mesh) == "cpu")
        if mesh is None:
            return local(None, x_NxD, weight_Nxk, chosen_Nxk, *of)
        rows, axis = P(row_axes(mesh, len(x_NxD))), weight_spec(mesh, "hidden", of[0].shape)[0]
        specs = (rows, rows, rows, *[P(axis)] * len(of))
        return shard_map(functools.partial(local, axis), mesh, specs, rows)(x_NxD, weight_Nxk, chosen_Nxk, *of)


def balance_of(sent_NxE: jax.Array, share_NxE: jax.Array, T: int) -> jax.Array:
    """Sum over the experts of E·f·P, f the share of the pairs that an expert has and P the mean share that the router
    gives it: 1 where they are even (Fedus et al. 2022, eq. 4 to 6).

    Of each sequence, and the mean over these (DeepSeek-AI 2024, DeepSeek-V3, eq. 17 to 20; a sequence is a group of
    Lepikhin et al. 2021, GShard, sec. 2.2): so it is the same however a batch is cut, into micro-batches or over
    devices.
    """
    E = sent_NxE.shape[1]
    sent_BxE, share_BxE = (x.reshape(-1, T, E).mean(axis=1) for x in (sent_NxE, share_NxE))
    return E * (sent_BxE / sent_BxE.sum(axis=1, keepdims=True) * share_BxE).sum(axis=1).mean()


def with_balance(c: Network, params: PyTree, routing: Routing) -> PyTree:
    """Weights with the biases of their routers after a batch: one step of `balance_rate` up for an expert of less than
    the mean load, one down for one of more (Wang et al. 2024, arXiv 2408.15664, algorithm 1)."""
    if not c.balance_rate:
        return params
    load_MxE = routing.load_E
    step_MxE = c.balance_rate * jnp.sign(load_MxE.sum(axis=1, keepdims=True) - c.experts * load_MxE)
    blocks = dict(params["blocks"])
    for i, step_E in zip(range(c.depth - mixture_blocks(c), c.depth), step_MxE, strict=True):
        mlp = blocks[i]["mlp"]
        blocks[i] = blocks[i] | {"mlp": mlp | {"balance": mlp["balance"] + step_E}}
    return params | {"blocks": blocks}


def _local(
    c: Network,
    on_cpu: bool,
    axis: str | None,
    x_NxD: jax.Array,
    weight_Nxk: jax.Array,
    chosen_Nxk: jax.Array,
    up_ExDxF: jax.Array,
    down_ExFxD: jax.Array,
    gate_ExDxF: jax.Array | None = None,
) -> jax.Array:
    """`_routed` of a device's tokens and, where they are spread along an axis, its experts."""
    N, k = chosen_Nxk.shape
    E = len(up_ExDxF)
    if axis is not None:  # those of others come last, and are no one's rows here
        chosen_Nxk = chosen_Nxk - E * jax.lax.axis_index(axis)
        chosen_Nxk = jnp.where((chosen_Nxk >= 0) & (chosen_Nxk < E), chosen_Nxk, E)
    expert_S = chosen_Nxk.reshape(-1)
    order_S, place_S = _sorted(expert_S, E + 1, on_cpu)
    size_E = (expert_S[:, None] == jnp.arange(E)).sum(axis=0, dtype=jnp.int32)
    x_SxD = _taken(x_NxD, order_S, place_S)
    y_SxD = (_on_cpu if on_cpu else _by_ragged_products)(c, x_SxD, size_E, up_ExDxF, down_ExFxD, gate_ExDxF)
    y_NxkxD = _taken(y_SxD, place_S, order_S).reshape(N, k, -1)
    if axis is not None:
        y_NxkxD = jnp.where((chosen_Nxk < E)[..., None], y_NxkxD, 0)
    y_NxD = jnp.einsum("nkd,nk->nd", y_NxkxD, weight_Nxk.astype(y_NxkxD.dtype))
    return y_NxD if axis is None else jax.lax.psum(y_NxD, axis)


def _sorted(expert_S: jax.Array, experts: int, on_cpu: bool) -> tuple[jax.Array, jax.Array]:
    """Which pair comes first, second and so on, by its expert, and where each pair is then."""
    S = len(expert_S)
    if not on_cpu or experts * S > _INTEGERS:
        order_S = jnp.argsort(expert_S)
        return order_S, jnp.argsort(order_S)
    # XLA sorts one array on a CPU in a fifth of the time that a key with its place takes.
    place_S = jnp.arange(S, dtype=jnp.int32)
    order_S = jnp.sort(expert_S * S + place_S) % S
    return order_S, jnp.zeros_like(order_S).at[order_S].set(place_S, unique_indices=True)


@jax.custom_vjp
def _taken(x_NxD: jax.Array, order_S: jax.Array, place_S: jax.Array) -> jax.Array:
    """Rows, each as often as S is a multiple of N, in another order; `place` is its inverse. Of a gather that is not
    known to be a permutation the gradient is a scatter, which is slow."""
    return x_NxD[order_S // (len(order_S) // len(x_NxD))]


def _taken_forward(x_NxD: jax.Array, order_S: jax.Array, place_S: jax.Array) -> tuple[jax.Array, jax.Array]:
    place_Nxk = place_S.reshape(len(x_NxD), -1)
    return _taken(x_NxD, order_S, place_S), place_Nxk


def _taken_backward(place_Nxk: jax.Array, by_y_SxD: jax.Array) -> tuple[jax.Array, None, None]:
    return by_y_SxD[place_Nxk].sum(axis=1), None, None


_taken.defvjp(_taken_forward, _taken_backward)


def _by_ragged_products(
    c: Network, x_SxD: jax.Array, size_E: jax.Array, up_ExDxF: jax.Array, down_ExFxD: jax.Array, gate: jax.Array | None
) -> jax.Array:
    """What experts make of rows that are sorted by them, S x D; of rows beyond those that `size_E` counts, anything."""
    into = _into((up_ExDxF, down_ExFxD, gate))
    hidden = (checkpoint_name(jax.lax.ragged_dot(x_SxD, w_ExDxF, size_E), FROM_KERNEL) for w_ExDxF in into)
    return jax.lax.ragged_dot(activate(c, *hidden), down_ExFxD, size_E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _on_cpu(
    c: Network, x_SxD: jax.Array, size_E: jax.Array, up_ExDxF: jax.Array, down_ExFxD: jax.Array, gate: jax.Array | None
) -> jax.Array:
    """`_by_ragged_products` on a CPU, where XLA would multiply each row by the matrices of all experts."""
    return _on_cpu_forward(c, x_SxD, size_E, up_ExDxF, down_ExFxD, gate)[0]


def _on_cpu_forward(
    c: Network, x_SxD: jax.Array, size_E: jax.Array, up_ExDxF: jax.Array, down_ExFxD: jax.Array, gate: jax.Array | None
) -> tuple[jax.Array, _Kept]:
    def block(own_bx1: jax.Array, weights: _Weights, x_bxD: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[()]]:
        hidden = tuple(x_bxD @ w for w in _into(weights))
        return (activate(c, *hidden) @ weights[1], *hidden), ()

    weights = up_ExDxF, down_ExFxD, gate
    F = up_ExDxF.shape[2]
    widths = (x_SxD.shape[1], *(F for _ in _into(weights)))
    (y_SxD, *hidden), _ = _by_expert(block, size_E, weights, (x_SxD,), widths, ())
    return y_SxD, (x_SxD, size_E, weights, hidden)


def _on_cpu_backward(c: Network, kept: _Kept, by_y_SxD: jax.Array) -> tuple[jax.Array | None, ...]:
    x_SxD, size_E, weights, hidden = kept

    def block(
        own_bx1: jax.Array, weights: _Weights, x_bxD: jax.Array, by_y_bxD: jax.Array, *hidden: jax.Array
    ) -> tuple[tuple[jax.Array], _Weights]:
        by_y_bxD = jnp.where(own_bx1, by_y_bxD, 0)
        active_bxF, backward = jax.vjp(functools.partial(activate, c), *hidden)
        by_hidden = backward(by_y_bxD @ weights[1].T)
        by_x_bxD = sum(by_bxF @ w.T for by_bxF, w in zip(by_hidden, _into(weights), strict=True))
        by_up, *by_gate = (x_bxD.T @ by_bxF for by_bxF in by_hidden)
        return (by_x_bxD,), (by_up, active_bxF.T @ by_y_bxD, *(by_gate or [None]))

    none_yet = jax.tree.map(lambda w: jnp.zeros(w.shape[1:], w.dtype), weights)
    rows = (x_SxD, by_y_SxD, *hidden)
    (by_x_SxD,), by_weights = _by_expert(block, size_E, weights, rows, (x_SxD.shape[1],), none_yet)
    return by_x_SxD, None, *by_weights


_on_cpu.defvjp(_on_cpu_forward, _on_cpu_backward)


def _into(weights: _Weights) -> list[jax.Array]:
    """The matrices by which an expert multiplies what goes into it."""
    up, _, gate = weights
    return [up] if gate is None else [up, gate]


def _by_expert(
    of_block: Callable[..., tuple[tuple[jax.Array, ...], PyTree]],
    size_E: jax.Array,
    weights: _Weights,
    rows: tuple[jax.Array, ...],
    widths: tuple[int, ...],
    none_yet: PyTree,
) -> tuple[tuple[jax.Array, ...], PyTree]:
    """What is made of some rows of one expert at a time, for all.

    Args:
        of_block: (which of the rows are the expert's, its weights, the rows) -> (as many rows of each of `widths`,
            what is to be summed).
        weights: of each expert.
        rows: S of each, sorted by their expert.
        none_yet: a sum of nothing.

    Returns:
        S rows of each width, those that are no expert's anything; and the sums of each expert.
    """
    S, b = len(rows[0]), int(np.clip(len(rows[0]) // len(size_E), *_ROWS))
    rows = tuple(jnp.pad(a, ((0, b), (0, 0))) for a in rows)
    made = tuple(jnp.zeros((S + b, width), rows[0].dtype) for width in widths)

    def of_expert(made: PyTree, expert: tuple[_Weights, jax.Array, jax.Array]) -> tuple[PyTree, PyTree]:
        weights, start, size = expert

        def block(i: jax.Array, found: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            made, total = found
            parts = (jax.lax.dynamic_slice_in_dim(a, start + i * b, b) for a in rows)
            new, more = of_block((i * b + jnp.arange(b) < size)[:, None], weights, *parts)
            # What this writes beyond the expert's own rows is written over by the next.
            made = tuple(
                jax.lax.dynamic_update_slice_in_dim(a, part, start + i * b, 0)
                for a, part in zip(made, new, strict=True)
            )
            return made, jax.tree.map(jnp.add, total, more)

        return jax.lax.fori_loop(0, -(-size // b), block, (made, none_yet))

    start_E = jnp.cumsum(size_E) - size_E
    made, sums = jax.lax.scan(of_expert, made, (weights, start_E, size_E))
    return tuple(a[:S] for a in made), sums
