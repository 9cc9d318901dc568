"""What the controller reads of a run's directory, as a worker leaves it."""

import os
from pathlib import Path

import pytest

from nextscale.cluster.controller.job import Outcome
from nextscale.cluster.controller.lease import Lease, holder
from nextscale.cluster.controller.run_directories import Progress, RunDirectories
from nextscale.cluster.ray.worker import Worker
from nextscale.model.config.run import Parent
from nextscale.model.training import train as training


def file_of(lease):
    return lease._directory / "leases" / lease._name


@pytest.fixture
def runs():
    return RunDirectories()


def test_a_run_that_was_trained(runs, job, monkeypatch):
    monkeypatch.setattr(training, "enable_compilation_cache", lambda: None)
    j = job()
    assert (runs.done(j), runs.saved(j), runs.progress(j), runs.holder(j)) == (False, 0, Progress(), None)
    assert runs.life(j, 0) is None
    assert Worker().run(j) == Outcome("finished")
    assert runs.done(j)
    assert runs.saved(j) == runs.progress(j).tokens == j.config.tokens
    assert runs.holder(j) is None
    life = runs.life(j, 0)
    assert (life.begun, life.released, life.here, life.pid) == (True, True, True, os.getpid())
    assert 0 < life.at_most == life.seconds < 60


def test_the_newest_whole_row_of_a_long_curve_and_a_mark_that_changes(runs, job):
    j = job()
    curve = Path(j.directory, "metrics.jsonl")
    curve.parent.mkdir(parents=True)
    curve.write_text("".join(f'{{"tokens": {n}, "loss": 1.0}}\n' for n in range(5000)))
    before = runs.progress(j)
    assert before.tokens == 4999
    with curve.open("a") as file:
        file.write('{"tokens": 50')
    assert runs.progress(j).tokens == 4999
    assert runs.progress(j).mark != before.mark
    curve.write_text("")
    assert runs.progress(j) == Progress()


def test_a_branch_is_ready_by_its_trunk_s_state_or_by_its_own(runs, job):
    trunk, branch = job(), job(seed=1, start=Parent.model_construct(run_id=job().run_id, tokens=64))
    assert not runs.ready(branch)
    state = Path(trunk.directory, "checkpoints", "64")
    state.mkdir(parents=True)
    assert runs.ready(branch)
    state.rmdir()
    Path(branch.directory, "checkpoints", "96").mkdir(parents=True)
    Path(branch.directory, "checkpoints", "128.tmp").mkdir()
    assert runs.ready(branch)
    assert runs.saved(branch) == 96


def test_a_damaged_record_is_none(runs, job):
    j = job()
    Path(j.directory).mkdir(parents=True)
    Path(j.directory, "record.json").write_text("{half")
    assert not runs.done(j)


def test_who_holds_a_run(tmp_path):
    assert holder(tmp_path) is None
    with Lease(tmp_path) as lease:
        assert holder(tmp_path)[0] == file_of(lease).name
        before = holder(tmp_path)
        os.utime(file_of(lease), (1e9, 1e9))
        assert holder(tmp_path) != before
    assert holder(tmp_path) is None
