"""Loggers follow the files of runs: nothing missing, nothing twice, and training never waits for them."""

import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.job import Job
from nextscale.model.record import append_row, read_rows
from nextscale.sweeps.commands.app import main
from nextscale.sweeps.design.chosen_runs import Choices, Standing
from nextscale.sweeps.design.expand import planned_runs, run_of
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.loggers.base import Followed
from nextscale.sweeps.loggers.curve import Curve
from nextscale.sweeps.loggers.exporter import Exporter
from nextscale.sweeps.loggers.sweep_export import export, following
from nextscale.sweeps.loggers.tensorboard import TensorBoardLogger
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run.journal import Journal
from nextscale.sweeps.spec.loggers import MlFlow, TensorBoard, WeightsAndBiases
from nextscale.sweeps.store import event_files
from nextscale.sweeps.store.store import Store


class Run:
    """A run whose worker is this test: it writes what a worker writes, when the test says so."""

    def __init__(self, out, config):
        self.store, self.config = Store.at(out), config
        self.directory = self.store.run(config.run_id)
        self.directory.write_config(config)
        self.followed = Followed("tiny", config.run_id, self.directory)
        self.rng = np.random.default_rng(0)

    def train(self, *tokens):
        for position in tokens:
            loss, norm = self.rng.uniform(1, 3, 2)
            append_row(self.directory.metrics_file, {"tokens": position, "gradient_norm": norm, "loss": loss})

    def evaluate(self, tokens):
        loss = self.rng.uniform(1, 3)
        append_row(self.directory.evaluations_file, {"tokens": tokens, "lr": 0.01, "loss": loss, "bits_per_byte": None})

    def finish(self):
        tokens = self.directory.metrics()[-1]["tokens"]
        self.directory.write_record({"run_id": self.config.run_id, "status": "done", "tokens": tokens, "loss": 1.5})

    @property
    def event_file(self):
        (file,) = (self.store.root / "tensorboard" / "tiny" / self.config.run_id).iterdir()
        return file

    def told(self):
        return event_files.told([self.event_file])

    def curve(self, name, kind="train"):
        """A column as it was written, to 32 bits."""
        rows = self.directory.metrics() if kind == "train" else self.directory.evaluations()
        return [(row["tokens"], float(np.float32(row[name]))) for row in rows]


@pytest.fixture
def config(spec_file):
    return planned_runs(load_spec(spec_file()))[0].config


@pytest.fixture
def run(tmp_path, config):
    return Run(tmp_path / "out", config)


def exported(run, *, forget=False):
    """Another process's look at the files."""
    if forget:
        shutil.rmtree(run.store.root / "tensorboard" / ".exported")
    exporter = Exporter(TensorBoardLogger(run.store.root), run.store.root, pytest.fail)
    exporter.follow(run.followed)
    return exporter.export()


def steps_in(file):
    """Every step of the training curve that is in a file, as often as it is there."""
    values = [(event.step, value.tag) for _, event in event_files.events(file) for value in event.summary.value]
    return [step for step, tag in values if tag == "train/loss"]


def test_an_event_file_is_the_curves_the_config_and_the_result(run):
    run.train(128, 256)
    run.evaluate(256)
    run.train(384)
    run.evaluate(400)
    run.train(512)
    run.finish()
    assert exported(run) == 1
    told = run.told()
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
    assert exported(run) == 1
    assert exported(run, forget=True) == 1
    assert run.event_file.read_bytes() == before


def test_tensorboard_reads_the_same(run):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    )
    run.train(128, 256)
    exported(run)
    Path(run.directory.metrics_file).unlink()
    run.train(128, 256, 384)  # came out otherwise
    run.finish()
    exported(run)
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
    run.directory.cut(128)
    run.train(256)
    assert [point.tokens for point in curve.points(ended=True)] == [128, 256]


@pytest.mark.parametrize("state", ["kept", "lost"])
def test_a_file_cut_anywhere_goes_on_with_each_step_once(run, state):
    run.train(*range(128, 128 * 7, 128))
    exported(run)
    early = (run.store.root / "tensorboard" / ".exported" / "tiny" / f"{run.config.run_id}.json").read_text()
    half = run.event_file.read_bytes()
    run.train(128 * 7, 128 * 8, 128 * 9)
    run.finish()
    exported(run)
    whole = run.event_file.read_bytes()
    assert whole.startswith(half)
    for length in (*range(0, len(half), 37), *range(len(half), len(whole), 61), len(whole) - 1):
        run.event_file.write_bytes(whole[:length])
        shutil.rmtree(run.store.root / "tensorboard" / ".exported")
        if state == "kept":  # as it was when the first half was there
            note = run.store.root / "tensorboard" / ".exported" / "tiny" / f"{run.config.run_id}.json"
            note.parent.mkdir(parents=True)
            note.write_text(early)
        exported(run)
        assert steps_in(run.event_file) == [128 * i for i in range(1, 10)], length
        assert run.told().scalars["train/loss"] == run.curve("loss")
        assert run.told().ended


def killed_in_the_middle(run, logger, seen):
    """An exporter that follows a growing run is killed, twice, once it has exported something.

    Args:
        logger: makes it, as Python says it.
        seen: tells how many bytes it has written.
    """
    program = textwrap.dedent(f"""\
        from nextscale.sweeps.loggers.exporter import Exporter
        from nextscale.sweeps.spec.loggers import WeightsAndBiases
        from nextscale.sweeps.loggers.base import Followed
        from nextscale.sweeps.loggers.tensorboard import TensorBoardLogger
        from nextscale.sweeps.loggers.weights_and_biases import WeightsAndBiasesLogger
        from nextscale.sweeps.store.store import Store
        store = Store.at({str(run.store.root)!r})
        exporter = Exporter({logger}, store.root, print, every=0.001)
        exporter.follow(Followed("tiny", {run.config.run_id!r}, store.run({run.config.run_id!r})))
        exporter.start()
        exporter._thread.join()
    """)
    tokens = iter(range(128, 10**9, 128))
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", program])
        deadline, before = time.time() + 60, seen()
        while seen() < before + 2000:
            assert time.time() < deadline
            assert child.poll() is None
            run.train(next(tokens))
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    run.train(next(tokens))
    run.finish()


def test_kill_9_in_the_middle_leaves_no_gap_and_no_step_twice(run):
    def seen():
        return sum(file.stat().st_size for file in run.store.root.glob("tensorboard/tiny/*/*"))

    killed_in_the_middle(run, "TensorBoardLogger(store.root)", seen)
    exported(run)
    assert steps_in(run.event_file) == [row["tokens"] for row in run.directory.metrics()]
    assert run.told().scalars["train/loss"] == run.curve("loss")


@pytest.mark.slow
def test_kill_9_does_not_harm_weights_and_biases_either(run, monkeypatch):
    """Its client keeps what it is told in memory for a while, and dies too."""
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from nextscale.sweeps.store.wandb_files import told

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def files():
        return sorted(run.store.root.glob("wandb/offline-run-*/*.wandb"))

    logger = 'WeightsAndBiasesLogger(WeightsAndBiases(project="demo"), store.root)'
    killed_in_the_middle(run, logger, lambda: sum(file.stat().st_size for file in files()))
    assert export(run.store, WeightsAndBiases(project="demo")) == {"done": 1, "begun": 0}
    (one,) = told(files())
    assert [row["_step"] for row in one.history] == [row["tokens"] for row in run.directory.metrics()]
    assert one.exit_code == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_resumed_run_that_came_to_the_same_numbers_is_told_once(run, restarted):
    follower = Exporter(TensorBoardLogger(run.store.root), run.store.root, pytest.fail)
    follower.follow(run.followed)
    run.train(128, 256, 384, 512)
    follower.export()
    rows = Path(run.directory.metrics_file).read_text()
    run.directory.cut(128)
    (exported if restarted else lambda _: follower.export())(run)
    Path(run.directory.metrics_file).write_text(rows)
    run.train(640)
    run.finish()
    (exported if restarted else lambda _: follower.export())(run)
    assert steps_in(run.event_file) == [128, 256, 384, 512, 640]
    assert run.told().scalars["train/loss"] == run.curve("loss")


@pytest.mark.parametrize("restarted", [False, True])
def test_of_a_resumed_run_that_came_out_otherwise_the_old_steps_are_taken_back(run, restarted):
    follower = Exporter(TensorBoardLogger(run.store.root), run.store.root, pytest.fail)
    follower.follow(run.followed)
    run.train(128, 256, 384, 512)
    follower.export()
    old = run.curve("loss")
    run.directory.cut(128)
    run.train(256, 384)
    run.finish()
    (exported if restarted else lambda _: follower.export())(run)
    assert run.curve("loss")[0] == old[0]
    assert run.curve("loss")[1:] != old[1:3]
    assert run.told().scalars["train/loss"] == run.curve("loss")
    starts = [event.step for _, event in event_files.events(run.event_file) if event.HasField("session_log")]
    assert starts == ([0] if restarted else [129])
    assert run.told().ended


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


def test_beside_a_sweep_what_its_logger_cannot_take_is_taken_later(run, tmp_path, config):
    (run.store.root / "tensorboard").write_text("no folder")
    journal = Journal(run.store.root)
    job = Job(run_id=config.run_id, config=config, directory=str(run.directory.path), flops=1.0, steps=1, shape="")
    with following(
        ["tensorboard"], "tiny", run.store, [], lambda text: journal.note(Event("notice", message=text))
    ) as on:
        on(Event("started", job))
        run.train(128, 256)
        run.finish()
        on(Event("finished", job))
    (notice,) = journal.rows()
    assert notice["event"] == "notice"
    assert "tensorboard: " in notice["text"]
    (run.store.root / "tensorboard").unlink()
    assert export(run.store, TensorBoard()) == {"done": 1, "begun": 0}
    (told,) = run.store.root.glob(f"tensorboard/*/{config.run_id}/*")
    assert event_files.told([told]).scalars["train/loss"] == run.curve("loss")


def test_two_exporters_at_once_are_one(run):
    run.train(128, 256)
    exporter = Exporter(TensorBoardLogger(run.store.root), run.store.root, pytest.fail, every=0.01)
    exporter.follow(run.followed)
    exporter.start()
    try:
        deadline = time.time() + 20
        while not list(run.store.root.glob("tensorboard/tiny/*/*")):
            assert time.time() < deadline
            time.sleep(0.01)
        with pytest.raises(SpecError, match="does this by itself"):
            export(run.store, TensorBoard())
    finally:
        exporter.close(20)


def test_runs_that_were_chosen_are_runs_of_their_sweep(spec_file, tmp_path):
    start = "{kind: isoflop, flops: [1.0e+9, 2e9], widths: [[4, 8, 12], [4, 8, 12]]}"
    path = spec_file()
    design = f"{{kind: sequential, flops: 2e10, start: {start}, widths: [4, 8], target: 1e11}}"
    spec = load_spec(path, [f"design={design}", "holdout=null"])
    store = Store.at(tmp_path / "out")
    store.write_spec(spec)
    chosen = run_of(spec, 8, 3e9, 0)
    Choices(store.root, spec).add([chosen], Standing(0.1, 2e9, None))
    run = Run(store.root, chosen.config)
    run.train(128, 256)
    run.finish()
    assert export(store, TensorBoard()) == {"done": 1, "begun": 0}
    assert [path.parts[-2:] for path in store.root.glob("tensorboard/[!.]*/*")] == [("tiny", chosen.config.run_id)]


def test_loggers_are_no_part_of_what_a_run_means(spec_file):
    def ids(*overrides):
        return [run.config.run_id for run in planned_runs(load_spec(spec_file(), overrides))]

    assert ids() == ids("loggers=[]") == ids("loggers=[{kind: wandb, project: other}, mlflow]")


@pytest.mark.parametrize(
    ("loggers", "message"),
    [
        ("[tensorbord]", "loggers.0: should be 'tensorboard', 'wandb' or 'mlflow', not 'tensorbord'"),
        ("[wandb, {kind: wandb, projct: x}]", "loggers.1.projct: unknown key; did you mean `project`?"),
        ("[{project: x}]", "loggers.0: needs `kind` to be one of 'mlflow', 'tensorboard', 'wandb'"),
        ("[{kind: wandb, mode: dry}]", "loggers.0.mode: should be 'online' or 'offline', not 'dry'"),
    ],
)
def test_mistakes_are_one_line(spec_file, loggers, message):
    path = spec_file()
    path.write_text(path.read_text() + f"loggers: {loggers}\n")
    with pytest.raises(SpecError, match=re.escape(f"{path}:14: {message}")):
        load_spec(path)


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_what_is_not_installed_is_said_with_the_command_before_anything_is_trained(
    spec_file, tmp_path, kind, monkeypatch, capsys
):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == kind else found(name, *rest))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(spec_file()), "--out", str(tmp_path / "out"), "--set", f"loggers=[{kind}]"])
    assert ended.value.code == 2
    assert f"{kind}: is not installed; pip install 'nextscale[{kind}]'" in capsys.readouterr().err
    assert not list((tmp_path / "out" / "runs").iterdir())


def test_the_command_tells_what_it_did(run, called):
    run.train(128, 256, 384)
    export_to = functools.partial(called, "export", run.store.root, "--to")
    code, said, _ = export_to("tensorboard", "--json")
    assert code == 0
    assert json.loads(said) == {"logger": "tensorboard", "done": 0, "begun": 1}
    run.finish()
    assert "tensorboard has 1 runs to their end" in export_to("tensorboard")[1]
    assert export_to("tensorbord")[0] == 2
    assert "--set color=red: cannot be used" in export_to("tensorboard", "--set", "color=red")[2]


def test_weights_and_biases_offline(run, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from nextscale.sweeps.store.wandb_files import told

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run.train(128, 256)
    run.evaluate(256)
    run.train(384)
    config = WeightsAndBiases(project="demo")
    assert export(run.store, config) == {"done": 0, "begun": 1}
    run.train(512)
    run.finish()
    assert export(run.store, config) == {"done": 1, "begun": 0}
    assert export(run.store, config) == {"done": 1, "begun": 0}
    files = sorted(run.store.root.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2, "a session each, and none where there is nothing to tell"
    (one,) = told(files)
    assert one.run_id == run.config.run_id
    assert [(row["_step"], row["train/loss"]) for row in one.history] == [
        (row["tokens"], row["loss"]) for row in run.directory.metrics()
    ]
    assert one.config["training.lr"] == run.config.training.lr
    assert one.summary["result/loss"] == 1.5
    assert one.exit_code == 0


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_in_a_store_of_its_own(run, tmp_path):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="mlflow-skinny has no local database; pip install mlflow")
    from mlflow.tracking import MlflowClient

    config = MlFlow(uri=f"sqlite:///{tmp_path}/mlflow.db")
    run.train(*range(128, 128 * 300, 128))
    assert export(run.store, config) == {"done": 0, "begun": 1}
    shutil.rmtree(run.store.root / "mlflow")  # as if it had crashed before it wrote down how far it was
    run.train(128 * 300)
    run.finish()
    assert export(run.store, config) == {"done": 1, "begun": 0}
    client = MlflowClient(config.uri)
    (found,) = client.search_runs([client.get_experiment_by_name("runs").experiment_id])
    assert found.data.tags["nextscale.run_id"] == run.config.run_id
    assert found.info.status == "FINISHED"
    told = [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, "train/loss")]
    assert sorted(told) == [(row["tokens"], row["loss"]) for row in run.directory.metrics()]
    assert found.data.metrics["result/loss"] == 1.5
    assert found.data.params["training.lr"] == str(run.config.training.lr)


@pytest.mark.slow
def test_a_sweep_is_shown_and_is_the_same_without(spec_file, tmp_path, nextscale):
    for name, loggers in (("with", "[tensorboard]"), ("without", "[]"), ("blocked", "[tensorboard]")):
        out = tmp_path / name
        if name == "blocked":
            out.mkdir()
            (out / "tensorboard").write_text("no folder")
        ended = nextscale("run", spec_file(), "--out", out, "--set", f"loggers={loggers}")
        assert ended.returncode == 0, ended.stderr
    runs = sorted(folder.name for folder in (tmp_path / "with" / "runs").iterdir())
    assert len(runs) == 15
    for run_id in runs:
        rows = read_rows(epath.Path(tmp_path / "with" / "runs" / run_id / "metrics.jsonl"))
        assert rows == read_rows(epath.Path(tmp_path / "without" / "runs" / run_id / "metrics.jsonl"))
        told = event_files.told((tmp_path / "with" / "tensorboard" / "tiny" / run_id).iterdir())
        assert told.scalars["train/loss"] == [(row["tokens"], float(np.float32(row["loss"]))) for row in rows]
        assert told.ended
    assert not (tmp_path / "without" / "tensorboard").exists()
    notices = [row["text"] for row in Journal(tmp_path / "blocked").rows() if row["event"] == "notice"]
    assert [text for text in notices if text.startswith("tensorboard: ")] == notices[-1:]
    (tmp_path / "blocked" / "tensorboard").unlink()
    ended = nextscale("export", tmp_path / "blocked", "--to", "tensorboard", "--json")
    assert json.loads(ended.stdout) == {"logger": "tensorboard", "done": 15, "begun": 0}
