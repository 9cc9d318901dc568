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
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nextscale.model.config.experts import mixture_blocks
from nextscale.model.config.parametrization import Group
from nextscale.model.config.run import Network
from nextscale.model.network.attention import FROM_KERNEL, alibi_slopes, attend, platform
from nextscale.model.network.experts import MixtureOfExperts, Routing
from nextscale.model.network.kernels import Recompute, kernel_for, scans
from nextscale.model.network.mlp import MLP, Weight, matrix
from nextscale.model.network.sharding import AnyMesh, shard_rows, weight_spec
from nextscale.model.network.variants import turn

PyTree = Any

INTO_BLOCK = "into a block"


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
        self.query = matrix(rngs, "hidden", c.width, c.query_width)
        self.key = matrix(rngs, "hidden", c.width, c.key_width)
        self.value = matrix(rngs, "hidden", c.width, c.key_width)
        self.out = matrix(rngs, "mixed", c.query_width, c.width)
        head_width = c.query_width // c.heads
        self.query_norm = Norm(c, head_width) if c.qk_norm else None
        self.key_norm = Norm(c, head_width) if c.qk_norm else None

    def __call__(
        self, x_NxD: jax.Array, T: int, mesh: AnyMesh | None, document_BxT: jax.Array | None = None
    ) -> jax.Array:
        c, K = self.c, self.c.query_width // self.c.heads
        matrices = self.query[...], self.key[...], self.value[...]
        if mesh is None or mesh.shape["tensor"] == 1:
            qkv_DxHGGK = jnp.concatenate(matrices, axis=1).astype(self.dtype)
            qkv_NxHGGK = jnp.split(x_NxD @ qkv_DxHGGK, [c.query_width, c.query_width + c.key_width], axis=1)
        else:  # joined along the axis that `tensor` splits, each device would have parts of others' heads
            qkv_NxHGGK = [x_NxD @ matrix.astype(self.dtype) for matrix in matrices]
        q_BxTxHxK, k_BxTxGxK, v_BxTxGxK = (x.reshape(-1, T, x.shape[1] // K, K) for x in qkv_NxHGGK)
        if self.query_norm is not None and self.key_norm is not None:
            q_BxTxHxK = self.query_norm(q_BxTxHxK).astype(self.dtype)
            k_BxTxGxK = self.key_norm(k_BxTxGxK).astype(self.dtype)
        q_BxTxHxK, k_BxTxGxK = turn(c, q_BxTxHxK), turn(c, k_BxTxGxK)
        mixed_BxTxHxK = attend(
            kernel_for(c, self.dtype, T, platform(mesh), documents=document_BxT is not None),
            q_BxTxHxK,
            k_BxTxGxK,
            v_BxTxGxK,
            alibi_slopes(c),
            scores_multiplier=c.scores_multiplier,
            document_BxT=document_BxT,
            mesh=mesh,
        )
        return mixed_BxTxHxK.reshape(len(x_NxD), c.query_width) @ self.out[...].astype(self.dtype)


class Block(nnx.Module):
    """Pre-norm attention, then pre-norm MLP or experts, each added to the residual stream."""

    def __init__(self, c: Network, *, mixes: bool, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.c, self.dtype = c, dtype
        self.attention_norm = Norm(c, c.width)
        self.attention = Attention(c, dtype=dtype, rngs=rngs)
        self.mlp_norm = None if c.mlp == "none" else Norm(c, c.width)
        if mixes:
            self.mlp: MLP | MixtureOfExperts | None = MixtureOfExperts(c, dtype=dtype, rngs=rngs)
        else:
            self.mlp = None if c.mlp == "none" else MLP(c, c.hidden_width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_NxD: jax.Array, T: int, mesh: AnyMesh | None = None, document_BxT: jax.Array | None = None
    ) -> tuple[jax.Array, Routing | None]:
        """The residual stream after it, and where its tokens went if it has experts."""
        scale, routing = self.c.residual_multiplier, None
        x_NxD = x_NxD + scale * self.attention(self.attention_norm(x_NxD).astype(self.dtype), T, mesh, document_BxT)
        if self.mlp is not None and self.mlp_norm is not None:
            normed_NxD = self.mlp_norm(x_NxD).astype(self.dtype)
            if isinstance(self.mlp, MixtureOfExperts):
                y_NxD, routing = self.mlp(normed_NxD, T, mesh)
            else:
                y_NxD = self.mlp(normed_NxD)
            x_NxD = x_NxD + scale * y_NxD
        return x_NxD, routing


class Transformer(nnx.Module):
    """Tokens in, float32 logits of the next token out. `dtype` is that of the matrix products."""

    def __init__(self, c: Network, *, dtype: str = "float32", rngs: nnx.Rngs):
        self.c, self.dtype = c, jnp.dtype(dtype)
        self.embedding = matrix(rngs, "embedding", c.vocab, c.width)
        dense = c.depth - mixture_blocks(c)
        self.blocks = nnx.List([Block(c, mixes=i >= dense, dtype=self.dtype, rngs=rngs) for i in range(c.depth)])
        self.norm = Norm(c, c.width, group="final_norm")
        self.head = None if c.tied else matrix(rngs, "head", c.width, c.vocab)

    def __call__(
        self, tokens_BxT: jax.Array, mesh: AnyMesh | None = None, *, recompute: Recompute = "none"
    ) -> jax.Array:
        """Logits, B x T x V (see `features`)."""
        logits_NxV = self.logits(self.features(tokens_BxT, mesh, recompute=recompute)[0])
        return logits_NxV.reshape(*tokens_BxT.shape, -1)

    def logits(self, x_NxD: jax.Array) -> jax.Array:
        """Of what `features` gives, N x V."""
        return head_logits(x_NxD, self.head_DxV.astype(self.dtype), self.c.logit_cap)

    def features(
        self, tokens_BxT: jax.Array, mesh: AnyMesh | None = None, *, recompute: Recompute = "none"
    ) -> tuple[jax.Array, Routing | None]:
        """What the head reads, N x D, and where the tokens went in each block that has experts, if any has.

        Args:
            mesh: the devices that the sequences are spread over, if more than one.
            recompute: what of a block is not kept for a gradient.
        """
        with self._precision():
            x_NxD = shard_rows(mesh, self.embedding[...][tokens_BxT.reshape(-1)].astype(self.dtype))
            dense, routing = self.c.depth - mixture_blocks(self.c), None
            document_BxT = None if self.c.document_end is None else documents(tokens_BxT, self.c.document_end)
            for blocks in (self.blocks[:dense], self.blocks[dense:]):
                if blocks:
                    x_NxD, routing = apply_blocks(blocks, x_NxD, tokens_BxT.shape[1], mesh, recompute, document_BxT)
            return self.norm(x_NxD).astype(self.dtype), routing

    @property
    def head_DxV(self) -> jax.Array:
        """The head's weights. A tied head keeps logits small at every width: unit features times unit embeddings, over
        the width."""
        return self.embedding[...].T / self.c.width if self.head is None else self.head[...]

    def _precision(self) -> contextlib.AbstractContextManager:
        # Unless told, TPUs and NVIDIA's GPUs round what goes into a product of float32 to 8 or 11 bits.
        return jax.default_matmul_precision("float32") if self.dtype == jnp.float32 else contextlib.nullcontext()


def documents(tokens_BxT: jax.Array, end: int) -> jax.Array:
    """The number of each token's document in its sequence, from 0; the token that ends a document is its last."""
    ends_BxT = (tokens_BxT == end).astype(jnp.int32)
    return jnp.cumsum(ends_BxT, axis=1) - ends_BxT


def head_logits(x_NxD: jax.Array, head_DxV: jax.Array, cap: float | None) -> jax.Array:
    """Float32 logits, N x V, whatever is multiplied."""
    precision = "float32" if x_NxD.dtype == jnp.float32 else None
    logits_NxV = jnp.matmul(x_NxD, head_DxV, precision=precision, preferred_element_type=jnp.float32)
    return logits_NxV if cap is None else cap * jnp.tanh(logits_NxV / cap)  # Gemma Team 2024 (Gemma 2), sec. 2


def apply_blocks(
    blocks: Sequence[Block],
    x_NxD: jax.Array,
    T: int,
    mesh: AnyMesh | None,
    recompute: Recompute,
    document_BxT: jax.Array | None = None,
) -> tuple[jax.Array, Routing | None]:
    """The residual stream, N x D, after blocks that are alike, and where the tokens went in each if they have experts.

    Many are scanned: compiled once, and of the weights that devices share one block's are gathered at a time.
    """
    if not scans(len(blocks), recompute):
        found = []
        for block in blocks:
            x_NxD, routing = block(x_NxD, T, mesh, document_BxT)
            x_NxD = shard_rows(mesh, x_NxD)
            found.append(routing)
        return x_NxD, jax.tree.map(lambda *of_each: jnp.stack(of_each), *found)
    graph, *_ = (nnx.split(block)[0] for block in blocks)
    stacked = jax.tree.map(
        functools.partial(_stack, blocks[0].dtype, mesh), *(nnx.state(block) for block in blocks), is_leaf=_is_variable
    )

    def one(x_NxD: jax.Array, weights: Any) -> tuple[jax.Array, Routing | None]:
        block = nnx.merge(graph, weights)
        x_NxD, routing = block(checkpoint_name(x_NxD, INTO_BLOCK), T, mesh, document_BxT)
        return shard_rows(mesh, x_NxD), routing

    if recompute != "none":
        # In a scan the second computation is in a loop of its own, where no compiler finds the first.
        one = jax.checkpoint(one, policy=_kept(recompute), prevent_cse=False)
    return jax.lax.scan(one, x_NxD, nnx.to_pure_dict(stacked))


def _is_variable(x: Any) -> bool:
    return isinstance(x, nnx.Variable)


def _stack(dtype: jnp.dtype, mesh: AnyMesh | None, *weights: Weight) -> nnx.Variable:
    """The weights of all blocks in one array, each device's own parts of them.

    Matrices are copied as they are used, in half the memory where that is bfloat16; a router is used in float32.
    """
    first = weights[0]
    halved = first.ndim >= 2 and first.group != "router"
    stacked = jnp.stack([w[...].astype(dtype) if halved else w[...] for w in weights])
    if mesh is not None:
        spec = weight_spec(mesh, first.group, first.shape)
        stacked = jax.lax.with_sharding_constraint(stacked, NamedSharding(mesh, P(None, *spec)))
    return first.replace(stacked)


def _kept(recompute: Recompute) -> Any:
    """What a block keeps for its gradient, but for what goes into it, as a policy of `jax.checkpoint`."""
    policies = jax.checkpoint_policies
    if recompute == "dots":
        return policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(FROM_KERNEL)
        )
    if recompute == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[INTO_BLOCK],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return None


@functools.lru_cache
def structure(model: Network, dtype: str) -> tuple[nnx.GraphDef, PyTree]:
    """A Transformer without its weights, and the parametrization group of each of them."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: Transformer(model, dtype=dtype, rngs=nnx.Rngs(0))))
    groups = jax.tree.map(lambda weight: weight.group, abstract, is_leaf=lambda x: isinstance(x, nnx.Variable))
    return graph, nnx.to_pure_dict(groups)


def transformer_of(model: Network, dtype: str, params: PyTree) -> Transformer:
    """The Transformer that `params` are the weights of."""
    return nnx.merge(structure(model, dtype)[0], params)
