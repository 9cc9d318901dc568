"""A sweep of 60 runs whose controller, workers and raylet are killed at random, ten times: what comes out is what comes
out of one that is left alone."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nextscale.sweeps.store.store import load

KILLS = 10
SPEC = {
    "flops: [1.0e+9, 2e9, 4e9]": "flops: [1e10, 1.4e10, 2e10, 2.8e10, 4e10]",
    "widths: [[4, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]]": f"widths: {[list(range(4, 48, 4))] * 5}",
    "holdout: {flops: 1.2e10, widths: [12, 16, 24]}": "holdout: {flops: 1.2e11, widths: [12, 16, 20, 24, 28]}",
}


def family_of(pid):
    """Process ids of all that a process has started, with their command lines."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, IndexError):
                continue  # gone meanwhile
    found, new = {}, [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found |= {child: commands.get(child, "") for child in new}
    return found


def victims(pid):
    """By what they are: process ids to kill."""
    family = family_of(pid)
    found = {
        "controller": [pid],
        "worker": [p for p, command in family.items() if command.startswith("ray::_WarmWorker.run")],
        "raylet": [p for p, command in family.items() if "/raylet/raylet " in command],
    }
    return {what: pids for what, pids in found.items() if pids}


def sweep(spec, out, command):
    return subprocess.Popen(
        [*command, "run", str(spec), "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.soak
def test_ten_kills_change_nothing(spec_file, tmp_path, command, aftermath):
    spec = spec_file(SPEC)
    process = sweep(spec, tmp_path / "undisturbed", command)
    assert process.communicate(timeout=1200)[1] is not None
    assert process.returncode == 0
    assert len(load(tmp_path / "undisturbed")) == 60

    chance, out, killed, ended = random.Random(0), tmp_path / "out", [], None
    records = aftermath.Records(out)
    deadline = time.time() + 2400
    while ended != 0:
        assert time.time() < deadline, killed
        process, next_kill = sweep(spec, out, command), 0.0
        while process.poll() is None and time.time() < deadline:
            time.sleep(0.05)
            done = records.look()
            found = victims(process.pid)
            if "worker" not in found or len(killed) == KILLS:
                continue  # nothing is being trained
            next_kill = next_kill or time.time() + chance.uniform(0.0, 2.0)
            if time.time() > next_kill:
                what = ("controller", "worker", "raylet")[len(killed) % 3]
                victim = chance.choice(found.get(what, found["controller"]))
                os.kill(victim, signal.SIGKILL)
                killed.append((what, done))
                next_kill = 0.0
        told, ended = process.communicate(timeout=30)[1], process.returncode
        assert "Traceback" not in told
    assert len(killed) == KILLS, killed
    assert aftermath.faults(out, tmp_path / "undisturbed") == []
