"""Functions of one's own in place of what a model has by name: the same functions are the same models."""

import jax
import numpy as np
import pytest
from flax import nnx

from nextscale.model.accounting import parameters
from nextscale.model.config.code import Code
from nextscale.model.config.run import ModelConfig, Network, RunConfig
from nextscale.model.errors import InputError
from nextscale.model.external.code import resolve
from nextscale.model.network.transformer import Transformer

OURS = """\
import jax.numpy as jnp

def squared(up):
    return jnp.maximum(up, 0) ** 2

def gated(up, gate):
    return gate / (1 + jnp.exp(-gate)) * up

def turned(x, t):
    left, right = x.reshape(2, -1)
    angle = t * 10000.0 ** (-2 * jnp.arange(len(left)) / len(x))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin])

def halved(up):
    return up[::2]

def worded(x, t):
    return "turned"

def whole(up):
    return jnp.sign(up).astype(int)

def failing(up):
    raise ValueError("no such luck")

number = 3
"""
SHAPE = {"depth": 1, "heads": 2, "context": 8, "width": 16, "vocab": 16}
TOKENS = jax.random.randint(jax.random.key(0), (2, 8), 0, 16)


@pytest.fixture
def network(tmp_path):
    """`network(mlp="ours:squared")`, with what its files hold."""
    (tmp_path / "ours.py").write_text(OURS)

    def make(**options):
        model = ModelConfig(**SHAPE | options)
        functions = tuple(map(resolve(Code(folder=str(tmp_path)), model.targets).function, model.targets))
        return Network(**model.model_dump(), functions=functions)

    return make


def logits(c):
    """Of a model with noise on every weight, for some are zero at the start."""
    graph, state = nnx.split(Transformer(c, rngs=nnx.Rngs(0)))
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return jax.jit(lambda state: nnx.merge(graph, state)(TOKENS))(jax.tree.unflatten(tree, noisy))


@pytest.mark.parametrize(
    ("ours", "known"),
    [
        ({"mlp": "ours:squared"}, {"mlp": "relu2"}),
        ({"mlp": "ours:gated", "mlp_gated": True, "position": "ours:turned"}, {"mlp": "swiglu"}),
        pytest.param(
            {"mlp": "ours:gated", "mlp_gated": True, "experts": 4},
            {"mlp": "swiglu", "experts": 4},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_the_same_function_under_another_name_is_the_same_model(network, ours, known):
    own = network(**ours)
    np.testing.assert_allclose(logits(own), logits(Network(**SHAPE | known)), rtol=1e-4, atol=1e-4)
    weights = nnx.state(nnx.eval_shape(lambda: Transformer(own, rngs=nnx.Rngs(0))))
    assert parameters(own) == sum(weight.size for weight in jax.tree.leaves(weights))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mlp": "ours:halved"}, r"model\.mlp: ours:halved makes shape \(32,\) of the 64 features of a token; give as"),
        ({"mlp": "ours:whole"}, r"model\.mlp: ours:whole makes int32, which has no gradient; give floating-point"),
        ({"mlp": "ours:failing"}, r"model\.mlp: ours:failing fails: ValueError: no such luck"),
        ({"mlp": "ours:gated"}, r"model\.mlp: ours:gated is called with up alone; a gate comes with mlp_gated: true"),
        ({"mlp": "ours:squared", "mlp_gated": True}, r"model\.mlp: ours:squared is called with up and gate"),
        ({"mlp": "ours:number"}, r"model\.mlp: ours:number is a int; name a function or a class"),
        ({"position": "ours:worded"}, r"model\.position: ours:worded "),
        ({"position": "ours:squared"}, r"model\.position: ours:squared is called with x, the features of a head, and"),
        ({"mlp": "ours:square"}, r"code: ours:square: there is no square in ours; did you mean squared\?"),
    ],
    ids=str,
)
def test_a_function_that_is_none_of_a_token_is_refused_in_one_line(network, options, said):
    with pytest.raises(InputError, match=f"^{said}") as refused:
        nnx.eval_shape(lambda: Transformer(network(**options), rngs=nnx.Rngs(0))(TOKENS))
    assert "\n" not in str(refused.value)


def test_a_run_means_what_its_functions_hold_not_where_they_lie(tmp_path):
    def run_id(folder, text):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ours.py").write_text(text)
        run = RunConfig(
            data={"source": "markov", "vocab": 16},
            model=SHAPE | {"mlp": "ours:squared", "position": "none"},
            training={"batch_tokens": 16, "steps": 2, "lr": 0.01},
        )
        code = resolve(Code(folder=str(tmp_path / folder)), run.targets)
        return run.model_copy(update={"code": code}).run_id

    here = run_id("here", OURS)
    assert run_id("there", OURS) == here
    assert run_id("other", OURS.replace("** 2", "** 3")) != here
