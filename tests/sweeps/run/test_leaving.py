"""Signals to whoever runs a sweep: the first lets runs save themselves, a second Ctrl-C leaves at once."""

import contextlib
import os
import signal
import subprocess
import threading
import time

import pytest
from ray.cluster_utils import Cluster

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.backend import LOST
from nextscale.cluster.controller.lease import life
from nextscale.sweeps.run.leaving import SAVING, Leaving
from nextscale.sweeps.run.rounds import TrainingRounds
from nextscale.sweeps.watch.status import ask_to_stop, status

LONG = {"flops: [1.0e+9, 2e9, 4e9]": "flops: [1.0e+12, 2e12, 4e12]", "flops: 1.2e10": "flops: 2.4e13"}


@pytest.fixture
def head():
    """Of a Ray cluster on this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def at_work(request, spec_file, tmp_path, command):
    """A sweep that takes long, in a process group of its own, once its runs have a while behind them."""
    out = tmp_path / "out"
    cluster = ["--address", request.getfixturevalue("head").address] if "head" in request.fixturenames else []
    with (tmp_path / "said").open("w") as said, contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            [*command, "run", spec_file(LONG), "--out", out, *cluster],
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        deadline = time.monotonic() + 180
        while not ((out / "accounts.jsonl").exists() and any(one.share > 0 for one in status(out).running)):
            assert time.monotonic() < deadline
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.2)
        yield process, out, tmp_path / "said"


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["SIGTERM to the driver", "Ctrl-C in its terminal"])
def test_the_first_signal_saves_every_run_and_ends_with_3(at_work, ask):
    process, out, said = at_work
    if ask.startswith("SIGTERM"):
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)
    assert process.wait(SAVING + 60) == 3
    assert f"runs save themselves, within {SAVING:.0f} s" in " ".join(said.read_text().split())
    assert "Traceback" not in said.read_text() and "SIGTERM handler" not in said.read_text()
    rows = [row for row in Accounts(out / "accounts.jsonl").rows if row["kind"] == "settled"]
    assert {row["outcome"] for row in rows} <= {"finished", "stopped"}
    assert any(row["outcome"] == "stopped" and row["flops_kept"] for row in rows)
    assert sum(row["flops_lost"] for row in rows) == 0
    assert status(out).left_open["attempts"] == 0


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once(at_work):
    process, _, said = at_work
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    assert process.wait(SAVING) in (130, 3), "3 where all had saved itself before the second"
    assert time.monotonic() - began < 20
    assert "Traceback" not in said.read_text()


@pytest.mark.slow
def test_a_worker_that_hangs_holds_up_no_stop(at_work):
    process, out, _ = at_work
    run = status(out).running[0].run_id
    os.kill(life(out / "runs" / run).pid, signal.SIGSTOP)
    assert ask_to_stop(out, within=5.0)
    assert process.wait(60) == 3
    outcomes = {row["run_id"]: row["outcome"] for row in Accounts(out / "accounts.jsonl").rows if "outcome" in row}
    assert outcomes[run] == "lost"
    assert status(out).left_open["attempts"] == 0


@pytest.mark.slow
def test_where_the_head_is_killed_the_exit_code_says_that_nothing_else_is_wrong(head, at_work):
    process, out, said = at_work
    head.head_node.all_processes["gcs_server"][0].process.kill()
    assert process.wait(58) == LOST
    assert "Traceback" not in said.read_text()
    assert "the same command goes on from here" in said.read_text()
    assert Accounts(out / "accounts.jsonl").open, "booked when it goes on"


def test_the_first_is_a_request_and_a_second_ctrl_c_an_interruption():
    said = []
    # Tests that run under nohup ignore it.
    was = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with Leaving(said.append) as leaving:
        assert (leaving(), leaving.orderly) == (None, False)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert (leaving(), leaving(), leaving.orderly) == (SAVING, SAVING, True)
        assert len(said) == 1 and "SIGTERM" in said[0]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not leaving.orderly
    assert before == {number: signal.getsignal(number) for number in before}
    signal.signal(signal.SIGINT, was)


def test_what_is_ignored_stays_so_and_other_threads_have_no_say():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Leaving(print) as leaving:
            signal.raise_signal(signal.SIGINT)
            assert leaving() is None
    finally:
        signal.signal(signal.SIGINT, before)
    thread = threading.Thread(target=lambda: Leaving(print).__enter__())
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


def test_asked_before_it_begins_it_connects_to_nothing(spec_file, tmp_path, called, monkeypatch):
    monkeypatch.setattr(TrainingRounds, "connect", lambda self: pytest.fail("there is nothing to connect to"))
    monkeypatch.setattr(Leaving, "__call__", lambda self: SAVING)
    code, _, error = called("run", spec_file(), "--out", tmp_path / "out")
    assert code == 3, error
