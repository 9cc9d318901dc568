"""Memory that runs out costs time, never a result: the same batch in smaller parts, and blocks computed twice."""

import jax
import pytest

from nextscale.model.config.run import ModelFamily
from nextscale.model.errors import InputError, Stopped, TooLarge
from nextscale.model.network.kernels import RECOMPUTE
from nextscale.model.network.sharding import Layout
from nextscale.model.training import memory, step
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.memory import bytes_needed, first_saving, next_saving, out_of_memory_note, saving_within
from nextscale.model.training.step import MemorySaving
from nextscale.model.training.train import train

ONE = Layout()
EXHAUSTED = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."


@pytest.fixture
def run(tiny_run):
    return tiny_run(steps=300, batch_tokens=64, lr=0.005)


def runs_out(monkeypatch, *, micro_batches, recompute="none", message=EXHAUSTED, times=1000):
    """Lets the steps run out of memory, so many times, with so much saving or less."""
    real, failures = step.train_steps, []

    def train_steps(program):
        def steps(state, *rest):
            if program.memory_saving.rank <= MemorySaving(micro_batches, recompute).rank and len(failures) < times:
                failures.append(tuple(program.memory_saving))
                jax.tree.map(lambda leaf: leaf.delete(), state)  # as donated buffers are
                raise jax.errors.JaxRuntimeError(message)
            return real(program)(state, *rest)

        return steps

    monkeypatch.setattr(step, "train_steps", train_steps)
    return failures


@pytest.mark.parametrize("micro_batches", [pytest.param(2, marks=pytest.mark.soak), 8])
@pytest.mark.slow
def test_micro_batches_give_the_numbers_of_the_whole_batch(tiny_run, run_directory, micro_batches):
    run = tiny_run(steps=20, batch_tokens=64)
    whole = type(run_directory)(run_directory.path.parent / "whole")
    expected = train(run, whole)
    run_directory.path.mkdir()
    run_directory.add_attempt(out_of_memory_note(run, ONE, MemorySaving(micro_batches // 2)))
    record = train(run, run_directory)
    assert (expected["micro_batches"], record["micro_batches"]) == (1, micro_batches)
    assert record["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    (row,), same = run_directory.metrics(), whole.metrics()
    assert row["loss"] == pytest.approx(same[0]["loss"], rel=1e-6)
    assert row["gradient_norm"] == pytest.approx(same[0]["gradient_norm"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("saved", [False, True])
def test_a_run_that_runs_out_of_memory_goes_on_with_half_the_micro_batch(
    run, run_directory, monkeypatch, caplog, saved
):
    whole = train(run, type(run_directory)(run_directory.path.parent / "whole"))
    if saved:
        policy = CheckpointPolicy(every_seconds=3600, pinned=(150 * 64,))
        told = []

        def stop():
            told.append(True)
            return len(told) == 3

        with pytest.raises(Stopped):
            train(run, run_directory, checkpoint=policy, stop=stop)
    failures = runs_out(monkeypatch, micro_batches=1)
    starts = []
    record = train(run, run_directory, on_progress=starts.append)
    assert failures == [(1, "none")]
    assert starts[:2] == ([256 * 64] * 2 if saved else [0] * 2), "from the newest checkpoint, twice"
    assert record["micro_batches"] == 2
    assert record["loss"] == pytest.approx(whole["loss"], rel=1e-4), "300 steps let the last bits grow"
    assert "memory ran out with micro-batches of 8 sequence(s) per device" in caplog.text
    (attempt,) = run_directory.attempts()
    assert (attempt["status"], attempt["micro_batches"], attempt["layout"]) == ("lost", 1, str(ONE))
    assert [row["tokens"] for row in run_directory.metrics()] == [128 * 64, 256 * 64, 300 * 64]


def test_when_one_sequence_does_not_fit_that_is_told_in_one_line(run, run_directory, monkeypatch):
    failures = runs_out(monkeypatch, micro_batches=8, recompute="full")
    with pytest.raises(InputError, match=r"^one sequence of 8 tokens per device does not fit .*$"):
        train(run, run_directory)
    assert failures == [*((n, "none") for n in (1, 2, 4, 8)), (8, "dots"), (8, "full")]


@pytest.mark.slow
def test_in_the_end_blocks_are_computed_twice(tiny_run, run_directory, monkeypatch):
    run = tiny_run(steps=20, batch_tokens=64, family=ModelFamily(depth=3, heads=2, context=8, norm_scale=True))
    expected = train(run, type(run_directory)(run_directory.path.parent / "whole"))
    runs_out(monkeypatch, micro_batches=8, recompute="dots")
    record = train(run, run_directory)
    assert (expected["recompute"], record["recompute"], record["micro_batches"]) == ("none", "full", 8)
    assert record["loss"] == pytest.approx(expected["loss"], rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.slow
@pytest.mark.soak
def test_blocks_computed_twice_take_less_memory(tiny_run, dtype):
    run = tiny_run(family=ModelFamily(depth=8, heads=2, context=64), width=32, batch_tokens=1024, dtype=dtype)
    none, dots, full = (bytes_needed(run, ONE, MemorySaving(recompute=each)) for each in RECOMPUTE[:-1])
    assert full < dots < none
    assert full < 0.5 * none


def test_another_error_of_the_device_is_not_taken_for_a_lack_of_memory(run, run_directory, monkeypatch):
    failures = runs_out(monkeypatch, micro_batches=8, message="INTERNAL: the cable is out")
    with pytest.raises(jax.errors.JaxRuntimeError, match="the cable is out"):
        train(run, run_directory)
    assert failures == [(1, "none")]


def test_what_did_not_fit_is_not_tried_again_there_and_is_tried_elsewhere(run, monkeypatch):
    lost = [out_of_memory_note(run, ONE, MemorySaving(n)) for n in (1, 2)]
    noted = [{"status": "lost", "message": "preempted"}, *lost]
    assert first_saving(run, ONE, noted) == (4, "none")
    assert first_saving(run, Layout(fsdp=2), noted) == (1, "none")
    assert first_saving(run, ONE, [*noted, out_of_memory_note(run, ONE, MemorySaving(8))]) == (8, "dots")
    earlier = out_of_memory_note(run, ONE, MemorySaving(8)) | {"recompute": True}
    with pytest.raises(TooLarge):
        first_saving(run, ONE, [earlier])
    noted = [row | {"device": "another"} for row in noted]
    assert first_saving(run, ONE, noted) == (1, "none")


@pytest.mark.parametrize("sequences, course", [(8, [1, 2, 4, 8]), (6, [1, 2, 6]), (9, [1, 3, 9]), (7, [1, 7])])
def test_micro_batches_are_halved_or_the_next_that_is_even(tiny_run, sequences, course):
    run = tiny_run(batch_tokens=8 * sequences)
    assert [next_saving(run, ONE, MemorySaving(n)) for n in course[:-1]] == [(n, "none") for n in course[1:]]
    assert next_saving(run, ONE, MemorySaving(course[-1])) == (course[-1], "dots")


@pytest.mark.slow
def test_a_stated_limit_decides_before_anything_runs_out(tiny_run, run_directory):
    run = tiny_run(steps=20, batch_tokens=1024)
    whole, half = bytes_needed(run, ONE, MemorySaving()), bytes_needed(run, ONE, MemorySaving(2))
    assert whole > half
    assert train(run, run_directory, memory_limit=half)["micro_batches"] == 2
    assert run_directory.attempts() == []


@pytest.mark.slow
def test_a_plan_s_saving_is_begun_with_and_an_attempt_s_lack_adds_to_it(tiny_run, run_directory):
    run = tiny_run(steps=20, batch_tokens=64)
    with pytest.raises(InputError, match="8 sequences per device are not 3 equal micro-batches"):
        train(run, run_directory, memory_saving=MemorySaving(3))
    run_directory.add_attempt(out_of_memory_note(run, ONE, MemorySaving(2)))
    assert train(run, run_directory, memory_saving=MemorySaving(2))["micro_batches"] == 4


def test_a_limit_is_kept_to_with_as_few_micro_batches_as_do(run, monkeypatch):
    monkeypatch.setattr(
        memory,
        "bytes_needed",
        lambda config, layout, saving: 100 + 800 // saving.micro_batches - RECOMPUTE.index(saving.recompute),
    )
    found = [saving_within(run, ONE, MemorySaving(), limit) for limit in (900, 899, 500, 499, 200, 199)]
    assert found == [*((n, "none") for n in (1, 2, 2, 4, 8)), (8, "dots")]
    assert saving_within(run, ONE, MemorySaving(4), 900) == (4, "none"), "with fewer it ran out of memory before"
    with pytest.raises(InputError, match="does not fit"):
        saving_within(run, ONE, MemorySaving(), 197)


def test_a_device_that_does_not_say_what_it_needs_has_no_limit(tiny_run, run_directory, monkeypatch):
    class Silent:
        def lower(self, *arguments):
            return self

        def compile(self):
            return self

        def memory_analysis(self):
            return None

    memory._planned.cache_clear()
    monkeypatch.setattr(memory, "train_steps", lambda program: Silent())
    with pytest.raises(InputError, match="cpu does not say"):
        train(tiny_run(), run_directory, memory_limit=10**9)
