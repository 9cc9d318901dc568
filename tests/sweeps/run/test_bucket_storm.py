"""A sweep by Ray on an S3 server that refuses, stutters and loses answers, its driver killed twice and started again
where nothing is known: what comes out is what comes out in a folder of a sweep that is left alone."""

import json
import os
import signal
import subprocess
import time

import pytest

from nextscale.model.storage.bucket import Bucket
from nextscale.model.storage.mirror import Mirror, newest_states
from nextscale.model.storage.sweep_copy import stays_here
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.store.store import load

WEATHER = [("PUT", "busy", 7), ("PUT", "lost", 11), ("PUT", "slow", 23), ("GET", "busy", 13), ("GET", "lost", 17)]
WEATHER += [("GET", "cut", 29), ("GET", "slow", 31), ("HEAD", "busy", 5), ("POST", "busy", 7), ("POST", "lost", 9)]
"""Of requests of a method, what befalls every so many."""
FEWER = "evaluation: {tokens: 512}\nforecast: {resamples: 100}"
KILLED_AT = (4, 13)
"""Runs done at which the driver is killed: among those that are fitted, and among those that were foretold."""


def whole(address, folder):
    """All that a sweep in a bucket is, its checkpoints too."""
    Mirror(address, folder, left_out=stays_here).pull()
    for run_id in newest_states(address, "runs/"):
        Mirror(f"{address}/runs/{run_id}", folder / "runs" / run_id).pull()
    return folder


def run_until(done, command, spec, address, machine):
    """Runs a sweep on a machine where nothing is known, and kills its driver when so many runs are done; what it said
    and its exit code."""
    arguments = [*command, "run", str(spec), "--out", address]
    process = subprocess.Popen(
        arguments,
        env=os.environ | {"NEXTSCALE_CACHE": str(machine)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 1800
    while process.poll() is None and time.time() < deadline:
        time.sleep(2.5)
        if newest_states(address, "runs/") and (load(address)["status"] == "done").sum() >= done:
            process.send_signal(signal.SIGKILL)
            break
    assert time.time() < deadline, "it does not come to its end"
    said = process.communicate(timeout=60)[1]
    assert "Traceback" not in said
    return said, process.returncode


@pytest.mark.slow
@pytest.mark.soak
def test_a_storm_changes_nothing(spec_file, s3, tmp_path, command, aftermath, beside):
    spec, here = spec_file({"evaluation: {tokens: 8192}": FEWER}), tmp_path / "here"
    beside("in_process").run_alone(spec, here, page=False)
    address = f"{s3.bucket()}/sweep"
    for method, kind, every in WEATHER:
        s3.fail(method, "", kind, times=10**9, every=every)
    for number, done in enumerate(KILLED_AT):
        said, code = run_until(done, command, spec, address, tmp_path / f"machine-{number}")
        assert code == -signal.SIGKILL, said
    said, code = run_until(99, command, spec, address, tmp_path / "machine")
    assert code == 0, said
    struck = {(fault.method, fault.kind): 10**9 - fault.times for fault in s3.faults}
    s3.faults.clear()
    assert all(struck[method, kind] for method, kind, _ in WEATHER if method != "HEAD"), struck

    out = whole(address, tmp_path / "whole")
    assert aftermath.faults(out, here) == []
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (out, here)]
    for name in ("law", "holdout", "optimal_params", "irreducible", "interior_minima", "problem", "warnings"):
        assert summaries[0].get(name) == summaries[1].get(name), name
    for folder in (out, here):
        kinds = [entry["kind"] for entry in Ledger(folder / "ledger.jsonl").entries()]
        assert kinds == ["forecast", "score"]
    foretold = [Ledger(folder / "ledger.jsonl").entries()[0]["targets"] for folder in (out, here)]
    assert foretold[0] == foretold[1]
    assert Bucket(address).get("summary.json") == (out / "summary.json").read_bytes()
