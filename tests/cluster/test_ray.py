"""On a real Ray cluster: runs are trained, a killed worker is replaced, bad input comes back in words."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
import ray
from etils import epath

from nextscale.cluster.controller import run_all
from nextscale.cluster.ray_backend import RayBackend
from nextscale.model.config import TextData
from nextscale.model.record import RunDirectory, read_rows


def test_no_cluster_at_an_address_is_said():
    with pytest.raises(ConnectionError, match="no Ray cluster answers there"):
        RayBackend("127.0.0.1:1")


@pytest.fixture(scope="module")
def backend():
    with contextlib.closing(RayBackend()) as backend:
        yield backend


def record_of(job):
    return RunDirectory(epath.Path(job.directory)).record()


def attempts_of(job):
    return read_rows(epath.Path(job.directory) / "attempts.jsonl")


def test_runs_are_trained_once_on_warm_workers(backend, job):
    jobs = [job(seed=seed) for seed in range(4)]
    report = run_all(jobs, backend)
    assert sorted(report.finished) == sorted(j.run_id for j in jobs)
    for j in jobs:
        assert record_of(j)["loss"] > 0
        assert [a["status"] for a in attempts_of(j)] == ["finished"]


def test_a_killed_worker_is_replaced_and_its_run_goes_on_from_its_checkpoint(backend, job):
    undisturbed = job(seed=11, steps=12_000, every_seconds=0.0)
    disturbed = job(seed=11, steps=12_000, every_seconds=0.0)
    disturbed = type(disturbed)(**{**vars(disturbed), "directory": disturbed.directory + "-killed"})
    run_all([undisturbed], backend)
    killed = []

    def kill_midway(event):
        directory = Path(disturbed.directory)
        saved = directory / "checkpoints"
        if not killed and saved.is_dir() and len([p for p in saved.iterdir() if p.name.isdigit()]) >= 2:
            holder = max((directory / "leases").glob("*.json")).read_text()
            pid = int(holder.split('"pid": ')[1].split(",")[0])
            os.kill(pid, signal.SIGKILL)
            killed.append((pid, time.time()))

    report = run_all([disturbed], backend, kill_midway)
    assert killed, "the run ended before it could be killed"
    assert report.finished == (disturbed.run_id,)
    same = {k: v for k, v in record_of(disturbed).items() if k != "seconds"}
    assert same == {k: v for k, v in record_of(undisturbed).items() if k != "seconds"}
    curves = [Path(j.directory, "metrics.jsonl").read_bytes() for j in (undisturbed, disturbed)]
    assert curves[0] == curves[1]
    first, second = attempts_of(disturbed)
    assert (first["status"], first["pid"]) == ("lost", killed[0][0])
    assert second["status"] == "finished"


def test_what_a_person_must_mend_comes_back_in_one_line(backend, job, tmp_path):
    good = job(seed=5)
    gone = TextData(source="text", path=str(tmp_path / "gone"), vocab=128, fingerprint="0" * 16)
    config = good.config.model_copy(update={"data": gone, "model": good.config.model.model_copy(update={"vocab": 128})})
    bad = type(good)(**{**vars(good), "config": config, "run_id": "bad", "directory": good.directory + "-bad"})
    report = run_all([bad, good], backend)
    assert report.finished == (good.run_id,)
    assert report.mendable
    assert "there is no file or folder" in report.failed["bad"]
    assert "\n" not in report.failed["bad"]


def until(backend, condition, seconds=60):
    deadline = time.time() + seconds
    while not condition() and time.time() < deadline:
        assert backend.wait(0.1) == []
    assert condition()


def test_a_worker_that_cannot_be_placed_is_given_nothing_until_it_can(backend, job):
    """As when a node is gone, or another driver has its cores."""
    until(backend, lambda: len(backend.idle()) == len(backend._actors))
    everyone = set(backend.idle())
    if len(everyone) < 2:
        pytest.skip("one core")
    unplaced = backend.idle()[0]
    ray.kill(backend._actors[unplaced])
    hog = ray.remote(num_cpus=1)(type("Hog", (), {"here": lambda self: True})).remote()
    assert ray.get(hog.here.remote(), timeout=60)
    backend.replace(unplaced)
    jobs = [job(seed=seed) for seed in range(20, 23)]
    report = run_all(jobs, backend)
    assert sorted(report.finished) == sorted(j.run_id for j in jobs)
    assert unplaced not in backend.idle()
    ray.kill(hog)
    until(backend, lambda: set(backend.idle()) == everyone)


def test_where_one_worker_dies_the_idle_ones_are_asked_whether_they_live(backend):
    until(backend, lambda: len(backend.idle()) == len(backend._actors))
    first, *others = backend.idle()
    for worker in others:
        ray.kill(backend._actors[worker])
    backend.replace(first)
    until(backend, lambda: backend.idle() == [first] and not backend._asked)
    assert set(backend._down) == set(others)
    assert len(backend.notices()) == bool(others)
    until(backend, lambda: set(backend.idle()) == {first, *others})


def test_what_a_worker_raises_is_the_run_s_failure_in_one_line(backend):
    until(backend, backend.idle)
    backend.start(backend.idle()[0], None)
    done = []
    while not done:
        done = backend.wait(1.0)
    assert done[0].outcome.status == "error"
    assert done[0].outcome.message == "AttributeError: 'NoneType' object has no attribute 'directory'"
