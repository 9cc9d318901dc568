"""What the live page is told of a folder."""

import json
import shutil
import time

import pytest

from nextscale.sweeps.design.chosen_runs import ChosenRuns, Progress
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.watch.snapshot import Live, results
from nextscale.sweeps.watch.status import status
from nextscale.sweeps.watch.watcher import Watcher


def test_it_is_the_status_and_more(staged):
    sweep = staged()
    sweep.start(sweep.runs[0])
    sweep.train(sweep.runs[0], 0.5)
    told, plain = Live(sweep.out).look(), status(sweep.out).to_dict()
    for one in (told["running"][0], plain["running"][0]):
        assert one.pop("seconds") >= 0
    assert json.loads(json.dumps(plain)) == {name: told[name] for name in plain}
    json.dumps(told, allow_nan=False)


def test_spend_is_held_against_the_caps(staged):
    sweep = staged()
    first, second, *_ = sweep.runs
    sweep.start(first)
    sweep.land(first)
    sweep.start(second)
    costs = {one["cap"]: one for one in Live(sweep.out).look()["costs"]}
    assert costs["max_flops"] | {"limit": 1e11} == costs["max_flops"]
    assert costs["max_flops"]["spent"] == int(first.own_flops)
    assert costs["max_flops"]["reserved"] == int(second.own_flops)
    assert (costs["max_usd"]["spent"], costs["max_usd"]["limit"]) == (0.06, 5.0), "a minute at 3.60 dollars an hour"
    assert costs["max_device_hours"]["spent"] == pytest.approx(1 / 60)
    assert costs["max_device_hours"]["limit"] is None
    assert (costs["max_wall"]["since"], costs["max_wall"]["until"]) == (1e9, None)
    sweep.close()
    wall = Live(sweep.out).look()["costs"][-1]
    assert (wall["until"], wall["spent"]) == (1e9 + 60, pytest.approx(1 / 60)), "nobody is at work: it stands still"


def test_what_somebody_should_look_at_is_an_alarm(staged):
    sweep = staged(caps={"max_usd": 0.16})
    first, second, *_ = sweep.runs
    live = Live(sweep.out)
    assert live.look()["alarms"] == []
    sweep.start(first)
    sweep.fail(first, "out of memory")
    sweep.start(second)
    # A minute at 3.60 dollars an hour is spent, and a minute and a half reserved.
    cap = "94% of the cap of 0.16 $ is spent or reserved (max_usd)"
    assert live.look()["alarms"] == [cap, "1 run failed for good"]


def test_how_the_forecast_of_chosen_runs_narrows(staged):
    start = {"kind": "isoflop", "flops": [1e9, 2e9], "widths": [[4, 8, 12], [8, 12, 16]]}
    sweep = staged(design={"kind": "sequential", "start": start, "widths": [4, 8, 12, 16], "flops": 1e11})
    assert Live(sweep.out).look()["narrowing"] == []
    chosen = ChosenRuns(sweep.out, sweep.spec)
    for half, spent in ((0.03, 9e9), (0.012, 2e10)):
        chosen.add(sweep.runs[:2], Progress(half, spent, None))
    told = Live(sweep.out).look()["narrowing"]
    assert told == [{"spent": 9e9, "half_width": 0.03}, {"spent": 2e10, "half_width": 0.012}]


def test_who_runs_what_where(staged, staging):
    sweep = staged()
    first, second, third, fourth, *_ = sweep.runs
    sweep.start(first, "here-10")
    sweep.start(second, "here-9")
    sweep.train(second, 0.25)
    sweep.land(first)
    sweep.began()
    told = Live(sweep.out).look()
    assert [(lane["slot"], lane["run_id"]) for lane in told["lanes"]] == [
        ("here-9", second.config.run_id),
        ("here-10", None),
    ]
    assert told["lanes"][0]["share"] == pytest.approx(0.25, rel=0.01)
    (pool,) = told["pools"]
    assert (pool["slots"], pool["busy"], pool["attempts"], pool["vain"]) == (2, 1, 1, 0)
    assert pool["utilisation"] == pytest.approx(first.own_flops / 60 / 1e10)
    assert told["time_left"]["timed"] == 1
    sweep.began(sweep.now + 1)
    sweep.start(third, "here-3")
    sweep.fail(third, "no luck")
    told = Live(sweep.out).look()
    assert told["lanes"] == [], "of slots that another controller had nobody knows whether they are up"
    assert told["pools"][0]["vain"] == 1
    assert told["failed"] == [
        {"run_id": third.config.run_id, "what": told["failed"][0]["what"], "reason": "no luck", "attempts": 1}
    ]
    assert fourth.config.run_id not in json.dumps(told)


def test_results_land_the_newest_first(staged):
    sweep = staged()
    for i, run in enumerate(sweep.runs[:4]):
        sweep.start(run)
        sweep.land(run, loss=2.0 + i)
    told = Live(sweep.out).look()
    assert [one["loss"] for one in told["newest"]] == [5.0, 4.0, 3.0, 2.0]
    assert sorted(one["loss"] for one in told["results"]) == [2.0, 3.0, 4.0, 5.0]
    assert told["budgets"] == [1e9, 2e9, 1.2e10]
    (progress,) = told["sweeps"]
    done, planned = progress["flops"]
    assert done == pytest.approx(sum(run.own_flops for run in sweep.runs[:4]))
    assert planned == pytest.approx(sum(run.own_flops for run in sweep.runs))
    assert (progress["runs"]["done"], progress["more"]) == (4, False)


def test_forecasts_and_what_was_measured_since(staged):
    sweep = staged()
    ledger = Ledger(sweep.out / "ledger.jsonl")
    target = {"run_id": "a", "flops": 1e12, "params": 5, "tokens": 7, "predicted": 2.0, "interval": [1.9, 2.1]}
    entry = ledger.register({"sweep": "staged", "inputs": "x", "law": "chinchilla", "level": 0.9, "targets": [target]})
    live = Live(sweep.out)
    (told,) = live.look()["forecasts"]
    assert told["targets"] == [target]
    before = live.version
    ledger.score(entry, [{"run_id": "a", "measured": 2.2, "error": -0.09, "inside": False}])
    (told,) = live.look()["forecasts"]
    assert told["targets"][0]["measured"] == 2.2
    assert told["targets"][0]["inside"] is False
    assert live.version > before
    lines = (sweep.out / "ledger.jsonl").read_text()
    (sweep.out / "ledger.jsonl").write_text(lines.replace("2.2", "2.0"))
    sweep.start(sweep.runs[0])
    told = live.look()
    assert "is not as it was written" in told["ledger_problem"]
    assert (told["forecasts"], told["problem"], told["runs"]["running"]) == ([], None, 1)


def test_a_folder_that_comes_goes_and_comes_again(staged, tmp_path):
    live = Live(tmp_path / "out")
    told = live.look()
    assert not told["begun"]
    assert "holds no sweep" in told["problem"]
    version = live.version
    live.look()
    assert live.version == version, "it is told once"
    sweep = staged()
    sweep.start(sweep.runs[0])
    told = live.look()
    assert told["begun"]
    assert told["problem"] is None
    shutil.move(tmp_path / "out", tmp_path / "away")
    told = live.look()
    assert "holds no sweep" in told["problem"]
    assert told["runs"]["running"] == 1, "what was known stays"
    shutil.move(tmp_path / "away", tmp_path / "out")
    assert live.look()["problem"] is None


def test_nothing_new_is_told_of_a_folder_in_which_nothing_happens(staged):
    sweep = staged()
    sweep.start(sweep.runs[0])
    live = Live(sweep.out)
    first = live.look()
    time.sleep(0.05)
    assert live.look() is first
    assert live.version == 1
    sweep.train(sweep.runs[0], 0.1)
    assert live.look() is not first
    assert live.version == 2


def test_a_record_that_is_damaged_is_told_and_ends_nothing(staged):
    sweep = staged()
    sweep.start(sweep.runs[0])
    sweep.land(sweep.runs[0])
    live = Live(sweep.out)
    live.look()
    record = sweep.store.run(sweep.runs[0].config.run_id).path / "record.json"
    record.write_text("{")
    sweep._note("finished", sweep.runs[0])
    (told,) = live.look()["failed"]
    assert "record.json: is damaged; delete it" in told["reason"]
    record.unlink()
    told = live.look()
    assert told["failed"] == []
    assert told["runs"]["done"] == 0


def test_of_many_results_an_even_choice_is_told(staged):
    sweep = staged(design={"kind": "isoflop", "flops": [1e9], "widths": [[4]], "seeds": list(range(900))}, holdout=None)
    watched = {run.config.run_id: run for run in sweep.runs}
    watcher = Watcher(sweep.out)
    watcher.look()
    watcher.rows = {name: {"run_id": name, "params": 1, "tokens": 1, "loss": 2.0} for name in watched}
    found = results(watcher, dict.fromkeys(watched, "done"))
    assert 150 <= len(found) <= 300
