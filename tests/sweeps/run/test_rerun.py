"""`rerun` and `drop`: a run is done again and nothing of it is lost, or is not to be trained at all."""

import json
import shutil
from pathlib import Path

import pytest

from nextscale.cluster.controller.job import Outcome
from nextscale.cluster.controller.lease import Lease
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.plan.plan import plan_sweep
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run import session
from nextscale.sweeps.run.loop import run_study
from nextscale.sweeps.run.rerun import drop, rerun, take_back
from nextscale.sweeps.store.store import load
from nextscale.sweeps.store.verify import verify
from nextscale.sweeps.study.study import Study
from nextscale.sweeps.watch.status import status


@pytest.fixture
def spec(swept):
    return load_spec(swept[0])


@pytest.fixture
def out(swept, tmp_path):
    """A sweep that was run to its scored forecast."""
    return Path(shutil.copytree(swept[1], tmp_path / "out"))


@pytest.fixture
def trained(monkeypatch, in_process_backend):
    """Runs a spec in a folder: the summary, and the ids of the runs that were started. Those in `never` are refused."""

    def run(spec, out, never=()):
        started = []

        def before(job):
            started.append(job.run_id)
            return Outcome("input", "no luck") if job.run_id in never else None

        monkeypatch.setattr(
            session, "RayBackend", type("Backend", (in_process_backend,), {"before": staticmethod(before)})
        )
        return run_study(spec, out), started

    return run


def held_out(spec, out):
    return [run.config.run_id for run in Study(spec, out).runs("holdout")]


class TestRerun:
    @pytest.mark.slow
    def test_it_is_trained_again_and_what_it_was_is_kept(self, spec, out, trained):
        run_id = held_out(spec, out)[0]
        before, ledger = Study(spec, out).store.record(run_id), (out / "ledger.jsonl").read_bytes()
        (one,) = rerun(out, [run_id[:6]])
        assert (one.run_id, one.was, len(one.scored)) == (run_id, "done", 1)
        assert json.loads((Path(one.kept) / "record.json").read_text()) == before
        assert [row["run_id"] for row in plan_sweep(spec, out, simulate=False).runs if not row["done"]] == [run_id]
        summary, started = trained(spec, out)
        assert started == [run_id]
        assert Study(spec, out).store.record(run_id)["loss"] == before["loss"]
        assert (out / "ledger.jsonl").read_bytes() == ledger, "the score stands, and no second forecast is made"
        assert not any("done again" in warning for warning in summary["warnings"])
        assert verify(out)[1] == []
        assert rerun(out, [run_id])[0].kept.endswith(f"{run_id}-2")

    @pytest.mark.slow
    def test_another_loss_is_told_and_the_score_stands(self, spec, out, trained):
        run_id = held_out(spec, out)[0]
        (one,) = rerun(out, [run_id])
        shutil.copytree(one.kept, out / "runs" / run_id)
        file = out / "runs" / run_id / "record.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"loss": record["loss"] + 0.5}))
        summary, _ = trained(spec, out)
        (told,) = [warning for warning in summary["warnings"] if "done again" in warning]
        assert f"the score stands by {record['loss']}" in told
        assert not any("ledger" in fault.where for fault in verify(out)[1])

    def test_what_is_foretold_after_its_loss_was_known_is_no_forecast(self, spec, out):
        study = Study(spec, out)
        (forecast,) = [entry for entry in study.ledger.entries() if entry["kind"] == "forecast"]
        rerun(out, held_out(spec, out))
        analysis = study.analyse()
        assert study.register(analysis) == forecast
        (out / "ledger.jsonl").unlink()
        (out / "ledger.head").unlink()
        late = Study(spec, out).register(analysis)
        assert late["started_before"] == held_out(spec, out)
        assert "it is no forecast" in late["warnings"][-1]

    def test_one_that_failed(self, spec, out, called):
        run_id = Study(spec, out).runs("fit")[0].config.run_id
        (out / "runs" / run_id / "record.json").unlink()
        with (out / "runs" / run_id / "attempts.jsonl").open("a") as attempts:
            attempts.write(json.dumps({"status": "stopped", "message": "it has saved itself"}) + "\n")
        with pytest.raises(SpecError, match=f"run {run_id}: is not finished and did not fail; `nextscale run` goes on"):
            rerun(out, [run_id])
        with (out / "runs" / run_id / "attempts.jsonl").open("a") as attempts:
            attempts.write(json.dumps({"status": "error", "message": "no luck"}) + "\n")
        code, told, _ = called("rerun", out, run_id, "--json")
        assert (code, json.loads(told)["runs"][0]["was"]) == (0, "failed")
        assert not (out / "runs" / run_id).exists()

    @pytest.mark.parametrize("command", ["rerun", "drop"])
    def test_what_makes_no_sense_is_one_line_and_changes_nothing(self, spec, out, called, command):
        run_id = Study(spec, out).planned[0].config.run_id
        files = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
        says = {
            ("nothing",): r"run nothing: none of .* is there under this name",
            (run_id, "nothing"): r"run nothing: none of",
            ("",): r"run : none of",
        }
        for names, line in says.items():
            code, _, told = called(command, out, *names)
            assert code == 2
            assert told.count("\n") == 1
            with pytest.raises(SpecError, match=line):
                {"rerun": rerun, "drop": drop}[command](out, names)
        shutil.copytree(out / "runs" / run_id, out / "runs" / f"{run_id[:-1]}x")
        if command == "rerun":
            with pytest.raises(SpecError, match=rf"run {run_id[:-1]}: 2 runs begin so \(.*\); give more of it"):
                rerun(out, [run_id[:-1]])
        shutil.rmtree(out / "runs" / f"{run_id[:-1]}x")
        with Lease(out / "controller"):
            assert "a controller is at work there; `nextscale stop` it" in called(command, out, run_id)[2]
        with Lease(out / "runs" / run_id), pytest.raises(SpecError):
            {"rerun": rerun, "drop": drop}[command](out, [run_id])
        assert {path: path.stat().st_mtime_ns for path in files} == files or command == "rerun"
        assert not (out / "set-aside").exists()
        assert not (out / "dropped.jsonl").exists()


class TestDrop:
    @pytest.fixture
    def left(self, spec, out):
        """The same, with one run of the fit and all that came of it taken out."""
        run_id = Study(spec, out).runs("fit")[0].config.run_id
        for path in (out / "runs" / run_id, *map(out.__truediv__, [f"runs/{one}" for one in held_out(spec, out)])):
            shutil.rmtree(path)
        for name in ("ledger.jsonl", "ledger.head"):
            (out / name).unlink()
        return run_id

    @pytest.mark.slow
    def test_it_is_neither_failed_nor_left_and_the_forecast_is_made_without_it(self, spec, out, left, trained, called):
        summary, _ = trained(spec, out, never=[left])
        assert summary["runs"]["failed"] == 1
        assert not Ledger(out / "ledger.jsonl").entries(), "a run that it rests on has no result"
        assert called("drop", out, left, "--reason", "no luck")[0] == 0
        assert status(out).runs["dropped"] == 1
        assert status(out).runs["not started"] == 2
        row = load(out).set_index("run_id").loc[left]
        assert (row["status"], row["reason"]) == ("dropped", "no luck")
        assert "dropped" in called("runs", out)[1]
        assert [text for text in plan_sweep(spec, out, simulate=False).warnings if left in text and "dropped" in text]
        summary, started = trained(spec, out)
        assert left not in started
        assert summary["runs"] == {"done": 9, "reused": 7, "failed": 0}
        assert any("1 runs are dropped" in warning for warning in summary["warnings"])
        (forecast, _) = Ledger(out / "ledger.jsonl").entries()
        assert left not in forecast["runs"]
        assert (status(out).runs["done"], status(out).runs["dropped"], sum(status(out).runs.values())) == (9, 1, 10)
        assert called("fit", out, "--resamples", "100")[0] == 0
        assert verify(out)[1] == []
        assert take_back(out, [left[:8]]) == [left]
        assert [run.config.run_id for run in Study(spec, out).missing("fit")] == [left]

    def test_branches_of_a_trunk_that_is_dropped_are_trained_whole(self, spec, out):
        trunk = next(run for run in Study(spec, out).runs("fit") if run.trunk is not None).trunk.run_id
        branches = [run.config.run_id for run in Study(spec, out).planned if run.trunk and run.trunk.run_id == trunk]
        for run_id in (trunk, *branches):
            shutil.rmtree(out / "runs" / run_id)
        drop(out, [trunk])
        left = [row for row in plan_sweep(spec, out, simulate=False).runs if not row["done"]]
        assert {row["run_id"] for row in left} == set(branches)
        assert all(row["trunk"] is None and row["own_flops"] == row["flops"] for row in left)

    def test_what_is_needed_is_not_dropped(self, spec, out, left):
        with pytest.raises(SpecError, match="has its result, and nothing is left to be trained of it"):
            drop(out, [Study(spec, out).runs("fit")[1].config.run_id])
        with pytest.raises(SpecError, match="sweep swept would have no run to forecast left; change its spec"):
            drop(out, held_out(spec, out))
        study = Study(spec, out)
        study.register(study.analyse())
        with pytest.raises(
            SpecError, match=r"forecast \w+ is of it, and is scored by all runs that it names; train it"
        ):
            drop(out, held_out(spec, out)[:1])
        with pytest.raises(SpecError, match="is dropped under this name"):
            take_back(out, [left])
        assert not (out / "dropped.jsonl").exists()
