"""On a real Ray cluster: runs are trained, a killed worker is replaced, bad input comes back in words."""

import contextlib
import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest
import ray
from etils import epath

from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.ray_backend import RayBackend
from nextscale.model.config.data import TextData
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


@pytest.mark.slow
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


def everyone(backend):
    until(backend, lambda: len(backend.slots()) == len(backend._slots))
    return [slot.name for slot in backend.slots()]


def ends(backend, n=1, seconds=60):
    ended, deadline = [], time.time() + seconds
    while len(ended) < n and time.time() < deadline:
        ended += backend.wait(1.0)
    return ended


def test_an_automatic_pool_is_every_core(backend):
    (pool,) = backend.pools().values()
    assert (pool.accelerator, pool.hosts, pool.slots) == ("cpu", 1, len(backend._slots))
    assert len(everyone(backend)) == pool.slots  # they come up one after the other
    assert {slot.pool for slot in backend.slots()} == {"cpu"}


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_itself_and_goes_on_from_there(backend, job):
    long = job(seed=31, steps=100_000)
    slot = everyone(backend)[0]
    backend.start(slot, long, Seat("cpu"))
    curve = Path(long.directory, "metrics.jsonl")
    until(backend, lambda: curve.exists() and curve.read_text().count("\n") > 3)
    backend.stop(slot)
    (ended,) = ends(backend)
    assert (ended.slot, ended.job, ended.outcome.status) == (slot, long, "stopped")
    (attempt,) = attempts_of(long)
    assert (attempt["status"], attempt["pool"], attempt["device"]) == ("stopped", "cpu", "cpu")
    saved = [int(path.name) for path in Path(long.directory, "checkpoints").iterdir() if path.name.isdigit()]
    assert f"token {max(saved)} of" in ended.outcome.message
    backend.start(slot, long, Seat("cpu"))
    until(backend, lambda: read_rows(epath.Path(curve))[-1]["tokens"] > max(saved))
    backend.kill(slot)
    (ended,) = ends(backend)
    assert (ended.outcome.status, ended.outcome.hosts) == ("lost", ())
    assert slot in everyone(backend)


@pytest.mark.slow
def test_a_run_asked_to_stop_before_it_began_does(backend, job):
    j = job(seed=32, steps=100_000)
    slot = everyone(backend)[0]
    backend.start(slot, j, Seat("cpu"))
    backend.stop(slot)
    assert ends(backend)[0].outcome.status == "stopped"


@pytest.mark.slow
def test_a_worker_that_cannot_be_placed_is_given_nothing_until_it_can(backend, job):
    """As when a node is gone, or another driver has its cores."""
    all_slots = everyone(backend)
    if len(all_slots) < 2:
        pytest.skip("one core")
    unplaced = all_slots[0]
    hog = ray.remote(num_cpus=1)(type("Hog", (), {"here": lambda self: True})).remote()  # waits for a core
    ray.kill(backend._slots[unplaced]._actor)
    assert ray.get(hog.here.remote(), timeout=60)
    jobs = [job(seed=seed) for seed in range(20, 23)]
    report = run_all(jobs, backend)
    assert sorted(report.finished) == sorted(j.run_id for j in jobs)
    assert unplaced not in {slot.name for slot in backend.slots()}
    ray.kill(hog)
    assert set(everyone(backend)) == set(all_slots)


@pytest.mark.slow
def test_an_idle_worker_that_dies_is_started_again(backend):
    first = everyone(backend)[0]
    ray.kill(backend._slots[first]._actor)
    until(backend, lambda: first not in {slot.name for slot in backend.slots()})
    assert first in everyone(backend)
    assert backend.notices() == []


def test_what_a_worker_raises_is_the_run_s_failure_in_one_line(backend, job):
    backend.start(everyone(backend)[0], dataclasses.replace(job(), directory=None), Seat("cpu"))
    (ended,) = ends(backend)
    assert ended.outcome.status == "error"
    assert ended.outcome.message.startswith("TypeError: ")
    assert "\n" not in ended.outcome.message
