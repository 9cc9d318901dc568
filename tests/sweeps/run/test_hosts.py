"""A sweep on a Ray cluster of several hosts, one of which is cut off, one killed, and one comes late."""

import re
import subprocess
import time

import pytest

from nextscale.cluster.controller.backend import LOST
from nextscale.model.record import read_rows


def wait_for(what, process, said, seconds=300):
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, said.read_text()
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.soak
def test_hosts_that_are_cut_off_killed_and_late_lose_nothing_and_change_nothing(
    hosts, undisturbed, tmp_path, command, aftermath
):
    spec, expected = undisturbed
    out, said = tmp_path / "out", tmp_path / "said"
    for k in (1, 2, 3):
        hosts.boot(k)
    hosts.head(1)
    hosts.worker(2)
    hosts.worker(3)
    records = aftermath.Records(out)
    with said.open("w") as log:
        given = [*command, "run", spec, "--out", out, "--address", hosts.address()]
        sweep = hosts.start(1, *given, stdout=log, stderr=subprocess.STDOUT)

    def at_work(k):
        newest = (max(path.glob("leases/*.json"), default=None) for path in out.glob("runs/*"))
        return any(path and f'"host": "h{k}"' in path.read_text() for path in newest)

    wait_for(lambda: at_work(2) and at_work(3), sweep, said)
    hosts.cut(2)
    hosts.kill(3)
    wait_for(lambda: records.look() >= 6, sweep, said)
    hosts.boot(4)
    hosts.worker(4)
    wait_for(lambda: at_work(4) or records.look() == 15, sweep, said)
    hosts.plug(2)
    while sweep.poll() is None:
        records.look()
        time.sleep(0.2)
    assert sweep.returncode == 0, said.read_text()
    assert "Traceback" not in said.read_text()
    assert aftermath.faults(out, expected) == []
    ends = [row["status"] for path in out.glob("runs/*") for row in read_rows(path / "attempts.jsonl")]
    assert "lost" in ends


@pytest.mark.slow
def test_a_head_that_goes_while_a_driver_connects_ends_it_so_that_it_is_started_again(
    hosts, spec_file, command, tmp_path
):
    for k in (1, 2):
        hosts.boot(k)
    hosts.head(1)
    # Ray is not up on its own host, so that it has come as far as the head, and waits.
    short = {"RAY_gcs_server_request_timeout_seconds": "10"}
    given = [*command, "run", spec_file(), "--out", tmp_path / "out", "--address", hosts.address()]
    sweep = hosts.start(2, *given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=short)
    deadline = time.monotonic() + 120
    while "10.77.0.2" not in hosts.run(1, "ss", "--no-header", "--tcp", "--numeric", "sport", "= :6379"):
        assert sweep.poll() is None and time.monotonic() < deadline
    hosts.kill(1)
    said = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == LOST, said
    gone = "the head answered, and was gone while this connected to it|has not answered for 40 s: taken for dead"
    assert re.search(rf"10\.77\.0\.1:6379(:|,) ({gone})", " ".join(said.split()))
    assert "Traceback" not in said
