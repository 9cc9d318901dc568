"""Forecasts of runs that have no name yet: written before, scored when such a run lands, and no other."""

import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from etils import epath

from nextscale.fit.optimum.forecast import forecast
from nextscale.fit.table.runs import as_runs
from nextscale.fit.trust.backtest import fit_backtested
from nextscale.model.record import read_rows
from nextscale.sweeps import load
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.forecasts.calibration import calibration, outcomes
from nextscale.sweeps.forecasts.registry import register, score_by_hand, score_landed
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.run.rerun import rerun
from nextscale.sweeps.store.store import Store
from nextscale.sweeps.store.verify import verify


@pytest.fixture
def csv(tmp_path):
    """Runs of a known law, from elsewhere."""
    rng = np.random.default_rng(0)
    flops = np.repeat([1e19, 3e19, 1e20, 3e20], 4)
    params = np.sqrt(flops / 120) * np.tile(np.geomspace(1 / 3, 3, 4), 4)
    tokens = flops / 6 / params
    loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * np.exp(0.002 * rng.standard_normal(16))
    path = tmp_path / "runs.csv"
    pd.DataFrame({"params": params, "tokens": tokens, "flops": flops, "loss": loss}).to_csv(path, index=False)
    return path


FAST = ("--resamples", 100)


def test_a_forecast_from_a_table_is_registered_once_and_scored_by_hand(called, csv, tmp_path):
    code, out, _ = called("forecast", csv, "--flops", "1e21", "--flops", "1e22", *FAST, "--register", "--json")
    assert code == 0
    told = json.loads(out)
    first, second = told["registered"]
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.entries() == [first, second]
    target = first["targets"][0]
    assert (target["run_id"], target["flops"]) == (None, 1e21)
    assert target["predicted"] == told["targets"][0]["loss"]
    assert target["reach"] == pytest.approx(1e21 / 3e20)
    assert first["started_before"] == []
    code, out, _ = called("forecast", csv, "--flops", "1e21", *FAST, "--register", "--json")
    assert json.loads(out)["registered"] == [first]

    at = ("--params", 1.03 * target["params"], "--tokens", 0.98 * target["tokens"], "--run-id", "big")
    code, out, _ = called("ledger", "score", ledger.path, "--loss", target["predicted"] * 1.001, *at, "--json")
    assert code == 0
    (entry,) = json.loads(out)["scores"]
    assert entry["forecast"] == first["hash"]
    assert entry["targets"][0]["inside"]
    assert entry["targets"][0]["error"] == pytest.approx(1 / 1.001 - 1)
    code, _, err = called("ledger", "score", ledger.path, "--loss", 2.0, *at)
    assert code == 2
    assert "within 5% of each" in err, "it waits for its run no more"
    code, _, err = called("ledger", "score", ledger.path, "--loss", 9.0, "--forecast", second["hash"][:6])
    assert code == 0
    code, out, _ = called("ledger", tmp_path, ledger.path, "--json", "--plot", tmp_path / "calibration.svg")
    shown = json.loads(out)
    assert shown["calibration"]["verdicts"] == {"hit": 1, "miss": 1}
    assert [row["verdict"] for row in shown["forecasts"]] == ["hit", "miss"]
    assert (tmp_path / "calibration.svg").stat().st_size > 1000
    code, out, _ = called("ledger", tmp_path)
    assert "2 runs foretold" in out
    assert "90% intervals" in out


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["forecast", "{csv}", "--loss", "2", "--register"], "say of what compute, with --flops"),
        (["forecast", "{csv}", "--flops", "1e21", "--ledger", "x"], "is where --register writes; give both"),
        (["forecast", "{csv}", "--flops", "1e21", "--register", "--ledger", "{csv}/x"], "cannot be written to"),
        (["ledger", "{folder}/nothing.jsonl"], "there is no such ledger"),
        (["ledger", "score", "{folder}/nothing.jsonl", "--loss", "2"], "there is no such ledger"),
        (["ledger", "score", "{ledger}", "--loss", "inf", "--forecast", "zz"], "--loss inf: is no loss"),
        (["ledger", "score", "{ledger}", "--loss", "2"], "say which run it is, with --params and --tokens"),
        (["ledger", "score", "{ledger}", "--loss", "2", "--params", "1", "--tokens", "1"], "within 5% of each"),
        (["ledger", "score", "{ledger}", "--loss", "2", "--forecast", "zz"], "0 forecasts of"),
    ],
)
def test_mistakes_are_one_line(called, csv, tmp_path, arguments, says):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.register({"sweep": "s", "inputs": "i", "targets": [{"run_id": "r"}]})
    filled = [text.format(csv=csv, folder=tmp_path, ledger=ledger.path) for text in arguments]
    code, out, err = called(*filled)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_scores_name_their_forecast(csv, tmp_path):
    ledger, entry = registered(csv, tmp_path)
    held = {"sweep": "s", "inputs": "i", "targets": [{"run_id": "r", "predicted": 1.0, "interval": [0, 2]}]}
    of_a_sweep = ledger.register(held)
    with pytest.raises(SpecError, match="is of runs of a sweep"):
        score_by_hand(ledger, 2.0, run_id="x", prefix=of_a_sweep["hash"])
    (first,) = score_by_hand(ledger, 2.0, run_id="x", prefix=entry["hash"])
    assert score_by_hand(ledger, 2.0, run_id="x", prefix=entry["hash"]) == [first]
    with pytest.raises(SpecError, match="was scored before, by run x"):
        score_by_hand(ledger, 2.1, run_id="y", prefix=entry["hash"])
    with pytest.raises(SpecError, match=r"was scored before, by run x with 2\.0; a score stands"):
        score_by_hand(ledger, 9.9, run_id="x", prefix=entry["hash"])
    assert score_by_hand(ledger, 2.0, run_id="x", prefix=entry["hash"]) == [first]


def registered(source, folder, flops=1e21, table=None, **options):
    runs = as_runs(pd.read_csv(source) if table is None else table)
    found, _ = fit_backtested(runs, ("chinchilla",), resamples=100)
    ledger = Ledger(folder / "ledger.jsonl")
    told = forecast(found, [flops])
    return ledger, register(ledger, source, runs, found, told, options)[0]


@pytest.fixture
def landing(swept, tmp_path):
    """A folder; what its runs would have measured by a law of known optimum; a budget; and its best run, which lies
    aside."""
    out, aside = tmp_path / "out", tmp_path / "aside"
    shutil.copytree(swept[1], out)
    table = load(out)
    run_id = table.loc[table["role"] == "holdout", "run_id"].iloc[0]
    shutil.move(out / "runs" / run_id, aside)
    run = table.set_index("run_id").loc[run_id]
    rows = table[table["role"] == "fit"].reset_index(drop=True)
    # With both exponents a half, and terms that are equal there, a budget is spent best at this size and length.
    sizes = run["params"] * np.geomspace(0.1, 1.0, len(rows))
    tokens = run["tokens"] * np.tile([0.1, 0.5, 1.0, 0.25], len(rows) // 4)
    loss = 1.5 + 0.2 * (run["params"] / sizes) ** 0.5 + 0.2 * (run["tokens"] / tokens) ** 0.5
    per_token = run["flops"] / run["tokens"] / run["params"]
    rows = rows[["run_id"]].assign(params=sizes, tokens=tokens, flops=per_token * sizes * tokens, loss=loss)
    return out, rows, run["flops"], aside, run_id


def land(out, aside, run_id, **begun):
    """A run comes into its folder as one that was begun just now, or at another time."""
    attempts = epath.Path(aside / "attempts.jsonl")
    rows = [row | {"started": time.time()} | begun for row in read_rows(attempts)]
    attempts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(aside, out / "runs" / run_id)


@pytest.mark.slow
def test_a_run_that_lands_scores_the_forecast_that_was_made_of_it(landing):
    out, rows, flops, aside, run_id = landing
    store = Store.existing(out)
    ledger, entry = registered(out, out, flops, rows)
    assert entry["data"] == ["source=markov vocab=16 seed=1"]
    assert entry["started_before"] == []
    assert score_landed(store, ledger) == [], "nothing has landed yet"
    land(out, aside, run_id)
    (score,) = score_landed(store, ledger)
    assert score["forecast"] == entry["hash"]
    assert score["targets"][0]["run_id"] == run_id
    assert score["targets"][0]["measured"] == store.record(run_id)["loss"]
    assert score_landed(store, ledger) == [], "a forecast is scored once"
    told = outcomes([ledger])
    assert told["verdict"].iloc[-1] in ("hit", "miss")
    assert told["run_id"].iloc[-1] == run_id
    assert verify(out)[1] == []


def test_what_is_computed_when_its_run_is_there_is_no_forecast(landing):
    out, rows, flops, aside, run_id = landing
    land(out, aside, run_id)
    ledger, entry = registered(out, out, flops, rows)
    assert entry["started_before"] == [run_id]
    assert "it is no forecast" in entry["warnings"][-1]
    score_landed(Store.existing(out), ledger)
    assert outcomes([ledger])["verdict"].iloc[-1] == "late"
    assert calibration(outcomes([ledger]))["scored"] == 2, "those of the sweep's own holdout"


def test_a_run_that_is_to_be_done_again_was_there(landing):
    out, rows, flops, aside, run_id = landing
    land(out, aside, run_id, started=time.time() - 60)
    rerun(out, [run_id])
    ledger, entry = registered(out, out, flops, rows)
    assert entry["started_before"] == [run_id], "its loss was known"
    land(out, aside, run_id)
    score_landed(Store.existing(out), ledger)
    assert outcomes([ledger])["verdict"].iloc[-1] == "late"


def test_a_forecast_that_was_made_in_time_stands(landing):
    out, rows, flops, aside, run_id = landing
    _, entry = registered(out, out, flops, rows)
    land(out, aside, run_id)
    _, again = registered(out, out, flops, rows, level=0.5)
    assert again == entry, "what is computed once the run has begun does not take its place"


def test_a_run_that_was_begun_before_is_no_test(landing):
    out, rows, flops, aside, run_id = landing
    ledger, _ = registered(out, out, flops, rows)
    land(out, aside, run_id, started=time.time() - 3600)
    assert score_landed(Store.existing(out), ledger) == []
    assert outcomes([ledger])["verdict"].iloc[-1] == "waiting"


def test_a_run_on_other_data_is_another_question(landing):
    out, rows, flops, aside, run_id = landing
    ledger, _ = registered(out, out, flops, rows)
    config = json.loads((aside / "config.json").read_text())
    config["data"]["seed"] = 5
    (aside / "config.json").write_text(json.dumps(config))
    land(out, aside, run_id)
    assert score_landed(Store.existing(out), ledger) == []


@pytest.mark.slow
def test_the_next_run_of_the_sweep_scores_what_has_landed(landing, swept, monkeypatch, in_process_backend):
    from nextscale.sweeps.plan.spec_files import load_spec
    from nextscale.sweeps.run import session
    from nextscale.sweeps.run.loop import run_study

    out, rows, flops, aside, run_id = landing
    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    ledger, entry = registered(out, out, flops, rows)
    land(out, aside, run_id)
    run_study(load_spec(swept[0]), out)
    assert ledger.entries()[-1]["forecast"] == entry["hash"]
