"""Parametrizations: the table of rules, and the same learning at every width and depth that they are for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nextscale.model.config.data import MarkovData
from nextscale.model.config.parametrization import Multipliers, Size, multipliers
from nextscale.model.config.run import ModelFamily, RunConfig, TrainingConfig
from nextscale.model.data.sources import open_source
from nextscale.model.network.loss import training_loss
from nextscale.model.network.transformer import Transformer, structure, transformer_of
from nextscale.model.training.optimizer import hyperparameters, optimizer

GROUPS = ("embedding", "hidden", "output", "norm", "final_norm", "head")
MATRICES = {"hidden", "output", "head"}
TWICE_AS_WIDE, TWICE_AS_DEEP = Size(width=0.5, depth=1), Size(width=1, depth=0.5)


def small_run(parametrization, width, depth, *, steps, lr=0.01):
    family = ModelFamily(depth=depth, heads=2, context=16, mlp="relu2", position="alibi")
    data = MarkovData(source="markov", vocab=16)
    options = {"parametrization": parametrization, "base_width": 32, "base_depth": 1}
    training = TrainingConfig(batch_tokens=256, steps=steps, lr=lr, **options)
    return RunConfig(data=data, model=family.at(width, data.vocab), training=training)


@functools.lru_cache
def program(network):
    """From numbers and K batches to the trained weights and the losses, at a constant rate."""
    _, groups = structure(network, "float32")

    def loss_of(params, batch):
        return training_loss(transformer_of(network, "float32", params)(batch[:, :-1]), batch[:, 1:], network.z_loss)

    _, groups = structure(network, "float32")

    @jax.jit
    def trained(numbers, batches_KxBxT1):
        rule = optimizer("adamw", groups, numbers, 1.0)

        def step(carry, batch):
            params, moments = carry
            (_, loss), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, batch)
            updates, moments = rule.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments), loss

        params = nnx.to_pure_dict(nnx.state(Transformer(network, rngs=nnx.Rngs(0))))
        (params, _), losses = jax.lax.scan(step, (params, rule.init(params)), batches_KxBxT1)
        return params, losses

    return trained


def train(run):
    """The trained weights, the losses of the steps, and the tokens of the last batch."""
    _, groups = structure(run.network, "float32")
    size = run.training.size_of(run.model)
    numbers = hyperparameters(run.training, groups=groups, size=size)
    K, B = run.training.steps, run.batch_sequences
    batches_KxBxT1 = jnp.asarray(open_source(run).sequences(0, K * B).reshape(K, B, -1))
    params, losses = program(run.network)(numbers, batches_KxBxT1)
    return params, np.asarray(losses), batches_KxBxT1[-1, :, :-1]


@functools.partial(jax.jit, static_argnums=0)
def sizes(network, params, tokens_BxT):
    """Mean size of the logits, and of what the first block, times their number, and all of them add to the stream."""
    module, T = transformer_of(network, "float32", params), tokens_BxT.shape[1]
    start_NxD = module.embedding[...][tokens_BxT.reshape(-1)]
    x_NxD = start_NxD
    for block in module.blocks:
        x_NxD = block(x_NxD, T)
    first_NxD = network.depth * (module.blocks[0](start_NxD, T) - start_NxD)
    return jnp.array([jnp.abs(x).mean() for x in (module(tokens_BxT), first_NxD, x_NxD - start_NxD)])


@functools.lru_cache
def coordinates(parametrization, width=32, depth=1):
    """The `sizes` after ten steps."""
    run = small_run(parametrization, width, depth, steps=10)
    params, _, tokens_BxT = train(run)
    return np.asarray(sizes(run.network, params, tokens_BxT))


def spread(*found):
    """Largest over smallest, of each coordinate."""
    return np.max(found, axis=0) / np.min(found, axis=0)


class TestCoordinates:
    """What a model computes after a few steps is as large at every size, or what is tuned at one does not hold."""

    @pytest.mark.parametrize("parametrization", ["mup", "completep"])
    @pytest.mark.slow
    def test_they_are_flat_over_sixteen_times_the_width(self, parametrization):
        assert np.all(spread(*(coordinates(parametrization, width=width) for width in (16, 256))) < 1.5)

    @pytest.mark.slow
    def test_they_grow_with_the_width_under_one_learning_rate(self):
        _, first, all_blocks = spread(*(coordinates("standard", width=width) for width in (16, 256)))
        assert min(first, all_blocks) > 10

    @pytest.mark.slow
    def test_they_are_flat_over_eight_times_the_depth(self):
        assert np.all(spread(*(coordinates("completep", depth=depth) for depth in (1, 8))) < 1.5)

    @pytest.mark.slow
    @pytest.mark.parametrize("parametrization", ["standard", "mup"])
    def test_they_grow_with_the_depth_where_blocks_are_not_scaled(self, parametrization):
        _, first, all_blocks = spread(*(coordinates(parametrization, depth=depth) for depth in (1, 8)))
        assert min(first, all_blocks) > 3


@pytest.mark.parametrize("group", GROUPS)
def test_parametrizations_agree_at_the_base_size_but_for_the_decay_of_norms(group):
    base = Size(width=1, depth=1)
    standard, mup, completep = (multipliers(group, name, base) for name in ("standard", "mup", "completep"))
    assert standard == mup == Multipliers(lr=1, eps=1, decay=1)
    assert completep == standard._replace(decay=0 if "norm" in group else 1)


def test_standard_knows_no_size():
    half = Size(width=0.5, depth=0.5)
    assert {multipliers(group, "standard", half) for group in GROUPS} == {Multipliers(lr=1, eps=1, decay=1)}


def test_mup_divides_the_rate_of_matrices_by_the_growth_of_the_width():
    wide, deep = ({g: multipliers(g, "mup", size) for g in GROUPS} for size in (TWICE_AS_WIDE, TWICE_AS_DEEP))
    assert {group for group in GROUPS if wide[group] == Multipliers(lr=0.5, eps=1, decay=1)} == MATRICES
    assert {group for group in GROUPS if wide[group] == Multipliers(lr=1, eps=1, decay=1)} == set(GROUPS) - MATRICES
    assert set(deep.values()) == {Multipliers(lr=1, eps=1, decay=1)}


def test_completep_follows_its_authors():
    """Their code, linked from arXiv 2505.01618: ε/w for the embedding and the last norm, ε/(w·d) in the blocks. The
    head here has no multiplier of 1/w, so its gradients are w times theirs, and its ε with them."""
    size = Size(width=0.5, depth=0.25)
    found = {group: multipliers(group, "completep", size) for group in GROUPS}
    assert {group: m.lr for group, m in found.items()} == {g: 0.5 if g in MATRICES else 1 for g in GROUPS}
    eps = {"embedding": 0.5, "final_norm": 0.5, "head": 1, "hidden": 0.125, "output": 0.125, "norm": 0.125}
    assert {group: m.eps for group, m in found.items()} == eps
    network = small_run("completep", 64, 4, steps=20).network
    assert (network.scores_multiplier, network.residual_multiplier) == (pytest.approx(0.5**0.5), 0.25)


@pytest.mark.parametrize("parametrization", ["standard", "mup"])
def test_the_others_leave_the_forward_pass_alone(parametrization):
    network = small_run(parametrization, 64, 4, steps=20).network
    assert (network.scores_multiplier, network.residual_multiplier) == (1, 1)


class TestLearningRate:
    """The best of a grid of powers of 2, by the loss of the last 50 of 300 steps, at 8 times the width."""

    @staticmethod
    def best(parametrization, width):
        rates = range(-9, -2)
        runs = (small_run(parametrization, width, 1, steps=300, lr=2.0**rate) for rate in rates)
        return rates[int(np.argmin([train(run)[1][-50:].mean() for run in runs]))]

    @pytest.mark.slow
    @pytest.mark.parametrize("parametrization", ["mup", "completep"])
    def test_it_stays_where_it_was(self, parametrization):
        assert abs(self.best(parametrization, 128) - self.best(parametrization, 16)) <= 1

    @pytest.mark.slow
    def test_it_moves_under_one_learning_rate(self):
        assert self.best("standard", 128) <= self.best("standard", 16) - 2
