"""Checkpoints that cannot be read: what passes costs no state, and only what is proven broken is deleted."""

import contextlib
import errno
import os
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from nextscale.model.errors import UnreadableCheckpoint
from nextscale.model.training import checkpoint as module
from nextscale.model.training.checkpoint import CheckpointPolicy, Checkpoints, read_checkpoint
from nextscale.model.training.train import train

pytestmark = [
    pytest.mark.usefixtures("_orbax_fails"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

STATE = {"weight": jax.random.normal(jax.random.key(0), (10_000,))}
FILES = ["state/_METADATA", "state/manifest.ocdbt", "state/ocdbt.process_0/d/*"]
"""What orbax trips over where it cannot be read: its notes, the index of its arrays, and the arrays."""


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A folder with checkpoints at 20 and at 40."""
    monkeypatch.setattr(module, "_PAUSES", (0.02,) * 50)
    directory = epath.Path(tmp_path / "checkpoints")
    with contextlib.closing(Checkpoints(directory, CheckpointPolicy())) as checkpoints:
        checkpoints.save(20, {"weight": STATE["weight"] + 1})
        checkpoints.save(40, STATE)
    return Path(directory)


def restored(directory):
    with contextlib.closing(Checkpoints(epath.Path(directory), CheckpointPolicy())) as checkpoints:
        position, state = checkpoints.restore(STATE)
    np.testing.assert_array_equal(state["weight"], STATE["weight"] + (position == 20))
    return position


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


class Unreadable:
    """A file that the system refuses to open until it is mended: a link to itself."""

    def __init__(self, folder, name):
        (self.file,) = folder.glob(name)
        self.kept = folder.parent / "kept"
        self.file.rename(self.kept)
        self.file.symlink_to(self.file)
        with pytest.raises(OSError):
            self.file.open()

    def mend(self):
        self.kept.replace(self.file)


@pytest.mark.parametrize("name", FILES)
def test_a_read_that_fails_for_a_while_is_waited_for(saved, name):
    before, unreadable = contents(saved), Unreadable(saved / "40", name)
    mending = threading.Timer(0.3, unreadable.mend)
    mending.start()
    assert restored(saved) == 40
    mending.join()
    assert contents(saved) == before


@pytest.mark.parametrize("name", FILES)
def test_one_that_fails_for_long_is_told_and_nothing_is_touched(saved, name, monkeypatch):
    monkeypatch.setattr(module, "_PAUSES", (0.02,) * 2)
    before, unreadable = contents(saved), Unreadable(saved / "40", name)
    with pytest.raises(
        UnreadableCheckpoint, match=r"40 cannot be read now, .*Too many levels.*; if it is lost"
    ) as error:
        restored(saved)
    assert "\n" not in str(error.value)
    with pytest.raises(UnreadableCheckpoint):
        read_checkpoint(epath.Path(saved / "40"), STATE)
    unreadable.mend()
    assert contents(saved) == before
    assert restored(saved) == 40


def test_a_stale_handle_once_costs_nothing(saved, monkeypatch):
    before, load, failures = contents(saved), module.ocp.load, [OSError(errno.ESTALE, os.strerror(errno.ESTALE))]

    def stale_once(*arguments):
        if failures:
            raise failures.pop()
        return load(*arguments)

    monkeypatch.setattr(module.ocp, "load", stale_once)
    assert restored(saved) == 40
    assert contents(saved) == before


@pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), MemoryError()]
)
def test_memory_that_ran_out_says_nothing_of_the_checkpoint(saved, monkeypatch, error):
    before = contents(saved)

    def exhausted(*arguments):
        raise error

    monkeypatch.setattr(module.ocp, "load", exhausted)
    with pytest.raises(type(error)):
        restored(saved)
    with pytest.raises(type(error)):
        read_checkpoint(epath.Path(saved / "40"), STATE)
    assert contents(saved) == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [lambda file: os.truncate(file, 50), lambda file: file.unlink()])
def test_what_is_cut_or_missing_is_passed_over_and_kept(saved, name, damage):
    (file,) = (saved / "40").glob(name)
    damage(file)
    left = contents(saved / "40")
    assert read_checkpoint(epath.Path(saved / "40"), STATE) is None
    assert restored(saved) == 20
    (aside,) = saved.glob(".unreadable-40-*")
    assert contents(aside) == left
    with contextlib.closing(Checkpoints(epath.Path(saved), CheckpointPolicy())) as checkpoints:
        checkpoints.save(30, STATE)
    assert restored(saved) == 30


def test_a_checkpoint_that_is_not_there_is_none(saved):
    assert read_checkpoint(epath.Path(saved / "60"), STATE) is None


class TestHowOften:
    @pytest.mark.parametrize("params, bytes_a_second", [(7e9, 1e9), (1e9, 5e8), (1e6, 1e9)])
    def test_writing_takes_a_twentieth_of_the_time_at_the_most(self, params, bytes_a_second):
        """Weights and two moments, in float32: every 30 s of 7B would be 2.8 GB/s."""
        seconds = 12 * params / bytes_a_second
        interval = CheckpointPolicy().interval(seconds)
        assert seconds / interval <= 0.05
        assert interval >= 30

    def test_a_slow_disk_is_left_in_peace(self, tiny_run, run_directory, monkeypatch):
        """Of 0.3 s a checkpoint, in a run that ends within 6 s of its first; without a pause it has one a dispatch."""
        saved, save = [], Checkpoints.save

        def slowly(self, position, state):
            saved.append(position)
            time.sleep(0.3)
            save(self, position, state)

        monkeypatch.setattr(Checkpoints, "save", slowly)
        train(tiny_run(steps=700), run_directory, checkpoint=CheckpointPolicy(every_seconds=0.01, final=False))
        assert len(saved) == 1
