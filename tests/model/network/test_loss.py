"""The loss in parts is the loss, and so is its gradient; and the logits are never there whole."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nextscale.model.config.run import Network
from nextscale.model.network import kernels
from nextscale.model.network.loss import batch_cross_entropy, batch_loss, cross_entropy, training_loss
from nextscale.model.network.transformer import Transformer, head_logits, transformer_of

OPTIONS = [
    pytest.param({}, marks=[pytest.mark.slow, pytest.mark.soak]),
    pytest.param({"tied": True, "logit_cap": 3.0}, marks=[pytest.mark.slow, pytest.mark.soak]),
    pytest.param({"z_loss": 0.1}, marks=pytest.mark.slow),
]
BATCH = jax.random.randint(jax.random.key(3), (5, 13), 0, 32)
"""60 tokens to predict, of 32 kinds."""


def model(**options):
    return Network(**{"depth": 1, "heads": 2, "context": 12, "width": 16, "vocab": 32} | options)


def noisy_params(config):
    """Weights of which none is zero."""
    params = nnx.to_pure_dict(nnx.state(Transformer(config, rngs=nnx.Rngs(0))))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def distance(ours, theirs):
    """Relative, of two trees."""
    apart = jax.tree.map(jnp.subtract, ours, theirs)
    norm = [jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))) for tree in (apart, theirs)]
    return float(norm[0] / norm[1])


def of_whole_logits(config, params):
    module = transformer_of(config, "float32", params)
    return training_loss(module(BATCH[:, :-1]), BATCH[:, 1:], config.z_loss)


def in_parts(config, params, dtype="float32"):
    objective, (loss, _) = batch_loss(transformer_of(config, dtype, params), BATCH)
    return objective, loss


def with_gradient(loss, config, params):
    return jax.jit(jax.value_and_grad(lambda params: loss(config, params), has_aux=True))(params)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_parts_give_the_loss_and_the_gradient_of_whole_logits(monkeypatch, options):
    config = model(**options)
    params = noisy_params(config)
    monkeypatch.setattr(kernels, "_LOGITS", 32 * 7)  # seven tokens at once, which do not divide sixty
    assert kernels.loss_parts(60, 32) == 9
    (objective, loss), gradient = with_gradient(in_parts, config, params)
    (same_objective, same_loss), same = with_gradient(of_whole_logits, config, params)
    assert (objective == loss) == (config.z_loss == 0)
    np.testing.assert_allclose((objective, loss), (same_objective, same_loss), rtol=1e-6)
    assert distance(gradient, same) < 1e-6


@pytest.mark.slow
def test_the_gradient_is_that_of_the_objective_alone_and_follows_its_scale(monkeypatch):
    config = model(z_loss=0.1)
    params = noisy_params(config)
    monkeypatch.setattr(kernels, "_LOGITS", 32 * 7)
    once = jax.jit(jax.grad(lambda params: in_parts(config, params)[0]))(params)
    thrice = jax.jit(jax.grad(lambda params: 3 * in_parts(config, params)[0] + in_parts(config, params)[1]))(params)
    assert distance(thrice, jax.tree.map(lambda leaf: 3 * leaf, once)) < 1e-6


def test_parts_give_each_token_s_loss(monkeypatch):
    monkeypatch.setattr(kernels, "_LOGITS", 32 * 7)

    @jax.jit
    def both(params):
        module = transformer_of(model(), "float32", params)
        return batch_cross_entropy(module, BATCH), cross_entropy(module(BATCH[:, :-1]), BATCH[:, 1:])

    np.testing.assert_allclose(*both(noisy_params(model())), rtol=2e-6)


@pytest.mark.parametrize("loss", [batch_loss, batch_cross_entropy])
def test_large_logits_are_not_in_the_program_and_small_ones_are(monkeypatch, loss):
    config = model()

    def program():
        def total(params):
            found = loss(transformer_of(config, "float32", params), BATCH)
            return (found[0] if loss is batch_loss else found).mean()

        return jax.jit(jax.grad(total) if loss is batch_loss else total).lower(noisy_params(config)).as_text()

    logits = re.compile("tensor<(5x12|60)x32xf32>")
    assert logits.search(program())
    monkeypatch.setattr(kernels, "_LOGITS", 32 * 7)
    assert not logits.search(program())


def test_only_what_is_large_is_cut():
    assert kernels.loss_parts(16 * 1024, 64) == 1
    assert kernels.loss_parts(4 * 256, 50304) == 1
    assert kernels.loss_parts(4096, 131072) == 8


def test_products_with_the_head_are_summed_in_float32():
    x, head = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i, shape in enumerate([(9, 64), (64, 33)]))
    exact = np.asarray(x, np.float64) @ np.asarray(head, np.float64)
    np.testing.assert_allclose(head_logits(x, head, None), exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.slow
def test_bfloat16_rounds_the_head_and_its_features_and_nothing_else():
    """The loss is that of exact logits of what was rounded, and each gradient within a rounding of bfloat16."""
    config = model()
    params = noisy_params(config)
    module = transformer_of(config, "bfloat16", params)
    x_NxD = np.asarray(module.features(BATCH[:, :-1])[0], np.float32)
    logits = jnp.asarray(x_NxD @ np.asarray(module.head_DxV.astype(jnp.bfloat16), np.float32))
    loss, by_logits = jax.value_and_grad(lambda logits: cross_entropy(logits, BATCH[:, 1:].reshape(-1)).mean())(logits)
    (_, found), gradient = jax.value_and_grad(lambda params: in_parts(config, params, "bfloat16"), has_aux=True)(params)
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    assert distance(gradient["head"], x_NxD.T @ by_logits) < 2**-8
