"""A sweep that is left on a Ray cluster as a job: by its dashboard's address, then by its folder alone."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from nextscale.sweeps.watch import status

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "180"}

pytest.importorskip("aiohttp_cors", reason="needs ray[default], which serves the dashboard")
from ray.cluster_utils import Cluster


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def dashboard(monkeypatch):
    # Jobs find the command where this Python is.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    port = free_port()
    arguments = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_a_sweep_left_on_a_cluster_is_done_there(dashboard, spec_file, tmp_path, nextscale):
    out = tmp_path / "out"
    spec = spec_file({"holdout: {flops: 1.2e10, widths: [12, 16, 24]}": ""})
    left = nextscale("run", spec, "--out", out, "--detach", "--address", dashboard)
    assert left.returncode == 0, left.stderr
    assert left.stdout.startswith("at work as job nextscale-tiny-")
    deadline = time.time() + 240
    while not (out / "summary.json").exists():
        log = out / "controller.log"
        assert time.time() < deadline, log.read_text() if log.exists() else "the job never began"
        time.sleep(0.5)
    assert status(out).runs["done"] == 12


def test_where_no_dashboard_answers_that_is_said(spec_file, tmp_path, nextscale):
    left = nextscale("run", spec_file(), "--out", tmp_path, "--detach", "--address", f"http://127.0.0.1:{free_port()}")
    assert left.returncode == 2
    assert "no dashboard of a Ray cluster answers there" in left.stderr.splitlines()[-1]
