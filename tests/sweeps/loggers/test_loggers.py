"""Loggers in specs, beside a sweep and afterwards: TensorBoard, Weights & Biases and MLflow."""

import functools
import importlib.util
import json
import re
import shutil

import numpy as np
import pytest
from etils import epath

from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.job import Job
from nextscale.model.record import read_rows
from nextscale.sweeps.commands.app import main
from nextscale.sweeps.design.chosen_runs import ChosenRuns, Progress
from nextscale.sweeps.design.expand import planned_runs, run_of
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.loggers.sweep_export import export_folder, exporting
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run.journal import Journal
from nextscale.sweeps.spec.loggers import MlFlow, TensorBoard, WeightsAndBiases
from nextscale.sweeps.store import event_files
from nextscale.sweeps.store.store import Store


def test_beside_a_sweep_what_its_logger_cannot_take_is_taken_later(run, tmp_path, config):
    (run.store.root / "tensorboard").write_text("no folder")
    journal = Journal(run.store.root)
    job = Job(run_id=config.run_id, config=config, directory=str(run.directory.path), flops=1.0, steps=1, shape="")
    with exporting(
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
    assert export_folder(run.store, TensorBoard()) == {"done": 1, "begun": 0}
    (told,) = run.store.root.glob(f"tensorboard/*/{config.run_id}/*")
    assert event_files.read_run([told]).scalars["train/loss"] == run.curve("loss")


def test_runs_that_were_chosen_are_runs_of_their_sweep(spec_file, tmp_path, run_at):
    start = "{kind: isoflop, flops: [1.0e+9, 2e9], widths: [[4, 8, 12], [4, 8, 12]]}"
    path = spec_file()
    design = f"{{kind: sequential, flops: 2e10, start: {start}, widths: [4, 8], target: 1e11}}"
    spec = load_spec(path, [f"design={design}", "holdout=null"])
    store = Store.at(tmp_path / "out")
    store.write_spec(spec)
    chosen = run_of(spec, 8, 3e9, 0)
    ChosenRuns(store.root, spec).add([chosen], Progress(0.1, 2e9, None))
    run = run_at(store.root, chosen.config)
    run.train(128, 256)
    run.finish()
    assert export_folder(store, TensorBoard()) == {"done": 1, "begun": 0}
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
    from nextscale.sweeps.store.wandb_files import read_runs

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run.train(128, 256)
    run.evaluate(256)
    run.train(384)
    config = WeightsAndBiases(project="demo")
    assert export_folder(run.store, config) == {"done": 0, "begun": 1}
    run.train(512)
    run.finish()
    assert export_folder(run.store, config) == {"done": 1, "begun": 0}
    assert export_folder(run.store, config) == {"done": 1, "begun": 0}
    files = sorted(run.store.root.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2, "a session each, and none where there is nothing to tell"
    (one,) = read_runs(files)
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
    assert export_folder(run.store, config) == {"done": 0, "begun": 1}
    shutil.rmtree(run.store.root / "mlflow")  # as if it had crashed before it wrote down how far it was
    run.train(128 * 300)
    run.finish()
    assert export_folder(run.store, config) == {"done": 1, "begun": 0}
    client = MlflowClient(config.uri)
    (found,) = client.search_runs([client.get_experiment_by_name("runs").experiment_id])
    assert found.data.tags["nextscale.run_id"] == run.config.run_id
    assert found.info.status == "FINISHED"
    told = [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, "train/loss")]
    assert sorted(told) == [(row["tokens"], row["loss"]) for row in run.directory.metrics()]
    assert found.data.metrics["result/loss"] == 1.5
    assert found.data.params["training.lr"] == str(run.config.training.lr)


@pytest.mark.slow
@pytest.mark.soak
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
        told = event_files.read_run((tmp_path / "with" / "tensorboard" / "tiny" / run_id).iterdir())
        assert told.scalars["train/loss"] == [(row["tokens"], float(np.float32(row["loss"]))) for row in rows]
        assert told.ended
    assert not (tmp_path / "without" / "tensorboard").exists()
    notices = [row["text"] for row in Journal(tmp_path / "blocked").rows() if row["event"] == "notice"]
    assert [text for text in notices if text.startswith("tensorboard: ")] == notices[-1:]
    (tmp_path / "blocked" / "tensorboard").unlink()
    ended = nextscale("export", tmp_path / "blocked", "--to", "tensorboard", "--json")
    assert json.loads(ended.stdout) == {"logger": "tensorboard", "done": 15, "begun": 0}
