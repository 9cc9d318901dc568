"""A sweep that is left on a Ray cluster as a job: by its dashboard's address, then by its folder alone."""

import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nextscale.cluster.ray import submission
from nextscale.model.errors import InputError
from nextscale.sweeps.watch.status import status

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "180"}

pytest.importorskip("aiohttp_cors", reason="needs ray[default], which serves the dashboard")
import ray
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


@pytest.fixture
def answering():
    """A dashboard that answers jobs with these, one after another; each a status and a text."""

    def served(*answers):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(200, json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""}))

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                asked.append(self.path)
                self.answer(*answers[len(asked) - 1])

            def answer(self, status, text):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever).start()
        return f"http://127.0.0.1:{server.server_port}"

    asked, servers = [], []
    yield served
    for server in servers:
        server.shutdown()
        server.server_close()


TAKEN = (200, json.dumps({"job_id": "one", "submission_id": "one"}))


def test_a_cluster_that_comes_up_is_waited_for(answering, monkeypatch):
    monkeypatch.setattr(submission, "_PAUSE", 0.01)
    young = (500, "No available agent to submit job, please try again later.")
    assert submission.submit(answering(young, young, TAKEN), "true", "one", {}) == "one"


@pytest.mark.parametrize(
    "patience, answer",
    [(120.0, (500, "no room on the disk\nTraceback")), (0.0, (500, "No available agent to submit job"))],
)
def test_a_job_that_is_not_taken_is_one_line(answering, monkeypatch, patience, answer):
    monkeypatch.setattr(submission, "_PATIENCE", patience)
    monkeypatch.setattr(submission, "_PAUSE", 0.01)
    address = answering(answer, answer, TAKEN)
    with pytest.raises(InputError) as raised:
        submission.submit(address, "true", "one", {})
    assert str(raised.value).startswith(f"--address {address}: the dashboard there did not take the job (")
    assert answer[1].splitlines()[0] in str(raised.value)
    assert "\n" not in str(raised.value)
