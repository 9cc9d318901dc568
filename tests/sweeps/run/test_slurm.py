"""`slurm.sh` as it is, on a real Slurm of two hosts: from sbatch to the forecast, whatever Slurm does to the job."""

import sys
from pathlib import Path

import pytest

from nextscale.cluster.controller.lease import holder
from nextscale.sweeps.ledger import Ledger

ROOT = Path(__file__).resolve().parents[3]
HERE = ("--gpus-per-node=0", "--cpus-per-task=1")
"""What these hosts have."""


@pytest.fixture
def slurm(hosts, beside):
    module = beside("slurm")
    if (reason := module.why_not()) is not None:
        pytest.skip(reason)
    for k in (1, 2):
        hosts.boot(k)
    return module.Slurm(hosts, (1, 2))


@pytest.fixture
def submit(slurm, nextscale, tmp_path, monkeypatch):
    """Hands a sweep in as people do: the number of its job."""
    monkeypatch.setenv("VENV", str(Path(sys.executable).parents[1]))
    script = tmp_path / "slurm.sh"
    script.write_text(nextscale("launch", "slurm.sh").stdout)
    assert script.read_text() == (ROOT / "cluster" / "launch" / "slurm.sh").read_text()
    return lambda *given, options=(): slurm.submit(*HERE, *options, script, *given, cwd=tmp_path)


def at_work(out):
    """Whether a run is being trained."""
    return any(path.is_dir() and holder(path) is not None for path in out.glob("runs/*"))


def ended(slurm, job):
    return slurm.job(job)["JobState"] in ("COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED", "TIMEOUT")


@pytest.mark.slow
@pytest.mark.soak
def test_preempted_twice_and_out_of_time_once_it_leaves_the_same_table(slurm, submit, undisturbed, tmp_path, aftermath):
    spec, expected = undisturbed
    out, log = tmp_path / "out", lambda: (tmp_path / f"nextscale-{job}.log").read_text()
    records = aftermath.Records(out)
    job = submit(spec, out)
    for restarts in range(3):
        done = records.look()
        slurm.wait_for(lambda: slurm.job(job)["JobState"] == "RUNNING" and at_work(out), 300)
        slurm.wait_for(lambda done=done: records.look() > done, 300)
        if restarts < 2:
            slurm.said("scontrol", "requeue", job)
        else:  # in three minutes, before which the script has asked to be signalled
            minutes = 4 + int(slurm.job(job)["RunTime"].split(":")[1])
            slurm.said("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
        slurm.wait_for(lambda restarts=restarts: slurm.job(job)["Restarts"] == str(restarts + 1), 300)
    assert "SIGTERM: runs save themselves" in " ".join(log().split())
    slurm.said("scontrol", "update", f"JobId={job}", "TimeLimit=1:00:00")
    slurm.wait_for(lambda: ended(slurm, job), 900)
    assert slurm.job(job)["JobState"] == "COMPLETED", log()
    assert "Traceback" not in log()
    assert aftermath.faults(out, expected) == []
    assert [entry["kind"] for entry in Ledger(out / "ledger.jsonl").entries()].count("score") == 1
    assert slurm.said("squeue", "-h") == ""


@pytest.mark.slow
@pytest.mark.soak
def test_with_a_node_gone_the_sweep_goes_on_and_the_job_ends_with_it(slurm, submit, undisturbed, tmp_path, aftermath):
    spec, expected = undisturbed
    out = tmp_path / "out"
    job = submit(spec, out)
    slurm.wait_for(lambda: len(list(out.glob("runs/*/leases"))) > 1, 300)
    slurm.hosts.cut(2)
    slurm.wait_for((out / "report.html").exists, 900)
    slurm.wait_for(lambda: ended(slurm, job), 60)
    assert slurm.job(job)["JobState"] == "COMPLETED"
    assert aftermath.faults(out, expected) == []
