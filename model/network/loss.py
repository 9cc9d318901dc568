"""Cross-entropy of next-token predictions, and the loss that training lowers.

Logits of many tokens and a large vocabulary would be the largest array of a program. Where they are large they are
computed in parts, and so is their gradient, as soon as they are there: none is computed twice, and none is kept.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from nextscale.model.config.code import Function
from nextscale.model.config.module import ModuleNetwork
from nextscale.model.config.run import Network
from nextscale.model.errors import InputError, describe_error
from nextscale.model.external.code import check_call, load
from nextscale.model.network.experts import Routing
from nextscale.model.network.kernels import Recompute, loss_parts
from nextscale.model.network.modules import OwnModule
from nextscale.model.network.sharding import AnyMesh, row_axes, shard_map, weight_spec
from nextscale.model.network.transformer import Transformer, head_logits

ArrayT = TypeVar("ArrayT", jax.Array, np.ndarray)


def cross_entropy(logits_BxTxV: jax.Array, labels_BxT: jax.Array) -> jax.Array:
    """Nats per token, B x T, in float32."""
    picked_BxT = jnp.take_along_axis(logits_BxTxV, labels_BxT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BxTxV, axis=-1) - picked_BxT


def training_loss(
    logits_BxTxV: jax.Array, labels_BxT: jax.Array, z_loss: float, weight_BxT: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """What training lowers, and the mean cross-entropy in it, in nats per token.

    They differ by `z_loss` times the mean square of the log-partition (Chowdhery et al. 2022, sec. 5): logits may
    drift together, unseen by the softmax, until they leave the range where a small dtype is precise.

    Args:
        weight_BxT: of each prediction in both (see `prediction_weights`); 1 where none is given.
    """
    loss = _mean(cross_entropy(logits_BxTxV, labels_BxT), weight_BxT)
    if z_loss == 0:
        return loss, loss
    return loss + z_loss * _mean(jnp.square(jax.nn.logsumexp(logits_BxTxV, axis=-1)), weight_BxT), loss


def _mean(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    return (x if weight is None else x * weight).mean()


def is_scored(network: Network | ModuleNetwork, tokens_BxT: ArrayT) -> ArrayT | None:
    """From which tokens the next is predicted, where documents are kept apart: from all but the last of a document,
    after which another begins. None where they are not."""
    end = None if isinstance(network, ModuleNetwork) else network.document_end
    return None if end is None else tokens_BxT != end


def prediction_weights(
    network: Network | ModuleNetwork, tokens_BxT: jax.Array, scored: jax.Array | None = None
) -> jax.Array | None:
    """Of each prediction of a batch, so that the mean over the batch is that over all that are scored; None for 1.

    Args:
        scored: share of all predictions that are, in the batch that this is a part of.
    """
    if (weight_BxT := is_scored(network, tokens_BxT)) is None:
        return None
    weight_BxT = weight_BxT.astype(jnp.float32)
    # Of a batch in which nothing is scored the loss is 0, and no number is lost.
    return weight_BxT / jnp.maximum(weight_BxT.mean() if scored is None else scored, 1 / 2**40)


def batch_loss(
    module: Transformer | OwnModule,
    batch_BxT1: jax.Array,
    mesh: AnyMesh | None = None,
    *,
    recompute: Recompute = "none",
    own: Function | None = None,
    scored: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, Routing | None]]:
    """`training_loss` of a model on a batch, and where its tokens went if it has experts. A gradient is of the first
    alone, in which their routers have their part (`routing_loss`).

    Args:
        own: gives the loss of each token that training lowers in place of the cross-entropy, from logits and labels.
        scored: see `prediction_weights`.
    """
    tokens_BxT, labels_BxT = batch_BxT1[:, :-1], batch_BxT1[:, 1:]
    if isinstance(module, OwnModule):
        objective, loss = _losses_of(own, module(tokens_BxT, mesh, recompute=recompute), labels_BxT, 0.0)
        return objective, (loss, None)
    weight_BxT = prediction_weights(module.c, tokens_BxT, scored)
    head = _Head.of(module, tokens_BxT.size, mesh)
    x_NxD, routing = module.features(tokens_BxT, mesh, recompute=recompute)
    if own is not None or (head.parts == 1 and module.dtype == jnp.float32):
        logits_BxTxV = module.logits(x_NxD).reshape(*tokens_BxT.shape, -1)
        objective, loss = _losses_of(own, logits_BxTxV, labels_BxT, module.c.z_loss, weight_BxT)
    else:
        weight_N = None if weight_BxT is None else weight_BxT.reshape(-1)
        objective, loss = _objective(head, x_NxD, module.head_DxV, labels_BxT.reshape(-1), weight_N)
        loss = jax.lax.stop_gradient(loss)
    if routing is not None:
        objective = objective + routing_loss(module.c, routing)
    return objective, (loss, jax.lax.stop_gradient(routing))


def _losses_of(
    own: Function | None,
    logits_BxTxV: jax.Array,
    labels_BxT: jax.Array,
    z_loss: float,
    weight_BxT: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`training_loss`, of which an own loss takes the place of the cross-entropy in the first alone."""
    objective, loss = training_loss(logits_BxTxV, labels_BxT, z_loss, weight_BxT)
    if own is None:
        return objective, loss
    lowered = _own_loss(own, logits_BxTxV, labels_BxT, weight_BxT)
    return lowered + (objective - loss) if z_loss else lowered, jax.lax.stop_gradient(loss)


def routing_loss(c: Network, routing: Routing) -> jax.Array:
    """What routers add to the training loss: `balance_loss` times that of each mixture of experts (`balance_of`), and
    `router_z_loss` times the mean square of its log-partition (Zoph et al. 2022, ST-MoE, eq. 5 and 6). Of all mixtures
    the sum, as in both papers."""
    return c.balance_loss * routing.balance.sum() + c.router_z_loss * routing.z.sum()


def _own_loss(own: Function, logits_BxTxV: jax.Array, labels_BxT: jax.Array, weight_BxT: jax.Array | None) -> jax.Array:
    """Its mean over tokens.

    Raises:
        InputError: it fails, or gives no loss of each token.
    """
    what = f"training.loss: {own.target}"
    function = load(own, "training.loss")
    check_call(function, what, "logits and labels, to give the loss of each token", logits_BxTxV, labels_BxT)
    try:
        found = function(logits_BxTxV, labels_BxT)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} fails: {describe_error(error)}") from error
    if getattr(found, "shape", None) != labels_BxT.shape:
        shown = f"shape {found.shape}" if hasattr(found, "shape") else f"a {type(found).__name__}"
        raise InputError(f"{what} gives {shown}; give the loss of each token, of shape {labels_BxT.shape}")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise InputError(f"{what} gives {found.dtype}, which has no gradient; give the loss of each token in float32")
    return _mean(jnp.asarray(found, jnp.float32), weight_BxT)


def batch_cross_entropy(
    module: Transformer | OwnModule, batch_BxT1: jax.Array, mesh: AnyMesh | None = None
) -> jax.Array:
    """`cross_entropy` of a model on a batch, B x T."""
    tokens_BxT = batch_BxT1[:, :-1]
    if isinstance(module, OwnModule):
        return cross_entropy(module(tokens_BxT, mesh), batch_BxT1[:, 1:])
    head = _Head.of(module, tokens_BxT.size, mesh)
    if head.parts == 1:
        return cross_entropy(module(tokens_BxT, mesh), batch_BxT1[:, 1:])
    x_NxD, _ = module.features(tokens_BxT, mesh)
    partition_N, picked_N = _by_parts(head, x_NxD, module.head_DxV, batch_BxT1[:, 1:].reshape(-1), gradient=False)
    return (partition_N - picked_N).reshape(tokens_BxT.shape)


class _Head(NamedTuple):
    """How logits and their loss are computed.

    Attributes:
        parts: in which each device computes those of its tokens.
        axes: that tokens are spread over; None where each device has all.
        width, vocab: the axis, if any, that the head is split along.
    """

    parts: int
    cap: float | None
    z_loss: float
    dtype: str
    mesh: AnyMesh | None
    axes: tuple[str, ...] | None
    width: str | None
    vocab: str | None

    @classmethod
    def of(cls, module: Transformer, N: int, mesh: AnyMesh | None) -> _Head:
        c, axes, width, vocab = module.c, None, None, None
        V = c.vocab
        if mesh is not None:
            axes, (width, vocab) = row_axes(mesh, N), weight_spec(mesh, "head", (c.width, V))
            N = N // math.prod(mesh.shape[axis] for axis in axes or ())
            V = V // (1 if vocab is None else mesh.shape[vocab])
        return cls(loss_parts(N, V), c.logit_cap, c.z_loss, str(module.dtype), mesh, axes, width, vocab)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _objective(
    head: _Head, x_NxD: jax.Array, head_DxV: jax.Array, labels_N: jax.Array, weight_N: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """`training_loss`."""
    partition_N, picked_N, *_ = _by_parts(head, x_NxD, head_DxV, labels_N, weight_N, gradient=False)
    return _means(head, partition_N, picked_N, weight_N)


def _objective_forward(
    head: _Head, x_NxD: jax.Array, head_DxV: jax.Array, labels_N: jax.Array, weight_N: jax.Array | None
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    partition_N, picked_N, *gradients = _by_parts(head, x_NxD, head_DxV, labels_N, weight_N, gradient=True)
    by_x_NxD, by_head_DxV = gradients
    return _means(head, partition_N, picked_N, weight_N), (by_x_NxD, by_head_DxV)


def _objective_backward(
    head: _Head, gradients: tuple[jax.Array, jax.Array], by: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array | None, ...]:
    by_x_NxD, by_head_DxV = gradients
    return by_x_NxD * by[0].astype(by_x_NxD.dtype), by_head_DxV * by[0], None, None


_objective.defvjp(_objective_forward, _objective_backward)


def _means(
    head: _Head, partition_N: jax.Array, picked_N: jax.Array, weight_N: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    loss = _mean(partition_N - picked_N, weight_N)
    return loss + head.z_loss * _mean(jnp.square(partition_N), weight_N), loss


def _by_parts(
    head: _Head,
    x_NxD: jax.Array,
    head_DxV: jax.Array,
    labels_N: jax.Array,
    weight_N: jax.Array | None = None,
    *,
    gradient: bool,
) -> tuple[jax.Array, ...]:
    """The log-partition and the label's logit of each token, N each; and the `gradient` of `training_loss` by x and by
    the head.

    XLA would add up the head's gradient over devices after each part: here they do once, after all.
    """
    local = functools.partial(_local_parts, head, len(labels_N), gradient)
    head_DxV = head_DxV.astype(head.dtype)
    weight_N = jnp.ones(len(labels_N), jnp.float32) if weight_N is None else weight_N
    if head.mesh is None:
        return local(x_NxD, head_DxV, labels_N, weight_N)
    rows, weight = P(head.axes), P(head.width, head.vocab)
    found = (rows, rows, rows, P(head.width if head.axes else None, head.vocab))
    spread = shard_map(local, head.mesh, (rows, weight, rows, rows), found if gradient else found[:2])
    return spread(x_NxD, head_DxV, labels_N, weight_N)


def _local_parts(
    head: _Head,
    total: int,
    gradient: bool,
    x_NxD: jax.Array,
    head_DxV: jax.Array,
    labels_N: jax.Array,
    weight_N: jax.Array,
) -> tuple[jax.Array, ...]:
    """`_by_parts` of a device's tokens, of `total` on all."""
    if head.width is not None:
        head_DxV = jax.lax.all_gather(head_DxV, head.width, axis=0, tiled=True)
    N = len(labels_N)
    n = -(-N // head.parts)
    # What fills the last part has no weight, and is cut off.
    weight_N = weight_N / total
    x_PxnxD, labels_Pxn, weight_Pxn = (
        jnp.pad(a, [(0, n * head.parts - N)] + [(0, 0)] * (a.ndim - 1)).reshape(head.parts, n, *a.shape[1:])
        for a in (x_NxD, labels_N, weight_N)
    )

    def part(by_head_DxV: jax.Array | None, of: tuple[jax.Array, ...]) -> tuple[jax.Array | None, tuple]:
        x_nxD, labels_n, weight_n = of
        logits_nxV = head_logits(x_nxD, head_DxV, head.cap)
        partition_n, picked_n, is_label_nxV = _partition(head, logits_nxV, labels_n)
        if by_head_DxV is None:
            return None, (partition_n, picked_n)
        softmax_nxV = jnp.exp(logits_nxV - partition_n[:, None])
        by_logits_nxV = softmax_nxV * (1 + 2 * head.z_loss * partition_n)[:, None] - is_label_nxV
        if head.cap is not None:
            by_logits_nxV *= 1 - jnp.square(logits_nxV / head.cap)
        by_logits_nxV = (by_logits_nxV * weight_n[:, None]).astype(x_nxD.dtype)
        by_x_nxD = _product("nv,dv->nd", by_logits_nxV, head_DxV)
        if head.vocab is not None:
            by_x_nxD = jax.lax.psum(by_x_nxD, head.vocab)
        by_head_DxV += _product("nd,nv->dv", x_nxD, by_logits_nxV)
        return by_head_DxV, (partition_n, picked_n, by_x_nxD.astype(x_nxD.dtype))

    none_yet = jnp.zeros(head_DxV.shape, jnp.float32) if gradient else None
    by_head_DxV, found = jax.lax.scan(part, none_yet, (x_PxnxD, labels_Pxn, weight_Pxn))
    found = tuple(a.reshape(-1, *a.shape[2:])[:N] for a in found)
    if by_head_DxV is None:
        return found
    if head.axes is not None:
        if head.width is not None:
            by_head_DxV = jax.lax.psum_scatter(by_head_DxV, head.width, tiled=True)
        by_head_DxV = jax.lax.psum(by_head_DxV, [axis for axis in head.axes if axis != head.width])
    return *found, by_head_DxV


def _partition(head: _Head, logits_nxV: jax.Array, labels_n: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The log-partition and the label's logit, n each, and where that is, n x V; V are those of a device."""
    top_n, first = logits_nxV.max(axis=-1), jnp.int32(0)
    if head.vocab is not None:
        top_n = jax.lax.pmax(top_n, head.vocab)
        first = jax.lax.axis_index(head.vocab) * logits_nxV.shape[1]
    is_label_nxV = jax.lax.broadcasted_iota(jnp.int32, logits_nxV.shape, 1) == (labels_n - first)[:, None]
    sums = jnp.exp(logits_nxV - top_n[:, None]).sum(axis=-1), jnp.where(is_label_nxV, logits_nxV, 0).sum(axis=-1)
    total_n, picked_n = sums if head.vocab is None else jax.lax.psum(sums, head.vocab)
    return top_n + jnp.log(total_n), picked_n, is_label_nxV


def _product(axes: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """In float32, of whatever is multiplied."""
    precision = "float32" if a.dtype == jnp.float32 else None
    return jnp.einsum(axes, a, b, precision=precision, preferred_element_type=jnp.float32)
