"""A decoder-only Transformer, readable from top to bottom.

Shapes are in names: B sequences, T tokens (N = B·T of them), D width, H heads, G heads of keys and values, K head
width, F hidden width of the MLP, V vocabulary. Projections act on one flat axis of N tokens: XLA's CPU backend takes
a quarter less time for their backward pass than with B and T apart.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from nextscale.model.config.parametrization import Group, initial_std
from nextscale.model.config.run import Network
from nextscale.model.network.attention import alibi_slopes, attend, platform
from nextscale.model.network.kernels import kernel_for
from nextscale.model.network.sharding import shard_rows

PyTree = Any


class Weight(nnx.Param):
    """A float32 parameter that knows its parametrization group."""

    def __init__(self, value: jax.Array, *, group: Group):
        super().__init__(value, group=group)


def _matrix(rngs: nnx.Rngs, group: Group, fan_in: int, fan_out: int) -> Weight:
    std = initial_std(group, fan_in)
    if std == 0:
        return Weight(jnp.zeros((fan_in, fan_out)), group=group)
    return Weight(std * jax.random.normal(rngs.params(), (fan_in, fan_out)), group=group)


class Norm(nnx.Module):
    """RMSNorm (Zhang & Sennrich 2019) of the last axis, in float32."""

    def __init__(self, c: Network, width: int, *, group: Group = "norm"):
        self.scale = Weight(jnp.ones(width), group=group) if c.norm_scale else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        y = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return y if self.scale is None else y * self.scale[...]


class Attention(nnx.Module):
    """Causal attention, with rotary positions, ALiBi, or no positions at all.

    Multi-query and grouped-query attention are those of Shazeer 2019 and Ainslie et al. 2023: heads share keys and
    values. QK-norm (Henry et al. 2020; Dehghani et al. 2023) keeps every score within sqrt(K), if it has no scale.
    """

    def __init__(self, c: Network, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.c, self.dtype = c, dtype
        self.query = _matrix(rngs, "hidden", c.width, c.query_width)
        self.key = _matrix(rngs, "hidden", c.width, c.key_width)
        self.value = _matrix(rngs, "hidden", c.width, c.key_width)
        self.out = _matrix(rngs, "mixed", c.query_width, c.width)
        head_width = c.query_width // c.heads
        self.query_norm = Norm(c, head_width) if c.qk_norm else None
        self.key_norm = Norm(c, head_width) if c.qk_norm else None

    def __call__(self, x_NxD: jax.Array, T: int, mesh: Mesh | None) -> jax.Array:
        c = self.c
        qkv_DxHGGK = jnp.concatenate([self.query[...], self.key[...], self.value[...]], axis=1).astype(self.dtype)
        qkv_NxHGGK = jnp.split(x_NxD @ qkv_DxHGGK, [c.query_width, c.query_width + c.key_width], axis=1)
        K = c.query_width // c.heads
        q_BxTxHxK, k_BxTxGxK, v_BxTxGxK = (x.reshape(-1, T, x.shape[1] // K, K) for x in qkv_NxHGGK)
        if self.query_norm is not None and self.key_norm is not None:
            q_BxTxHxK = self.query_norm(q_BxTxHxK).astype(self.dtype)
            k_BxTxGxK = self.key_norm(k_BxTxGxK).astype(self.dtype)
        if c.position == "rope":
            q_BxTxHxK, k_BxTxGxK = rotate(q_BxTxHxK), rotate(k_BxTxGxK)
        mixed_BxTxHxK = attend(
            kernel_for(c, self.dtype, T, platform()),
            q_BxTxHxK,
            k_BxTxGxK,
            v_BxTxGxK,
            alibi_slopes(c),
            scores_multiplier=c.scores_multiplier,
            mesh=mesh,
        )
        return mixed_BxTxHxK.reshape(len(x_NxD), c.query_width) @ self.out[...].astype(self.dtype)


class MLP(nnx.Module):
    """GELU, squared ReLU (So et al. 2021) or SwiGLU (Shazeer 2020)."""

    def __init__(self, c: Network, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.c, self.dtype = c, dtype
        self.up = _matrix(rngs, "hidden", c.width, c.hidden_width)
        self.gate = _matrix(rngs, "hidden", c.width, c.hidden_width) if c.mlp == "swiglu" else None
        self.down = _matrix(rngs, "output", c.hidden_width, c.width)

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        up_NxF = x_NxD @ self.up[...].astype(self.dtype)
        if self.gate is not None:
            hidden_NxF = jax.nn.silu(x_NxD @ self.gate[...].astype(self.dtype)) * up_NxF
        elif self.c.mlp == "relu2":
            hidden_NxF = jnp.square(jax.nn.relu(up_NxF))
        else:
            hidden_NxF = jax.nn.gelu(up_NxF)
        return hidden_NxF @ self.down[...].astype(self.dtype)


class Block(nnx.Module):
    """Pre-norm attention, then pre-norm MLP, each added to the residual stream."""

    def __init__(self, c: Network, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.c, self.dtype = c, dtype
        self.attention_norm = Norm(c, c.width)
        self.attention = Attention(c, dtype=dtype, rngs=rngs)
        self.mlp_norm = None if c.mlp == "none" else Norm(c, c.width)
        self.mlp = None if c.mlp == "none" else MLP(c, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxD: jax.Array, T: int, mesh: Mesh | None = None) -> jax.Array:
        scale = self.c.residual_multiplier
        x_NxD = x_NxD + scale * self.attention(self.attention_norm(x_NxD).astype(self.dtype), T, mesh)
        if self.mlp is not None and self.mlp_norm is not None:
            x_NxD = x_NxD + scale * self.mlp(self.mlp_norm(x_NxD).astype(self.dtype))
        return x_NxD


class Transformer(nnx.Module):
    """Tokens in, float32 logits of the next token out. `dtype` is that of the matrix products."""

    def __init__(self, c: Network, *, dtype: str = "float32", rngs: nnx.Rngs):
        self.c, self.dtype = c, jnp.dtype(dtype)
        self.embedding = _matrix(rngs, "embedding", c.vocab, c.width)
        self.blocks = nnx.List([Block(c, dtype=self.dtype, rngs=rngs) for _ in range(c.depth)])
        self.norm = Norm(c, c.width, group="final_norm")
        self.head = None if c.tied else _matrix(rngs, "head", c.width, c.vocab)

    def __call__(self, tokens_BxT: jax.Array, mesh: Mesh | None = None, *, recompute: bool = False) -> jax.Array:
        """Logits, B x T x V.

        Args:
            mesh: the devices that the sequences are spread over, if more than one.
            recompute: keeps of each block only what goes into it, for a gradient (see `recomputed`).
        """
        # Unless told, TPUs and NVIDIA's GPUs round what goes into a product of float32 to 8 or 11 bits.
        with jax.default_matmul_precision("float32") if self.dtype == jnp.float32 else contextlib.nullcontext():
            return self._logits(tokens_BxT, mesh, recompute)

    def _logits(self, tokens_BxT: jax.Array, mesh: Mesh | None, recompute: bool) -> jax.Array:
        B, T = tokens_BxT.shape
        x_NxD = shard_rows(mesh, self.embedding[...][tokens_BxT.reshape(-1)].astype(self.dtype))
        if recompute:
            x_NxD = recomputed(self.blocks, x_NxD, T, mesh, self.dtype)
        else:
            for block in self.blocks:
                x_NxD = shard_rows(mesh, block(x_NxD, T, mesh))
        x_NxD = self.norm(x_NxD).astype(self.dtype)
        # A tied head keeps logits small at every width: unit features times unit embeddings, over the width.
        head_DxV = self.embedding[...].T / self.c.width if self.head is None else self.head[...]
        logits_NxV = (x_NxD @ head_DxV.astype(self.dtype)).astype(jnp.float32)
        if self.c.logit_cap is not None:  # Gemma Team 2024 (Gemma 2), sec. 2
            logits_NxV = self.c.logit_cap * jnp.tanh(logits_NxV / self.c.logit_cap)
        return logits_NxV.reshape(B, T, -1)


def recomputed(blocks: Sequence[Block], x_NxD: jax.Array, T: int, mesh: Mesh | None, dtype: jnp.dtype) -> jax.Array:
    """The residual stream, N x D, after all blocks, which a gradient computes a second time (Chen et al. 2016).

    They are scanned: unrolled, XLA finds the second computation equal to the first, and keeps that after all.
    """
    graph, *_ = (nnx.split(block)[0] for block in blocks)
    weights = [nnx.to_pure_dict(nnx.state(block)) for block in blocks]
    # Matrices are copied as they are used, in half the memory where that is bfloat16.
    stacked = jax.tree.map(lambda *w: jnp.stack([x.astype(dtype) if x.ndim == 2 else x for x in w]), *weights)

    @jax.checkpoint
    def one(x_NxD: jax.Array, weights: Any) -> tuple[jax.Array, None]:
        return shard_rows(mesh, nnx.merge(graph, weights)(x_NxD, T, mesh)), None

    return jax.lax.scan(one, x_NxD, stacked)[0]


def rotate(x_BxTxHxK: jax.Array) -> jax.Array:
    """Rotary position embedding (Su et al. 2021): the pair (k, k + K/2) at position t turns by t·10000^(-2k/K)."""
    _, T, _, K = x_BxTxHxK.shape
    angle_TxK2 = np.arange(T)[:, None] * 10000.0 ** (-np.arange(0, K, 2) / K)
    cos, sin = (jnp.asarray(f(angle_TxK2)[:, None], x_BxTxHxK.dtype) for f in (np.cos, np.sin))
    left, right = jnp.split(x_BxTxHxK, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


@functools.lru_cache
def structure(model: Network, dtype: str) -> tuple[nnx.GraphDef, PyTree]:
    """A Transformer without its weights, and the parametrization group of each of them."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: Transformer(model, dtype=dtype, rngs=nnx.Rngs(0))))
    groups = jax.tree.map(lambda weight: weight.group, abstract, is_leaf=lambda x: isinstance(x, nnx.Variable))
    return graph, nnx.to_pure_dict(groups)


def transformer_of(model: Network, dtype: str, params: PyTree) -> Transformer:
    """The Transformer that `params` are the weights of."""
    return nnx.merge(structure(model, dtype)[0], params)
