"""The whole loop on a tiny sweep: forecast before, score after, nothing twice, nothing lost to kill -9."""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nextscale.fit import fit
from nextscale.model.record import read_rows
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.store import load

COMMAND = [sys.executable, "-c", "from nextscale.sweeps.cli import main; main()"]


def nextscale(*arguments, **options):
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, **options)


def summary_of(out):
    """A summary, but for what may differ between two ways to the same end."""
    summary = json.loads((out / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in ("seconds", "runs")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_spec):
    """A tiny sweep, run once from its spec to its report: its spec, its output folder and how the command ended."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "spec.yaml").write_text(tiny_spec)
    ended = nextscale("run", folder / "spec.yaml", "--out", folder / "out")
    assert ended.returncode == 0, ended.stderr
    return folder / "spec.yaml", folder / "out", ended


def test_the_loop_ends_in_a_score(finished):
    _, out, ended = finished
    summary = json.loads((out / "summary.json").read_text())
    assert summary["runs"] == {"done": 15, "reused": 0, "failed": 0}
    assert len(summary["holdout"]) == 3
    for row in summary["holdout"]:
        assert row["interval"][0] < row["predicted"] < row["interval"][1]
        assert abs(row["error"]) < 0.03
        assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1)
        floor = summary["irreducible"]["true"]
        assert row["reducible_error"] == pytest.approx((row["predicted"] - row["measured"]) / (row["measured"] - floor))
    assert summary["irreducible"]["interval"][0] < summary["irreducible"]["true"]
    assert len(summary["interior_minima"]) == 3
    assert "Forecast at" in ended.stdout
    assert "irreducible loss" in ended.stdout


def test_the_forecast_was_written_before_the_first_held_out_run(finished):
    _, out, _ = finished
    forecast, score = Ledger(out / "ledger.jsonl").entries()
    table = load(out)
    assert sorted(forecast["runs"]) == sorted(table.loc[table.role == "fit", "run_id"])
    assert forecast["done_before"] == []
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
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert {p.name for p in (out / "figures").iterdir()} >= {"overview.png", "overview.svg"}


def test_the_same_spec_again_trains_nothing(finished):
    spec, out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*") if p.is_file()}
    ledger = (out / "ledger.jsonl").read_bytes()
    first = summary_of(out)
    ended = nextscale("run", spec, "--out", out, "--json")
    assert ended.returncode == 0, ended.stderr
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*") if p.is_file()} == before
    assert (out / "ledger.jsonl").read_bytes() == ledger
    assert json.loads(ended.stdout)["runs"] == {"done": 15, "reused": 15, "failed": 0}
    assert summary_of(out) == first


def test_the_table_of_runs_is_tidy(finished):
    _, out, _ = finished
    table = load(out)
    assert len(table) == 15
    assert (table.status == "done").all()
    assert (table.attempts == 1).all()
    assert table.loss.between(1, 3).all()
    assert set(table.role) == {"fit", "holdout"}
    assert fit(table[table.role == "fit"]).parameters["E"] == pytest.approx(summary_of(out)["irreducible"]["fitted"])
    ended = nextscale("runs", out, "--json")
    assert len(json.loads(ended.stdout)["runs"]) == 15
    ended = nextscale("forecast", out, "--flops", "1e11", "--json")
    assert json.loads(ended.stdout)["targets"][0]["flops"] == 1e11


def test_kill_9_of_the_driver_loses_nothing_and_does_nothing_twice(finished, tmp_path):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, "run", str(spec), "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 120
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


def test_two_shells_at_once_train_each_run_once(finished, tmp_path):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    processes = [
        subprocess.Popen([*COMMAND, "run", str(spec), "--out", str(out)], stderr=subprocess.PIPE) for _ in "ab"
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert summary_of(out) == summary_of(undisturbed)
    for run in out.glob("runs/*"):
        assert [a["status"] for a in read_rows(run / "attempts.jsonl")].count("finished") == 1
    assert [entry["kind"] for entry in Ledger(out / "ledger.jsonl").entries()] == ["forecast", "score"]


def test_a_corrupt_checkpoint_is_one_line_exit_code_2_and_the_rest_is_done(finished, tmp_path):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    record = next(out.glob("runs/*/record.json"))
    run = record.parent
    record.unlink()
    for file in (run / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(b"rot")
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr + ended.stdout
    assert f"{run.name} failed: checkpoint" in " ".join(ended.stderr.split())
    assert "delete" in ended.stderr
    shutil.rmtree(run / "checkpoints")
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert summary_of(out) == summary_of(undisturbed)


def test_a_damaged_record_is_named(finished, tmp_path):
    spec, undisturbed, _ = finished
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    record = next(out.glob("runs/*/record.json"))
    record.write_text("{half")
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 2
    assert str(record) in ended.stderr
    assert "delete it" in ended.stderr


def test_a_diverged_run_is_a_row_and_the_fit_tolerates_the_hole(tmp_path, tiny_spec):
    spec = tmp_path / "spec.yaml"
    spec.write_text(tiny_spec.replace("base: 0.02, floor: 0.008", "base: 60.0, floor: 20.0").split("holdout")[0])
    out = tmp_path / "out"
    ended = nextscale("run", spec, "--out", out)
    assert ended.returncode == 0, ended.stderr
    table = load(out)
    assert (table.status == "diverged").any()
    assert table.loc[table.status == "diverged", "reason"].str.contains("by token").all()
    assert "diverged" in ended.stdout
    assert Path(out / "summary.json").exists()
