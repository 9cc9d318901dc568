"""On a real Ray cluster: runs are trained, a killed worker is replaced, bad input comes back in words."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from etils import epath

from nextscale.cluster.backend import RayBackend
from nextscale.cluster.controller import run_all
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
