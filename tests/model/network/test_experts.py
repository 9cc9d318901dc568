"""Mixtures of experts: each is held against all experts on all tokens, or a model that must be the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nextscale.model.config.experts import expert_width
from nextscale.model.config.run import Network
from nextscale.model.network import experts
from nextscale.model.network.experts import MixtureOfExperts, Routing, balance_of, with_balance
from nextscale.model.network.mlp import MLP
from nextscale.model.network.transformer import Transformer
from nextscale.model.network.variants import activate

D, T, N = 8, 6, 24


def network(**options):
    return Network(**{"width": D, "vocab": 32, "depth": 1, "heads": 2, "context": T, "experts": 4} | options)


def noisy(module, scale=0.5):
    """The same with noise on every weight, for some are zero at the start."""
    state = nnx.state(module)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [x + scale * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    nnx.update(module, jax.tree.unflatten(tree, moved))
    return module


def mixture(**options):
    return noisy(MixtureOfExperts(network(**options), dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))


@functools.lru_cache
def program(c, dtype="float32"):
    """From weights and tokens' features to what a mixture makes of them."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: MixtureOfExperts(c, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))))
    return jax.jit(lambda weights, x_NxD: nnx.merge(graph, weights)(x_NxD, T))


def called(module, x_NxD, dtype="float32"):
    return program(module.c, dtype)(nnx.to_pure_dict(nnx.state(module)), x_NxD)


X = jax.random.normal(jax.random.key(0), (N, D))
KINDS = [
    {},
    {"router": "softmax", "experts_per_token": 1, "mlp": "swiglu"},
    {"router": "sigmoid", "experts_per_token": 3, "shared_experts": 2, "routed_scale": 2.5, "balance_rate": 0.1},
    {"router": "sigmoid", "experts_per_token": 1, "mlp": "relu2", "experts": 3},
]


def plainly(c, weights, x_NxD):
    """What a mixture gives, with every expert on every token and no sorting."""

    def mlp(x_NxD, w):
        return activate(c, *(x_NxD @ w[name] for name in ("up", "gate") if name in w)) @ w["down"]

    logits_NxE = x_NxD @ weights["router"]
    exponentials_NxE = jnp.exp(logits_NxE)
    score_NxE = jax.nn.sigmoid(logits_NxE)
    if c.router != "sigmoid":
        score_NxE = exponentials_NxE / exponentials_NxE.sum(axis=1, keepdims=True)
    biased_NxE = score_NxE + weights.get("balance", 0.0)
    higher_NxE = (biased_NxE[:, None, :] > biased_NxE[:, :, None]).sum(axis=2)
    weight_NxE = jnp.where(higher_NxE < c.experts_per_token, score_NxE, 0)
    if c.router == "renormalised" or (c.router == "sigmoid" and c.experts_per_token > 1):
        weight_NxE = weight_NxE / weight_NxE.sum(axis=1, keepdims=True)
    y_NxD = jnp.zeros_like(x_NxD)
    for e in range(c.experts):
        own = {name: w[e] for name, w in weights["experts"].items()}
        y_NxD += c.routed_scale * weight_NxE[:, [e]] * mlp(x_NxD, own)
    return y_NxD + mlp(x_NxD, weights["shared"]) if c.shared_experts else y_NxD


def rarely(*case):
    """A case that CI tries in the time that is left."""
    return pytest.param(*case, marks=pytest.mark.soak)


CASES = [
    (KINDS[0], "_on_cpu"),
    rarely(KINDS[1], "_on_cpu"),
    (KINDS[2], "_on_cpu"),
    rarely(KINDS[3], "_on_cpu"),
    rarely(KINDS[1], "_by_ragged_products"),
    (KINDS[2], "_by_ragged_products"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "products"), CASES, ids=str)
def test_outputs_and_gradients_are_those_of_all_experts_on_all_tokens(monkeypatch, options, products):
    monkeypatch.setattr(experts, "_on_cpu", getattr(experts, products))
    module = mixture(**options)
    graph, state = nnx.split(module)
    weights, aim_NxD = nnx.to_pure_dict(state), jax.random.normal(jax.random.key(1), (N, D))

    def found(function):
        def aimed(weights, x_NxD):
            y_NxD = function(weights, x_NxD)
            return (aim_NxD * y_NxD).sum(), y_NxD

        (_, y_NxD), by = jax.jit(jax.value_and_grad(aimed, argnums=(0, 1), has_aux=True))(weights, X)
        return jax.tree.leaves((y_NxD, by))

    ours = found(lambda weights, x_NxD: nnx.merge(graph, weights)(x_NxD, T)[0])
    plain = found(functools.partial(plainly, module.c))
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * float(jnp.abs(other).max()))


def test_all_experts_weighed_alike_are_one_mlp_as_wide_as_they_are_together():
    c = network(experts=4, experts_per_token=4)
    module = mixture(experts=4, experts_per_token=4)
    module.router[...] = jnp.zeros_like(module.router[...])
    F = expert_width(c)
    dense = MLP(c, 4 * F, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    dense.up[...] = module.experts.up[...].transpose(1, 0, 2).reshape(D, 4 * F)
    dense.down[...] = module.experts.down[...].reshape(4 * F, D) / 4
    y_NxD, routing = called(module, X)
    np.testing.assert_allclose(y_NxD, dense(X), rtol=1e-4, atol=1e-5)
    assert routing.load_E.tolist() == [N] * 4
    assert routing.balance == pytest.approx(1)
    assert routing.entropy == pytest.approx(np.log(4))


def test_the_order_of_experts_means_nothing():
    module, order = mixture(balance_rate=0.1), jnp.array([2, 0, 3, 1])
    before, routing = called(module, X)
    module.router[...] = module.router[...][:, order]
    module.balance[...] = module.balance[...][order]
    for weight in (module.experts.up, module.experts.down):
        weight[...] = weight[...][order]
    after, same = called(module, X)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(same.load_E, routing.load_E[order])
    assert same.balance == pytest.approx(float(routing.balance))


def test_every_pair_of_token_and_expert_is_counted_and_none_is_dropped():
    """Also where all go to the same experts: theirs are all rows."""
    module = mixture(balance_rate=0.1)
    module.balance[...] = jnp.array([0.0, 5.0, 9.0, 0.0])
    y_NxD, routing = called(module, X)
    assert routing.load_E.tolist() == [0, N, N, 0]
    np.testing.assert_allclose(y_NxD, plainly(module.c, nnx.to_pure_dict(nnx.state(module)), X), rtol=1e-3, atol=1e-4)


class TestBalance:
    def test_it_is_1_where_all_is_even_and_the_number_of_experts_where_one_has_all(self):
        E = 5
        even, one = jnp.full((N, E), 1 / E), jax.nn.one_hot(jnp.zeros(N, int), E)
        assert balance_of(2 * even, even, T) == pytest.approx(1)
        assert balance_of(one, one, T) == pytest.approx(E)

    def test_it_is_that_of_each_sequence_so_that_batches_may_be_cut(self):
        sent, share = jnp.round(jax.random.uniform(jax.random.key(0), (N, 5))), jax.nn.softmax(X[:, :5])
        cut = [balance_of(sent[i : i + T], share[i : i + T], T) for i in range(0, N, T)]
        assert balance_of(sent, share, T) == pytest.approx(float(np.mean(cut)), rel=1e-5)

    def test_its_gradient_lowers_the_score_of_an_expert_that_has_too_much(self):
        sent = jax.nn.one_hot(jnp.zeros(N, int), 4)
        by_logits = jax.grad(lambda logits: balance_of(sent, jax.nn.softmax(logits), T))(jnp.zeros((N, 4)))
        assert np.all(by_logits[:, 0] > 0)
        assert np.all(by_logits[:, 1:] < 0)

    def test_a_bias_moves_one_step_towards_an_even_load_and_rests_there(self):
        c = network(balance_rate=0.25)
        params = {"blocks": {0: {"mlp": {"balance": jnp.zeros(4), "router": 7}}}, "head": 8}
        load = Routing(jnp.array([[9.0, 3.0, 6.0, 6.0]]), jnp.ones(1), jnp.ones(1), jnp.ones(1))
        after = with_balance(c, params, load)
        assert after["blocks"][0]["mlp"]["balance"].tolist() == [-0.25, 0.25, 0, 0]
        assert (after["head"], after["blocks"][0]["mlp"]["router"]) == (8, 7)

    def test_biases_even_out_a_router_that_prefers_one_expert(self):
        """Without any loss: only what is chosen changes, not how it is weighed."""
        module = mixture(balance_rate=0.02, router="sigmoid")
        x_NxD = jax.random.normal(jax.random.key(7), (64 * T, D)) + module.router[...][:, 0]
        graph, state = nnx.split(module)
        weights = nnx.to_pure_dict(state)

        @jax.jit
        def step(bias):
            _, _, routing = nnx.merge(graph, weights | {"balance": bias}).route(x_NxD, T)
            params = {"blocks": {0: {"mlp": {"balance": bias}}}}
            after = with_balance(module.c, params, jax.tree.map(lambda leaf: leaf[None], routing))
            return after["blocks"][0]["mlp"]["balance"], routing.load_E.max() / routing.load_E.mean()

        bias, worst = jnp.zeros(4), []
        for _ in range(60):
            bias, load = step(bias)
            worst.append(float(load))
        assert worst[0] > 1.5
        assert max(worst[-5:]) < 1.15


@pytest.mark.slow
def test_no_token_sees_the_future():
    options = {"router": "sigmoid", "balance_rate": 0.1, "dense_layers": 1}
    module = noisy(Transformer(network(depth=2, context=12, **options), rngs=nnx.Rngs(0)), 0.2)
    tokens, other = jnp.arange(12)[None], jnp.arange(12)[None].at[0, 7:].set(3)
    found, changed = map(jax.jit(module), (tokens, other))
    np.testing.assert_array_equal(found[:, :7], changed[:, :7])
    assert np.abs(found[:, 7:] - changed[:, 7:]).max() > 1e-3


@pytest.mark.slow
def test_a_router_of_bfloat16_features_scores_in_float32():
    module = MixtureOfExperts(network(), dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    weight_Nxk, _, routing = module.route(X.astype(jnp.bfloat16), T)
    assert {weight_Nxk.dtype, routing.balance.dtype, module.router[...].dtype} == {jnp.dtype("float32")}
    assert called(module, X.astype(jnp.bfloat16), "bfloat16")[0].dtype == jnp.bfloat16
