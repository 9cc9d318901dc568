"""The Transformer: nothing sees the future, and each option does what it says and nothing else."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nextscale.model.config.run import ModelFamily, Network
from nextscale.model.data.sources import open_source
from nextscale.model.network import kernels
from nextscale.model.network.kernels import RECOMPUTE
from nextscale.model.network.loss import cross_entropy, training_loss
from nextscale.model.network.transformer import Transformer, structure
from nextscale.model.network.variants import rotate, turns
from nextscale.model.record import RunDirectory
from nextscale.model.training.dispatch import dispatches
from nextscale.model.training.step import numbers_of, program_of, state_shapes, train_steps
from nextscale.model.training.train import train

POSITIONS, MLPS = ("rope", "alibi", "none"), ("gelu", "relu2", "swiglu", "none")
OPTIONS = [
    {"kv_heads": 1},
    {"heads": 4, "kv_heads": 2, "position": "alibi"},
    {"head_width": 4, "kv_heads": 1},
    {"qk_norm": True, "norm_scale": True},
    {"logit_cap": 5.0, "tied": True},
    {"scores_multiplier": 0.5, "residual_multiplier": 0.25},
]


def model_config(**options):
    return Network(**{"depth": 2, "heads": 2, "context": 12, "width": 16, "vocab": 32} | options)


def noisy_transformer(config, dtype="float32"):
    """A Transformer with no weight at zero, so that every path carries a gradient."""
    module = Transformer(config, dtype=dtype, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(tree, noisy))


def gradient_by_position(config, position):
    """Mean absolute gradient of the logits at one position by the embedding of each."""
    graph, state = nnx.split(noisy_transformer(config))
    # Each position holds a token of its own, so the gradient by a row of the embedding is that by a position.
    tokens_BxT = jnp.arange(config.context)[None]
    gradient = jax.grad(lambda s: nnx.merge(graph, s)(tokens_BxT)[0, position, -1])(state)
    return np.abs(gradient["embedding"][...]).sum(axis=-1)[: config.context]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mlp", MLPS)
def test_gradient_after_a_position_is_exactly_zero(position, mlp):
    by_position = gradient_by_position(model_config(position=position, mlp=mlp), 5)
    assert np.all(by_position[6:] == 0)
    assert np.all(by_position[:6] > 0)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_option_sees_the_future(options):
    by_position = gradient_by_position(model_config(**options), 5)
    assert np.all(by_position[6:] == 0)
    assert np.all(by_position[:6] > 0)


def test_grouped_queries_are_full_attention_whose_keys_and_values_are_copies():
    full, grouped = (noisy_transformer(model_config(heads=4, kv_heads=n)) for n in (None, 2))
    for ours, theirs in zip(full.blocks, grouped.blocks, strict=True):
        for name in ("key", "value"):
            halves_DxGxK = getattr(theirs.attention, name)[...].reshape(16, 2, 4)
            getattr(ours.attention, name)[...] = jnp.repeat(halves_DxGxK, 2, axis=1).reshape(16, 16)
        for name in ("query", "out"):
            getattr(ours.attention, name)[...] = getattr(theirs.attention, name)[...]
        ours.mlp = theirs.mlp
    full.embedding, full.head = grouped.embedding, grouped.head
    tokens = jnp.arange(12)[None]
    np.testing.assert_allclose(full(tokens), grouped(tokens), rtol=1e-5, atol=1e-5)


def test_as_many_key_heads_as_heads_is_full_attention():
    tokens = jnp.arange(12)[None]
    full, named = (noisy_transformer(model_config(kv_heads=n))(tokens) for n in (None, 2))
    np.testing.assert_array_equal(full, named)


def test_capped_logits_stay_within_the_cap_and_in_order():
    tokens = jnp.arange(12)[None]
    free, capped = (np.asarray(noisy_transformer(model_config(logit_cap=cap))(tokens)) for cap in (None, 0.5))
    assert np.abs(free).max() > 1
    assert np.abs(capped).max() <= 0.5
    np.testing.assert_allclose(capped, 0.5 * np.tanh(free / 0.5), rtol=1e-5)


def test_normed_queries_and_keys_bound_every_score():
    config = model_config(qk_norm=True)
    attention = noisy_transformer(config).blocks[0].attention
    x = 1e3 * jax.random.normal(jax.random.key(0), (2, 50, 8))
    q, k = attention.query_norm(x[0]), attention.key_norm(x[1])
    assert np.abs(q @ k.T / np.sqrt(8)).max() <= np.sqrt(8)
    np.testing.assert_allclose(jnp.diag(q @ q.T) / np.sqrt(8), np.sqrt(8), rtol=1e-5)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_the_size_of_queries_matters_only_without_their_norm(qk_norm):
    module, tokens = noisy_transformer(model_config(qk_norm=qk_norm)), jnp.arange(12)[None]
    before = np.asarray(module(tokens))
    module.blocks[0].attention.query[...] *= 10
    assert np.allclose(module(tokens), before, rtol=1e-3, atol=1e-4) == qk_norm


def test_multipliers_of_the_forward_pass_are_those_of_scores_and_of_blocks():
    """Queries and what writes the residual stream, scaled by hand, are the same model."""
    config = model_config(scores_multiplier=0.5, residual_multiplier=0.25)
    scaled, plain = noisy_transformer(config), noisy_transformer(model_config())
    for block in plain.blocks:
        block.attention.query[...] *= 0.5
        block.attention.out[...] *= 0.25
        block.mlp.down[...] *= 0.25
    tokens = jnp.arange(12)[None]
    np.testing.assert_allclose(scaled(tokens), plain(tokens), rtol=1e-5, atol=1e-5)


class TestZLoss:
    logits, labels = jnp.array([[[3.0, 1.0, -2.0], [0.5, 0.0, -9.0]]]), jnp.array([[0, 2]])

    def test_it_pulls_the_log_partition_to_zero_and_nothing_else(self):
        def extra(logits):
            objective, loss = training_loss(logits, self.labels, 0.1)
            return objective - loss

        _, loss = training_loss(self.logits, self.labels, 0.1)
        np.testing.assert_allclose(loss, cross_entropy(self.logits, self.labels).mean(), rtol=1e-6)
        partition = jax.nn.logsumexp(self.logits, axis=-1)
        gradient = jax.grad(extra)(self.logits)
        # The gradient of log Z is the softmax, which sums to 1; the mean is over two tokens.
        np.testing.assert_allclose(gradient.sum(axis=-1), 2 * 0.1 * partition / 2, rtol=1e-4)
        np.testing.assert_allclose(jax.grad(extra)(self.logits - partition[..., None]), 0, atol=1e-6)

    @pytest.mark.slow
    def test_it_changes_what_is_learnt_and_not_what_is_reported(self, tiny_run, tmp_path):
        plain, pulled = (
            train(tiny_run(family=ModelFamily(depth=1, heads=2, context=8, z_loss=z)), RunDirectory(tmp_path / str(z)))
            for z in (0.0, 100.0)
        )
        assert plain["loss"] < pulled["loss"] < np.log(16) + 0.1


@pytest.mark.parametrize(
    "options, recompute",
    [
        ({}, "full"),
        *(pytest.param({}, recompute, marks=pytest.mark.slow) for recompute in ("none", "dots")),
        *(
            pytest.param(
                {"mlp": "swiglu", "qk_norm": True, "norm_scale": True, "kv_heads": 1},
                recompute,
                marks=[pytest.mark.slow, pytest.mark.soak],
            )
            for recompute in RECOMPUTE[:-1]
        ),
    ],
    ids=str,
)
def test_scanned_blocks_give_the_loss_and_the_gradient_of_unrolled_ones(monkeypatch, options, recompute):
    graph, state = nnx.split(noisy_transformer(model_config(depth=3, **options)))
    tokens = jnp.arange(12)[None]

    def found(recompute="none"):
        def loss(state):
            return jnp.sin(nnx.merge(graph, state)(tokens, recompute=recompute)).mean()

        run = jax.jit(jax.value_and_grad(loss))
        return ("while" in run.lower(state).as_text()), *run(state)

    unrolled, loss, gradient = found()
    monkeypatch.setattr(kernels, "SCANNED_FROM", 3)
    scanned, same_loss, same = found(recompute)
    assert (unrolled, scanned) == (False, True)
    np.testing.assert_allclose(same_loss, loss, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(same), jax.tree.leaves(gradient), strict=True):
        assert jnp.linalg.norm(ours - theirs) < 1e-6 * jnp.linalg.norm(theirs) + 1e-9


def test_many_blocks_are_compiled_once():
    def size(depth):
        graph, state = nnx.split(noisy_transformer(model_config(depth=depth)))
        loss = jax.grad(lambda state: nnx.merge(graph, state)(jnp.arange(12)[None]).mean())
        return len(jax.jit(loss).lower(state).as_text().splitlines())

    assert size(kernels.SCANNED_FROM) < size(kernels.SCANNED_FROM - 1)


def test_angles_are_exact_at_any_distance_and_a_program_does_not_grow_with_them():
    T, K = 100_000, 8
    angle = np.arange(T)[:, None] * 10000.0 ** (-np.arange(0, K, 2) / K)
    np.testing.assert_allclose(turns(T, K), (np.cos(angle), np.sin(angle)), atol=3e-7)
    x = [jax.ShapeDtypeStruct((1, T, 2, K), jnp.float32) for T in (1024, 16384)]
    short, long = (len(jax.jit(rotate).lower(each).as_text()) for each in x)
    assert long < 1.2 * short


def test_rotary_scores_depend_on_distance_alone():
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 8)) for i in range(2))
    turned_q, turned_k = (np.asarray(rotate(jnp.tile(x, (1, 10, 1, 1)))[0, :, 0]) for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in range(-5, 6):
        np.testing.assert_allclose(
            np.diagonal(scores, distance), scores[max(0, -distance), max(0, distance)], atol=1e-5
        )


def test_an_untrained_model_is_uniform():
    config = model_config()
    logits = Transformer(config, rngs=nnx.Rngs(0))(jnp.zeros((1, config.context), jnp.int32))
    assert np.all(np.asarray(logits) == 0)


@pytest.mark.slow
def test_bfloat16_products_keep_float32_weights_and_logits():
    config = model_config()
    half, full = (noisy_transformer(config, dtype) for dtype in ("bfloat16", "float32"))
    tokens = jnp.arange(config.context)[None]
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half))} == {jnp.dtype("float32")}
    assert half(tokens).dtype == jnp.float32
    np.testing.assert_allclose(half(tokens), full(tokens), atol=0.1 * float(jnp.abs(full(tokens)).max()))


def test_every_weight_has_a_parametrization_group():
    _, groups = structure(model_config(mlp="swiglu", norm_scale=True), "float32")
    assert set(jax.tree.leaves(groups)) == {"embedding", "hidden", "output", "mixed", "head", "norm", "final_norm"}


@pytest.mark.parametrize("dtype, precision", [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_products_of_float32_are_of_float32_on_accelerators_too(tiny_run, dtype, precision):
    """Of the steps and of their gradients, as they are handed to the compiler of any platform."""
    run = tiny_run(dtype=dtype)
    program = program_of(run)
    state, inputs = state_shapes(program), next(dispatches(run, open_source(run), 0, ())).inputs
    lowered = train_steps(program).lower(state, inputs.batches, inputs.schedule, 1, numbers_of(run)).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert len(products) > 20
    for product in products:
        found = re.search(r"precision = \[(\w+), (\w+)\]", product)
        assert (found.groups() if found else ("DEFAULT",) * 2) == (precision,) * 2, product
