"""The ledger: entries are appended once, never rewritten, and a changed one is noticed."""

import json
import multiprocessing

import pytest

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Ledger, digest_of


def forecast(inputs="i", run_id="r", predicted=2.0):
    return {"sweep": "s", "inputs": inputs, "targets": [{"run_id": run_id, "predicted": predicted}]}


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.jsonl")


def test_a_forecast_is_registered_once_and_stands_as_first_written(ledger):
    first = ledger.forecast(forecast(predicted=2.0))
    assert ledger.forecast(forecast(predicted=2.1)) == first
    other = ledger.forecast(forecast(inputs="j"))
    assert [e["hash"] for e in ledger.entries()] == [first["hash"], other["hash"]]
    assert other["previous"] == first["hash"]


def test_a_score_belongs_to_its_forecast(ledger):
    entry = ledger.forecast(forecast())
    scored = ledger.score(entry, [{"run_id": "r", "measured": 2.1}])
    assert scored["forecast"] == entry["hash"]
    assert ledger.score(entry, [{"run_id": "r", "measured": 2.1}]) == scored
    assert ledger.entries()[0] == entry, "scoring leaves the forecast as it was"


@pytest.mark.parametrize("tamper", ["change", "remove", "reorder", "garble"])
def test_a_changed_ledger_is_noticed(ledger, tamper):
    for i in range(3):
        ledger.forecast(forecast(inputs=str(i)))
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
        ledger.forecast(forecast(inputs="new"))


def test_a_last_line_cut_short_by_a_crash_was_never_an_entry(ledger):
    first = ledger.forecast(forecast(inputs="0"))
    whole = ledger.path.read_text()
    second = ledger.forecast(forecast(inputs="1"))
    cut = ledger.path.read_text()[: len(whole) + 40]
    ledger.path.write_text(cut)
    assert ledger.entries() == [first]
    again = ledger.forecast(forecast(inputs="1"))
    assert {k: v for k, v in again.items() if k not in ("time", "hash")} == {
        k: v for k, v in second.items() if k not in ("time", "hash")
    }
    assert len(ledger.entries()) == 2


def register(path, name):
    ledger = Ledger(path)
    for i in range(20):
        ledger.forecast(forecast(inputs=f"{name}-{i}"))
        ledger.forecast(forecast(inputs=f"shared-{i}"))


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
