"""Branches: the same runs as without a trunk, to the bit, whatever is killed; states kept until they are not needed."""

from pathlib import Path

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from nextscale.model.config.run import Parent
from nextscale.model.errors import InputError, UnreadableCheckpoint
from nextscale.model.training import attempt, checkpoint
from nextscale.model.training import train as trainer
from nextscale.model.training.branch import same_until
from nextscale.model.training.checkpoint import CheckpointPolicy, read_checkpoint
from nextscale.model.training.step import program_of, state_shapes
from nextscale.model.training.train import train

WSD = {"schedule": "wsd", "warmup_tokens": 20 * 32, "cooldown": 0.25}
BRANCH = 225 * 32  # where a run of 300 steps begins to cool down: no multiple of the 128 steps of a dispatch


class StoppedError(Exception):
    pass


def stop_at(tokens):
    def on_progress(done):
        if done >= tokens:
            raise StoppedError

    return on_progress


def pinning(*tokens, every_seconds=3600.0):
    return CheckpointPolicy(every_seconds=every_seconds, pinned=tokens)


def state_of(run, directory, tokens):
    empty = state_shapes(program_of(run))
    return read_checkpoint(directory.checkpoint(tokens), empty)


def without_seconds(record):
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.fixture
def trunk(tiny_run):
    return tiny_run(steps=600, **WSD)


@pytest.fixture
def straight(tiny_run):
    return tiny_run(steps=300, **WSD)


@pytest.fixture
def folder(run_directory):
    return lambda run, where="runs": type(run_directory)(run_directory.path.parent / where / run.run_id)


@pytest.fixture(autouse=True)
def _progress_at_once(monkeypatch):
    monkeypatch.setattr(attempt, "_PROGRESS_SECONDS", 0)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.soak)])
@pytest.mark.slow
def test_a_branch_is_the_straight_run_to_the_bit(tiny_run, folder, optimizer):
    trunk, straight = (tiny_run(steps=steps, optimizer=optimizer, **WSD) for steps in (600, 300))
    train(trunk, folder(trunk), checkpoint=pinning(BRANCH))
    starts = []
    branch = train(
        straight, folder(straight), trunk=Parent(run_id=trunk.run_id, tokens=BRANCH), on_progress=starts.append
    )
    assert starts[0] == BRANCH, "it trains nothing but its cooldown"
    alone = train(straight, folder(straight, "alone"))
    assert without_seconds(branch) == without_seconds(alone)
    assert folder(straight).metrics_file.read_bytes() == folder(straight, "alone").metrics_file.read_bytes()
    ends = [state_of(straight, folder(straight, where), straight.tokens) for where in ("runs", "alone")]
    assert jax.tree.leaves(ends[0])
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_a_pinned_position_changes_nothing_of_a_trunk(trunk, folder):
    pinned = train(trunk, folder(trunk), checkpoint=pinning(32, 127 * 32, 128 * 32, BRANCH))
    assert without_seconds(pinned) == without_seconds(train(trunk, folder(trunk, "alone")))
    assert folder(trunk).metrics_file.read_bytes() == folder(trunk, "alone").metrics_file.read_bytes()


@pytest.mark.slow
def test_killed_trunks_and_branches_go_on_as_if_nothing_had_happened(trunk, straight, folder, monkeypatch):
    alone, whole = (train(run, folder(run, "alone")) for run in (straight, trunk))
    start = Parent(run_id=trunk.run_id, tokens=BRANCH)
    with pytest.raises(StoppedError):  # in the middle of a row of the curve, with nothing newer saved
        train(trunk, folder(trunk), checkpoint=pinning(BRANCH), on_progress=stop_at(BRANCH + 1))
    resumed = []
    with pytest.raises(StoppedError):

        def kill(tokens):
            resumed.append(tokens)
            stop_at(290 * 32)(tokens)

        train(straight, folder(straight), checkpoint=pinning(280 * 32), trunk=start, on_progress=kill)
    assert without_seconds(
        train(straight, folder(straight), trunk=start, on_progress=resumed.append)
    ) == without_seconds(alone)
    assert (resumed[0], resumed[resumed.index(300 * 32) + 1]) == (BRANCH, 280 * 32)
    assert without_seconds(
        train(trunk, folder(trunk), checkpoint=pinning(BRANCH), on_progress=resumed.append)
    ) == without_seconds(whole)
    for run in (straight, trunk):
        assert folder(run).metrics_file.read_bytes() == folder(run, "alone").metrics_file.read_bytes()


@pytest.mark.slow
def test_a_pinned_checkpoint_outlives_newer_ones_until_it_is_no_longer_pinned(trunk, folder):
    def kept():
        return sorted(int(path.name) for path in folder(trunk).checkpoints.iterdir())

    with pytest.raises(StoppedError):
        train(trunk, folder(trunk), checkpoint=pinning(640, every_seconds=0), on_progress=stop_at(512 * 32))
    assert kept() == [640, 256 * 32, 384 * 32]
    train(trunk, folder(trunk), checkpoint=pinning(every_seconds=0))
    assert kept() == [512 * 32, 600 * 32]


@pytest.mark.slow
@pytest.mark.usefixtures("_orbax_fails")
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_branch_whose_state_cannot_be_read_now_does_not_begin_without_it(trunk, straight, folder, monkeypatch):
    """The next attempt may find it, and hours of training with it."""
    monkeypatch.setattr(checkpoint, "_PAUSES", ())
    train(trunk, folder(trunk), checkpoint=pinning(BRANCH))
    file = Path(folder(trunk).checkpoint(BRANCH)) / "state" / "manifest.ocdbt"
    content = file.read_bytes()
    file.unlink()
    file.symlink_to(file)
    starts, start = [], Parent(run_id=trunk.run_id, tokens=BRANCH)
    with pytest.raises(UnreadableCheckpoint, match="cannot be read now"):
        train(straight, folder(straight), trunk=start)
    file.unlink()
    file.write_bytes(content)
    train(straight, folder(straight), trunk=start, on_progress=starts.append)
    assert starts[0] == BRANCH


def test_a_branch_without_its_state_is_trained_from_its_first_token(trunk, straight, folder, caplog):
    train(trunk, folder(trunk))
    starts, start = [], Parent(run_id=trunk.run_id, tokens=BRANCH)
    branch = train(straight, folder(straight), trunk=start, on_progress=starts.append)
    assert starts[0] == 0
    assert "is gone; it begins at its first token" in caplog.text
    assert without_seconds(branch) == without_seconds(train(straight, folder(straight, "alone")))


def test_a_branch_of_a_trunk_that_diverged_before_it_diverges_by_itself(tiny_run, folder):
    wild = {"lr": 1e4, "parametrization": "standard", **WSD}
    trunk, straight = (tiny_run(steps=steps, **wild) for steps in (600, 300))
    diverged = train(trunk, folder(trunk), checkpoint=pinning(BRANCH))
    branch = train(straight, folder(straight), trunk=Parent(run_id=trunk.run_id, tokens=BRANCH))
    assert branch["status"] == "diverged"
    assert branch["reason"] == diverged["reason"]


def test_a_spoilt_state_is_no_state(trunk, straight, folder):
    train(trunk, folder(trunk), checkpoint=pinning(BRANCH))
    for file in Path(folder(trunk).checkpoint(BRANCH)).rglob("*"):
        if file.is_file():
            file.write_bytes(b"rot")
    starts = []
    train(straight, folder(straight), trunk=Parent(run_id=trunk.run_id, tokens=BRANCH), on_progress=starts.append)
    assert starts[0] == 0


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.01}, {"warmup_tokens": 21 * 32}, {"weight_decay": 0.1}, {"seed": 1}, {"schedule": "cosine"}],
    ids=str,
)
def test_another_run_is_no_trunk(tiny_run, straight, folder, changes):
    other = tiny_run(**{"steps": 600, **WSD, **changes})
    assert not same_until(straight, other, BRANCH)
    folder(other).write_config(other)
    with pytest.raises(InputError, match="is no trunk of run"):
        train(straight, folder(straight), trunk=Parent(run_id=other.run_id, tokens=BRANCH))


def test_a_shorter_or_otherwise_cooled_run_is_one_up_to_where_it_cools(trunk, straight, tiny_run):
    assert same_until(straight, trunk, BRANCH + 32), "the first step of a cooldown is still at the peak"
    assert not same_until(straight, trunk, BRANCH + 64)
    shaped = tiny_run(steps=300, **WSD | {"cooldown_shape": "1-sqrt"})
    assert same_until(straight, shaped, BRANCH)
    assert shaped.run_id != straight.run_id


class TestParent:
    """A branch that changes its batch, as no straight run does."""

    @pytest.fixture
    def branch(self, tiny_run, trunk):
        training = {"schedule": "linear", "warmup": 0.0, "batch_tokens": 64, "steps": 40}
        parent = Parent(run_id=trunk.run_id, tokens=BRANCH)
        return tiny_run(**training).model_copy(update={"parent": parent})

    @pytest.mark.slow
    def test_it_goes_on_from_the_token_position_and_the_state_of_its_parent(self, branch, trunk, folder, monkeypatch):
        train(trunk, folder(trunk), checkpoint=pinning(BRANCH))
        source, read_at, starts = trainer.open_source(branch), [], []

        class Watched:
            tokens_per_byte, unique_tokens, held_out = None, source.unique_tokens, source.held_out

            def sequences(self, first, count):
                read_at.append((first, count))
                return source.sequences(first, count)

        monkeypatch.setattr(trainer, "open_source", lambda config: Watched())
        record = train(branch, folder(branch), on_progress=starts.append)
        assert (starts[0], starts[-1]) == (BRANCH, BRANCH + 40 * 64)
        assert read_at == [(BRANCH // 8, 40 * 64 // 8)]
        assert record["tokens"] == BRANCH + 40 * 64
        assert record["flops"] / record["tokens"] == pytest.approx(folder(trunk).record()["flops"] / trunk.tokens)
        row = folder(branch).metrics()[0]
        before = [row for row in folder(trunk).metrics() if row["tokens"] <= BRANCH][-1]
        assert row["tokens"] == record["tokens"]
        assert row["loss"] < before["loss"] + 0.05, "it goes on learning where its parent was"
        end = state_of(branch, folder(branch), branch.tokens)
        assert int(end["optimizer"][1].count) == BRANCH // 32 + 40

    @pytest.mark.slow
    def test_it_is_resumed_to_the_bit(self, branch, trunk, folder):
        train(trunk, folder(trunk), checkpoint=pinning(BRANCH))
        with pytest.raises(StoppedError):
            train(branch, folder(branch), checkpoint=pinning(BRANCH + 640), on_progress=stop_at(BRANCH + 641))
        resumed = train(branch, folder(branch))
        first = folder(branch).metrics_file.read_bytes()
        for name in ("record.json", "metrics.jsonl"):
            (folder(branch).path / name).unlink()
        folder(branch).checkpoints.rmtree()
        assert without_seconds(train(branch, folder(branch))) == without_seconds(resumed)
        assert folder(branch).metrics_file.read_bytes() == first

    def test_its_name_covers_all_that_its_parent_means(self, branch, tiny_run, trunk):
        names = {branch.run_id, branch.model_copy(update={"parent": None}).run_id}
        other = tiny_run(steps=600, seed=1, **WSD)
        for parent in (Parent(run_id=other.run_id, tokens=BRANCH), Parent(run_id=trunk.run_id, tokens=BRANCH - 32)):
            names.add(branch.model_copy(update={"parent": parent}).run_id)
        assert len(names) == 4

    def test_it_cannot_do_without_its_parent_s_state(self, branch, trunk, folder):
        train(trunk, folder(trunk))
        with pytest.raises(InputError, match=rf"no whole checkpoint .*{BRANCH}; delete .* pinned") as error:
            train(branch, folder(branch))
        assert "\n" not in str(error.value)

    def test_its_parent_is_the_run_that_it_names_and_of_the_same_model(self, branch, tiny_run, trunk, folder):
        folder(trunk).write_config(tiny_run(steps=601, **WSD))
        with pytest.raises(InputError, match=r"holds run .*; restore it or delete it"):
            train(branch, folder(branch))
        folder(trunk).write_config(trunk)
        larger = branch.model_copy(update={"model": branch.model.model_copy(update={"width": 16})})
        with pytest.raises(InputError, match="another model or optimiser"):
            train(larger, folder(larger))

    def test_its_position_is_a_whole_number_of_sequences(self, branch):
        with pytest.raises(ValidationError, match="not a whole number of sequences"):
            branch.model_validate(branch.model_dump() | {"parent": {"run_id": "0" * 12, "tokens": 12}})


@pytest.mark.parametrize("tokens", [31, 0, 600 * 32])
def test_what_is_pinned_lies_between_two_steps(trunk, folder, tokens):
    with pytest.raises(InputError, match="cannot be pinned"):
        train(trunk, folder(trunk), checkpoint=pinning(tokens))
