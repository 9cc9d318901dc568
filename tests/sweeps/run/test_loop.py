"""The whole loop on a tiny sweep: forecast before, score after, nothing twice, nothing lost to kill -9."""

import datetime
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from nextscale.fit import fit_forecaster
from nextscale.model.record import read_rows
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.store.store import load


def summary_of(out):
    """A summary, but for what may differ between two ways to the same end."""
    summary = json.loads((out / "summary.json").read_text())
    summary["forecast"] = summary["forecast"] and {k: v for k, v in summary["forecast"].items() if k != "time"}
    return {key: value for key, value in summary.items() if key not in ("seconds", "runs", "spent")}


def spoil(run):
    """A run without its result, whose checkpoints cannot be read."""
    (run / "record.json").unlink()
    for file in (run / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(b"rot")


@pytest.fixture(scope="session")
def finished(made_once, tiny_spec, nextscale):
    """A tiny sweep, run once from its spec to its report: its spec, its output folder and what the command said. To be
    copied by whoever changes it."""

    def make(folder):
        (folder / "spec.yaml").write_text(tiny_spec)
        ended = nextscale("run", folder / "spec.yaml", "--out", folder / "out")
        assert ended.returncode == 0, ended.stderr
        (folder / "stdout").write_text(ended.stdout)

    folder = made_once("finished", make)
    return folder / "spec.yaml", folder / "out", (folder / "stdout").read_text()


def test_the_loop_ends_in_a_score(finished):
    _, out, said = finished
    summary = json.loads((out / "summary.json").read_text())
    assert summary["runs"] == {"done": 15, "reused": 0, "failed": 0}
    assert len(summary["holdout"]) == 3
    for row in summary["holdout"]:
        assert row["interval"][0] < row["predicted"] < row["interval"][1]
        assert abs(row["error"]) < 0.03
        assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1)
        floor = summary["irreducible"]["true"]
        assert row["reducible_error"] == pytest.approx((row["predicted"] - row["measured"]) / (row["measured"] - floor))
    assert json.loads((out / "fit_card.json").read_text())["data"]["n"] == summary["law"]["n"]
    assert summary["irreducible"]["interval"][0] < summary["irreducible"]["true"]
    assert len(summary["interior_minima"]) == 3
    assert "Forecast at" in said
    assert "irreducible loss" in said


def test_the_forecast_was_written_before_the_first_held_out_run(finished):
    _, out, _ = finished
    forecast, score = Ledger(out / "ledger.jsonl").entries()
    table = load(out)
    assert sorted(forecast["runs"]) == sorted(table.loc[table.role == "fit", "run_id"])
    assert forecast["started_before"] == []
    held_out = table.loc[table.role == "holdout", "run_id"]
    written = datetime.datetime.fromisoformat(forecast["time"]).timestamp()
    starts = [read_rows(out / "runs" / run / "attempts.jsonl")[0]["started"] for run in held_out]
    ends = [(out / "runs" / run / "record.json").stat().st_mtime for run in held_out]
    assert written < min(starts)
    assert max(ends) <= datetime.datetime.fromisoformat(score["time"]).timestamp()
    assert score["forecast"] == forecast["hash"]


def test_the_report_stands_alone(finished):
    _, out, _ = finished
    page = (out / "report.html").read_text()
    assert "<svg" in page
    named = (
        "http-equiv",
        "http://www.w3.org",
        "http://purl.org",
        "http://creativecommons.org",
        "https://matplotlib.org",
    )
    for name in named:
        page = page.replace(name, "")
    assert "http" not in page
    assert {p.name for p in (out / "figures").iterdir()} >= {"overview.png", "overview.svg"}


@pytest.mark.slow
def test_the_same_spec_again_trains_nothing(finished, tmp_path, called):
    spec, undisturbed, _ = finished
    out = shutil.copytree(undisturbed, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*") if p.is_file()}
    ledger = (out / "ledger.jsonl").read_bytes()
    first = summary_of(out)
    code, stdout, stderr = called("run", spec, "--out", out, "--json")
    assert code == 0, stderr
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*") if p.is_file()} == before
    assert (out / "ledger.jsonl").read_bytes() == ledger
    assert json.loads(stdout)["runs"] == {"done": 15, "reused": 15, "failed": 0}
    assert summary_of(out) == first


def test_the_table_of_runs_is_tidy(finished, called):
    _, out, _ = finished
    table = load(out)
    assert len(table) == 15
    assert (table.status == "done").all()
    assert (table.attempts == 1).all()
    assert table.loss.between(1, 3).all()
    assert set(table.role) == {"fit", "holdout"}
    found = fit_forecaster(table[table.role == "fit"])
    assert found.parameters["E"] == pytest.approx(summary_of(out)["irreducible"]["fitted"])
    told = json.loads(called("runs", out, "--json")[1])
    assert len(told["runs"]) == 15
    told = json.loads(called("forecast", out, "--flops", "1e11", "--json")[1])
    assert told["targets"][0]["flops"] == 1e11


@pytest.mark.slow
def test_kill_9_of_the_driver_loses_nothing_and_does_nothing_twice(finished, tmp_path, nextscale, command):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*command, "run", str(spec), "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 300
    while len(done := list(out.glob("runs/*/record.json"))) < 4:
        assert time.time() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in done}
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == kept
    assert summary_of(out) == summary_of(undisturbed)
    for run in undisturbed.glob("runs/*"):
        twin = out / "runs" / run.name
        assert (run / "metrics.jsonl").read_bytes() == (twin / "metrics.jsonl").read_bytes()
        finishes = [a["status"] for a in read_rows(twin / "attempts.jsonl")]
        assert finishes.count("finished") == 1


@pytest.mark.slow
@pytest.mark.soak
def test_two_shells_at_once_train_each_run_once(finished, tmp_path, command):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    processes = [
        subprocess.Popen([*command, "run", str(spec), "--out", str(out)], stderr=subprocess.PIPE) for _ in "ab"
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert summary_of(out) == summary_of(undisturbed)
    for run in out.glob("runs/*"):
        assert [a["status"] for a in read_rows(run / "attempts.jsonl")].count("finished") == 1
    assert [entry["kind"] for entry in Ledger(out / "ledger.jsonl").entries()] == ["forecast", "score"]


@pytest.mark.slow
def test_a_corrupt_checkpoint_is_one_line_exit_code_2_and_the_rest_is_done(finished, tmp_path, nextscale):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    run = next(out.glob("runs/*"))
    spoil(run)
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr + ended.stdout
    assert f"{run.name} failed: checkpoint" in " ".join(ended.stderr.split())
    assert "delete" in ended.stderr
    shutil.rmtree(run / "checkpoints")
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert summary_of(out) == summary_of(undisturbed)


@pytest.mark.slow
def test_a_forecast_stands_once_its_runs_have_started(finished, tmp_path, called):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    ledger = (out / "ledger.jsonl").read_bytes()
    changes = ("--set", "forecast.law=chinchilla-tied", "--set", "forecast.level=0.5")
    code, stdout, stderr = called("run", spec, "--out", out, *changes)
    assert code == 0, stderr
    assert (out / "ledger.jsonl").read_bytes() == ledger, "another law after the fact makes no other forecast"
    assert summary_of(out)["holdout"] == summary_of(undisturbed)["holdout"]
    assert "the forecast shown is that of" in stdout
    for name in ("ledger.jsonl", "ledger.head"):
        (out / name).unlink()
    _, stdout, _ = called("run", spec, "--out", out)
    assert "no forecast (nats/token)" in stdout
    assert "3 of the 3 held-out runs had started when this was computed" in stdout


@pytest.mark.slow
def test_the_held_out_scale_waits_for_every_run_of_the_fit(finished, tmp_path, nextscale):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    for name in ("ledger.jsonl", "ledger.head"):
        (out / name).unlink()
    table = load(out).set_index("role")
    for run_id in table.loc["holdout", "run_id"]:
        shutil.rmtree(out / "runs" / run_id)
    spoil(out / "runs" / table.loc["fit", "run_id"].iloc[0])
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 2
    assert "no forecast yet: 1 of the runs that it rests on" in ended.stdout
    assert not (out / "ledger.jsonl").exists()
    assert len(list(out.glob("runs/*"))) == 12


@pytest.mark.slow
def test_one_failed_held_out_run_hides_no_other(finished, tmp_path, nextscale):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    table = load(out).set_index("role")
    spoil(out / "runs" / table.loc["holdout", "run_id"].iloc[0])
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 2
    rows = summary_of(out)["holdout"]
    assert [row["measured"] is None for row in rows].count(True) == 1
    assert [row for row in rows if row["measured"]] == [
        row for row in summary_of(undisturbed)["holdout"] if row["run_id"] != table.loc["holdout", "run_id"].iloc[0]
    ]


def test_runs_on_different_data_are_not_fitted_as_one(finished, tmp_path, called):
    _, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    for run in list(out.glob("runs/*")):
        config = json.loads((run / "config.json").read_text())
        config["data"]["seed"] = 5
        twin = run.with_name(run.name[::-1])
        shutil.copytree(run, twin)
        (twin / "config.json").write_text(json.dumps(config))
    code, _, stderr = called("fit", out)
    assert code == 2
    assert "trained on 2 different data (source=markov vocab=16 seed=1; source=markov vocab=16 seed=5)" in stderr


def test_a_folder_that_was_damaged_is_one_line(finished, tmp_path, called):
    _, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    run = next(out.glob("runs/*"))
    (next(out.glob("sweeps/*.json"))).write_text("{")
    assert called("runs", out)[0] == 0
    for name, content in (("config.json", b"{"), ("record.json", b"[]")):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(content)
        code, _, stderr = called("fit", out)
        assert code == 2, "a law of the others would be another law"
        assert f"{run / name}: is damaged; delete" in stderr
        (run / name).write_bytes(whole)
    (out / "ledger.jsonl").write_bytes(b"\xff\n")
    code, _, stderr = called("run", finished[0], "--out", out)
    assert code == 2
    assert "ledger.jsonl:1: this entry" in stderr


def test_a_damaged_record_is_named(finished, tmp_path, called):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    record = next(out.glob("runs/*/record.json"))
    record.write_text("{half")
    code, _, stderr = called("run", spec, "--out", out)
    assert code == 2
    assert str(record) in stderr
    assert "delete it" in stderr


@pytest.mark.slow
def test_diverged_runs_are_rows_and_a_sweep_of_nothing_else_has_no_law(tmp_path, tiny_spec, nextscale):
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec.replace("base: 0.02, floor: 0.008", "base: 60.0, floor: 20.0"))
    out = tmp_path / "out"
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 1
    assert "none of its runs has come to a loss" in ended.stdout
    table = load(out)
    assert (table.status == "diverged").all()
    assert (table.role == "fit").all(), "the held-out scale was not begun"
    assert table.reason.str.contains("by token").all()
    assert summary_of(out)["law"] is None
    assert "none of its runs" in nextscale("fit", out).stderr


@pytest.mark.slow
def test_the_fit_does_without_a_diverged_run(finished, tmp_path, nextscale):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    run_id = load(out).set_index("role").loc["fit", "run_id"].iloc[0]
    path = out / "runs" / run_id / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"status": "diverged", "reason": "not a number by token 1", "loss": None}))
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert summary_of(out)["law"]["n"] == 11
    assert f"run {run_id} (width" in " ".join(ended.stdout.split())


def test_a_cluster_that_does_not_answer_is_a_slip_at_first_and_lost_later(finished, nextscale, tmp_path):
    spec, out, _ = finished
    out = shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(out / "runs" / load(out)["run_id"].iloc[0])
    for folder, code in ((tmp_path / "new", 2), (out, 75)):
        ended = nextscale("run", spec, "--out", folder, "--address", "127.0.0.1:1")
        assert ended.returncode == code, ended.stderr
        assert ended.stderr.splitlines()[-1].endswith("answers there; start one, or leave it out to use this machine")
