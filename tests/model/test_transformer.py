"""The Transformer: nothing sees the future, counts are exact, FLOPs are what XLA counts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nextscale.model.accounting import forward_flops_per_token, parameter_groups, parameters
from nextscale.model.config import ModelConfig
from nextscale.model.evaluate import structure
from nextscale.model.transformer import Transformer, attention_bias, causal_attention, rotate

POSITIONS, MLPS = ("rope", "alibi", "none"), ("gelu", "relu2", "swiglu", "none")
FAMILIES = [
    {"position": position, "mlp": mlp, "tied": tied, "norm_scale": tied}
    for (position, mlp), tied in zip(itertools.product(POSITIONS, MLPS), itertools.cycle([False, True]), strict=False)
]


def model_config(**options):
    return ModelConfig(**{"depth": 2, "heads": 2, "context": 12, "width": 16, "vocab": 32} | options)


def noisy_transformer(config, dtype="float32"):
    """A Transformer with no weight at zero, so that every path carries a gradient."""
    module = Transformer(config, dtype=dtype, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(tree, noisy))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mlp", MLPS)
def test_gradient_after_a_position_is_exactly_zero(position, mlp):
    config = model_config(position=position, mlp=mlp)
    graph, state = nnx.split(noisy_transformer(config))
    # Each position holds a token of its own, so the gradient by a row of the embedding is that by a position.
    tokens_BxT = jnp.arange(config.context)[None]
    gradient = jax.grad(lambda s: nnx.merge(graph, s)(tokens_BxT)[0, 5].sum())(state)
    by_position = np.abs(gradient["embedding"][...]).sum(axis=-1)
    assert np.all(by_position[6:] == 0)
    assert np.all(by_position[:6] > 0)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("depth", [1, 3])
def test_counted_parameters_are_the_actual_ones(family, depth):
    config = model_config(**family, depth=depth, width=24)
    module = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    actual = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module)))
    assert parameters(config) == actual == sum(parameter_groups(config).values())


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_flops_agree_with_xla(family):
    """XLA also counts norms, softmax and activations, which shrink against the products as the width grows: within
    4 % at width 256."""
    config = model_config(**family, width=256, heads=4, context=64, vocab=512)
    graph, state = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    tokens = jax.ShapeDtypeStruct((4, config.context), jnp.int32)
    compiled = jax.jit(lambda s, t: nnx.merge(graph, s)(t)).lower(state, tokens).compile()
    counted = 4 * config.context * forward_flops_per_token(config, "dense")
    assert counted == pytest.approx(compiled.cost_analysis()["flops"], rel=0.04)


def test_exact_flops_count_each_visible_key_once():
    config = model_config(depth=1, width=16, context=12)
    visible = sum(range(1, 13)) / 12
    extra = forward_flops_per_token(config, "dense") - forward_flops_per_token(config, "exact")
    assert extra == 4 * 16 * (12 - visible)


def test_rotary_scores_depend_on_distance_alone():
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 8)) for i in range(2))
    turned_q, turned_k = (np.asarray(rotate(jnp.tile(x, (1, 10, 1, 1)))[0, :, 0]) for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in range(-5, 6):
        np.testing.assert_allclose(
            np.diagonal(scores, distance), scores[max(0, -distance), max(0, distance)], atol=1e-5
        )


def test_alibi_penalises_distance_and_hides_the_future():
    bias = attention_bias(model_config(position="alibi", heads=4, width=16), 6)
    assert bias.shape == (4, 6, 6)
    assert np.all(np.isneginf(bias[:, *np.triu_indices(6, 1)]))
    assert np.all(np.diff(bias[:, 5], axis=-1) > 0)


def test_an_untrained_model_is_uniform():
    config = model_config()
    logits = Transformer(config, rngs=nnx.Rngs(0))(jnp.zeros((1, config.context), jnp.int32))
    assert np.all(np.asarray(logits) == 0)


def test_bfloat16_products_keep_float32_weights_and_logits():
    config = model_config()
    half, full = (noisy_transformer(config, dtype) for dtype in ("bfloat16", "float32"))
    tokens = jnp.arange(config.context)[None]
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    assert half(tokens).dtype == jnp.float32
    np.testing.assert_allclose(half(tokens), full(tokens), atol=0.1 * float(jnp.abs(full(tokens)).max()))


def test_every_weight_has_a_parametrization_group():
    _, groups = structure(model_config(mlp="swiglu", norm_scale=True), "float32")
    assert set(jax.tree.leaves(groups)) == {"embedding", "hidden", "output", "head", "norm"}


@pytest.mark.parametrize("T", [1, 5, 31, 64, 100, 256])
def test_blocked_attention_is_plain_softmax_attention(T):
    config = model_config(position="alibi", heads=2, width=16, context=max(T, 2))
    q, k, v = (jax.random.normal(jax.random.key(i), (2, T, 2, 8)) for i in range(3))
    bias = attention_bias(config, T)
    weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k) / np.sqrt(8) + bias)
    plain = jnp.einsum("bhts,bshk->bthk", weights, v)
    np.testing.assert_allclose(causal_attention(q, k, v, bias), plain, atol=2e-6)
