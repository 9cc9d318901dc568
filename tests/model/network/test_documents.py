"""Documents that share a sequence are kept apart: nothing of one is seen, or scored, from another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nextscale.model.config.run import Network
from nextscale.model.network.attention import causal_attention, repeat_heads, splash_attention
from nextscale.model.network.kernels import kernel_for
from nextscale.model.network.loss import batch_cross_entropy, batch_loss, prediction_weights
from nextscale.model.network.transformer import Transformer, documents, transformer_of

END, V, T = 3, 32, 12


def model(**options):
    shape = {"depth": 1, "heads": 2, "context": T, "width": 16, "vocab": V, "document_end": END}
    return Network(**shape | options)


def weights(config):
    from flax import nnx

    shapes = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.state(Transformer(config, rngs=nnx.Rngs(0)))))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda w: jnp.float32(rng.standard_normal(w.shape) / w.shape[0] ** 0.5), shapes)


def tokens(seed, B=4, length=T + 1, ends=(5,)):
    """Sequences whose first document ends at the positions `ends`, and no other there."""
    found = np.random.default_rng(seed).integers(END + 1, V, (B, length)).astype(np.int32)
    found[:, list(ends)] = END
    return found


def test_the_last_token_of_a_document_is_its_end():
    found = documents(jnp.array([[7, 8, END, 9, END, END, 4], [END, 1, 2, 4, 5, 6, 7]]), END)
    np.testing.assert_array_equal(found, [[0, 0, 0, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]])


SLOW = pytest.mark.slow


@pytest.mark.parametrize("position", ["rope", pytest.param("alibi", marks=SLOW), pytest.param("none", marks=SLOW)])
def test_what_came_before_a_document_changes_not_a_bit_of_it(position):
    config = model(position=position, depth=2)
    module = jax.jit(transformer_of(config, "float32", weights(config)))
    one, other = tokens(0), tokens(1)
    other[:, 6:] = one[:, 6:]
    first, second = module(one[:, :-1]), module(other[:, :-1])
    np.testing.assert_array_equal(first[:, 6:], second[:, 6:])
    assert np.abs(first[:, :6] - second[:, :6]).max() > 1e-3
    later = tokens(2)
    later[:, :6] = one[:, :6]
    np.testing.assert_array_equal(module(later[:, :-1])[:, :6], first[:, :6])


@SLOW
@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.soak), 5])
def test_the_loss_is_that_of_documents_alone_and_so_is_its_gradient(parts, monkeypatch):
    """Both documents as sequences of their own, in a model that knows of none, to rounding."""
    config, batch = model(z_loss=0.1, position="rope"), tokens(0, ends=(5, T))
    monkeypatch.setattr("nextscale.model.network.kernels._LOGITS", 4 * T * V // parts)
    params = weights(config)

    @jax.jit
    def together(params):
        return batch_loss(transformer_of(config, "float32", params), batch)

    @jax.jit
    def alone(params):
        plain = transformer_of(config.model_copy(update={"document_end": None}), "float32", params)
        found = [batch_loss(plain, batch[:, part])[0] * n for part, n in ((slice(0, 6), 5), (slice(6, None), T - 6))]
        return sum(found) / (5 + T - 6)

    (loss, (unpenalised, _)), gradient = jax.value_and_grad(together, has_aux=True)(params)
    expected, same = jax.value_and_grad(alone)(params)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert unpenalised < loss
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(theirs).max())


@SLOW
def test_no_gradient_crosses_a_boundary():
    """By the loss of the second document, of the embedding of a token that stands in the first alone; and by the
    training loss, of the row of the head of a token that no prediction within a document has for its label."""
    config, batch = model(), tokens(0, B=1)
    batch[:, 7:] = 9
    batch[0, :5], batch[0, 6] = 20, 21

    def of_second(params):
        return batch_cross_entropy(transformer_of(config, "float32", params), batch)[0, 6:].sum()

    def whole(params, first_of_second):
        told = jnp.asarray(batch).at[0, 6].set(first_of_second)
        module = transformer_of(config, "float32", params)
        weight = prediction_weights(config, told[:, :-1])
        return (weight * batch_cross_entropy(module, told))[0, 5]

    params = weights(config)
    by_embedding = jax.jit(jax.grad(of_second))(params)["embedding"]
    np.testing.assert_array_equal(by_embedding[20], 0)
    assert np.abs(by_embedding[21]).max() > 0
    value, gradient = jax.jit(jax.value_and_grad(whole))(params, 22)
    assert value == 0
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, 0)


@SLOW
def test_tpus_kernel_sees_the_same_documents():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 128, n, 64)) for i, n in enumerate((4, 2, 2)))
    document = jnp.asarray(documents(jax.random.randint(jax.random.key(7), (2, 128), 0, 20), END))
    kernel = splash_attention(q, k, v, scale=0.125, document_BxT=document, interpret=True)
    plain = causal_attention(q, repeat_heads(k, 4), repeat_heads(v, 4), np.zeros(1, np.float32), document_BxT=document)
    np.testing.assert_allclose(kernel, plain, atol=1e-5)


def test_cudnn_is_not_taken_for_documents():
    config = model(width=128, context=256)
    assert kernel_for(config, "bfloat16", 256, "cuda") == "cudnn"
    assert kernel_for(config, "bfloat16", 256, "cuda", documents=True) == "blocks"
    assert kernel_for(config, "bfloat16", 256, "tpu", documents=True) == "splash"
