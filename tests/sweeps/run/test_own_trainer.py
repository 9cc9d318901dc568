"""Any command is a trainer: from plan to scored forecast, killed at any moment, and whatever it does wrong."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.controller.failures import Limits
from nextscale.cluster.hardware.site import Site
from nextscale.model.record import read_rows
from nextscale.sweeps import load, load_spec, plan_sweep
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.run import session
from nextscale.sweeps.run.rounds import TrainingRounds
from nextscale.sweeps.store.verify import verify
from nextscale.sweeps.study.study import Study

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_trainer"
TRAINER = """\
import argparse, json, os, random, signal, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--config"), parser.add_argument("--out")
given = parser.parse_args()
run, state, stopped = json.load(open(given.config)), os.path.join(given.out, "state.json"), []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
step = json.load(open(state))["step"] if os.path.exists(state) else 0
N, D = run["model"]["params"], run["tokens"]
def loss(D): return 1.7 + 40 / N**.34 + 41 / max(D, 1)**.28 + random.Random(f"{N} {D}").gauss(0, .002)
with open(os.path.join(given.out, "metrics.jsonl"), "a") as metrics:
    while step < run["steps"]:
        step = min(step + run["steps"] // 20, run["steps"])
        time.sleep(float(run["training"]["pace"]))
        print(json.dumps({"step": step, "loss": loss(step * run["batch_tokens"])}), file=metrics, flush=True)
        with open(state + ".new", "w") as file: json.dump({"step": step}, file)
        os.replace(state + ".new", state)
        if stopped: sys.exit(75)
with open(os.path.join(given.out, "result.json"), "w") as file: json.dump({"loss": loss(D), "half": D / 2}, file)
"""
SPEC = {
    "name": "mine",
    "model": {
        "kind": "external",
        "sizes": [
            {"params": n, "flops_per_token": 6.0 * n, "n_layer": i}
            for i, n in enumerate([2**k * 100_000 for k in range(6)], 2)
        ],
    },
    "trainer": {
        "command": [sys.executable, "train.py", "--config", "{config}", "--out", "{dir}"],
        "source": ["train.py"],
    },
    "training": {"batch_tokens": 4096, "pace": 0.0},
    "design": {"kind": "isoflop", "flops": [1e12, 2e12, 4e12], "sizes": [[1e5, 2e5, 4e5, 8e5]] * 3},
    "holdout": {"flops": 1.6e13, "sizes": [4e5, 8e5, 1.6e6]},
}
VARIES = {
    *("folder", "attempts", "seconds", "device_hours", "device_hours_wasted", "usd", "usd_wasted", "flops_lost"),
    *("flops_kept", "utilisation"),
}
"""Columns: where a run lies, and what it took to get there."""


@pytest.fixture
def spec_of(tmp_path):
    """`spec_of(text, training=...)`: the file of a spec whose trainer is a program of that text."""

    def write(text=TRAINER, **changes):
        (tmp_path / "train.py").write_text(text)
        whole = {key: value | changes.pop(key, {}) if isinstance(value, dict) else value for key, value in SPEC.items()}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(whole | changes))
        return tmp_path / "mine.yaml"

    return write


def rounds_of(study):
    quiet = {"address": None, "approval": None, "stop": lambda: None}
    return TrainingRounds(study, Site(), on_round=lambda *round: None, on_event=lambda event: None, **quiet)


@pytest.mark.slow
def test_the_example_goes_from_plan_to_a_scored_forecast(tmp_path, monkeypatch, in_process_backend):
    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    shorter = ["design.flops=[1e8, 1.4e8, 2e8]", "holdout={flops: 5e8, sizes: [4608, 7168]}", "forecast.resamples=100"]
    spec, out = load_spec(EXAMPLE / "sweep.yaml", [*shorter, f"trainer.command.0={sys.executable}"]), tmp_path / "out"
    planned = plan_sweep(spec, out, simulate=False).frame()
    assert set(planned["speed"]) == {"catalogue"}
    study = Study(spec, out)
    with rounds_of(study) as rounds:
        rounds.train("fit")
        forecast = study.register(study.analyse())
        rounds.train("holdout", forecast)
    study.score(forecast)
    assert not rounds.failed
    registered, score = Ledger(out / "ledger.jsonl").entries()
    assert score["forecast"] == registered["hash"]
    assert registered["started_before"] == []
    assert all(target["measured"] > 0 for target in score["targets"])
    study.store.write_spec(study.spec)
    table = load(out).set_index("run_id")
    assert set(table.index) == set(planned["run_id"])
    assert (table["status"] == "done").all()
    assert (table["d"] > 0).all()
    asked = planned.set_index("run_id").loc[table.index]
    assert (table["params"] == asked["params"]).all()  # train.py counts its weights itself
    assert (table["tokens"] == asked["tokens"]).all()
    fitted = table[table["role"] == "fit"]
    assert fitted.groupby("budget")["loss"].min().is_monotonic_decreasing
    assert verify(out) == (14, [])
    cheap = spec.model_copy(
        update={"name": "later", "training": spec.training.model_copy(update={"batch_tokens": 128})}
    )
    seconds = plan_sweep(cheap, out, simulate=False).frame()
    assert set(seconds["speed"]) == {"measured"}
    assert not [*Study(spec, out).missing("fit"), *Study(spec, out).missing("holdout")]


def test_a_plan_goes_by_what_runs_took_whatever_flops_they_claim(spec_of, tmp_path, monkeypatch, in_process_backend):
    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    with rounds_of(Study(load_spec(spec_of()), tmp_path / "out")) as rounds:
        rounds.train("fit")
    later = load_spec(spec_of(training={"lr": 0.5}))
    rows = [row for row in plan_sweep(later, tmp_path / "out", simulate=False).runs if row["role"] == "fit"]
    assert {row["speed"] for row in rows} == {"measured"}
    assert all(0 < row["seconds"] < 10 for row in rows)


@pytest.fixture
def trained(spec_of, tmp_path, in_process_backend):
    """Trains the first run of a spec whose trainer is such a program; tells of it and of what came of it."""

    def train(text, **changes):
        study = Study(load_spec(spec_of(text, **changes)), tmp_path / "out")
        job = study.job(study.runs("fit")[0])
        report = run_all([job], in_process_backend(None, uses_jax=False), limits=LIMITS)
        return study.store.run(job.run_id), report

    return train


LIMITS = Limits(pauses=(0.0,), fruitless=2)


def statuses(run):
    return [attempt["status"] for attempt in run.attempts()]


def test_a_failure_is_tried_again_in_the_same_folder(trained):
    text = TRAINER.replace(
        "if stopped:", "if step == run['steps'] // 20 * 3: sys.exit('out of luck')\n        if stopped:"
    )
    run, report = trained(text)
    assert statuses(run) == ["error", "finished"]
    assert "out of luck" in run.attempts()[0]["message"]
    assert not report.failed
    positions = [row["tokens"] for row in run.metrics()]
    assert positions == sorted(set(positions))


def test_what_saves_itself_time_and_again_comes_to_its_end(trained):
    run, report = trained(TRAINER.replace("if stopped:", "if step < run['steps'] // 2:"))
    assert statuses(run)[-1] == "finished"
    assert set(statuses(run)[:-1]) == {"stopped"}
    assert len(statuses(run)) > LIMITS.fruitless + 2
    assert not report.failed
    saved = [attempt["saved"] for attempt in run.attempts()[:-1]]
    assert saved == sorted(set(saved))


@pytest.mark.parametrize("code, status", [("sys.exit(75)", "stopped"), ("os.kill(os.getpid(), 9)", "lost")])
def test_what_gets_nowhere_is_given_up(trained, code, status):
    run, report = trained(f"import os, sys\n{code}\n")
    assert statuses(run) == [status] * (LIMITS.fruitless + 1)
    assert list(report.failed) == [run.path.name]


def test_what_breaks_its_contract_is_for_a_person_to_mend(trained):
    run, report = trained("import sys\n")
    assert statuses(run) == ["input"]
    assert report.mendable
    assert "result.json" in report.failed[run.path.name]


def test_a_diverged_run_is_done_and_has_no_loss(trained):
    run, report = trained(TRAINER.replace('{"loss": loss(D),', '{"loss": float("nan"),'))
    assert not report.failed
    assert run.record()["status"] == "diverged"


def test_another_source_is_another_run_and_another_place_is_not(spec_of, tmp_path):
    def ids(spec):
        return plan_sweep(load_spec(spec), simulate=False).frame()["run_id"].tolist()

    first = ids(spec_of())
    (tmp_path / "elsewhere").mkdir()
    for name in ("mine.yaml", "train.py"):
        shutil.copy(tmp_path / name, tmp_path / "elsewhere" / name)
    assert ids(tmp_path / "elsewhere" / "mine.yaml") == first
    assert ids(spec_of(trainer={"stop_seconds": 5})) == first
    assert not set(ids(spec_of(TRAINER + "#"))) & set(first)
    assert not set(ids(spec_of(training={"lr": 0.1}))) & set(first)
    assert not set(ids(spec_of(data={"path": "x"}))) & set(first)


def trainers(out):
    """Processes of trainers in an output folder, and of their guards."""
    found, mark = [], f"NEXTSCALE_GUARDED={out}/".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # gone meanwhile
    return found


def workers(pid):
    """Processes of Ray's workers that are at work, below a process."""
    parents, found = {}, []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith(b"ray::_WarmWorker.run"):
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    family, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        family |= new
    return [one for one in found if one in family]


@pytest.mark.slow
@pytest.mark.soak
def test_ten_kills_of_driver_worker_and_trainer_change_nothing(
    spec_of, tmp_path, command, monkeypatch, in_process_backend
):
    spec, out = spec_of(training={"pace": 0.03}, forecast={"resamples": 100}), tmp_path / "out"

    def sweep(out):
        begun = [*command, "run", str(spec), "--out", str(out)]
        return subprocess.Popen(begun, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    left_alone = Study(load_spec(spec), tmp_path / "alone")
    left_alone.store.write_spec(left_alone.spec)
    with rounds_of(left_alone) as rounds:
        rounds.train("fit")
        rounds.train("holdout")
    chance, killed, ended, records = random.Random(1), [], None, {}
    kinds = ("trainer", "worker", "trainer", "driver", "trainer", "worker", "trainer", "driver", "trainer", "worker")
    deadline = time.time() + 600
    while ended != 0:
        process, at = sweep(out), 0.0
        while process.poll() is None:
            assert time.time() < deadline, killed
            time.sleep(0.02)
            for path in out.glob("runs/*/record.json"):
                assert records.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns, "written twice"
            kind = kinds[len(killed)] if len(killed) < len(kinds) else None
            found = {"driver": [process.pid], "worker": [], "trainer": trainers(out)}
            if not found["trainer"] or kind is None:
                continue
            at = at or time.time() + chance.uniform(0.0, 0.8)
            found["worker"] = workers(process.pid) if kind == "worker" else []
            if time.time() > at and found[kind]:
                try:
                    os.kill(chance.choice(found[kind]), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.append(kind)
                at = 0.0
        told, ended = process.communicate(timeout=30)[1], process.returncode
        assert "Traceback" not in told, told
    assert len(killed) == len(kinds), killed
    assert trainers(out) == []
    expected, found = load(tmp_path / "alone"), load(out)
    varies = [column for column in expected if column in VARIES | {"pool"} or column not in found]
    pd.testing.assert_frame_equal(found.drop(columns=varies), expected.drop(columns=varies))
    assert (found["flops_kept"] <= expected["flops_kept"]).all(), "nothing is kept twice"
    for path in out.glob("runs/*"):
        assert [row["status"] for row in read_rows(path / "attempts.jsonl")].count("finished") <= 1
        other = tmp_path / "alone" / "runs" / path.name
        assert (path / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
        assert json.loads((path / "trainer" / "result.json").read_text()) == json.loads(
            (other / "trainer" / "result.json").read_text()
        )
