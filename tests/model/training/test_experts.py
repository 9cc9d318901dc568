"""Training of mixtures of experts: the same run however it is computed, and what its curve says of routing."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from nextscale.model.config.run import ModelFamily
from nextscale.model.data.sources import open_source
from nextscale.model.network import kernels
from nextscale.model.record import RunDirectory
from nextscale.model.training import step
from nextscale.model.training.checkpoint import CheckpointPolicy, read_checkpoint
from nextscale.model.training.dispatch import dispatches
from nextscale.model.training.pack import execute_together
from nextscale.model.training.step import MemorySaving, program_of, state_shapes
from nextscale.model.training.tally import ROUTING
from nextscale.model.training.train import train

BIAS = {"router": "sigmoid", "balance_rate": 0.01, "balance_loss": 0.001, "shared_experts": 1, "dense_layers": 1}


@pytest.fixture
def mixture(tiny_run):
    def build(*, steps=24, depth=2, seed=0, **options):
        family = ModelFamily(depth=depth, heads=2, context=8, experts=4, router_z_loss=1e-3, **options)
        return tiny_run(family=family, width=8, steps=steps, batch_tokens=64, seed=seed)

    return build


@pytest.fixture
def at(tmp_path):
    """The directory of a run, by a name."""
    return lambda name: RunDirectory(epath.Path(tmp_path / name))


def weights(run, directory):
    """At its end."""
    state = read_checkpoint(directory.checkpoint(run.tokens), state_shapes(program_of(run)))
    return jax.tree.map(np.asarray, state["params"])


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_bit_with_its_biases_and_tells_how_it_routes(mixture, at):
    run = mixture(**BIAS)
    whole, cut = at("whole"), at("cut")
    record = train(run, whole)
    pins = CheckpointPolicy(every_seconds=3600, pinned=(8 * 64, 16 * 64))

    def on_progress(tokens):
        starts.append(tokens)
        if tokens == 16 * 64:
            raise KeyError(tokens)

    starts = []
    with pytest.raises(KeyError):
        train(run, cut, checkpoint=pins, on_progress=on_progress)
    assert train(run, cut, checkpoint=pins, on_progress=starts.append)["loss"] == record["loss"]
    assert starts[starts.index(16 * 64) + 1] == 8 * 64, "from its newest checkpoint"
    first, second = weights(run, whole), weights(run, cut)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert np.abs(first["blocks"][1]["mlp"]["balance"]).max() > 0.05
    assert cut.metrics() == whole.metrics()
    row = whole.metrics()[-1]
    assert 1 <= row["expert_load"] <= 4 / 2
    assert 0.9 < row["balance"] <= 2
    assert 0 < row["router_entropy"] <= np.log(4) + 1e-5
    assert {name: record[name] for name in ROUTING} == {name: row[name] for name in ROUTING}
    assert record["params_active"] < record["params"]


@pytest.mark.slow
def test_micro_batches_and_what_is_computed_again_change_no_loss_and_no_bias(mixture, at):
    run = mixture(steps=12, **BIAS)
    loss = train(run, at("plain"))["loss"]
    plain = weights(run, at("plain"))["blocks"][1]["mlp"]["balance"]
    for saving in (MemorySaving(4, "dots"), MemorySaving(2, "full")):
        assert train(run, at(str(saving)), memory_saving=saving)["loss"] == pytest.approx(loss, rel=1e-5)
        np.testing.assert_array_equal(weights(run, at(str(saving)))["blocks"][1]["mlp"]["balance"], plain)


@pytest.mark.slow
@pytest.mark.soak
def test_scanned_blocks_are_those_one_by_one(mixture, at, monkeypatch):
    run = mixture(depth=3, steps=12, **BIAS)
    one_by_one = train(run, at("unrolled"))["loss"]
    monkeypatch.setattr(kernels, "SCANNED_FROM", 1)
    jax.clear_caches()
    scanned = train(mixture(depth=3, steps=12, **BIAS), at("scanned"))["loss"]
    jax.clear_caches()
    assert scanned == pytest.approx(one_by_one, rel=1e-5)


@pytest.mark.slow
def test_a_call_of_two_runs_is_two_calls(mixture):
    runs = [mixture(seed=seed, **BIAS) for seed in (0, 1)]

    def calls():
        for run in runs:
            dispatch = next(dispatches(run, open_source(run), 0, ()))
            program, numbers = step.program_of(run), step.numbers_of(run)
            state = step.initial_state(program)(jax.random.key(run.seed), numbers)
            yield step.Call(program, state, dispatch.inputs._replace(steps=np.array([4])), numbers)

    apart = [step.execute(call) for call in calls()]
    for found, expected in zip(execute_together([*calls()], wait=True), apart, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(np.ravel(a), np.ravel(b), rtol=1e-4, atol=1e-6), found, expected
        )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [pytest.param("muon", marks=pytest.mark.soak), "sgd"])
def test_every_optimiser_trains_experts(tiny_run, at, optimizer):
    family = ModelFamily(depth=1, heads=2, context=8, experts=4, **BIAS | {"dense_layers": 0})
    more = {"parametrization": "standard"} if optimizer == "sgd" else {}
    lr = 0.3 if optimizer == "sgd" else 0.02
    run = tiny_run(family=family, steps=60, batch_tokens=64, optimizer=optimizer, **{"lr": lr} | more)
    directory = at("run")
    assert train(run, directory)["loss"] < np.log(16) - 0.1
    assert json.loads((directory.path / "record.json").read_text())["status"] == "done"


@pytest.mark.slow
def test_the_balance_loss_evens_the_load(mixture, at):
    runs = {weight: mixture(depth=1, steps=200, balance_loss=weight) for weight in (0.0, 0.1)}
    uneven, even = (train(run, at(str(weight))) for weight, run in runs.items())
    assert even["balance"] < uneven["balance"]
    assert even["expert_load"] < uneven["expert_load"]
