"""A module of one's own: what is counted of it is what there is, and what cannot be trained is told in a line."""

import jax
import pytest

from nextscale.model.config.code import Code
from nextscale.model.config.module import ModuleModel, ModuleNetwork
from nextscale.model.errors import InputError
from nextscale.model.external import code
from nextscale.model.network import counting
from nextscale.model.training.step import initial_state, numbers_of, program_of

HEAD = """\
import jax
import jax.numpy as jnp
from flax import nnx
"""
DEEP = (
    HEAD
    + """

class Deep(nnx.Module):
    def __init__(self, width, depth, loop, *, vocab, rngs):
        self.embedding = nnx.Embed(vocab, width, rngs=rngs)
        self.layers = nnx.Param(jax.random.normal(rngs(), (depth, width, width)))
        self.head = nnx.Param(jax.random.normal(rngs(), (width, vocab)))
        self.loop = loop

    def __call__(self, tokens):
        x = self.embedding(tokens)
        if self.loop == "scan":
            x = jax.lax.scan(lambda x, w: (x @ w, None), x, self.layers[...])[0]
        elif self.loop == "while":
            x = jax.lax.while_loop(lambda x: x.sum() > 1e9, lambda x: x @ self.layers[0], x)
        else:
            for w in self.layers[...]:
                x = x @ w
        return x @ self.head[...]


class Told(Deep):
    def flops_per_token(self):
        return 1234
"""
)
MINIMAL = (
    HEAD
    + """

class M(nnx.Module):
    def __init__(self, width=4, *, vocab, context, rngs):
        self.table = nnx.Param(jax.random.normal(rngs(), (vocab, vocab)))
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, tokens):
        return self.table[...][tokens]
"""
)
CALL = "        return self.table[...][tokens]\n"


@pytest.fixture
def network_of(tmp_path):
    def build(source, target, **arguments):
        (tmp_path / "nets.py").write_text(source)
        found = code.resolve(Code(folder=str(tmp_path)), [target])
        model = ModuleModel(kind="module", target=target, context=16, vocab=8, **arguments)
        return ModuleNetwork(found.function(target), model)

    return build


def test_what_is_counted_is_what_is_trained(own_run):
    run = own_run()
    state = initial_state(program_of(run))(jax.random.key(0), numbers_of(run))
    assert run.model.counts.params == sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    groups = run.model.counts.groups
    assert sum(groups.values()) == run.model.counts.params
    assert run.model.counts.params_non_embedding == groups["hidden"] + groups["output"] + groups["final_norm"]
    assert run.model.counts.takes_dtype


@pytest.mark.slow
def test_flops_are_those_of_the_products_and_a_loop_counts_as_often_as_it_runs(network_of):
    width, depth = 64, 6
    counts = [
        counting.count(network_of(DEEP, "nets:Deep", width=width, depth=depth, loop=loop)) for loop in ("scan", "none")
    ]
    by_hand = 3 * 2 * (depth * width**2 + width * 8)
    for found in counts:
        assert found.flops_by == "xla"
        assert found.flops_per_token == pytest.approx(by_hand, rel=0.02)


@pytest.mark.slow
def test_a_loop_of_unknown_length_needs_a_module_that_tells_its_flops(network_of):
    arguments = {"width": 8, "depth": 2, "loop": "while"}
    with pytest.raises(InputError, match=r"holds a loop of which nobody knows how long it is.*flops_per_token"):
        counting.count(network_of(DEEP, "nets:Deep", **arguments))
    found = counting.count(network_of(DEEP, "nets:Told", **arguments | {"loop": "scan"}))
    assert (found.flops_by, found.flops_per_token) == ("module", 1234)


WRONG = [
    (
        "import no_such_module\nM = 1\n",
        "nets:M",
        {},
        r"cannot be imported: ModuleNotFoundError: No module named 'no_such",
    ),
    ("M = 3\n", "nets:M", {}, r"nets:M is a int; name a function or a class"),
    (MINIMAL, "nets:M", {"depth": 2}, r"takes no argument depth; its own are width"),
    (MINIMAL.replace("vocab)))", "vocab)), split=('fsdp',))"), "nets:M", {}, r"has split \('fsdp',\); name fsdp"),
    (MINIMAL.replace(CALL, "        return tokens @ self.table\n"), "nets:M", {}, r"fails when called with tokens"),
    (
        MINIMAL.replace("[tokens]\n", "[tokens][:, 0]\n"),
        "nets:M",
        {},
        r"gives float32 of shape \(2, 8\); give logits",
    ),
    (MINIMAL.replace(CALL, "        self.calls[...] += 1\n" + CALL), "nets:M", {}, r"changes calls when called"),
    (MINIMAL.replace("[tokens]\n", "[tokens[:, ::-1]]\n"), "nets:M", {}, r"looks ahead: with other tokens from"),
    (MINIMAL.replace("[tokens]\n", "[tokens] / 0\n"), "nets:M", {}, r"gives logits that are no numbers, untrained"),
    (MINIMAL + "    def flops_per_token(self): return 0\n", "nets:M", {}, r"gives 0; training FLOPs are above 0"),
]
ALSO_WRONG = [
    (MINIMAL.replace("width=4", "width"), "nets:M", {}, r"needs width; give it under model"),
    (MINIMAL.replace(", rngs):", "):").replace("rngs()", "jax.random.key(0)"), "nets:M", {}, r"takes no rngs"),
    (MINIMAL.replace("(vocab, vocab)", "(vocab, 1 / 0)"), "nets:M", {}, r"cannot be made with .*ZeroDivisionError"),
    (HEAD + "def M(*, rngs): return 3\n", "nets:M", {}, r"gives a int; give a flax.nnx.Module"),
    (MINIMAL.replace("nnx.Param(", "nnx.Variable("), "nets:M", {}, r"has no nnx.Param to train"),
    (MINIMAL.replace("(vocab, vocab)))", "(vocab, vocab), jnp.bfloat16))"), "nets:M", {}, r"table is of bfloat16"),
    (MINIMAL.replace("vocab)))", "vocab)), group='x')"), "nets:M", {}, r"table is of group 'x'; groups are embed"),
    (MINIMAL.replace(CALL, "        return [1]\n"), "nets:M", {}, r"gives a list; give logits, an array"),
    (MINIMAL.replace("[tokens]\n", "[tokens].argmax(-1)\n"), "nets:M", {}, r"gives int32 of shape"),
    (MINIMAL + "    def flops_per_token(self): return 'x'\n", "nets:M", {}, r"gives a str; give training FLOPs"),
    (MINIMAL + "    def flops_per_token(self): raise OSError\n", "nets:M", {}, r"fails: OSError"),
]


@pytest.mark.parametrize(
    ("source", "target", "arguments", "message"),
    [*WRONG, *(pytest.param(*row, marks=pytest.mark.slow) for row in ALSO_WRONG)],
)
def test_what_is_no_model_is_told_in_one_line(network_of, source, target, arguments, message):
    network = network_of(source, target, **arguments)
    with pytest.raises(InputError, match=message) as told:
        counting.count(network)
    assert "\n" not in str(told.value)
    assert str(told.value).startswith("model.target: ")
