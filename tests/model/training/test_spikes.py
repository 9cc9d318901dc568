"""Skipped steps and divergence: recorded, skipped where asked for, and never left in a checkpoint."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from nextscale.model.config.run import Parent
from nextscale.model.data.sources import open_source
from nextscale.model.errors import InputError
from nextscale.model.training import attempt
from nextscale.model.training import train as trainer
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.spikes import initial_average, judge_step
from nextscale.model.training.train import train

POISONED = 200
"""The step whose batch is spoilt; 0 is the first."""


class StoppedError(Exception):
    pass


def without_seconds(record):
    return {key: value for key, value in record.items() if key != "seconds"}


def verdicts(norms, factor=4.0, loss=2.0):
    usual, taken = initial_average(), []
    for norm in norms:
        takes, usual = judge_step(usual, jnp.float32(loss), jnp.float32(norm), jnp.float32(factor))
        taken.append(bool(takes))
    return taken


@pytest.fixture
def poison(monkeypatch):
    """`poison(first, last, token)`: from now on the batches of these steps hold this token alone."""

    def inject(first, last, token):
        def opened(config):
            source = open_source(config)

            class Poisoned:
                tokens_per_byte, unique_tokens, held_out = None, source.unique_tokens, source.held_out

                def sequences(self, start, count):
                    tokens = source.sequences(start, count)
                    step = np.arange(start, start + count) // config.batch_sequences
                    tokens[(step >= first) & (step < last)] = token
                    return tokens

            return Poisoned()

        monkeypatch.setattr(trainer, "open_source", opened)

    return inject


@pytest.fixture
def folder(run_directory):
    return lambda name: type(run_directory)(run_directory.path.parent / name)


class TestJudgement:
    def test_a_spike_is_not_taken_once_the_average_has_settled(self):
        assert verdicts([1.0] * 49 + [9.0]) == [True] * 50
        assert verdicts([1.0] * 50 + [9.0, 1.0, 3.9]) == [True] * 50 + [False, True, True]

    @pytest.mark.parametrize("norm", [math.nan, math.inf])
    def test_what_is_no_number_is_never_taken_and_leaves_no_trace(self, norm):
        assert verdicts([norm, 1.0, norm, 1.0]) == [False, True, False, True]
        assert verdicts([1.0], loss=norm) == [False]
        before = [1.0] * 60
        assert verdicts([*before, norm, 4.1, 3.9]) == [*verdicts(before), False, False, True]

    def test_a_change_that_lasts_is_followed(self):
        taken = verdicts([1.0] * 60 + [20.0] * 60)
        assert not taken[60]
        assert all(taken[90:])


class TestRun:
    def test_a_spike_stands_in_the_curve_whatever_the_mean(self, tiny_run, folder, poison):
        train(tiny_run(steps=300), folder("clean"))
        poison(POISONED, POISONED + 1, 15)
        train(tiny_run(steps=300), folder("spoilt"))
        clean, spoilt = (folder(name).metrics()[1] for name in ("clean", "spoilt"))
        for row in (clean, spoilt):
            assert row["loss_max"] >= row["loss"]
            assert row["gradient_norm_max"] >= row["gradient_norm"]
        assert spoilt["gradient_norm_max"] > 2 * clean["gradient_norm_max"]
        assert spoilt["loss_max"] > clean["loss_max"] + 0.5
        assert folder("spoilt").metrics()[0] == folder("clean").metrics()[0]

    @pytest.mark.slow
    @pytest.mark.parametrize("token", [16, 15], ids=["no number", "a spike"])
    def test_a_bad_batch_that_is_skipped_hardly_shows_in_the_end(self, tiny_run, folder, poison, token):
        clean = train(tiny_run(steps=600, skip_spikes=5.0), folder("clean"))
        poison(POISONED, POISONED + 3, token)
        skipped = train(tiny_run(steps=600, skip_spikes=5.0), folder("skipped"))
        assert (clean["skipped_steps"], skipped["skipped_steps"]) == (0, 3)
        assert [row["skipped"] for row in folder("skipped").metrics()] == [0, 3, 0, 0, 0]
        assert skipped["loss"] == pytest.approx(clean["loss"], abs=0.02)

    def test_without_it_a_batch_that_is_no_number_is_the_end(self, tiny_run, folder, poison):
        poison(POISONED, POISONED + 1, 16)
        record = train(tiny_run(steps=600), folder("run"))
        assert (record["status"], record["reason"]) == ("diverged", "the training loss was not a number by token 8192")

    @pytest.mark.slow
    def test_where_it_never_strikes_it_changes_nothing(self, tiny_run, folder):
        """But for the last bits: it is another program."""
        with_, without = (train(tiny_run(steps=300, skip_spikes=f), folder(str(f))) for f in (1e6, None))
        assert with_["loss"] == pytest.approx(without["loss"], abs=1e-5)

    @pytest.mark.slow
    def test_a_run_that_takes_no_step_any_more_has_diverged(self, tiny_run, folder, poison):
        poison(POISONED, 10_000, 16)
        record = train(tiny_run(steps=600, skip_spikes=5.0), folder("run"))
        assert record["status"] == "diverged"
        assert record["reason"] == "none of the last 128 steps could be taken by token 12288"
        assert folder("run").metrics()[-1]["loss"] is None

    @pytest.mark.slow
    def test_it_is_resumed_to_the_bit(self, tiny_run, folder, poison, monkeypatch):
        monkeypatch.setattr(attempt, "_PROGRESS_SECONDS", 0)
        poison(POISONED, POISONED + 3, 16)
        run, pins = tiny_run(steps=600, skip_spikes=5.0), CheckpointPolicy(every_seconds=3600, pinned=(202 * 32,))
        straight = train(run, folder("straight"))

        def stop(tokens):
            if tokens > 202 * 32:
                raise StoppedError

        with pytest.raises(StoppedError):
            train(run, folder("cut"), checkpoint=pins, on_progress=stop)
        starts = []
        assert without_seconds(train(run, folder("cut"), on_progress=starts.append)) == without_seconds(straight)
        assert starts[0] == 202 * 32, "between two steps that are skipped"
        assert folder("cut").metrics_file.read_bytes() == folder("straight").metrics_file.read_bytes()

    def test_nothing_that_is_no_number_is_saved(self, tiny_run, folder, poison, caplog):
        """At a pinned position within a row of the curve, before the row could tell."""
        poison(POISONED, POISONED + 1, 16)
        pins = CheckpointPolicy(every_seconds=0, pinned=(POISONED * 32, (POISONED + 1) * 32))
        record = train(tiny_run(steps=600), folder("run"), checkpoint=pins)
        assert record["status"] == "diverged"
        saved = {int(path.name) for path in folder("run").checkpoints.iterdir()}
        assert saved == {128 * 32, POISONED * 32}
        assert f"no checkpoint was saved at token {(POISONED + 1) * 32}: the state is not finite" in caplog.text

    def test_a_branch_that_changes_something_may_not_change_that(self, tiny_run, folder):
        trunk = tiny_run(steps=60)
        folder(trunk.run_id).write_config(trunk)
        parent = Parent(run_id=trunk.run_id, tokens=320)
        branch = tiny_run(steps=20, skip_spikes=5.0).model_copy(update={"parent": parent})
        with pytest.raises(InputError, match=r"only one has training\.skip_spikes"):
            train(branch, folder("branch"))
