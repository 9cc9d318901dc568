"""Attention: every kernel is plain softmax attention, and each is taken where it can do what is asked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nextscale.model.config.run import Network
from nextscale.model.network.attention import (
    alibi_slopes,
    attend,
    attention_bias,
    causal_attention,
    repeat_heads,
    splash_attention,
)
from nextscale.model.network.kernels import kernel_for


def model(**options):
    return Network(**{"depth": 1, "heads": 2, "context": 256, "width": 128, "vocab": 32} | options)


def drawn(T, H, G, K, dtype=jnp.float32):
    return tuple(jax.random.normal(jax.random.key(i), (2, T, n, K), dtype) for i, n in enumerate((H, G, G)))


def plain(q, k, v, scale):
    scores = scale * jnp.einsum("bthk,bshk->bhts", q, repeat_heads(k, q.shape[2]))
    weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf))
    return jnp.einsum("bhts,bshk->bthk", weights, repeat_heads(v, q.shape[2]))


def with_gradient(function, *x):
    """What it gives, and the gradient of something that depends on all of it."""

    @jax.jit
    def found(*x):
        out, back = jax.vjp(function, *x)
        return out, *back(jnp.sin(out))

    return found(*x)


@pytest.mark.slow
@pytest.mark.parametrize(("H", "G"), [pytest.param(2, 2, marks=pytest.mark.soak), (4, 2)])
def test_the_kernel_of_tpus_is_plain_attention(H, G):
    """Interpreted on the CPU."""
    x = drawn(256, H, G, 64)
    found = with_gradient(functools.partial(splash_attention, scale=0.3, interpret=True), *x)
    for each, expected in zip(found, with_gradient(functools.partial(plain, scale=0.3), *x), strict=True):
        np.testing.assert_allclose(each, expected, atol=1e-4)


@pytest.mark.parametrize(("H", "G"), [pytest.param(2, 2, marks=[pytest.mark.slow, pytest.mark.soak]), (4, 2)])
@pytest.mark.parametrize("kernel", [pytest.param("cudnn", marks=pytest.mark.slow), "blocks"])
def test_the_other_kernels_are_plain_attention(monkeypatch, kernel, H, G):
    """What asks for cuDNN is given what JAX computes without it: only the asking is tested."""
    asked = jax.nn.dot_product_attention

    def without_cudnn(*x, implementation, **options):
        assert implementation == "cudnn"
        return asked(*x, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", without_cudnn)
    x = drawn(24, H, G, 16)
    ours = functools.partial(attend, kernel, slope_H=np.zeros(1, np.float32), scores_multiplier=0.5)
    for each, expected in zip(
        with_gradient(ours, *x), with_gradient(functools.partial(plain, scale=0.125), *x), strict=True
    ):
        np.testing.assert_allclose(each, expected, atol=1e-4)


def test_a_kernel_is_taken_where_it_can_do_what_is_asked():
    half, full = jnp.dtype("bfloat16"), jnp.dtype("float32")
    assert kernel_for(model(), half, 256, "cuda") == "cudnn"
    assert kernel_for(model(kv_heads=1), half, 256, "cuda") == "cudnn"
    assert kernel_for(model(), full, 256, "cuda") == "blocks"
    assert kernel_for(model(width=24), half, 256, "cuda") == "blocks"
    assert kernel_for(model(width=1024), half, 256, "cuda") == "blocks"
    assert kernel_for(model(), half, 256, "rocm") == "blocks"
    assert kernel_for(model(), full, 256, "tpu") == "splash"
    assert kernel_for(model(), half, 200, "tpu") == "blocks"
    assert kernel_for(model(position="alibi"), half, 256, "cuda") == "blocks"
    assert kernel_for(model(position="alibi"), half, 256, "tpu") == "blocks"
    assert kernel_for(model(), half, 256, "cpu") == "blocks"


def test_alibi_penalises_distance_and_hides_the_future():
    slopes = alibi_slopes(model(position="alibi", heads=4, width=16))
    bias = np.asarray(attention_bias(slopes, 0, 6))
    assert bias.shape == (4, 6, 6)
    np.testing.assert_array_equal(attention_bias(slopes, 2, 5), bias[:, 2:5, :5])
    assert np.all(np.isneginf(bias[:, *np.triu_indices(6, 1)]))
    assert np.all(np.diff(bias[:, 5], axis=-1) > 0)


@pytest.mark.parametrize("T", [1, 5, *(pytest.param(T, marks=pytest.mark.slow) for T in (31, 64, 256)), 100])
def test_blocked_attention_is_plain_softmax_attention(T):
    config = model(position="alibi", heads=2, width=16, context=max(T, 2))
    q, k, v = (jax.random.normal(jax.random.key(i), (2, T, 2, 8)) for i in range(3))
    slopes = alibi_slopes(config)

    @jax.jit
    def both(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k) / np.sqrt(8) + attention_bias(slopes, 0, T))
        return causal_attention(q, k, v, slopes), jnp.einsum("bhts,bshk->bthk", weights, v)

    np.testing.assert_allclose(*both(q, k, v), atol=2e-6)


@pytest.mark.parametrize("position", ("rope", "alibi", "none"))
def test_a_program_does_not_grow_with_the_context(position):
    def size(T):
        config = model(position=position, context=T)
        x = jax.ShapeDtypeStruct((1, T, 2, 8), jnp.float32)
        return len(jax.jit(lambda q, k, v: causal_attention(q, k, v, alibi_slopes(config))).lower(x, x, x).as_text())

    assert size(1024) < 1.1 * size(128)
