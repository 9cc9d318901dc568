"""A run: learns, resumes to the bit, compiles once per shape, and says so when it fails."""

import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from nextscale.model import train as trainer
from nextscale.model.checkpoint import CheckpointPolicy
from nextscale.model.config import ModelFamily, TextData
from nextscale.model.data import open_source, resolve
from nextscale.model.errors import CorruptCheckpoint
from nextscale.model.evaluate import Evaluation, evaluate
from nextscale.model.markov import markov
from nextscale.model.train import steps_per_dispatch, train

EVERY_DISPATCH = CheckpointPolicy(every_seconds=0)


class StoppedError(Exception):
    pass


def stop_at(tokens):
    def on_progress(done):
        if done >= tokens:
            raise StoppedError

    return on_progress


def without_times(record):
    return {key: value for key, value in record.items() if key != "seconds"}


def test_a_run_learns_towards_the_entropy_and_never_below_it(tiny_run, run_directory):
    family = ModelFamily(depth=1, heads=2, context=8, position="alibi", mlp="relu2")
    run = tiny_run(family=family, width=32, steps=2000, batch_tokens=64, schedule="linear")
    record = train(run, run_directory)
    chain = markov(run.data)
    following = np.einsum("ij,ijk->jk", chain.stationary, chain.conditional)
    bigram = -(following * np.log(following / following.sum(axis=1, keepdims=True))).sum()
    assert chain.entropy < record["loss"] < bigram, "it must use more than the previous token"
    assert record["tokens"] == 2000 * 64
    assert run_directory.config() == run


def test_a_perfect_model_scores_exactly_the_entropy(tiny_run, monkeypatch):
    run = tiny_run()
    source = open_source(run)
    law = np.log(source.chain.conditional)

    def perfect(model, dtype, params):
        def module(tokens_BxT):
            before = np.roll(tokens_BxT, 1, axis=1) if isinstance(tokens_BxT, np.ndarray) else None
            before = jax.numpy.roll(tokens_BxT, 1, axis=1) if before is None else before
            return jax.numpy.asarray(law, jax.numpy.float32)[before, tokens_BxT]

        return module

    monkeypatch.setattr("nextscale.model.evaluate.merged", perfect)
    assert evaluate(run, None, source).loss == pytest.approx(source.chain.entropy, abs=2e-6)


@pytest.mark.parametrize("stop", [1, 3000])
def test_resumed_and_uninterrupted_runs_are_the_same_to_the_bit(tiny_run, tmp_path, run_directory, stop):
    run = tiny_run(steps=300)
    dispatch = steps_per_dispatch(run) * 32
    assert 2 * dispatch < run.training.tokens, "the run must be several dispatches long to be cut"
    whole = run_directory
    straight = train(run, whole)
    cut = type(whole)(whole.path.parent / "cut")
    with pytest.raises(StoppedError):
        train(run, cut, checkpoint=EVERY_DISPATCH, on_progress=stop_at(max(stop, dispatch + 1)))
    assert cut.record() is None
    starts = []
    resumed = train(run, cut, on_progress=starts.append)
    assert starts[0] > dispatch, "it must not have started again from nothing"
    assert without_times(resumed) == without_times(straight)
    assert (cut.metrics_file).read_bytes() == (whole.metrics_file).read_bytes()


def test_a_finished_run_is_not_trained_again(tiny_run, run_directory):
    run = tiny_run()
    first = train(run, run_directory)
    assert train(run, run_directory, on_progress=stop_at(0)) == first


def test_equal_shapes_compile_once(tiny_run, tmp_path, run_directory):
    trainer.train_steps.clear_cache()
    runs = [
        tiny_run(steps=40),
        tiny_run(steps=300, lr=0.01),
        tiny_run(steps=77, schedule="wsd", weight_decay=0.01, warmup=0.3),
        tiny_run(steps=40, seed=3, beta2=0.95, clip=0.5, parametrization="standard"),
    ]
    for i, run in enumerate(runs):
        train(run, type(run_directory)(run_directory.path.parent / str(i)))
    assert trainer.train_steps._cache_size() == 1


def test_divergence_ends_a_run_with_a_record_that_says_so(tiny_run, run_directory):
    record = train(tiny_run(lr=1e4, steps=300, parametrization="standard"), run_directory)
    assert record["status"] == "diverged"
    assert record["loss"] is None
    assert re.search(r"(worse than chance|not a number).* by token \d+", record["reason"])
    assert run_directory.record()["status"] == "diverged"


def test_a_checkpoint_with_one_changed_byte_is_passed_over_for_the_one_before(tiny_run, run_directory):
    run = tiny_run(width=32, steps=600)
    with pytest.raises(StoppedError):
        train(run, run_directory, checkpoint=EVERY_DISPATCH, on_progress=stop_at(13_000))
    newest, before = sorted(run_directory.checkpoints.iterdir(), key=lambda p: -int(p.name))
    largest = max((f for f in Path(newest).rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    starts = []
    train(run, run_directory, on_progress=starts.append)
    assert int(before.name) < starts[0] <= int(newest.name)
    curve = [row["tokens"] for row in run_directory.metrics()]
    assert curve == sorted(set(curve))


def test_no_readable_checkpoint_is_said_with_the_way_out(tiny_run, run_directory):
    run = tiny_run(steps=600)
    with pytest.raises(StoppedError):
        train(run, run_directory, checkpoint=EVERY_DISPATCH, on_progress=stop_at(13_000))
    for file in Path(run_directory.checkpoints).rglob("*"):
        if file.is_file():
            file.write_bytes(b"rot")
    with pytest.raises(CorruptCheckpoint, match=r"is corrupt.*delete") as error:
        train(run, run_directory)
    assert "\n" not in str(error.value)


def test_in_context_learning_is_the_late_loss_less_the_early():
    by_position = [3.0, 3.0, *[2.0] * 12, 1.0, 1.5]
    assert Evaluation(2.0, None, by_position, 16).in_context_learning == -1.75


def test_text_gives_bits_per_byte_and_epochs(tmp_path, run_directory, tiny_run):
    (tmp_path / "t.txt").write_text("the cat sat on the mat. " * 200)
    data = resolve(TextData(source="text", path=str(tmp_path / "t.txt"), vocab=128))
    run = tiny_run(data=data, width=16, steps=400, family=ModelFamily(depth=1, heads=2, context=8))
    record = train(run, run_directory)
    assert record["bits_per_byte"] == pytest.approx(record["loss"] / math.log(2))
    assert record["bits_per_byte"] < 0.5
    assert record["unique_tokens"] < 4800
    assert record["epochs"] == pytest.approx(record["tokens"] / record["unique_tokens"])
    assert len(record["loss_by_position"]) == 8


def test_a_curve_cut_short_by_a_crash_is_read_up_to_there(run_directory):
    run_directory.path.mkdir(parents=True)
    run_directory.metrics_file.write_text(json.dumps({"tokens": 1, "loss": 2.0}) + '\n{"tokens": 2, "lo')
    assert run_directory.metrics() == [{"tokens": 1, "loss": 2.0}]
