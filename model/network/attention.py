"""Causal softmax attention, by the kernel that is fastest on the platform.

| kernel | where | what |
|---|---|---|
| `cudnn` | NVIDIA GPUs, in bfloat16 | flash attention (Dao 2023), by `jax.nn.dot_product_attention` |
| `splash` | TPUs | the flash attention of JAX's Pallas kernels |
| `blocks` | anywhere, and for all that the others cannot do: ALiBi, odd shapes, float32 on GPUs | products of XLA |

The first two never hold the scores in memory, and take keys and values of fewer heads as they are. All three give the
same numbers but for the order of their sums; the scores' softmax is in float32 in each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from nextscale.model.config.run import ModelConfig
from nextscale.model.network.kernels import SPLASH_TILES, Kernel, query_blocks
from nextscale.model.network.sharding import AnyMesh, row_axes, shard_map

FROM_KERNEL = "from a kernel"
"""The name of what a flash kernel gives, for `jax.checkpoint`: to compute it twice is to run the kernel twice."""


def platform(mesh: AnyMesh | None = None) -> str:
    """The platform of a mesh, or the one at hand, for `kernel_for`: AMD's GPUs call themselves `gpu` too, but have no
    cuDNN."""
    device = None if mesh is None else mesh.abstract_mesh.abstract_device
    if device is not None and device.platform == "tpu":
        return "tpu"  # also where it is described alone
    backend = jax.extend.backend.get_backend()
    return "cuda" if "cuda" in backend.platform_version else backend.platform


def attend(
    kernel: Kernel,
    q_BxTxHxK: jax.Array,
    k_BxTxGxK: jax.Array,
    v_BxTxGxK: jax.Array,
    slope_H: np.ndarray,
    *,
    scores_multiplier: float = 1.0,
    document_BxT: jax.Array | None = None,
    mesh: AnyMesh | None = None,
) -> jax.Array:
    """Softmax attention, B x T x H x K, each of the G heads of keys and values shared by H / G queries in a row.

    Args:
        slope_H: what each head takes off a score per token of distance (see `alibi_slopes`), for `blocks` alone.
        scores_multiplier: of the scores, beside 1/sqrt(K).
        document_BxT: the number of each token's document, where no other is to be seen; not for `cudnn`.
        mesh: the devices that sequences and heads are spread over, if more than one.
    """
    scale = scores_multiplier / float(np.sqrt(q_BxTxHxK.shape[-1]))
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(
            q_BxTxHxK, k_BxTxGxK, v_BxTxGxK, is_causal=True, scale=scale, implementation="cudnn"
        )
    if kernel == "splash":
        return splash_attention(q_BxTxHxK, k_BxTxGxK, v_BxTxGxK, scale=scale, document_BxT=document_BxT, mesh=mesh)
    k_BxTxHxK, v_BxTxHxK = (repeat_heads(x, q_BxTxHxK.shape[2]) for x in (k_BxTxGxK, v_BxTxGxK))
    return causal_attention(
        q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, slope_H, scores_multiplier=scores_multiplier, document_BxT=document_BxT
    )


def causal_attention(
    q_BxTxHxK: jax.Array,
    k_BxTxHxK: jax.Array,
    v_BxTxHxK: jax.Array,
    slope_H: np.ndarray,
    *,
    scores_multiplier: float = 1.0,
    document_BxT: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention, B x T x H x K, the softmax in float32.

    Queries go in a few blocks that each see only the keys up to their own end, and are divided by the sum of their
    weights after mixing rather than before: on one CPU core a quarter to a third off the step of a small model.

    Args:
        slope_H: what each head takes off a score per token of distance (see `alibi_slopes`); 0 takes nothing.
        scores_multiplier: of the scores, beside 1/sqrt(K).
        document_BxT: see `attend`.
    """
    T, dtype = q_BxTxHxK.shape[1], q_BxTxHxK.dtype
    q_BxTxHxK = q_BxTxHxK / (np.sqrt(q_BxTxHxK.shape[-1]) / scores_multiplier).astype(dtype)
    blocks = []
    for start, end in query_blocks(T):
        scores_BxHxtxs = jnp.einsum("bthk,bshk->bhts", q_BxTxHxK[:, start:end], k_BxTxHxK[:, :end])
        scores_BxHxtxs = scores_BxHxtxs.astype(jnp.float32) + attention_bias(slope_H, start, end)
        if document_BxT is not None:
            same_Bxtxs = document_BxT[:, start:end, None] == document_BxT[:, None, :end]
            scores_BxHxtxs = jnp.where(same_Bxtxs[:, None], scores_BxHxtxs, -jnp.inf)
        top_BxHxtx1 = jax.lax.stop_gradient(scores_BxHxtxs.max(axis=-1, keepdims=True))
        weights_BxHxtxs = jnp.exp(scores_BxHxtxs - top_BxHxtx1)
        total_BxHxtx1 = weights_BxHxtxs.sum(axis=-1, keepdims=True)
        mixed_BxHxtxK = jnp.einsum("bhts,bshk->bhtk", weights_BxHxtxs.astype(dtype), v_BxTxHxK[:, :end])
        blocks.append((mixed_BxHxtxK / total_BxHxtx1).astype(dtype))
    return jnp.concatenate(blocks, axis=2).swapaxes(1, 2)


def splash_attention(
    q_BxTxHxK: jax.Array,
    k_BxTxGxK: jax.Array,
    v_BxTxGxK: jax.Array,
    *,
    scale: float,
    document_BxT: jax.Array | None = None,
    mesh: AnyMesh | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Softmax attention, B x T x H x K, on TPUs.

    XLA cannot split a Pallas kernel over devices, so each is told its own sequences, and its own heads where the
    `tensor` axis divides those of keys and values.

    Args:
        document_BxT: see `attend`.
        interpret: runs the kernel on any device, slowly.
    """
    T, G = q_BxTxHxK.shape[1], k_BxTxGxK.shape[2]
    split = mesh is not None and G % mesh.shape["tensor"] == 0

    def local(q_BxTxHxK: jax.Array, k_BxTxGxK: jax.Array, v_BxTxGxK: jax.Array, *document_BxT: jax.Array) -> jax.Array:
        kernel = jax.vmap(_splash_kernel(T, q_BxTxHxK.shape[2], interpret))
        q_BxHxTxK, k_BxGxTxK, v_BxGxTxK = (x.swapaxes(1, 2) for x in (q_BxTxHxK, k_BxTxGxK, v_BxTxGxK))
        q_BxHxTxK = q_BxHxTxK * jnp.asarray(scale, q_BxHxTxK.dtype)
        return kernel(q_BxHxTxK, k_BxGxTxK, v_BxGxTxK, *map(_segments, document_BxT)).swapaxes(1, 2)

    documents = () if document_BxT is None else (document_BxT,)
    if mesh is None:
        return local(q_BxTxHxK, k_BxTxGxK, v_BxTxGxK, *documents)
    rows = row_axes(mesh, len(q_BxTxHxK))
    spec = P(rows, None, "tensor" if split else None)
    specs = (spec,) * 3 + (P(rows),) * len(documents)
    return shard_map(local, mesh, specs, spec)(q_BxTxHxK, k_BxTxGxK, v_BxTxGxK, *documents)


def _segments(document_BxT: jax.Array) -> Any:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    return splash.SegmentIds(document_BxT, document_BxT)


def _splash_kernel(T: int, H: int, interpret: bool) -> Callable[..., jax.Array]:
    # Pallas takes long to import, and few have a TPU.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    tile = next(size for size in SPLASH_TILES if T % size == 0)
    tiles = splash.BlockSizes(tile, tile, tile, tile, tile, tile, use_fused_bwd_kernel=True)
    mask = splash.MultiHeadMask([splash.CausalMask((T, T))] * H)
    return splash.make_splash_mha_single_device(
        mask, block_sizes=tiles, interpret=interpret, residual_checkpoint_name=FROM_KERNEL
    )


def repeat_heads(x_BxTxGxK: jax.Array, heads: int) -> jax.Array:
    """Keys or values of G heads, each given to heads / G queries in a row: B x T x heads x K."""
    repeats = heads // x_BxTxGxK.shape[2]
    return x_BxTxGxK if repeats == 1 else jnp.repeat(x_BxTxGxK, repeats, axis=2)


def alibi_slopes(c: ModelConfig) -> np.ndarray:
    """Penalty of each head on distance, H; zeros where positions come by other means.

    ALiBi is Press et al. 2022. Slopes run from 2 to 1/32 over the heads (theirs stop at 1/256): a steep head
    that sees little but the previous token is what lets small models leave the bigram plateau.
    """
    return (2.0 ** np.linspace(1, -5, c.heads) if c.position == "alibi" else np.zeros(1)).astype(np.float32)


def attention_bias(slope_H: np.ndarray, start: int, end: int) -> jax.Array:
    """What is added to the scores of queries `start` to `end`: -inf for keys after the query, else -slope·distance.

    It is computed where it is used: as a constant it would make up most of the program, 42 MB at 1024 tokens.

    Returns:
        float32, H x (end - start) x end.
    """
    shape = (end - start, end)
    query_txs, key_txs = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    distance_txs = query_txs + start - key_txs
    return jnp.where(distance_txs >= 0, -slope_H[:, None, None] * distance_txs, -jnp.inf)
