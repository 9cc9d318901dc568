"""The ledger: entries are appended once, never rewritten, and a changed one is noticed."""

import json
import multiprocessing

import pytest

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.forecasts.calibration import calibration, outcomes
from nextscale.sweeps.ledger import Ledger, digest_of, score_of


def forecast(inputs="i", run_id="r", predicted=2.0):
    return {"sweep": "s", "inputs": inputs, "targets": [{"run_id": run_id, "predicted": predicted}]}


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.jsonl")


def test_a_forecast_is_registered_once_and_stands_as_first_written(ledger):
    first = ledger.register(forecast(predicted=2.0))
    assert ledger.register(forecast(predicted=2.1)) == first
    other = ledger.register(forecast(inputs="j"))
    assert [e["hash"] for e in ledger.entries()] == [first["hash"], other["hash"]]
    assert other["previous"] == first["hash"]


def test_a_score_belongs_to_its_forecast(ledger):
    entry = ledger.register(forecast())
    scored = ledger.score(entry, [{"run_id": "r", "measured": 2.1}])
    assert scored["forecast"] == entry["hash"]
    assert ledger.score(entry, [{"run_id": "r", "measured": 2.1}]) == scored
    assert ledger.entries()[0] == entry, "scoring leaves the forecast as it was"


@pytest.mark.parametrize("tamper", ["change", "remove", "reorder", "garble"])
def test_a_changed_ledger_is_noticed(ledger, tamper):
    for i in range(3):
        ledger.register(forecast(inputs=str(i)))
    lines = ledger.path.read_text().splitlines(keepends=True)
    if tamper == "change":
        entry = json.loads(lines[1])
        entry["targets"][0]["predicted"] = 1.0
        lines[1] = json.dumps(entry) + "\n"
    elif tamper == "remove":
        del lines[1]
    elif tamper == "reorder":
        lines[0], lines[1] = lines[1], lines[0]
    else:
        lines[1] = "{nonsense\n"
    ledger.path.write_text("".join(lines))
    with pytest.raises(SpecError, match=r"ledger\.jsonl:\d: this entry, or one before it, is not as it was written"):
        ledger.entries()
    with pytest.raises(SpecError):
        ledger.register(forecast(inputs="new"))


def test_a_last_line_cut_short_by_a_crash_was_never_an_entry(ledger):
    first = ledger.register(forecast(inputs="0"))
    whole = ledger.path.read_text()
    head = ledger.head.read_text()
    second = ledger.register(forecast(inputs="1"))
    ledger.head.write_text(head)  # noted when the entry is whole
    cut = ledger.path.read_text()[: len(whole) + 40]
    ledger.path.write_text(cut)
    assert ledger.entries() == [first]
    again = ledger.register(forecast(inputs="1"))
    assert {k: v for k, v in again.items() if k not in ("time", "hash")} == {
        k: v for k, v in second.items() if k not in ("time", "hash")
    }
    assert len(ledger.entries()) == 2


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_entries_cut_off_the_end_are_missed(ledger, kept):
    for i in range(3):
        ledger.register(forecast(inputs=str(i)))
    whole = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text("".join(whole[:kept]))
    with pytest.raises(SpecError, match="entries were cut off"):
        ledger.entries()
    with pytest.raises(SpecError, match="entries were cut off"):
        ledger.register(forecast(inputs="new"))
    ledger.path.write_text("".join(whole))
    assert len(ledger.entries()) == 3


def test_a_note_of_an_older_entry_is_no_fault(ledger):
    """A crash comes between an entry and its note."""
    ledger.register(forecast(inputs="0"))
    head = ledger.head.read_text()
    ledger.register(forecast(inputs="1"))
    ledger.head.write_text(head)
    assert len(ledger.entries()) == 2
    ledger.head.unlink()
    assert len(ledger.entries()) == 2


OLD = """\
{"kind": "forecast", "sweep": "tiny", "inputs": "77c35b93f432cf38", "runs": ["bd351f406fe5"], "started_before": [], \
"law": "chinchilla", "level": 0.9, "params_convention": "total", "targets": [{"run_id": "c564b2b7d269", "flops": \
12000000000.0, "params": 2112, "tokens": 941568, "predicted": 1.6054, "interval": [1.5534, 1.6175]}, {"run_id": \
"c5cd96645d8a", "flops": 12000000000.0, "params": 2112, "tokens": 941568, "predicted": 1.5833, "interval": [1.5429, \
1.5958]}], "warnings": [], "time": "2026-11-23T13:39:29.130259+00:00", "previous": null, "hash": "ef600f0d1586c41a"}
{"kind": "score", "sweep": "tiny", "forecast": "ef600f0d1586c41a", "targets": [{"run_id": "c564b2b7d269", "measured": \
1.5855, "error": 0.01255124566382837, "inside": true}, {"run_id": "c5cd96645d8a", "measured": 1.6166, "error": \
-0.02059878757886935, "inside": false}], "time": "2026-11-23T13:39:29.135516+00:00", "previous": "ef600f0d1586c41a", \
"hash": "cb6e54a2d0083218"}
"""
"""Before targets had a reach, and before the newest entry was noted beside the ledger."""


def test_a_ledger_of_an_earlier_version_is_read_and_gone_on_with(ledger):
    ledger.path.write_text(OLD)
    first, score = ledger.entries()
    again = {key: first[key] for key in ("sweep", "inputs", "targets")}
    assert ledger.register(again) == first, "the same inputs and targets are the same forecast"
    assert ledger.registered(again | {"inputs": "other"}) == first
    assert ledger.score(first, score["targets"]) == score
    table = outcomes([ledger])
    assert table["verdict"].tolist() == ["hit", "miss"]
    assert calibration(table)["reach"][0]["reach"] == "not recorded"
    ledger.register(forecast())
    assert ledger.path.read_text().startswith(OLD)
    assert ledger.entries()[2]["previous"] == score["hash"]


def foretold(ledger, n, inside, *, level=0.9, reach=3.0, error=0.0, late=False):
    """So many forecasts of one run each, of which so many hold."""
    for i in range(n):
        target = {"run_id": f"{level}-{reach}-{i}-{late}", "flops": 1e20, "reach": reach, "predicted": 2.0}
        target["interval"] = [1.9, 2.1] if i < inside else [1.0, 1.1]
        entry = {"sweep": "s", "inputs": f"{level}{reach}{i}{late}", "level": level, "law": "chinchilla"}
        entry = ledger.register(entry | {"targets": [target], "started_before": ["r"] if late else []})
        measured = 2.0 / (1 + error * (1 if i % 2 else 3))
        ledger.score(entry, [{"run_id": target["run_id"]} | score_of(target, measured)])


def test_calibration_counts_what_was_foretold_and_nothing_else(ledger):
    foretold(ledger, 20, 17, level=0.9, reach=3.0, error=0.01)
    foretold(ledger, 10, 2, level=0.5, reach=8.0, error=0.01)
    foretold(ledger, 5, 5, level=0.9, late=True)
    ledger.register(
        forecast(run_id="waiting")
        | {"level": 0.9, "targets": [{"run_id": "w", "predicted": 1.0} | {"interval": [0, 2]}]}
    )
    diverged = ledger.register(
        forecast(inputs="d") | {"level": 0.9, "targets": [{"run_id": "d", "predicted": 1.0} | {"interval": [0, 2]}]}
    )
    ledger.score(diverged, [{"run_id": "d"} | score_of({}, None)])
    told = calibration(outcomes([ledger]))
    assert told["verdicts"] == {"hit": 19, "miss": 11, "late": 5, "waiting": 1, "diverged": 1}
    half, most = told["levels"]
    assert (half["level"], half["n"], half["inside"]) == (0.5, 10, 2)
    assert (most["level"], most["n"], most["inside"], most["share"]) == (0.9, 20, 17, 0.85)
    # Clopper and Pearson's interval of 17 of 20, as R's binom.test(17, 20) gives it.
    assert most["share_interval"] == pytest.approx([0.6210732, 0.9679291], abs=1e-6)
    assert most["error"] == pytest.approx(0.02)
    assert most["error_interval"][0] < 0.02 < most["error_interval"][1]
    assert [band["reach"] for band in told["reach"]] == ["2 to 4", "4 to 10"]
    assert told["notes"] == []


def test_runs_of_one_forecast_are_said_to_miss_together(ledger):
    ledger.path.write_text(OLD)
    (note,) = calibration(outcomes([ledger]))["notes"]
    assert "the 2 runs were foretold by 1 forecast," in note


def test_no_forecasts_are_no_error(ledger):
    told = calibration(outcomes([ledger]))
    assert (told["scored"], told["all"]["n"], told["levels"]) == (0, 0, [])


def register(path, name):
    ledger = Ledger(path)
    for i in range(20):
        ledger.register(forecast(inputs=f"{name}-{i}"))
        ledger.register(forecast(inputs=f"shared-{i}"))


def test_many_processes_write_one_sound_ledger(ledger):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=register, args=(ledger.path, str(n))) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    inputs = [entry["inputs"] for entry in ledger.entries()]
    assert len(inputs) == len(set(inputs)) == 4 * 20


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 1, "b": 3})
