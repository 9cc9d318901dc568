"""A gated linear RNN: a model that nextscale has never heard of."""

import jax
import jax.numpy as jnp
from flax import nnx


class Mixer(nnx.Module):
    """Tokens in, logits out. `width` and `depth` come from the spec; `vocab` and `rngs` are offered to every module."""

    def __init__(self, width: int, depth: int, *, vocab: int, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(vocab, width, rngs=rngs)
        self.layers = nnx.List([Layer(width, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocab, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, tokens):  # B x T
        x = self.embedding(tokens)  # B x T x D
        for layer in self.layers:
            x = x + layer(x)
        return self.head(self.norm(x))  # B x T x V


class Layer(nnx.Module):
    """h_t = a_t h_(t-1) + (1 - a_t) v_t, each feature by itself, its gates a_t from the last few inputs."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.recent = nnx.Conv(width, width, kernel_size=4, padding="CAUSAL", feature_group_count=width, rngs=rngs)
        self.inner = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        forget, value, gate = jnp.split(self.inner(self.recent(self.norm(x))), 3, axis=-1)
        a = jax.nn.sigmoid(forget)
        _, h = jax.lax.associative_scan(_after, (a, (1 - a) * value), axis=1)
        return self.out(h * jax.nn.silu(gate))


def _after(first, second):
    """Two steps of the recurrence as one."""
    (a, v), (b, w) = first, second
    return a * b, b * v + w
