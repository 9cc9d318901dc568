"""One worker without Ray: whatever goes wrong comes back as an outcome of one line."""

import dataclasses
import errno
from pathlib import Path

import pytest
from etils import epath

from nextscale.cluster.ray.worker import Worker
from nextscale.model.record import RunDirectory, read_rows
from nextscale.model.training import train as training


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(training, "enable_compilation_cache", lambda: None)
    return Worker()


def test_a_worker_does_without_a_compilation_cache(monkeypatch):
    monkeypatch.setattr(training, "enable_compilation_cache", full)
    assert Worker().platform() in ("cpu", "gpu", "tpu")


def test_a_full_disk_is_named_although_nothing_can_be_written_down(worker, job, monkeypatch):
    monkeypatch.setattr(training, "train", full)
    monkeypatch.setattr(RunDirectory, "add_attempt", full)
    monkeypatch.setattr(Path, "write_text", full)
    outcome = worker.run(job())
    assert (outcome.status, outcome.message) == ("error", "metrics.jsonl: No space left on device")


def test_a_damaged_record_is_the_run_s_failure(worker, job):
    j = job()
    Path(j.directory).mkdir(parents=True)
    (Path(j.directory) / "record.json").write_text("{half")
    outcome = worker.run(j)
    assert outcome.status == "error"
    assert "\n" not in outcome.message


def test_a_run_taken_over_is_written_to_by_its_heir_alone(worker, job, monkeypatch):
    j = job()

    def fall_silent(config, directory, *, on_progress, **options):
        monkeypatch.setattr(training, "train", lambda *arguments, **options: None)
        newest = max((Path(j.directory) / "leases").glob("*.json"))
        heir = dataclasses.replace(j, silent=(newest.name, newest.stat().st_mtime_ns))
        assert worker.run(heir).status == "finished"
        on_progress(1)

    monkeypatch.setattr(training, "train", fall_silent)
    assert worker.run(j).status == "held"
    attempts = read_rows(epath.Path(j.directory) / "attempts.jsonl")
    assert [attempt["status"] for attempt in attempts] == ["lost", "finished"]
