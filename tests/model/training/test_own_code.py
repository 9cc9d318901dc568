"""Modules, losses and optimisers of one's own are trained as ours are: resumed to the bit, spread, packed, branched."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from nextscale.model.config.code import Code
from nextscale.model.config.run import ModelFamily, Parent
from nextscale.model.config.training import TrainingConfig
from nextscale.model.errors import InputError
from nextscale.model.external import code
from nextscale.model.network.initial import rescaled
from nextscale.model.network.modules import groups_of, initial_params
from nextscale.model.record import RunDirectory
from nextscale.model.training.checkpoint import CheckpointPolicy, read_checkpoint
from nextscale.model.training.pack import train_together
from nextscale.model.training.step import initial_state, numbers_of, program_of, state_shapes
from nextscale.model.training.train import train, training

EVERY_DISPATCH = CheckpointPolicy(every_seconds=0)
OURS = """\
import jax.numpy as jnp
import jax
import optax


def adamw(lr, weight_decay):  # as in optimizer.py: its decay is not times the learning rate
    return optax.chain(optax.scale_by_adam(.9, .98, 1e-8), optax.scale_by_learning_rate(lr))


def plain(lr):
    return optax.sgd(lr)


def half(lr, **numbers):
    return optax.adam(lr, b1=numbers["beta1"], mu_dtype=jnp.bfloat16)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def focal(logits, labels):
    loss = cross_entropy(logits, labels)
    return (1 - jnp.exp(-loss)) ** 2 * loss


def mean(logits, labels):
    return cross_entropy(logits, labels).mean()


def nothing(lr):
    return None


def broken(lr):
    return 1 / 0


def no_rate(weight_decay):
    return optax.sgd(1.)


def masked(logits, labels, mask):
    return mask * cross_entropy(logits, labels)


def whole(logits, labels):
    return labels


def more(lr, rho):
    return optax.sgd(lr)


def summed(lr):
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.sum, updates))


def worn(lr):
    return optax.GradientTransformation(lambda params: 0, lambda updates, state, params: (updates, (state, state)))


def alone(lr):
    return optax.GradientTransformation(lambda params: (), lambda updates: updates)
"""


class StoppedError(Exception):
    pass


@pytest.fixture
def with_own(tiny_run, tmp_path):
    """A run of our own model with a loss or an optimiser of one's own, from a file beside."""

    def build(steps=40, **given):
        (tmp_path / "ours.py").write_text(OURS)
        run = tiny_run(steps=steps, parametrization="standard", **given)
        return run.model_copy(update={"code": code.resolve(Code(folder=str(tmp_path)), run.targets)})

    return build


def at(tmp_path, name):
    return RunDirectory(epath.Path(tmp_path / name))


def weights(run, directory):
    return read_checkpoint(directory.checkpoint(run.tokens), state_shapes(program_of(run)))["params"]


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_a_module_resumes_to_the_bit(own_run, tmp_path):
    run = own_run(steps=60)
    cut, whole = at(tmp_path, "cut"), at(tmp_path, "whole")

    def on_progress(tokens):
        if tokens > 20 * 32:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(run, cut, checkpoint=CheckpointPolicy(every_seconds=0, pinned=(20 * 32,)), on_progress=on_progress)
    assert cut.saved, "it goes on from a state"
    resumed, straight = (train(run, directory, checkpoint=EVERY_DISPATCH) for directory in (cut, whole))
    assert resumed["loss"] == straight["loss"]
    assert straight["flops_by"] == "xla"
    assert cut.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
    same(weights(run, cut), weights(run, whole))
    assert cut.config() == run


def test_a_run_is_named_by_what_the_files_of_its_module_hold(own_run):
    run = own_run()
    assert own_run().run_id == run.run_id
    assert run.model_copy(update={"code": run.code.model_copy(update={"folder": "/elsewhere"})}).run_id == run.run_id
    assert own_run(files={"beside.py": "x = 1\n"}).run_id == run.run_id, "it imports no such file"
    changed = Path(run.code.folder, "nets.py").read_text() + "# changed\n"
    assert own_run(changed).run_id != run.run_id
    with pytest.raises(ValueError, match="nets:Gated has no fingerprint yet"):
        run.model_copy(update={"code": None}).run_id  # noqa: B018 (that it raises)


def test_a_file_that_changed_since_is_no_other_run_in_the_same_folder(own_run, run_directory):
    run = own_run()
    Path(run.code.folder, "nets.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=r"the files of nets:Gated have changed on .* since the run was planned"):
        train(run, run_directory)
    assert run_directory.record() is None


@pytest.mark.slow
def test_an_optimiser_of_ones_own_that_is_ours_trains_as_ours(with_own, tiny_run, tmp_path):
    own, ours = with_own(optimizer="ours:adamw"), tiny_run(parametrization="standard")
    assert own.run_id != ours.run_id
    found, expected = (train(run, at(tmp_path, run.run_id))["loss"] for run in (own, ours))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_loss_of_ones_own_is_what_training_lowers_and_cross_entropy_what_is_told(with_own, tiny_run, tmp_path):
    runs = [
        tiny_run(parametrization="standard"),
        *(with_own(loss=f"ours:{name}") for name in ("cross_entropy", "focal")),
    ]
    ours, same_loss, focal = (train(run, at(tmp_path, run.run_id)) for run in runs)
    assert same_loss["loss"] == pytest.approx(ours["loss"], rel=1e-6)
    assert focal["loss"] != pytest.approx(ours["loss"], rel=1e-4)
    first = [at(tmp_path, run.run_id).metrics()[0]["loss"] for run in runs]
    assert first[2] == pytest.approx(first[0], rel=0.02), "in nats per token, whatever is lowered"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "ours:mean"}, r"^training\.loss: ours:mean gives shape \(\); give the loss of each token, of shape"),
        ({"loss": "ours:lost"}, r"^code: ours:lost: there is no lost in ours; did you mean loss\?"),
        ({"loss": "ours:masked"}, r"^training\.loss: ours:masked is called with logits and labels, .*argument: 'mask'"),
        ({"loss": "ours:whole"}, r"^training\.loss: ours:whole gives int32, which has no gradient"),
        ({"optimizer": "ours:more"}, r"^training\.optimizer: ours:more is called with the learning rate, .*'rho'"),
        ({"optimizer": "ours:summed"}, r"^training\.optimizer: ours:summed: its updates are not shaped as the weights"),
        ({"optimizer": "ours:worn"}, r"^training\.optimizer: ours:worn: its update changes the shapes of its state"),
        ({"optimizer": "ours:alone"}, r"^training\.optimizer: ours:alone: its update fails: TypeError"),
        ({"optimizer": "ours:nothing"}, r"^training\.optimizer: ours:nothing returns a NoneType; return an optax"),
        (
            {"optimizer": "ours:broken"},
            r"^training\.optimizer: ours:broken fails: ZeroDivisionError: division by zero",
        ),
        ({"optimizer": "ours:no_rate"}, r"^training\.optimizer: ours:no_rate takes no learning rate; let that be its"),
        ({"optimizer": "ours:plain", "weight_decay": 0.1}, r"^training\.weight_decay 0.1: ours:plain takes none"),
    ],
)
def test_what_is_no_loss_or_optimiser_is_told_in_one_line(with_own, run_directory, given, message):
    with pytest.raises(InputError, match=message):
        train(with_own(**given), run_directory)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "bfloat16"}, "takes no dtype"),
        (
            {"optimizer": "muon"},
            r"training\.optimizer muon: goes by groups of weights, and of nets:Gated 128 parameters",
        ),
        ({"parametrization": "mup"}, r"training\.parametrization mup: goes by groups"),
        ({"init": {"hidden": 0.02}}, r"training\.init: goes by groups"),
    ],
)
def test_what_goes_by_groups_needs_them(own_run, given, message):
    run = own_run()
    source = Path(run.code.folder, "nets.py").read_text()
    source = (
        source.replace('"embedding", vocab', "None, vocab")
        .replace("dtype, rngs", "rngs")
        .replace("= dtype", "= jnp.float32")
    )
    source = source.replace("shape[0] ** .5, group=group)", 'shape[0] ** .5, **({"group": group} if group else {}))')
    with pytest.raises(ValueError, match=message):
        own_run(source, **given)


def rarely(given):
    """A case that CI tries in the time that is left."""
    return pytest.param(given, marks=pytest.mark.soak)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        rarely({"optimizer": "adamw", "parametrization": "mup", "skip_spikes": 4.0}),
        {"optimizer": "muon", "dtype": "bfloat16"},
        rarely({"optimizer": "sgd", "schedule": "linear", "lr": 0.3}),
        rarely(
            {"optimizer": "adamw", "parametrization": "completep", "init": {"hidden": {"rule": "fan_in", "scale": 0.5}}}
        ),
        {"optimizer": "ours:half", "loss": "ours:cross_entropy"},
    ],
    ids=str,
)
def test_a_module_learns_with_every_optimiser(own_run, tmp_path, given):
    run = own_run(steps=300, files={"ours.py": OURS}, **given)
    directory = at(tmp_path, "run")
    record = train(run, directory, checkpoint=EVERY_DISPATCH)
    first = directory.metrics()[0]["loss"]
    assert record["status"] == "done"
    assert record["loss"] < min(first, np.log(16)) - 0.1


@pytest.mark.slow
def test_a_branch_of_a_module_is_the_whole_run_to_the_bit(own_run, tmp_path):
    shared = {"schedule": "wsd", "warmup_tokens": 64}
    trunk, short = (own_run(steps=steps, **shared) for steps in (80, 40))
    train(trunk, at(tmp_path, trunk.run_id), checkpoint=CheckpointPolicy(pinned=(short.stable_tokens,)))
    branch = at(tmp_path, short.run_id)
    train(short, branch, trunk=Parent(run_id=trunk.run_id, tokens=short.stable_tokens))
    whole = at(tmp_path, "whole")
    train(short, whole)
    same(weights(short, branch), weights(short, whole))


@pytest.mark.slow
def test_modules_side_by_side_come_to_the_losses_that_they_have_alone(own_run, tmp_path):
    runs = [own_run(steps=200, lr=lr) for lr in (0.01, 0.02)]
    clock = iter(range(10**6))  # each call as long as any: more side by side are then faster
    together = train_together(
        [training(run, at(tmp_path, run.run_id)) for run in runs], max_together=2, clock=lambda: next(clock)
    )
    for run, record in zip(runs, together, strict=True):
        assert record["loss"] == pytest.approx(train(run, at(tmp_path, f"alone {run.run_id}"))["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.soak
def test_a_module_on_many_devices_is_that_of_one(own_run, tmp_path, run_directory):
    run = own_run(steps=20, batch_tokens=64)
    one = train(run, run_directory)["loss"]
    layouts = ("fsdp=4", "data=2,fsdp=2,tensor=2")
    jobs = [
        {"config": run.model_dump(mode="json"), "layout": layout, "out": str(tmp_path / layout)} for layout in layouts
    ]
    script = Path(__file__).parents[1] / "network" / "many_devices.py"
    ran = subprocess.run([sys.executable, script], input=json.dumps(jobs), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    came = json.loads(ran.stdout)
    for found in came:
        assert found["record"]["loss"] == pytest.approx(one, rel=1e-5)
    assert came[0]["shapes"]["params.inner"] == [2, 16], "as its group says"
    assert came[1]["shapes"]["params.inner"] == [4, 8]


@pytest.mark.slow
def test_scales_of_a_recipe_are_those_of_the_weights(tiny_run):
    family = ModelFamily(depth=8, heads=2, context=8)
    recipe = {"embedding": 0.02, "hidden": {"rule": "fan_in", "scale": 0.5}, "output": {"rule": "depth"}}
    run = tiny_run(family=family, width=128, parametrization="standard", init=recipe)
    groups = groups_of(run.network, "float32")
    shapes = jax.eval_shape(lambda: initial_params(run.network, "float32", nnx.Rngs(0)))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape), shapes)
    scaled = rescaled(run.training.init, zeros, groups, run.model.depth, jax.random.key(0))
    block = scaled["blocks"][0]
    assert np.std(scaled["embedding"]) == pytest.approx(0.02, rel=0.05)
    assert np.std(block["mlp"]["up"]) == pytest.approx(0.5 / 128**0.5, rel=0.05)
    assert np.std(block["mlp"]["down"]) == pytest.approx(0.02 / 16**0.5, rel=0.05)
    assert np.std(block["attention"]["out"]) == pytest.approx(0.02 / 16**0.5, rel=0.05), "as of all that writes"
    assert not np.any(scaled["head"]), "where a recipe says nothing, all is as it was"
    assert np.any(block["attention"]["query"] != scaled["blocks"][1]["attention"]["query"]), "each drawn by itself"


def test_a_run_begins_with_the_scales_of_its_recipe(tiny_run):
    runs = [tiny_run(parametrization="standard", **given) for given in ({}, {"init": {"embedding": 0.02}})]
    plain, scaled = (initial_state(program_of(run))(jax.random.key(0), numbers_of(run))["params"] for run in runs)
    assert np.std(scaled["embedding"]) == pytest.approx(0.02, rel=0.3)
    same(plain["blocks"], scaled["blocks"])


def test_a_scale_that_does_not_follow_the_width_is_none_of_mup():
    given = {"batch_tokens": 32, "steps": 10, "lr": 0.1, "parametrization": "mup"}
    TrainingConfig(**given, init={"embedding": 0.02, "hidden": {"rule": "fan_in"}})
    with pytest.raises(ValueError, match=r"parametrization mup holds where init\.output follows the width"):
        TrainingConfig(**given, init={"output": {"rule": "depth"}})
    with pytest.raises(ValueError, match=r"parametrization mup scales the rates of adamw and muon; a\.b:c trains with"):
        TrainingConfig(**given, optimizer="a.b:c")
