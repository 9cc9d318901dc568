"""The forecast of a sweep in its ledger: what it rests on, what takes its place, and what is scored."""

import json
import shutil

import pytest

from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.forecasts.calibration import outcomes
from nextscale.sweeps.ledger import Ledger, digest_of
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run import session
from nextscale.sweeps.run.loop import run_study
from nextscale.sweeps.spec.sweep_spec import ForecastConfig
from nextscale.sweeps.store.store import Store, load
from nextscale.sweeps.study.study import Study


@pytest.fixture
def out(swept, tmp_path):
    shutil.copytree(swept[1], tmp_path / "out")
    return tmp_path / "out"


def begin_a_ledger_anew(out):
    for name in ("ledger.jsonl", "ledger.head"):
        (out / name).unlink()


def held_out_runs(out):
    table = load(out, sweep="swept")
    return [out / "runs" / run_id for run_id in table.loc[table["role"] == "holdout", "run_id"]]


@pytest.mark.slow
def test_a_forecast_that_another_took_the_place_of_is_scored_too(out, swept, monkeypatch, in_process_backend):
    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    begin_a_ledger_anew(out)
    held_out = held_out_runs(out)
    for run in held_out:
        run.rename(out / run.name)
    for law in ("chinchilla-tied", "chinchilla"):
        study = Study(load_spec(swept[0], [f"forecast.law={law}"]), out)
        study.register(study.analyse())
    ledger = Ledger(out / "ledger.jsonl")
    assert outcomes([ledger])["verdict"].tolist() == ["waiting"] * 4
    for run in held_out:
        (out / run.name).rename(run)
    run_study(load_spec(swept[0]), out)
    assert [entry["kind"] for entry in ledger.entries()] == ["forecast", "forecast", "score", "score"]
    assert set(outcomes([ledger])["verdict"]) <= {"hit", "miss"}
    run_study(load_spec(swept[0]), out)
    assert len(ledger.entries()) == 4


def test_an_option_that_is_added_with_a_default_makes_no_other_forecast(out, swept):
    class Later(ForecastConfig):
        added: int = 3

    spec = load_spec(swept[0])
    later = spec.model_copy(update={"forecast": Later(**spec.forecast.model_dump())})
    told = [study.inputs(study.analyse()) for study in (Study(spec, out), Study(later, out))]
    assert told == [Ledger(out / "ledger.jsonl").entries()[0]["inputs"]] * 2


@pytest.mark.slow
def test_a_forecast_of_before_a_consensus_was_the_default_is_known_again_and_a_consensus_is_another(out, swept):
    """Its law and bootstrap were left out of its digest, as they were the default."""
    told = {}
    for law in ("chinchilla", "consensus"):
        study = Study(load_spec(swept[0], [f"forecast.law={law}"]), out)
        analysis = study.analyse()
        told[law] = study.inputs(analysis)
    before = digest_of([analysis.fitted, {"resamples": 100}])
    assert told["chinchilla"] == before != told["consensus"]


def test_a_forecast_that_was_registered_with_options_at_their_default_is_the_same(out, swept):
    entry = Ledger(out / "ledger.jsonl").entries()[0]
    begin_a_ledger_anew(out)
    study = Study(load_spec(swept[0]), out)
    analysis = study.analyse()
    whole = digest_of([analysis.fitted, study.spec.forecast.model_dump()])
    assert study.inputs(analysis) != whole
    earlier = {name: value for name, value in entry.items() if name not in ("kind", "time", "previous", "hash")}
    first = study.ledger.register(earlier | {"inputs": whole})
    assert study.inputs(analysis) == whole
    for run in held_out_runs(out):
        shutil.rmtree(run)
    assert study.register(analysis) == first


def test_a_run_that_is_none_of_the_sweep_and_is_damaged_does_not_keep_it_from_its_summary(
    out, swept, monkeypatch, in_process_backend
):
    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    ledger = Ledger(out / "ledger.jsonl")
    (run, *_) = held_out_runs(out)
    target = {"run_id": None, "flops": 1e15, "params": 1e6, "tokens": 1e8, "predicted": 2.0, "interval": [1.0, 3.0]}
    waits = {"sweep": None, "inputs": "i", "level": 0.9, "params_convention": "total", "data": [], "runs": []}
    ledger.register(waits | {"targets": [target], "started_before": []})
    shutil.copytree(run, out / "runs" / "0123456789ab")
    (out / "runs" / "0123456789ab" / "config.json").write_text("{")
    (out / "summary.json").unlink()
    summary = run_study(load_spec(swept[0]), out)
    assert json.loads((out / "summary.json").read_text())["warnings"] == summary["warnings"]
    (told,) = [warning for warning in summary["warnings"] if "0123456789ab" in warning]
    assert told.startswith("forecasts of runs without a name were not scored: ")
    assert "is damaged; delete" in told


def test_only_the_trunk_of_a_run_that_is_done_is_looked_at(out, swept, monkeypatch):
    study, asked = Study(load_spec(swept[0]), out), []
    record = Store.record
    monkeypatch.setattr(Store, "record", lambda store, run_id: asked.append(run_id) or record(store, run_id))
    branch = next(run for run in study.planned if run.trunk is not None)
    study.release(branch.config.run_id)
    model = branch.config.model
    of_its_trunk = {run.config.run_id for run in study.planned if run.config.model == model and run.role == "fit"}
    assert set(asked) <= of_its_trunk
    asked.clear()
    study.release()
    assert {run.config.run_id for run in study.planned if run.role == "fit"} == set(asked)


def test_what_is_done_is_told_from_what_is_not_without_comparing_runs(out, swept, monkeypatch):
    class Enough(Exception):
        pass

    def phase(role, done, todo):
        assert (len(done), len(todo)) == (7, 1)
        raise Enough

    (out / "runs" / load(out)["run_id"].iloc[0] / "record.json").unlink()
    spec = load_spec(swept[0])
    monkeypatch.setattr(PlannedRun, "__eq__", lambda one, other: pytest.fail("runs are compared by their names"))
    with pytest.raises(Enough):
        run_study(spec, out, on_phase=phase)
