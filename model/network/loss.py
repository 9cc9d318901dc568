"""Cross-entropy of next-token predictions, and the loss that training lowers."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_entropy(logits_BxTxV: jax.Array, labels_BxT: jax.Array) -> jax.Array:
    """Nats per token, B x T, in float32."""
    picked_BxT = jnp.take_along_axis(logits_BxTxV, labels_BxT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BxTxV, axis=-1) - picked_BxT


def training_loss(logits_BxTxV: jax.Array, labels_BxT: jax.Array, z_loss: float) -> tuple[jax.Array, jax.Array]:
    """What training lowers, and the mean cross-entropy in it, in nats per token.

    They differ by `z_loss` times the mean square of the log-partition (Chowdhery et al. 2022, sec. 5): logits may
    drift together, unseen by the softmax, until they leave the range where a small dtype is precise.
    """
    loss = cross_entropy(logits_BxTxV, labels_BxT).mean()
    if z_loss == 0:
        return loss, loss
    return loss + z_loss * jnp.square(jax.nn.logsumexp(logits_BxTxV, axis=-1)).mean(), loss
