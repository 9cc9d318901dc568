"""Runs that a command trains, under a worker's lease: alone, and by the hosts of a gang together."""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from etils import epath

from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.controller.job import Job
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.ray_backend import RayBackend
from nextscale.cluster.ray.worker import Worker
from nextscale.model.config.external import ExternalRun
from nextscale.model.external.source import resolve
from nextscale.model.record import RunDirectory, read_rows

HEAD = "import json, os, signal, sys, time\nrun, out = json.load(open(sys.argv[1])), sys.argv[2]\n"
TWO_HOSTS, OVER_TWO = {"two": Pool(accelerator="cpu", hosts=2)}, (Seat("two"),)


@pytest.fixture
def external(tmp_path):
    """`external(text)`: a job whose trainer is a program of that text."""

    def make(text, **options):
        (tmp_path / "train.py").write_text(HEAD + text)
        command = [sys.executable, "-I", "-S", "train.py", "{config}", "{dir}"]
        trainer = {"command": command, "source": ["train.py"], "folder": str(tmp_path)}
        sizes = {"model": {"params": 10, "flops_per_token": 60.0}, "training": {"batch_tokens": 10, "steps": 20}}
        run = ExternalRun.model_validate({"trainer": trainer} | sizes)
        run = run.model_copy(update={"trainer": resolve(run.trainer)})
        directory = str(tmp_path / "runs" / run.run_id)
        return Job(run.run_id, run, directory, flops=run.flops, steps=20, shape="", **options)

    return make


def attempts_of(job):
    return read_rows(epath.Path(job.directory) / "attempts.jsonl")


@pytest.fixture
def worker():
    return Worker(uses_jax=False)


def test_a_worker_keeps_off_the_devices(worker):
    assert worker.platform() == ""


@pytest.mark.parametrize(
    "text, status, message",
    [
        ("json.dump({'loss': 2.0}, open(out + '/result.json', 'w'))", "finished", ""),
        ("print('row', file=open(out + '/metrics.jsonl', 'w'))", "input", "left no result.json"),
        ("sys.exit('no GPU')", "error", "it exited with 1: no GPU"),
        ("sys.exit(75)", "stopped", "its trainer has saved it"),
        ("os.kill(os.getpid(), 9)", "lost", "it was ended by SIGKILL"),
    ],
)
def test_how_it_ended_is_written_down(worker, external, text, status, message):
    job = external(text)
    outcome = worker.run(job, Seat("here"), 1)
    assert outcome.status == status
    assert message in outcome.message
    (attempt,) = attempts_of(job)
    assert (attempt["status"], attempt["message"], attempt["pool"]) == (status, outcome.message, "here")
    assert RunDirectory(epath.Path(job.directory)).done == (status == "finished")


def test_what_it_saved_is_where_its_curve_ended(worker, external):
    rows = "print(json.dumps({'step': 7, 'loss': 2}), file=open(out + '/metrics.jsonl', 'w', 1))"
    job = external(f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n{rows}\nwhile True: time.sleep(0.01)")
    asked = threading.Timer(0.5, worker.stop, [3])
    asked.start()
    assert worker.run(job, number=3).status == "stopped"
    assert attempts_of(job)[0]["saved"] == 70
    assert RunDirectory(epath.Path(job.directory)).saved == 70


def test_a_run_taken_over_is_trained_by_its_heir_alone(worker, external):
    job = external("open(out + '/up', 'w')\ntime.sleep(60)")
    ended = []
    first = threading.Thread(target=lambda: ended.append(worker.run(job)))
    first.start()
    while not Path(job.directory, "trainer", "up").exists():
        time.sleep(0.02)
    other = external("json.dump({'loss': 2.0}, open(out + '/result.json', 'w'))")
    outcome = None
    while outcome is None or outcome.status == "held":  # the first gave a sign of life meanwhile
        newest = max(Path(job.directory, "leases").glob("*.json"))
        heir = dataclasses.replace(other, directory=job.directory, silent=(newest.name, newest.stat().st_mtime_ns))
        outcome = Worker(uses_jax=False).run(heir)
    assert outcome.status == "finished", outcome.message
    first.join(timeout=10.0)
    assert [outcome.status for outcome in ended] == ["held"]
    assert [attempt["status"] for attempt in attempts_of(job)] == ["lost", "finished"]


GANG = """
rank, names = os.environ["NODE_RANK"], ("NNODES", "MASTER_ADDR", "MASTER_PORT", "NPROC_PER_NODE")
place, stopped = [os.environ[name] for name in names], []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
open(os.path.join(out, rank), "w").write(" ".join(place))
state = os.path.join(out, "state")
step = int(open(state).read()) if os.path.exists(state) else 0
while step < run["steps"]:
    time.sleep(0.2)
    step += 1
    if rank == "0":
        open(state + ".new", "w").write(str(step))
        os.replace(state + ".new", state)
        open(os.path.join(out, "metrics.jsonl"), "a").write(json.dumps({"step": step, "loss": 2}) + "\\n")
    if stopped: sys.exit(75)
if rank == "0": json.dump({"loss": 2.0}, open(os.path.join(out, "result.json"), "w"))
"""


@pytest.mark.slow
def test_hosts_of_a_gang_train_together_are_stopped_and_go_on(external):
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "180"}  # before Ray is imported
    from ray.cluster_utils import Cluster

    job = external(GANG, seats=OVER_TWO)
    trainer = Path(job.directory, "trainer")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        with contextlib.closing(RayBackend(cluster.address, TWO_HOSTS, uses_jax=False)) as backend:
            begun = Path(job.directory, "metrics.jsonl")
            first = run_all([job], backend, stop=lambda: 60.0 if begun.exists() and begun.stat().st_size else None)
            started = time.monotonic()
            second = run_all([job], backend)
            took = time.monotonic() - started
    finally:
        cluster.shutdown()
    assert (first.left, second.finished) == ((job.run_id,), (job.run_id,))
    stopped, finished = attempts_of(job)
    assert (stopped["status"], finished["status"]) == ("stopped", "finished")
    assert 0 < stopped["saved"] < 200
    places = [(trainer / rank).read_text().split() for rank in "01"]
    assert places[0] == places[1]
    assert (places[0][0], places[0][3]) == ("2", "1")
    assert RunDirectory(epath.Path(job.directory)).record()["loss"] == 2.0
    assert took < 60.0
