"""A run: learns, resumes to the bit, compiles once per shape, and says so when it fails."""

import contextlib
import io
import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from nextscale.model.config.data import MarkovData, TextData
from nextscale.model.config.run import ModelFamily
from nextscale.model.data.markov import markov
from nextscale.model.data.sources import open_source, resolve
from nextscale.model.errors import CorruptCheckpoint, InputError
from nextscale.model.record import RunDirectory
from nextscale.model.training import attempt, step
from nextscale.model.training import train as trainer
from nextscale.model.training.checkpoint import CheckpointPolicy, Checkpoints
from nextscale.model.training.curve import Curve
from nextscale.model.training.dispatch import dispatches
from nextscale.model.training.evaluate import Evaluation, evaluate
from nextscale.model.training.step import program_of, train_steps
from nextscale.model.training.train import train, training

EVERY_DISPATCH, NEVER = CheckpointPolicy(every_seconds=0), CheckpointPolicy(every_seconds=3600)


def change_a_byte(checkpoint):
    """In the middle of its largest file, which holds the arrays."""
    largest = max((f for f in Path(checkpoint).rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))


class StoppedError(Exception):
    pass


def stop_at(tokens):
    def on_progress(done):
        if done >= tokens:
            raise StoppedError

    return on_progress


def stop_when_logged(directory, tokens):
    """Stops a run once its curve has reached so many tokens."""

    def on_progress(_):
        if any(row["tokens"] >= tokens for row in directory.metrics()):
            raise StoppedError

    return on_progress


def without_seconds(record):
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.mark.slow
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
        def module(tokens_BxT, mesh):
            before = np.roll(tokens_BxT, 1, axis=1) if isinstance(tokens_BxT, np.ndarray) else None
            before = jax.numpy.roll(tokens_BxT, 1, axis=1) if before is None else before
            return jax.numpy.asarray(law, jax.numpy.float32)[before, tokens_BxT]

        return module

    monkeypatch.setattr("nextscale.model.training.evaluate.model_of", perfect)
    assert evaluate(run, None, source)().loss == pytest.approx(source.chain.entropy, abs=2e-6)


@pytest.mark.parametrize("saved", [1, 2, 4])
def test_resumed_and_uninterrupted_runs_are_the_same_to_the_bit(tiny_run, run_directory, monkeypatch, saved):
    monkeypatch.setattr(attempt, "_PROGRESS_SECONDS", 0)
    run, whole = tiny_run(steps=600), run_directory
    straight = train(run, whole)
    dispatches = [row["tokens"] for row in whole.metrics()]
    assert len(dispatches) == 5, "the last checkpoint of a run is that after its last dispatch but one"
    cut = RunDirectory(whole.path.parent / "cut")
    with pytest.raises(StoppedError):
        train(run, cut, checkpoint=EVERY_DISPATCH, on_progress=stop_when_logged(cut, dispatches[saved - 1]))
    # Then it goes on, and logs what no checkpoint holds: two dispatches, or all that are left.
    with pytest.raises(StoppedError):
        train(run, cut, checkpoint=NEVER, on_progress=stop_when_logged(cut, dispatches[min(saved + 1, 4)]))
    assert [row["tokens"] for row in cut.metrics()] == dispatches[: saved + 2]
    assert cut.record() is None
    starts = []
    resumed = train(run, cut, on_progress=starts.append)
    assert starts[0] == dispatches[saved - 1]
    assert without_seconds(resumed) == without_seconds(straight)
    assert cut.metrics_file.read_bytes() == whole.metrics_file.read_bytes()


def test_who_lost_a_run_saves_nothing_at_its_end(tiny_run, run_directory):
    run = tiny_run()
    with pytest.raises(StoppedError):
        train(run, run_directory, on_progress=stop_at(run.training.tokens))
    assert run_directory.record() is None
    assert not list(run_directory.checkpoints.iterdir())


def test_progress_is_told_at_the_ends_of_a_quick_run(tiny_run, run_directory, monkeypatch):
    monkeypatch.setattr(attempt, "_PROGRESS_SECONDS", 3600)
    told, run = [], tiny_run(steps=300)
    train(run, run_directory, checkpoint=NEVER, on_progress=told.append)
    assert told == [0, run.training.tokens, run.training.tokens]


def test_what_was_asked_is_written_before_the_data_is_read(tiny_run, run_directory, tmp_path):
    run = tiny_run(data=TextData(source="text", path=str(tmp_path / "none"), vocab=128, fingerprint="x"))
    with pytest.raises(InputError):
        train(run, run_directory)
    assert run_directory.config() == run


def test_a_source_with_impossible_tokens_has_a_loss(tiny_run, run_directory):
    steep = MarkovData(source="markov", vocab=16, first=300, second=300)
    chain = markov(steep)
    assert (chain.conditional == 0).any()
    assert 0 <= chain.entropy < math.log(16)
    assert chain.entropy < train(tiny_run(data=steep, steps=20), run_directory)["loss"] < math.log(16)


def test_a_finished_run_is_not_trained_again(tiny_run, run_directory):
    run = tiny_run()
    first = train(run, run_directory)
    assert train(run, run_directory, on_progress=stop_at(0)) == first


def test_equal_shapes_compile_once(tiny_run, tmp_path, run_directory):
    train_steps.cache_clear()
    runs = [
        tiny_run(steps=40),
        tiny_run(steps=300, lr=0.01),
        tiny_run(steps=77, schedule="wsd", weight_decay=0.01, warmup=0.3),
        tiny_run(steps=40, seed=3, beta2=0.95, clip=0.5, parametrization="standard"),
    ]
    for i, run in enumerate(runs):
        train(run, type(run_directory)(run_directory.path.parent / str(i)))
    assert train_steps.cache_info().currsize == 1
    assert train_steps(program_of(runs[0]))._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("optimizer, lr", [("muon", 0.02), pytest.param("sgd", 0.1, marks=pytest.mark.soak)])
def test_every_optimizer_learns_and_a_grid_of_its_rates_compiles_once(tiny_run, tmp_path, run_directory, optimizer, lr):
    train_steps.cache_clear()
    options = {"optimizer": optimizer, "parametrization": "standard"}
    runs = [tiny_run(steps=300, lr=lr, **options), tiny_run(lr=lr / 2, momentum=0.9, weight_decay=1e-3, **options)]
    losses = [train(run, type(run_directory)(run_directory.path.parent / run.run_id))["loss"] for run in runs]
    assert losses[0] < math.log(16) - 0.1
    assert losses[0] < losses[1], "more steps learn more"
    assert train_steps.cache_info().currsize == 1
    assert train_steps(program_of(runs[0]))._cache_size() == 1


def test_divergence_ends_a_run_with_a_record_that_says_so(tiny_run, run_directory):
    record = train(tiny_run(lr=1e4, steps=300, parametrization="standard"), run_directory)
    assert record["status"] == "diverged"
    assert record["loss"] is None
    assert re.search(r"(worse than chance|not a number).* by token \d+", record["reason"])
    assert run_directory.record()["status"] == "diverged"


def test_a_spike_does_not_end_a_run_and_a_stretch_does_also_when_it_is_resumed(tiny_run):
    run = tiny_run(steps=1000, warmup=0.1)

    def judged(losses, first=0, rows=()):
        """What is said of the run at each of some steps, one a dispatch."""
        curve = Curve(run, io.StringIO(), list(rows))
        return [curve.add([(first + i + 1) * 32], [1], {"loss": loss}) for i, loss in enumerate(losses)]

    bad = math.log(16) + 1.1
    quiet, spike, stretch = [2.0] * 300, [2.0] * 200 + [90.0] + [2.0] * 99, [2.0] * 100 + [bad] * 200
    assert not any(judged(quiet)) and not any(judged(spike))
    ended = [bool(trouble) for trouble in judged(stretch)]
    assert ended.index(True) == 100 + 128 - 1, "the first hundred warm up"
    rows = [{"tokens": (i + 1) * 32, "loss": loss} for i, loss in enumerate(stretch)]
    for cut in (50, 150, 220):
        assert [bool(trouble) for trouble in judged(stretch[cut:], cut, rows[:cut])] == ended[cut:]


def test_a_short_run_is_judged_at_its_end(tiny_run):
    curve = Curve(tiny_run(steps=40), io.StringIO(), [])
    assert curve.add([20 * 32], [20], {"loss": 20 * 9.0}) is None
    assert "worse than chance" in curve.add([40 * 32], [20], {"loss": 20 * 9.0})


@pytest.mark.slow
def test_a_checkpoint_with_one_changed_byte_is_passed_over_for_the_one_before(tiny_run, run_directory):
    run, whole = tiny_run(width=32, steps=600), RunDirectory(run_directory.path.parent / "whole")
    straight = train(run, whole)
    with pytest.raises(StoppedError):
        train(run, run_directory, checkpoint=EVERY_DISPATCH, on_progress=stop_at(13_000))
    newest, before = sorted(run_directory.checkpoints.iterdir(), key=lambda p: -int(p.name))
    change_a_byte(newest)
    starts = []
    resumed = train(run, run_directory, on_progress=starts.append)
    assert starts[0] == int(before.name)
    assert without_seconds(resumed) == without_seconds(straight)
    assert run_directory.metrics_file.read_bytes() == whole.metrics_file.read_bytes()


def test_a_corrupt_checkpoint_does_not_stand_in_the_way_of_what_is_saved_after(tmp_path, caplog):
    directory, state = epath.Path(tmp_path / "checkpoints"), {"weight": jax.random.normal(jax.random.key(0), (10_000,))}

    def reopened():
        return contextlib.closing(Checkpoints(directory, CheckpointPolicy(keep=2)))

    with reopened() as checkpoints:
        checkpoints.save(20, state)
        checkpoints.save(40, state)
    change_a_byte(directory / "40")
    with reopened() as checkpoints:
        assert checkpoints.restore(state)[0] == 20
        checkpoints.save(30, state)
    assert str(directory / "40") in caplog.text
    assert {path.name for path in directory.iterdir()} == {"20", "30"}
    with reopened() as checkpoints:
        assert checkpoints.restore(state)[0] == 30
        checkpoints.save(10, state)
    assert "no checkpoint was saved at token 10" in caplog.text


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


def test_compiled_programs_are_kept_or_not_but_a_run_goes_on(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "file"))
    trainer.enable_compilation_cache()
    assert "not kept" in caplog.text


def test_in_context_learning_is_the_late_loss_less_the_early():
    by_position = [3.0, 3.0, *[2.0] * 12, 1.0, 1.5]
    assert Evaluation(2.0, None, by_position, 16).in_context_learning == -1.75


@pytest.mark.slow
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


def test_a_line_cut_short_by_a_crash_is_no_row_and_takes_no_other_with_it(run_directory):
    run_directory.path.mkdir(parents=True)
    run_directory.metrics_file.write_text(json.dumps({"tokens": 1, "loss": 2.0}) + '\n{"tokens": 2, "lo')
    assert run_directory.metrics() == [{"tokens": 1, "loss": 2.0}]
    run_directory.add_attempt({"status": "lost"})
    with (run_directory.path / "attempts.jsonl").open("a") as file:
        file.write('{"status": "er')
    run_directory.add_attempt({"status": "finished"})
    run_directory.add_attempt({"status": "again"})
    assert [row["status"] for row in run_directory.attempts()] == ["lost", "finished", "again"]


class TestSeveralRowsInOneCall:
    """As on an accelerator, where a call for each row would take longer than its steps."""

    @pytest.fixture(autouse=True)
    def _of_an_accelerator(self, monkeypatch):
        monkeypatch.setattr("nextscale.model.training.attempt.stretches_per_call", lambda config: 4)

    @pytest.fixture
    def one_by_one(self, monkeypatch, run_directory):
        def run_all(run, **options):
            directory = RunDirectory(run_directory.path.parent / "one by one")
            with monkeypatch.context() as here:
                here.setattr("nextscale.model.training.attempt.stretches_per_call", lambda config: 1)
                return train(run, directory, **options), directory

        return run_all

    @pytest.mark.slow
    @pytest.mark.parametrize("skip_spikes", [None, pytest.param(5.0, marks=pytest.mark.soak)])
    def test_they_are_the_same_rows(self, tiny_run, run_directory, one_by_one, skip_spikes):
        run = tiny_run(steps=1100, lr=0.004, skip_spikes=skip_spikes)
        expected, directory = one_by_one(run)
        record = train(run, run_directory)
        assert record["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        found, rows = run_directory.metrics(), directory.metrics()
        assert (
            [row["tokens"] for row in found] == [row["tokens"] for row in rows] == [*range(4096, 35_200, 4096), 35_200]
        )
        assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in rows], rel=1e-3)

    @pytest.mark.slow
    def test_a_pinned_position_ends_a_call_and_resumes_to_the_bit(self, tiny_run, run_directory):
        run, pins = tiny_run(steps=1100), (600 * 32, 640 * 32)
        policy = CheckpointPolicy(every_seconds=3600, pinned=pins)
        whole = RunDirectory(run_directory.path.parent / "whole")
        expected = train(run, whole, checkpoint=policy)
        with pytest.raises(StoppedError):
            train(run, run_directory, checkpoint=policy, on_progress=stop_at(640 * 32))
        starts = []
        assert train(run, run_directory, checkpoint=policy, on_progress=starts.append)["loss"] == expected["loss"]
        assert starts[0] == 600 * 32
        assert run_directory.metrics() == whole.metrics()

    def test_it_is_compiled_once(self, tiny_run, run_directory):
        step.train_stretches.cache_clear()
        runs = [tiny_run(steps=steps, lr=lr) for steps, lr in ((700, 0.01), (900, 0.02))]
        for run in runs:
            train(run, run_directory.sibling(run.run_id), checkpoint=CheckpointPolicy(pinned=(300 * 32,)))
        assert step.train_stretches(program_of(runs[0]))._cache_size() == 1


def test_a_state_is_given_away_to_the_steps_from_it(tiny_run):
    run = tiny_run(steps=40)
    program, numbers = program_of(run), step.numbers_of(run)
    state = step.initial_state(program)(jax.random.key(0), numbers)
    dispatch = next(dispatches(run, open_source(run), 0, ()))
    step.execute(step.Call(program, state, dispatch.inputs, numbers))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state["params"]))


def test_an_evaluation_on_the_way_is_read_when_the_next_steps_are_on_their_way(tiny_run, run_directory, monkeypatch):
    """The devices are never idle for it."""
    run = tiny_run(steps=300)
    run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"points": 2})})
    events, real = [], attempt.evaluate_all

    def evaluate_all(*arguments, **options):
        events.append("evaluation asked for")
        wait = real(*arguments, **options)

        def read():
            events.append("evaluation read")
            return wait()

        return read

    monkeypatch.setattr(attempt, "evaluate_all", evaluate_all)
    going = training(run, run_directory, checkpoint=NEVER)
    call = next(going)
    with contextlib.suppress(StopIteration):
        while True:
            events.append("steps")
            call = going.send(step.execute(call))
    asked = [i for i, event in enumerate(events) if event == "evaluation asked for"]
    *on_the_way, last = asked
    assert len(on_the_way) == len(run_directory.evaluations()) - 1 > 1
    for i in on_the_way:
        assert events[i : i + 3] == ["evaluation asked for", "steps", "evaluation read"]
    assert events[last:] == ["evaluation asked for", "evaluation read"]
