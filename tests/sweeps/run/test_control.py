"""A sweep under caps, left alone, looked at, stopped, and gone on with: by its files alone."""

import json
import re
import shutil
import time

import pytest

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.events import Event
from nextscale.cluster.hardware.site import Site
from nextscale.sweeps import load_spec, planned_runs, run_study
from nextscale.sweeps.design.expand import resolve_spec
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.run import session
from nextscale.sweeps.run.journal import Journal
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.watch.status import ask_to_stop, status

LONGER = {"flops: [1.0e+9, 2e9, 4e9]": "flops: [2e10, 4e10, 8e10]", "flops: 1.2e10": "flops: 2.4e11"}


def until(condition, seconds=120):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.soak
def test_a_cap_stops_a_sweep_and_another_lets_it_go_on(spec_file, tmp_path, nextscale):
    out, spec = tmp_path / "out", spec_file({"holdout: {flops: 1.2e10, widths: [12, 16, 24]}": ""})
    ended = nextscale("run", spec, "--out", out, "--set", "caps.max_flops=1.5e10", "--json")
    assert ended.returncode == 3, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["stopped_by"].startswith("max_flops 1.5e+10: ")
    found = status(out)
    spent = found.spent["flops_kept"] + found.spent["flops_lost"]
    assert 1e10 < spent <= 1.5e10, "as many as there was room for, and no more"
    assert spent == summary["spent"]["flops_kept"] + summary["spent"]["flops_lost"]
    assert 0 < found.runs["done"] < 12
    assert found.controller == "none"
    assert found.flops[0] == pytest.approx(found.spent["flops_kept"], rel=1e-9)
    ended = nextscale("run", spec, "--out", out, "--set", "caps.max_flops=1e12")
    assert ended.returncode == 0, ended.stderr
    found = status(out)
    assert found.runs["done"] == 12
    assert found.spent["flops_kept"] == pytest.approx(found.flops[1], rel=1e-9), "nothing was trained twice"
    assert found.spent["attempts"] == 12


@pytest.mark.slow
def test_a_sweep_left_alone_is_seen_stopped_and_gone_on_with(spec_file, tmp_path, nextscale):
    out, spec = tmp_path / "out", spec_file(LONGER)
    left = nextscale("run", spec, "--out", out, "--detach")
    assert left.returncode == 0, left.stderr
    assert left.stdout.startswith("at work as process ")
    until(lambda: (out / "accounts.jsonl").exists() and status(out).running)
    found = status(out)
    assert found.controller == "at work"
    assert found.runs["running"] == len(found.running) <= 12
    assert all(0 <= one.share <= 1 for one in found.running)
    shown = nextscale("status", out)
    assert "controller at work" in " ".join(shown.stdout.split())
    assert nextscale("stop", out).stdout.startswith("asked")
    until(lambda: status(out).controller == "none")
    assert nextscale("status", out).stdout.startswith(f"{out}: nobody is at work on it\n")
    found = status(out)
    assert not found.running
    assert "stopped as asked" in (out / "controller.log").read_text()
    assert {row["event"] for row in Journal(out).rows()} >= {"started", "stopped"}
    assert "started" in nextscale("logs", out).stdout
    assert nextscale("stop", out).stdout.startswith("nobody")
    assert Accounts(out / "accounts.jsonl").totals()["open"] == 0


@pytest.mark.slow
def test_the_cap_that_is_said_to_be_enough_carries_a_sweep_through_its_held_out_runs(
    swept, tmp_path, monkeypatch, in_process_backend
):
    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    spec = swept[0]
    early = sum(run.own_flops for run in planned_runs(resolve_spec(load_spec(spec))) if run.role == "fit")
    stopped = run_study(load_spec(spec, [f"caps.max_flops={early / 2}"]), tmp_path / "out", site=Site())["stopped_by"]
    assert "and the 2 that come after them would take" in stopped
    enough = re.search(r"; with max_flops (\S+) or more the same command goes on from here$", stopped)[1]
    summary = run_study(load_spec(spec, [f"caps.max_flops={enough}"]), tmp_path / "out", site=Site())
    assert summary["stopped_by"] is None
    assert summary["runs"]["done"] == 10


@pytest.mark.slow
def test_an_interrupted_attempt_is_open_to_status_and_its_end_is_in_the_logs(
    swept, tmp_path, monkeypatch, in_process_backend, called
):
    begun = []

    def pulled(job):
        begun.append(job.run_id)
        raise KeyboardInterrupt

    def trained_before(job):
        shutil.copytree(swept[1] / "runs" / job.run_id, job.directory, dirs_exist_ok=True)

    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    spec, out = load_spec(swept[0]), tmp_path / "out"
    monkeypatch.setattr(in_process_backend, "before", staticmethod(pulled))
    with pytest.raises(KeyboardInterrupt):
        run_study(spec, out, site=Site())
    (row,) = (row for row in Accounts(out / "accounts.jsonl").rows if row["kind"] == "reserved")
    left = status(out).left_open
    assert (left["attempts"], left["flops"]) == (1, row["flops"])
    assert left["device_hours"] == pytest.approx(row["device_us"] / 3.6e9)
    assert "1 attempts are open, and their controller is gone" in called("status", out)[1]
    told = called("logs", out)[1]
    assert "interrupted with 1 attempts open" in told
    assert f"attempt 1 at {begun[0]} is open, and its controller is gone" in told
    assert "is open" not in called("logs", out, "--run", "another")[1]
    monkeypatch.setattr(in_process_backend, "before", staticmethod(trained_before))
    run_study(spec, out, site=Site())
    assert status(out).left_open["attempts"] == 0
    assert "is open" not in called("logs", out)[1]
    (settled,) = (row for row in Journal(out).rows(begun[0]) if row["event"] == "settled")
    assert settled["text"].startswith("attempt 1 ended with its controller: ")
    assert [row["event"] for row in Journal(out).rows(begun[0])][:2] == ["started", "settled"]


def test_the_journal_is_read_back_run_by_run(tmp_path):
    journal = Journal(tmp_path)
    for event in (Event("notice", message="one"), Event("tick"), Event("notice", message="two")):
        journal.note(event)
    assert [row["text"] for row in journal.rows()] == ["one", "two"]
    assert journal.rows("abc") == []


def test_where_there_is_no_sweep_that_is_told_in_one_line(tmp_path):
    for command in (status, ask_to_stop):
        with pytest.raises(SpecError, match="holds no sweep"):
            command(tmp_path)


def test_caps_and_pools_are_no_part_of_what_runs_mean(tiny_spec):
    import yaml

    from nextscale.sweeps.design.expand import planned_runs

    plain = yaml.safe_load(tiny_spec)
    capped = plain | {"caps": {"max_usd": 3.0, "max_wall": 2}, "pools": {"mine": {"accelerator": "h100", "chips": 8}}}
    ids = [[run.config.run_id for run in planned_runs(SweepSpec.model_validate(spec))] for spec in (plain, capped)]
    assert ids[0] == ids[1]


def test_a_cap_in_dollars_needs_prices(spec_file, tmp_path, called):
    code, _, stderr = called("run", spec_file(), "--out", tmp_path / "out", "--set", "caps.max_usd=1")
    assert code == 2
    (line,) = stderr.strip().splitlines()[-1:]
    assert "caps.max_usd: pool cpu (cpu) has no price" in line
