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
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.config.training import TrainingConfig
from nextscale.model.data.sources import open_source
from nextscale.model.network.loss import training_loss
from nextscale.model.network.transformer import Transformer, structure, transformer_of
from nextscale.model.training.optimizer import hyperparameters, optimizer

GROUPS = ("embedding", "hidden", "output", "mixed", "norm", "final_norm", "head", "router")
MATRICES = {"hidden", "output", "mixed", "head", "router"}
PARAMETRIZATIONS = ("standard", "mup", "mup-1/d", "completep")


def size(width=1.0, depth=1.0):
    """Of a model whose heads are as many at every width."""
    return Size(width, depth, width, width)


TWICE_AS_WIDE, TWICE_AS_DEEP = size(width=0.5), size(depth=0.5)


def small_run(parametrization, width, depth, *, steps, lr=0.01, head_width=None, experts=1):
    """With two heads, or as many of a width."""
    heads = 2 if head_width is None else width // head_width
    family = ModelFamily(depth=depth, heads=heads, context=16, mlp="relu2", position="alibi", experts=experts)
    data = MarkovData(source="markov", vocab=16)
    options = {"parametrization": parametrization, "base_width": 32, "base_depth": 1, "base_head_width": head_width}
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
    numbers = hyperparameters(run.training, groups=groups, size=run.training.size_of(run.model))
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
        x_NxD, _ = block(x_NxD, T)
    first_NxD = network.depth * (module.blocks[0](start_NxD, T)[0] - start_NxD)
    return jnp.array([jnp.abs(x).mean() for x in (module(tokens_BxT), first_NxD, x_NxD - start_NxD)])


@functools.lru_cache
def coordinates(parametrization, width=32, depth=1, head_width=None, experts=1):
    """The `sizes` after ten steps."""
    run = small_run(parametrization, width, depth, steps=10, head_width=head_width, experts=experts)
    params, _, tokens_BxT = train(run)
    return np.asarray(sizes(run.network, params, tokens_BxT))


@functools.lru_cache
def score_sizes(parametrization, width, head_width=None):
    """Root mean square of the first block's attention scores at the start, and of what ten steps added to them."""
    run = small_run(parametrization, width, 1, steps=10, head_width=head_width)
    params, _, tokens_BxT = train(run)
    network = run.network
    start = nnx.to_pure_dict(nnx.state(Transformer(network, rngs=nnx.Rngs(0))))

    def scores(params):
        module, K = transformer_of(network, "float32", params), network.query_width // network.heads
        block = module.blocks[0]
        x_BxTxD = block.attention_norm(module.embedding[...][tokens_BxT])
        q, k = (
            (x_BxTxD @ w[...]).reshape(*tokens_BxT.shape, -1, K) for w in (block.attention.query, block.attention.key)
        )
        return network.scores_multiplier / K**0.5 * jnp.einsum("bthk,bshk->bhts", q, k)

    before, after = scores(start), scores(params)
    return np.sqrt([float(jnp.square(x).mean()) for x in (before, after - before)])


@functools.lru_cache
def router_moves(parametrization, width):
    """Root mean square of what ten steps change of a router's logits, on features of size one."""
    run = small_run(parametrization, width, 1, steps=10, experts=4)
    params, _, tokens_BxT = train(run)
    start = nnx.to_pure_dict(nnx.state(Transformer(run.network, rngs=nnx.Rngs(0))))
    module = transformer_of(run.network, "float32", params)
    block, x_NxD = module.blocks[0], module.embedding[...][tokens_BxT.reshape(-1)]
    x_NxD = x_NxD + block.attention(block.attention_norm(x_NxD), tokens_BxT.shape[1], None)
    change = params["blocks"][0]["mlp"]["router"] - start["blocks"][0]["mlp"]["router"]
    return float(jnp.sqrt(jnp.square(block.mlp_norm(x_NxD) @ change).mean()))


def spread(*found):
    """Largest over smallest, of each coordinate."""
    return np.max(found, axis=0) / np.min(found, axis=0)


class TestCoordinates:
    """What a model computes after a few steps is as large at every size, or what is tuned at one does not hold."""

    @pytest.mark.parametrize("parametrization", [pytest.param("mup", marks=pytest.mark.soak), "completep"])
    @pytest.mark.slow
    def test_they_are_flat_over_sixteen_times_the_width(self, parametrization):
        assert np.all(spread(*(coordinates(parametrization, width=width) for width in (16, 256))) < 1.5)

    @pytest.mark.slow
    def test_they_grow_with_the_width_under_one_learning_rate(self):
        _, first, all_blocks = spread(*(coordinates("standard", width=width) for width in (16, 256)))
        assert min(first, all_blocks) > 10

    @pytest.mark.parametrize(
        "parametrization",
        ["mup-1/d", *(pytest.param(name, marks=pytest.mark.soak) for name in ("mup", "completep"))],
    )
    @pytest.mark.slow
    def test_they_are_flat_over_sixteen_times_the_width_also_with_heads_of_one_width(self, parametrization):
        found = (coordinates(parametrization, width=width, head_width=16) for width in (16, 256))
        assert np.all(spread(*found) < 1.5)

    @pytest.mark.parametrize("parametrization", ["mup", "mup-1/d", "completep"])
    @pytest.mark.slow
    def test_scores_of_heads_of_one_width_are_as_large_at_every_width(self, parametrization):
        start, _ = spread(*(score_sizes(parametrization, width, head_width=16) for width in (16, 256)))
        assert start < 1.25

    @pytest.mark.slow
    @pytest.mark.soak
    def test_scores_of_heads_that_grow_are_moved_more_and_more_unless_they_are_over_the_head_width(self):
        """Yang et al. 2022, definition 4.1: at the start queries and keys are independent, and their product is as
        large as the root of the head width; what training adds points the same way, and grows faster."""
        (start, moved), *others = (
            score_sizes(name, 256) / score_sizes(name, 16) for name in ("mup", "mup-1/d", "completep")
        )
        assert start == pytest.approx(1, rel=0.25)
        assert moved > 1.6
        for one_over_d in others:
            assert one_over_d[0] == pytest.approx(16**-0.5, rel=0.25)
            assert 1 / 1.6 < one_over_d[1] < 1.6

    @pytest.mark.slow
    @pytest.mark.soak
    def test_they_are_flat_over_eight_times_the_depth(self):
        assert np.all(spread(*(coordinates("completep", depth=depth) for depth in (1, 8))) < 1.5)

    @pytest.mark.parametrize("parametrization", ["mup", "completep"])
    @pytest.mark.slow
    @pytest.mark.soak
    def test_of_mixtures_they_are_flat_over_the_width_and_the_number_of_experts(self, parametrization):
        wide = (coordinates(parametrization, width=width, experts=4) for width in (16, 128))
        many = (coordinates(parametrization, width=32, experts=experts) for experts in (4, 32))
        assert np.all(spread(*wide) < 1.6)
        assert np.all(spread(*many) < 1.6)

    @pytest.mark.slow
    def test_a_router_s_logits_move_alike_at_every_width_under_mup_and_not_under_one_rate(self):
        moved = {name: spread(*(router_moves(name, width) for width in (16, 128))) for name in ("mup", "standard")}
        assert moved["mup"] < 2
        assert moved["standard"] > 3

    @pytest.mark.slow
    @pytest.mark.soak
    @pytest.mark.parametrize("parametrization", ["standard", "mup"])
    def test_they_grow_with_the_depth_where_blocks_are_not_scaled(self, parametrization):
        _, first, all_blocks = spread(*(coordinates(parametrization, depth=depth) for depth in (1, 8)))
        assert min(first, all_blocks) > 3


@pytest.mark.parametrize("group", GROUPS)
def test_parametrizations_agree_at_the_base_size_but_for_the_decay_of_norms(group):
    standard, mup, with_scores, completep = (multipliers(group, name, size()) for name in PARAMETRIZATIONS)
    assert standard == mup == with_scores == Multipliers(lr=1, eps=1, decay=1)
    assert completep == standard._replace(decay=0 if "norm" in group else 1)


def test_standard_knows_no_size():
    half = size(width=0.5, depth=0.5)
    assert {multipliers(group, "standard", half) for group in GROUPS} == {Multipliers(lr=1, eps=1, decay=1)}


def test_mup_divides_the_rate_of_matrices_by_the_growth_of_the_width():
    wide, deep = ({g: multipliers(g, "mup", size) for g in GROUPS} for size in (TWICE_AS_WIDE, TWICE_AS_DEEP))
    assert {group for group in GROUPS if wide[group] == Multipliers(lr=0.5, eps=1, decay=1)} == MATRICES
    assert {group for group in GROUPS if wide[group] == Multipliers(lr=1, eps=1, decay=1)} == set(GROUPS) - MATRICES
    assert set(deep.values()) == {Multipliers(lr=1, eps=1, decay=1)}


def test_completep_follows_its_authors():
    """Their code, linked from arXiv 2505.01618: ε/w for the embedding and the last norm, ε/(w·d) in the blocks. The
    head here has no multiplier of 1/w, so its gradients are w times theirs, and its ε with them. A router, which they
    do not have, is as a head within a block."""
    found = {group: multipliers(group, "completep", size(width=0.5, depth=0.25)) for group in GROUPS}
    assert {group: m.lr for group, m in found.items()} == {g: 0.5 if g in MATRICES else 1 for g in GROUPS}
    eps = {
        "embedding": 0.5,
        "final_norm": 0.5,
        "head": 1,
        "hidden": 0.125,
        "output": 0.125,
        "mixed": 0.125,
        "norm": 0.125,
        "router": 0.25,
    }
    assert {group: m.eps for group, m in found.items()} == eps
    network = small_run("completep", 64, 4, steps=20).network
    assert (network.scores_multiplier, network.residual_multiplier) == (pytest.approx(0.5**0.5), 0.25)


@pytest.mark.parametrize("parametrization", ["standard", "mup"])
def test_the_others_leave_the_forward_pass_alone(parametrization):
    network = small_run(parametrization, 64, 4, steps=20).network
    assert (network.scores_multiplier, network.residual_multiplier) == (1, 1)


class TestHeads:
    """Scores follow the head width, and what reads the heads follows their width together: whichever of them grows."""

    def run(self, parametrization, width, heads, head_width=None, base_head_width=None):
        family = ModelFamily(depth=1, heads=heads, head_width=head_width, context=8)
        options = {"parametrization": parametrization, "base_width": 32, "base_head_width": base_head_width}
        training = TrainingConfig(batch_tokens=64, steps=20, lr=0.01, **options)
        return RunConfig(data=MarkovData(source="markov", vocab=16), model=family.at(width, 16), training=training)

    @pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
    def test_heads_of_one_width_have_scores_of_one_multiplier(self, parametrization):
        for width in (32, 512, 2048):
            as_many = self.run(parametrization, width, width // 16, base_head_width=16)
            of_their_own = self.run(parametrization, width, 4, head_width=16, base_head_width=16)
            assert as_many.network.scores_multiplier == of_their_own.network.scores_multiplier == 1

    @pytest.mark.parametrize("base_head_width", [None, 64])
    @pytest.mark.parametrize("parametrization", ["mup-1/d", "completep"])
    def test_scores_of_heads_that_grow_are_8_over_d(self, parametrization, base_head_width):
        """As microsoft/mup's README has them, for a base of 64: `8 / d`, equal to 1/√d there."""
        for width in (256, 512, 2048):
            run = self.run(parametrization, width, 4, base_head_width=base_head_width)
            run = run.model_copy(update={"training": run.training.model_copy(update={"base_width": 256})})
            d = width // 4
            assert run.network.scores_multiplier / d**0.5 == pytest.approx(8 / d)

    @pytest.mark.parametrize("parametrization", ["mup", "mup-1/d", "completep"])
    def test_what_reads_the_heads_learns_at_a_rate_inverse_to_their_width_together(self, parametrization):
        """Yang et al. 2022, table 3: a matrix whose fan-in stays learns at one rate, whatever its fan-out."""
        for heads, own, expected in ((32, None, 1 / 16), (4, 16, 1)):
            training = (run := self.run(parametrization, 512, heads, own, base_head_width=16)).training
            found = training.size_of(run.model)
            assert multipliers("mixed", parametrization, found).lr == expected
            assert multipliers("output", parametrization, found).lr == multipliers("hidden", parametrization, found).lr
            assert multipliers("output", parametrization, found).lr == 1 / 16

    def test_without_a_base_head_width_a_run_is_what_it_was(self):
        """Name and numbers as of before there was one: √(32 / 512), whatever the heads."""
        run = self.run("completep", 512, 32)
        assert run.network.scores_multiplier == 0.25
        assert "base_head_width" not in run.semantic()["training"]
        assert run.run_id != self.run("completep", 512, 32, base_head_width=16).run_id


class TestLearningRate:
    """The best of a grid of powers of 2, by the loss of the last 50 of 300 steps, at 8 times the width."""

    @staticmethod
    def best(parametrization, width):
        rates = range(-9, -2)
        runs = (small_run(parametrization, width, 1, steps=300, lr=2.0**rate) for rate in rates)
        return rates[int(np.argmin([train(run)[1][-50:].mean() for run in runs]))]

    @pytest.mark.slow
    @pytest.mark.soak
    @pytest.mark.parametrize("parametrization", ["mup", "completep"])
    def test_it_stays_where_it_was(self, parametrization):
        assert abs(self.best(parametrization, 128) - self.best(parametrization, 16)) <= 1

    @pytest.mark.slow
    @pytest.mark.soak
    def test_it_moves_under_one_learning_rate(self):
        assert self.best("standard", 128) <= self.best("standard", 16) - 2
