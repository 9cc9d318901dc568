"""A folder that is looked at again and again is told as if it were looked at once, and little of it is read again."""

import contextlib
import json
import shutil
import sys

import pytest
from etils import epath

from nextscale.model.record import RunDirectory, append_row
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.watch import controller
from nextscale.sweeps.watch.status import status, status_of
from nextscale.sweeps.watch.watcher import Curve, Watcher

_opened = None
"""What is opened or listed, while somebody wants to know."""


def _audit(event, arguments):
    if _opened is not None and event in ("open", "os.listdir", "os.scandir"):
        _opened.append(str(arguments[0]))


sys.addaudithook(_audit)


@contextlib.contextmanager
def opened():
    global _opened
    _opened = found = []
    try:
        yield found
    finally:
        _opened = None


def told(watcher):
    """Without what moves with the clock."""
    found = (watcher if isinstance(watcher, dict) else status_of(watcher).to_dict()) | {}
    found["running"] = [run | {"seconds": None} for run in found["running"]]
    return found


def test_step_by_step_it_tells_what_a_fresh_look_tells(staged):
    sweep = staged()
    first, second, third, *_ = sweep.runs
    watcher = Watcher(sweep.out)
    steps = [
        lambda: sweep.start(first, "here-0"),
        lambda: sweep.start(second, "here-1"),
        lambda: sweep.train(first, 0.5),
        lambda: sweep.land(first),
        lambda: sweep.fail(second, "no luck"),
        lambda: sweep.start(third),
        lambda: sweep.train(third, 0.2),
        sweep.lease.close,
        lambda: shutil.rmtree(sweep.store.root / "controller"),
    ]
    assert watcher.look()
    for step in steps[:-1]:
        step()
        assert watcher.look()
        assert told(watcher) == told(status(sweep.out).to_dict())
        assert not watcher.look(), "nothing happened since"
    found = status_of(watcher)
    assert found.controller == "none"
    assert found.failures == {second.config.run_id: "no luck"}
    assert {state: n for state, n in found.runs.items() if n} == {
        "done": 1,
        "failed": 1,
        "unfinished": 1,
        "not started": len(sweep.runs) - 3,
    }


def test_a_finished_sweep_is_told_alike(swept, tmp_path):
    shutil.copytree(swept[1], tmp_path / "out")
    watcher = Watcher(tmp_path / "out")
    watcher.look()
    assert told(watcher) == told(status(tmp_path / "out").to_dict())
    assert status_of(watcher).runs["done"] == 10


def test_of_a_folder_in_which_nothing_happened_the_lease_alone_is_read(staged):
    sweep = staged()
    for i, run in enumerate(sweep.runs[:4]):
        sweep.start(run, f"here-{i}")
        sweep.train(run, 0.5)
    watcher = Watcher(sweep.out)
    watcher.look()
    with opened() as found:
        watcher.look()
    parts = {path.removeprefix(str(sweep.out)).split("/")[1] for path in found}
    assert parts <= {"controller", "sweeps"}
    assert not any("/runs" in path for path in found)


def test_when_a_run_lands_that_one_alone_is_read(staged):
    sweep = staged()
    for i, run in enumerate(sweep.runs):
        sweep.start(run, f"here-{i}")
        if i < 6:
            sweep.land(run)
    watcher = Watcher(sweep.out)
    watcher.look()
    sweep.land(sweep.runs[6])
    with opened() as found:
        assert watcher.look()
    runs = {path.removeprefix(f"{sweep.out}/runs/").split("/")[0] for path in found if "/runs/" in path}
    assert runs == {sweep.runs[6].config.run_id}
    assert f"{sweep.out}/runs" not in found, "the folder of all runs is not listed"


def test_of_a_curve_what_is_new_is_read(staged, called):
    sweep = staged()
    run = sweep.runs[0]
    sweep.start(run)
    sweep.train(run, 0.5)
    watcher = Watcher(sweep.out)
    watcher.look()
    assert status_of(watcher).running[0].share == pytest.approx(0.5, rel=0.01)
    assert status_of(watcher).running[0].speed is None
    sweep.train(run, 0.75)
    assert watcher.look()
    (running,) = status_of(watcher).running
    assert running.share == pytest.approx(0.75, rel=0.01)
    assert watcher.curves[run.config.run_id].tokens == [
        row["tokens"] for row in sweep.store.run(run.config.run_id).metrics()
    ]
    speed = {"tokens": run.tokens // 2, "seconds": 10.0, "tokens_per_second": 5e3, "data_seconds": 2.5, "loss": None}
    append_row(sweep.store.run(run.config.run_id).speed_file, speed | {"memory_bytes": "many"})
    assert watcher.look()
    timed = status_of(watcher).running[0].speed
    assert (timed["tokens_per_second"], timed["memory_bytes"], timed["utilisation"]) == (5e3, None, None)
    assert not watcher.look()
    assert status_of(watcher).running[0].speed == timed
    _, shown, _ = called("status", sweep.out)
    assert "tokens/s" in shown
    assert "5k" in shown
    assert "25.0%" in shown, "of its time its devices had no data"
    sweep.store.run(run.config.run_id).cut_curves(run.tokens // 4)
    assert watcher.look()
    assert status_of(watcher).running[0].speed is None
    assert status_of(watcher).running[0].share == pytest.approx(0.25, rel=0.01), "it was resumed from there"


def test_a_long_curve_is_thinned_and_keeps_its_newest_loss(tmp_path):
    file = tmp_path / "metrics.jsonl"
    curve = Curve(RunDirectory(epath.Path(tmp_path)))
    for part in range(3):
        with file.open("a") as writer:
            for i in range(part * 3000 + 1, (part + 1) * 3000 + 1):
                writer.write(json.dumps({"tokens": i, "loss": 1 / i}) + "\n")
        assert curve.look()
        assert len(curve.tokens) <= 2048
        assert curve.position == curve.tokens[-1] == (part + 1) * 3000
        assert curve.tokens == sorted(curve.tokens)
        assert curve.losses == [1 / i for i in curve.tokens]


def test_a_run_that_is_tried_again_has_not_failed(staged):
    sweep = staged()
    sweep.start(sweep.runs[0])
    sweep.fail(sweep.runs[0], "a bad day", for_good=False)
    found = status(sweep.out)
    assert (found.runs["failed"], found.runs["unfinished"], found.failures) == (0, 1, {})
    sweep.start(sweep.runs[0])
    sweep.fail(sweep.runs[0], "a bad day again")
    assert status(sweep.out).failures == {sweep.runs[0].config.run_id: "a bad day again"}


def test_what_comes_about_without_a_word_is_seen_in_time(staged):
    sweep = staged()
    for run in sweep.runs[:2]:
        sweep.start(run)
        sweep.land(run)
    patient, impatient = Watcher(sweep.out), Watcher(sweep.out, all_again=0.0)
    for watcher in (patient, impatient):
        watcher.look()
        assert status_of(watcher).runs["done"] == 2
    shutil.rmtree(sweep.store.root / "runs" / sweep.runs[0].config.run_id)
    assert impatient.look()
    assert status_of(impatient).runs["done"] == 1
    assert not patient.look()


def test_another_sweep_in_the_same_place_is_read_anew(staged, tmp_path):
    sweep = staged()
    sweep.start(sweep.runs[0])
    sweep.land(sweep.runs[0])
    watcher = Watcher(sweep.out)
    watcher.look()
    sweep.close()
    shutil.rmtree(sweep.out)
    with pytest.raises(SpecError, match="holds no sweep"):
        watcher.look()
    other = staged(name="other")
    other.start(other.runs[1])
    assert watcher.look()
    assert [spec.name for spec, _ in watcher.sweeps] == ["other"]
    assert told(watcher) == told(status(other.out).to_dict())


def test_a_controller_that_was_killed_is_seen_to_be_silent(staged, monkeypatch):
    sweep = staged()
    sweep.start(sweep.runs[0])
    sweep.train(sweep.runs[0], 0.3)
    sweep.lease._closed.set()
    sweep.lease._thread.join()
    watcher = Watcher(sweep.out)
    watcher.look()
    assert status_of(watcher).controller == "at work"
    monkeypatch.setattr(controller, "TIME_TO_LIVE", 0.0)
    assert watcher.look()
    found = status_of(watcher)
    assert (found.controller, found.running, found.runs["unfinished"]) == ("silent", [], 1)
    sweep.store.run(sweep.runs[0].config.run_id).write_record({"status": "done", "loss": 2.0})
    assert watcher.look(), "its worker may have come to the end all the same"
    assert status_of(watcher).runs["done"] == 1
