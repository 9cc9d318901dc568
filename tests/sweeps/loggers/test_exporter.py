"""The exporter follows the files of runs: nothing missing, nothing twice, and training never waits for it."""

import shutil
import time
from pathlib import Path

import pytest

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.loggers.curve import Curve
from nextscale.sweeps.loggers.exporter import Exporter
from nextscale.sweeps.loggers.sweep_export import export_folder
from nextscale.sweeps.loggers.tensorboard import TensorBoardLogger
from nextscale.sweeps.spec.loggers import TensorBoard, WeightsAndBiases
from nextscale.sweeps.store import event_files


def test_an_event_file_is_the_curves_the_config_and_the_result(run):
    run.train(128, 256)
    run.evaluate(256)
    run.train(384)
    run.evaluate(400)
    run.train(512)
    run.finish()
    assert run.exported() == 1
    told = run.exported_events()
    assert told.scalars["train/loss"] == run.curve("loss")
    assert told.scalars["train/gradient_norm"] == run.curve("gradient_norm")
    assert told.scalars["eval/loss"] == run.curve("loss", "eval")
    assert "eval/bits_per_byte" not in told.scalars, "what was no number is no point"
    assert told.scalars["result/loss"] == [(512, 1.5)]
    assert told.hparams["training.lr"] == pytest.approx(run.config.training.lr)
    assert told.hparams["data.source"] == "markov"
    assert told.hparams["run_id"] == run.config.run_id
    assert told.ended
    before = run.event_file.read_bytes()
    assert run.exported() == 1
    assert run.exported(forget=True) == 1
    assert run.event_file.read_bytes() == before


def test_tensorboard_reads_the_same(run):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    )
    run.train(128, 256)
    run.exported()
    Path(run.directory.metrics_file).unlink()
    run.train(128, 256, 384)  # came out otherwise
    run.finish()
    run.exported()
    reader = accumulator.EventAccumulator(str(run.event_file.parent), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in reader.Scalars("train/loss")] == run.curve("loss")
    assert "_hparams_/session_end_info" in reader.summary_metadata


def test_points_come_as_they_are_complete(run):
    curve = Curve(run.directory)
    assert curve.points(ended=False) == []
    run.train(128, 256)
    assert [point.tokens for point in curve.points(ended=False)] == [128], "an evaluation at 256 may yet come"
    run.evaluate(256)
    with Path(run.directory.metrics_file).open("a") as file:
        file.write('{"tokens": 384, "lo')
    assert [point.tokens for point in curve.points(ended=False)] == [128]
    with Path(run.directory.metrics_file).open("a") as file:
        file.write('ss": 2.0}\n')
    points = curve.points(ended=False)
    assert [point.tokens for point in points] == [128, 256]
    assert points[1].values.keys() == {"train/loss", "train/gradient_norm", "eval/lr", "eval/loss"}
    assert [point.tokens for point in curve.points(ended=True)] == [128, 256, 384]
    run.directory.cut_curves(128)
    run.train(256)
    assert [point.tokens for point in curve.points(ended=True)] == [128, 256]


@pytest.mark.parametrize("state", ["kept", "lost"])
def test_a_file_cut_anywhere_goes_on_with_each_step_once(run, state):
    run.train(*range(128, 128 * 7, 128))
    run.exported()
    early = (run.store.root / "tensorboard" / ".exported" / "tiny" / f"{run.config.run_id}.json").read_text()
    half = run.event_file.read_bytes()
    run.train(128 * 7, 128 * 8, 128 * 9)
    run.finish()
    run.exported()
    whole = run.event_file.read_bytes()
    assert whole.startswith(half)
    for length in (*range(0, len(half), 37), *range(len(half), len(whole), 61), len(whole) - 1):
        run.event_file.write_bytes(whole[:length])
        shutil.rmtree(run.store.root / "tensorboard" / ".exported")
        if state == "kept":  # as it was when the first half was there
            note = run.store.root / "tensorboard" / ".exported" / "tiny" / f"{run.config.run_id}.json"
            note.parent.mkdir(parents=True)
            note.write_text(early)
        run.exported()
        assert run.exported_steps() == [128 * i for i in range(1, 10)], length
        assert run.exported_events().scalars["train/loss"] == run.curve("loss")
        assert run.exported_events().ended


@pytest.mark.slow
def test_kill_9_in_the_middle_leaves_no_gap_and_no_step_twice(run):
    def seen():
        return sum(file.stat().st_size for file in run.store.root.glob("tensorboard/tiny/*/*"))

    run.exporter_killed("TensorBoardLogger(TensorBoard(), store.root)", seen)
    run.exported()
    assert run.exported_steps() == [row["tokens"] for row in run.directory.metrics()]
    assert run.exported_events().scalars["train/loss"] == run.curve("loss")


@pytest.mark.slow
def test_kill_9_does_not_harm_weights_and_biases_either(run, monkeypatch):
    """Its client keeps what it is told in memory for a while, and dies too."""
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from nextscale.sweeps.store.wandb_files import read_runs

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def files():
        return sorted(run.store.root.glob("wandb/offline-run-*/*.wandb"))

    logger = 'WeightsAndBiasesLogger(WeightsAndBiases(project="demo"), store.root)'
    run.exporter_killed(logger, lambda: sum(file.stat().st_size for file in files()))
    assert export_folder(run.store, WeightsAndBiases(project="demo")) == {"done": 1, "begun": 0}
    (one,) = read_runs(files())
    assert [row["_step"] for row in one.history] == [row["tokens"] for row in run.directory.metrics()]
    assert one.exit_code == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_resumed_run_that_came_to_the_same_numbers_is_told_once(run, restarted):
    follower = Exporter(TensorBoardLogger(TensorBoard(), run.store.root), run.store.root, pytest.fail)
    follower.follow(run.followed)
    run.train(128, 256, 384, 512)
    follower.export()
    rows = Path(run.directory.metrics_file).read_text()
    run.directory.cut_curves(128)
    (run.exported if restarted else follower.export)()
    Path(run.directory.metrics_file).write_text(rows)
    run.train(640)
    run.finish()
    (run.exported if restarted else follower.export)()
    assert run.exported_steps() == [128, 256, 384, 512, 640]
    assert run.exported_events().scalars["train/loss"] == run.curve("loss")


@pytest.mark.parametrize("restarted", [False, True])
def test_of_a_resumed_run_that_came_out_otherwise_the_old_steps_are_taken_back(run, restarted):
    follower = Exporter(TensorBoardLogger(TensorBoard(), run.store.root), run.store.root, pytest.fail)
    follower.follow(run.followed)
    run.train(128, 256, 384, 512)
    follower.export()
    old = run.curve("loss")
    run.directory.cut_curves(128)
    run.train(256, 384)
    run.finish()
    (run.exported if restarted else follower.export)()
    assert run.curve("loss")[0] == old[0]
    assert run.curve("loss")[1:] != old[1:3]
    assert run.exported_events().scalars["train/loss"] == run.curve("loss")
    starts = [event.step for _, event in event_files.events(run.event_file) if event.HasField("session_log")]
    assert starts == ([0] if restarted else [129])
    assert run.exported_events().ended


class Broken:
    """A service that is down."""

    kind, place = "wandb", ""

    def __init__(self, out):
        self.folder, self.calls = out / "broken", 0

    def open(self, run):
        self.calls += 1
        raise ConnectionError("the service is down")


class Stuck(Broken):
    """One that never answers."""

    def open(self, run):
        time.sleep(3600)


def test_a_service_that_is_down_is_noted_once_and_asked_again(run):
    said, broken = [], Broken(run.store.root)
    exporter = Exporter(broken, run.store.root, said.append, every=0.01)
    exporter.follow(run.followed)
    run.train(128, 256)
    exporter.start()
    deadline = time.time() + 20
    while broken.calls < 3:
        assert time.time() < deadline
        time.sleep(0.01)
    exporter.close(20)
    assert len(said) == 1
    assert "wandb: the service is down" in said[0]
    assert f"nextscale export {run.store.root} --to wandb" in said[0]


def test_a_service_that_never_answers_holds_nobody_up(run):
    said = []
    exporter = Exporter(Stuck(run.store.root), run.store.root, said.append)
    exporter.follow(run.followed)
    run.train(128, 256)
    exporter.start()
    began = time.perf_counter()
    exporter.close(0.3)
    assert time.perf_counter() - began < 5
    assert "had not taken everything" in said[0]


@pytest.mark.slow
def test_two_exporters_at_once_are_one(run):
    run.train(128, 256)
    exporter = Exporter(TensorBoardLogger(TensorBoard(), run.store.root), run.store.root, pytest.fail, every=0.01)
    exporter.follow(run.followed)
    exporter.start()
    try:
        deadline = time.time() + 20
        while not list(run.store.root.glob("tensorboard/tiny/*/*")):
            assert time.time() < deadline
            time.sleep(0.01)
        with pytest.raises(SpecError, match="does this by itself"):
            export_folder(run.store, TensorBoard())
    finally:
        exporter.close(20)
