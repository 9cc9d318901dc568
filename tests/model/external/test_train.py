"""One attempt of a trainer: done, saved, failed or lost, by what it exits with and what it leaves."""

import json
import threading

import pytest

from nextscale.model.errors import InputError, Stopped
from nextscale.model.external.check import check_trainer
from nextscale.model.external.process import _strays
from nextscale.model.external.train import Place, TrainerFailed, TrainerLost, help_train, train_external

SAVES = """
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    state = os.path.join(out, "state")
    step = int(open(state).read()) if os.path.exists(state) else 0
    starts = len(open(os.path.join(os.path.dirname(out), "output.log")).readlines())  # each leaves a line there
    waits = {1: 3, 2: 6}.get(starts) if "alone" not in out else None
    while step < run["steps"]:
        step += 1
        row(step=step, loss=1 + 1 / step)
        with open(state + ".new", "w") as file: file.write(str(step))
        os.replace(state + ".new", state)
        while step == waits and not stopped: time.sleep(0.005)
        if stopped: sys.exit(75)
    result(loss=1 + 1 / step)
"""
"""Its first start waits at the third step until somebody ends it, its second at the sixth, unless left alone."""


def test_it_is_told_what_to_train_and_where(trained_by, written):
    run, directory = trained_by(
        """
        names = "NEXTSCALE_RUN_ID NEXTSCALE_DIR NNODES NODE_RANK NPROC_PER_NODE MASTER_ADDR MASTER_PORT".split()
        with open(os.path.join(out, "seen.json"), "w") as file:
            json.dump({"told": run, "here": os.getcwd()} | {name: os.environ[name] for name in names}, file)
        result(loss=2.5)
        """
    )
    record = train_external(run, directory)
    seen = written(directory, "seen.json")
    assert seen["told"] == {
        "run_id": run.run_id,
        "seed": 0,
        "tokens": 200,
        "steps": 20,
        "batch_tokens": 10,
        "flops": 1.2e6,
        "model": {"params": 1000, "flops_per_token": 6000.0, "layers": 2},
        "training": {"batch_tokens": 10, "steps": 20, "lr": 0.1},
        "data": {},
        "evaluation": {},
    }
    assert seen["here"] == run.trainer.folder
    assert (seen["NEXTSCALE_RUN_ID"], seen["NEXTSCALE_DIR"]) == (run.run_id, str(directory.trainer))
    alone = {"NNODES": "1", "NODE_RANK": "0", "NPROC_PER_NODE": "1", "MASTER_ADDR": "127.0.0.1"}
    assert {name: seen[name] for name in alone} == alone
    assert 0 < int(seen["MASTER_PORT"]) < 2**16
    assert (record["status"], record["loss"], record["tokens"], record["params"]) == ("done", 2.5, 200, 1000)
    assert directory.record() == record
    assert directory.config() == run
    assert train_external(run, directory) == record  # what is done is not done again


def test_what_it_says_of_itself_goes_before_what_was_planned(trained_by):
    run, directory = trained_by(
        """
        result(loss=2.0, bits_per_byte=3.0, params=999, tokens=210, accuracy=0.5, steps=7, seed=0, note="x", worst=None)
        """
    )
    record = train_external(run, directory)
    said = {"params": 999, "tokens": 210, "flops": 210 * 6000.0, "bits_per_byte": 3.0, "accuracy": 0.5, "steps": 20}
    assert {name: record[name] for name in said} == said
    assert [note.split()[0] for note in record["notes"]] == ["params", "tokens", "flops", "steps"]
    assert "note" not in record


@pytest.mark.parametrize("loss", ["float('nan')", "float('inf')", "-float('inf')", "None"])
def test_a_loss_that_is_no_number_is_a_run_that_diverged(trained_by, loss):
    run, directory = trained_by(f"result(loss={loss})")
    record = train_external(run, directory)
    assert (record["status"], record["loss"]) == ("diverged", None)
    assert "no number" in record["reason"]
    json.dumps(directory.record(), allow_nan=False)


NO_RESULT = {
    "pass": "left no result.json",
    "result(accuracy=1)": "has no loss",
    "result(loss='2.5')": "loss is '2.5', no number",
    "result(loss=True)": "loss is True, no number",
    "result(loss=-0.5)": "loss is -0.5; a loss in nats per token is above 0",
    "result(loss=0)": "is above 0",
    "result(loss=2, params=1.5)": "params is 1.5; it should be a whole number above 0",
    "result(loss=2, tokens='many')": "tokens is 'many'",
    "result(loss=2, flops=float('nan'))": "flops is nan",
    "open(os.path.join(out, 'result.json'), 'w').write('{\"loss\": 2.')": "cut short",
    "open(os.path.join(out, 'result.json'), 'w').write('[2.0]')": "no object of names",
    "open(os.path.join(out, 'result.json'), 'w').write('[' * 100000)": "no JSON",
    "os.mkdir(os.path.join(out, 'result.json'))": "cannot be read",
}


@pytest.mark.parametrize("text", NO_RESULT)
def test_a_result_that_cannot_be_used_is_one_clear_line(trained_by, text):
    run, directory = trained_by(text)
    with pytest.raises(InputError) as raised:
        train_external(run, directory)
    assert NO_RESULT[text] in str(raised.value)
    assert "\n" not in str(raised.value)
    assert directory.record() is None


def test_a_result_of_an_earlier_attempt_is_none_of_this_one(trained_by, written):
    run, directory = trained_by("sys.exit(0)")
    directory.trainer.mkdir(parents=True)
    (directory.trainer / "result.json").write_text('{"loss": 9.0}')
    with pytest.raises(InputError, match=r"left no result\.json"):
        train_external(run, directory)
    assert written(directory, "earlier-result.json") == {"loss": 9.0}


def test_a_failure_is_told_in_the_last_lines_of_its_stderr(trained_by):
    run, directory = trained_by(
        """
        print("to stdout")
        result(loss=2.0)
        raise RuntimeError("no GPU here")
        """
    )
    with pytest.raises(TrainerFailed, match=r"it exited with 1: .* RuntimeError: no GPU here"):
        train_external(run, directory)
    assert "to stdout" in directory.output_file.read_text()
    assert directory.record() is None


def test_what_has_saved_itself_goes_on_and_ends_as_if_it_had_not_been_stopped(trained_by):
    run, directory = trained_by(SAVES)
    starts = 0
    while directory.record() is None:
        starts += 1
        reached = directory.saved
        try:
            train_external(run, directory, stop=lambda at=reached: len(directory.metrics()) * 10 > at + 20)
        except Stopped as stopped:
            assert "has saved it" in str(stopped)
            directory.add_attempt({"status": "stopped", "saved": directory.metrics()[-1]["tokens"]})
            assert directory.saved > reached
    assert starts > 1
    assert [row["tokens"] for row in directory.metrics()] == list(range(10, 201, 10))
    assert directory.record()["loss"] == 1.05


@pytest.mark.parametrize(
    "text, why",
    [
        ("row(step=1, loss=2)\ntime.sleep(60)", "it was ended by SIGTERM where 75 would say that it is saved"),
        ("signal.signal(signal.SIGTERM, lambda *_: None)\nrow(step=1, loss=2)\nwhile 1: time.sleep(1)", "within 0.3 s"),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\nrow(step=1, loss=2)\ntime.sleep(60)", "exited with 1"),
    ],
)
def test_what_is_asked_to_stop_and_does_not_save_itself_is_lost(trained_by, text, why):
    run, directory = trained_by(text, stop_seconds=0.3)
    with pytest.raises(TrainerLost, match=why):
        train_external(run, directory, stop=lambda: len(directory.metrics()) > 0)
    assert _strays(f"{directory.trainer} 0 ") == []


def test_what_is_killed_is_lost(trained_by):
    run, directory = trained_by("row(step=1, loss=2)\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(TrainerLost, match="it was ended by SIGKILL"):
        train_external(run, directory)


def test_it_ends_with_whoever_loses_the_run(trained_by):
    run, directory = trained_by("row(step=1, loss=2)\ntime.sleep(60)")

    class Lost(Exception):
        pass

    def lose(tokens):
        if tokens:
            raise Lost

    with pytest.raises(Lost):
        train_external(run, directory, on_progress=lose)
    assert _strays(f"{directory.trainer} 0 ") == []


def test_a_source_that_has_changed_since_is_refused(trained_by, tmp_path):
    run, directory = trained_by("result(loss=2.0)")
    with (tmp_path / "train.py").open("a") as more:
        more.write("# another\n")
    with pytest.raises(InputError, match=r"trainer\.source: has changed"):
        train_external(run, directory)


def test_hosts_of_a_gang_are_told_of_each_other_and_the_first_says_how_it_ended(trained_by):
    run, directory = trained_by(
        """
        rank = os.environ["NODE_RANK"]
        place = [os.environ[name] for name in ("NNODES", "MASTER_ADDR", "MASTER_PORT")]
        open(os.path.join(out, rank), "w").write(" ".join(place))
        while not os.path.exists(os.path.join(out, str(1 - int(rank)))): time.sleep(0.01)
        if rank == "0":
            result(loss=2.0)
        """
    )
    places = [Place(2, rank, "10.0.0.7:1234") for rank in (0, 1)]
    other = threading.Thread(target=help_train, args=(run, directory, places[1]), daemon=True)
    other.start()
    assert train_external(run, directory, place=places[0])["status"] == "done"
    assert [(directory.trainer / name).read_text() for name in "01"] == ["2 10.0.0.7 1234"] * 2
    other.join(timeout=10.0)
    assert not other.is_alive()
    assert directory.output_file.with_name("output-1.log").exists()


def test_another_host_of_a_gang_says_that_it_failed(trained_by):
    run, directory = trained_by("sys.exit('no network')")
    directory.trainer.mkdir(parents=True)
    (directory.path / "trainer.json").write_text("{}")
    with pytest.raises(TrainerFailed, match="no network"):
        help_train(run, directory, Place(2, 1, "10.0.0.7:1234"))


class TestCheck:
    """`check_trainer` tells a trainer that keeps its contract from one that does not."""

    def points(self, run, tmp_path):
        return {point.point: point for point in check_trainer(run, tmp_path / "check", within=10.0)}

    def test_one_that_keeps_it(self, trained_by, tmp_path):
        run, _ = trained_by(SAVES)
        found = self.points(run, tmp_path)
        assert len(found) == 6
        assert all(point.kept for point in found.values()), found

    @pytest.mark.parametrize(
        "was, now, broken",
        [
            ("if stopped: sys.exit(75)", "if stopped: sys.exit(1)", "saves itself and exits with 75 on SIGTERM"),
            ("int(open(state).read())", "0", "goes on after it has exited with 75"),
            ("result(loss=1 + 1 / step)", "result(loss='low')", "exits with 0, and leaves a result.json"),
            (
                "row(step=step, loss=1 + 1 / step)",
                "row(step=step); row(loss=2)",
                "writes rows that can be read",
            ),
        ],
    )
    def test_one_that_does_not(self, trained_by, tmp_path, was, now, broken):
        run, _ = trained_by(SAVES.replace(was, now), stop_seconds=1.0)
        assert [name for name, point in self.points(run, tmp_path).items() if point.kept is False] == [broken]

    def test_one_that_is_asked_while_it_leaves_has_broken_nothing(self, trained_by, tmp_path):
        leaves = """if starts == 2:
            result(loss=1 + 1 / run["steps"])
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Python does at its end
            row(step=step, loss=1 + 1 / step)
            time.sleep(10)
        """
        run, _ = trained_by(SAVES.replace("row(step=step", leaves + "row(step=step"))
        found = self.points(run, tmp_path)
        assert found["saves itself and exits with 75 on SIGTERM"].kept is None
        assert all(point.kept is not False for point in found.values()), found

    def test_a_result_that_a_kill_changes_is_told(self, trained_by, tmp_path):
        run, _ = trained_by(SAVES.replace("result(loss=1 +", "result(loss=os.path.getmtime(state) % 1000 +"))
        point = self.points(run, tmp_path)["ends alike, killed or left alone"]
        assert point.kept is None
        assert "left alone" in point.seen
