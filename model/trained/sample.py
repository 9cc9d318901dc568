"""Tokens drawn from a trained model, one after another."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nextscale.model.config.run import Network
from nextscale.model.errors import InputError
from nextscale.model.network.transformer import transformer_of
from nextscale.model.trained.load import TrainedModel

PyTree = Any


def sample(
    trained: TrainedModel,
    prompt: Sequence[int],
    count: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    end: int | None = None,
) -> Iterator[int]:
    """Up to `count` tokens that follow a prompt, as they come.

    Each sees as many tokens before it as the context has. One program of that length is compiled, for all of them.

    Args:
        temperature: that logits are divided by; 0 takes the likeliest token.
        top_k: how many of the likeliest tokens are drawn from; all if open.
        end: the token after which none is drawn; it is not told.

    Raises:
        InputError: the prompt is empty, or not of the vocabulary.
    """
    model, dtype = trained.config.network, trained.config.training.dtype
    if not prompt:
        raise InputError("--prompt: is empty; give one token or more to begin with")
    if not all(0 <= token < model.vocab for token in prompt):
        raise InputError(
            f"--prompt: its tokens run from {min(prompt)} to {max(prompt)}, those of the model from 0 to "
            f"{model.vocab - 1}"
        )
    T = model.context
    window_T, length = np.zeros(T, np.int32), min(len(prompt), T)
    window_T[:length] = prompt[-length:]
    kept = model.vocab if top_k is None else min(top_k, model.vocab)
    for i in range(count):
        token = int(_draw(model, dtype, kept, trained.params, window_T, length, temperature, (seed, i)))
        if token == end:
            return
        yield token
        if length == T:
            window_T, length = np.roll(window_T, -1), T - 1
        window_T[length] = token
        length += 1


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _draw(
    model: Network,
    dtype: str,
    top_k: int,
    params: PyTree,
    window_T: jax.Array,
    length: jax.Array,
    temperature: jax.Array,
    number: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """The token after the first `length`; what stands behind them is not seen.

    Args:
        number: the seed, and which draw of it this is.
    """
    key = jax.random.fold_in(jax.random.key(number[0]), number[1])
    logits_V = transformer_of(model, dtype, params)(window_T[None])[0, length - 1]
    logits_K, tokens_K = jax.lax.top_k(logits_V, top_k)
    drawn = jax.random.categorical(key, logits_K / jnp.maximum(temperature, 1e-6))
    return jnp.where(temperature > 0, tokens_K[drawn], jnp.argmax(logits_V))
