"""Specs of a module of one's own: what they may say, what their runs are, and what is told of those that are wrong."""

import json
import subprocess
import sys

import jsonschema
import pytest
import yaml

from nextscale.model.errors import InputError
from nextscale.sweeps import load_spec, planned_runs
from nextscale.sweeps.design.expand import resolve_spec
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.schema import spec_schema
from nextscale.sweeps.spec.sweep_spec import SweepSpec

NETS = """\
import jax
from flax import nnx


class Bigram(nnx.Module):
    def __init__(self, width, depth=1, names=None, *, vocab, rngs):
        self.table = nnx.Param(jax.random.normal(rngs(), (vocab, width)), group="embedding")
        self.head = nnx.Param(jax.random.normal(rngs(), (width, vocab)), group="head")
        self.layers = nnx.Param(jax.random.normal(rngs(), (depth, width, width)), group="hidden")

    def __call__(self, tokens):
        x = self.table[...][tokens]
        for layer in self.layers[...]:
            x = x + x @ layer
        return x @ self.head[...]


def by_layers(layers, *, vocab, rngs):
    return Bigram(8, layers, vocab=vocab, rngs=rngs)


def optimiser(lr):
    import optax

    return optax.lion(lr)
"""
SPEC = {
    "name": "own",
    "data": {"source": "markov", "vocab": 16},
    "model": {"kind": "module", "target": "nets:Bigram", "context": 8},
    "training": {"batch_tokens": 32, "lr": 0.01},
    "design": {
        "kind": "isoflop",
        "flops": [1e7, 2e7, 4e7],
        "sizes": [[4, 8], [{"width": 4}, {"width": 8, "depth": 2}], [4, 8]],
    },
    "holdout": {"flops": 8e7, "sizes": [8, 16]},
    "forecast": {"law": "chinchilla-tied"},
}
LADDER = {"kind": "ladder", "sizes": [4, 8], "tokens_per_param": [20, 40, 80]}


@pytest.fixture
def written(tmp_path):
    """`written(design=...)`: the file of a spec, the module beside it."""

    def write(nets=NETS, **changes):
        (tmp_path / "nets.py").write_text(nets)
        whole = {key: value for key, value in (SPEC | changes).items() if value is not None}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(whole))
        return tmp_path / "own.yaml"

    return write


def test_sizes_are_widths_or_arguments_of_the_module(written):
    runs = planned_runs(resolve_spec(load_spec(written())))
    assert [run.config.model.arguments for run in runs if run.role == "fit"] == [
        {"width": 4},
        {"width": 8},
        {"width": 4},
        {"width": 8, "depth": 2},
        {"width": 4},
        {"width": 8},
    ]
    for run in runs:
        model = run.config.model
        assert run.params == 32 * model.width + (model.depth or 1) * model.width**2
        assert run.size("non_embedding") == (model.depth or 1) * model.width**2
        assert run.flops == pytest.approx(run.budget, rel=0.02)
        assert run.config.training.parametrization == "standard", "unless the spec asks for another"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"design": LADDER, "holdout": None}, 6),
        ({"design": {"kind": "grid", "axes": {"model.width": [4, 8], "model.depth": [1, 2], "tokens": [1e4]}}}, 4),
        ({"model": SPEC["model"] | {"target": "nets:by_layers"}, "design": LADDER | {"sizes": [{"layers": 3}]}}, 3),
        ({"design": {"kind": "grid", "axes": {"model.width": [4], "tokens": [1e4], "training.optimizer":
                     ["adamw", "nets:optimiser"]}}}, 2),
        ({"training": {"batch_tokens": 32, "lr": 0.01, "schedule": "wsd", "warmup_tokens": 320},
          "design": {"kind": "wsd", "sizes": [4, 8], "tokens": [2e4, 4e4]}}, 4),
    ],
)  # fmt: skip
def test_every_design_goes_over_its_sizes(written, changes, count):
    path = written(**{"holdout": None, "forecast": {"law": "none"}} | changes)
    spec = resolve_spec(load_spec(path))
    runs = planned_runs(spec)
    assert len({run.config.run_id for run in runs}) == len(runs) == count
    jsonschema.Draft7Validator(spec_schema()).validate(yaml.safe_load(path.read_text()))


@pytest.mark.slow
def test_a_run_means_the_contents_of_its_module(written, tmp_path):
    def names(**changes):
        return [run.config.run_id for run in planned_runs(resolve_spec(load_spec(written(**changes))))]

    first = names()
    assert names() == first
    changed = names(nets=NETS + "\n# another\n")
    assert not set(changed) & set(first)
    spec = resolve_spec(load_spec(written()))
    (tmp_path / "nets.py").unlink()
    left = SweepSpec(**json.loads(spec.model_dump_json()))
    assert [run.config.run_id for run in planned_runs(left)] == first, "a spec that was left needs no module"


@pytest.mark.slow
def test_a_plan_loads_neither_jax_nor_the_module(written):
    path = written(nets=NETS + "\nprint('loaded')\n")
    script = (
        "import sys\nfrom nextscale.sweeps import load_spec, plan_sweep\n"
        f"plan = plan_sweep(load_spec({str(path)!r}), {str(path.parent / 'out')!r})\n"
        "print(len(plan.frame()), 'jax' in sys.modules, 'nets' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stdout == "8 False False\n", ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": SPEC["model"] | {"target": "nest:Bigram"}},
            r"own\.yaml:\d+: model\.target: nest:Bigram: there is no module nest in .* or installed",
        ),
        ({"model": SPEC["model"] | {"target": "nets:Bigam"}}, r"there is no Bigam in nets; did you mean Bigram\?"),
        ({"model": SPEC["model"] | {"target": "nets"}}, r"own\.yaml:\d+: model\.target: .*package\.module:function"),
        pytest.param(
            *({"model": SPEC["model"] | {"heads": 2}}, r"takes no argument heads; its own are width, depth, names"),
            marks=pytest.mark.slow,
        ),
        ({"model": SPEC["model"] | {"vocab": 2}}, r"vocab: follows from the data and the module; leave it out"),
        (
            {"design": SPEC["design"] | {"widths": [[8]]}},
            r"widths: is of nextscale's own model; name `sizes`, each a width",
        ),
        ({"design": SPEC["design"] | {"sizes": [[4]]}}, r"has 3 budgets and 1 lists of sizes"),
        (
            {"design": SPEC["design"] | {"sizes": [[{"target": 1}], [8], [8]]}},
            r"target is no argument of a module, but of",
        ),
        ({"design": {"kind": "grid", "axes": {"params": [9], "tokens": [9]}}}, r"params: a module is sized by its arg"),
        ({"design": {"kind": "grid", "axes": {"tokens": [9]}}}, r"one says how large the runs are, an argument of the"),
        (
            {"training": {"batch_tokens": 32, "lr": {"rule": "deepseek"}}},
            r"is by the shape of a Transformer; take a num",
        ),
        (
            {"training": SPEC["training"] | {"optimizer": "adam"}},
            r"training\.optimizer: should be 'adamw', 'muon' or 'sgd",
        ),
        (
            {"training": SPEC["training"] | {"dtype": "bfloat16"}},
            r"training\.dtype bfloat16: nets:Bigram takes no dtype",
        ),
        pytest.param(
            {"training": SPEC["training"] | {"loss": "nets:optimiser"}},
            r"training\.loss: nets:optimiser is called with logits and labels",
            marks=pytest.mark.slow,
        ),
        ({"holdout": {"flops": 8e7}}, r"holdout\.sizes: is missing; add it"),
    ],
)
def test_a_spec_that_is_wrong_is_told_in_one_line(written, changes, message):
    with pytest.raises((SpecError, InputError), match=message) as told:
        resolve_spec(load_spec(written(**changes)))
    assert "\n" not in str(told.value)
