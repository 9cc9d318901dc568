"""Runs from elsewhere beside a folder's own: seen by every command, once each, and where they come from is known."""

import hashlib
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import as_runs, fit
from nextscale.sweeps.store import event_files
from nextscale.sweeps.store.store import load
from nextscale.sweeps.watch.status import status

NAMED = ("--params-column", "N", "--tokens-column", "D", "--loss-column", "val")


@pytest.fixture
def imported(called, tmp_path):
    """Imports, and returns what `--json` says of each file."""

    def run(*arguments, out="out"):
        code, said, error = called("import", *arguments, "--out", tmp_path / out, "--json")
        assert code == 0, error
        return json.loads(said)["imported"]

    return run


def table(rows=20):
    rng = np.random.default_rng(0)
    params, tokens = np.geomspace(1e6, 1e8, rows), rng.permutation(np.geomspace(1e8, 1e10, rows))
    loss = 1.7 + 400 / params**0.34 + 410 / tokens**0.28 + 0.002 * rng.standard_normal(rows)
    recipe = ["cosine", "wsd"] * (rows // 2)
    return pd.DataFrame({"N": params, "D": tokens, "val": loss, "recipe": recipe, "status": "great"})


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "theirs.csv"
    table().to_csv(path, index=False)
    return path


WRITERS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True, double_precision=15),
    "parquet": lambda frame, path: frame.to_parquet(path),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "parquet")) for kind in WRITERS]
)
def test_a_table_is_fitted_as_it_would_be_alone(imported, called, tmp_path, kind):
    path = tmp_path / f"theirs.{kind}"
    WRITERS[kind](table(), path)
    (told,) = imported(path, *NAMED)
    assert told["runs"] == 20
    assert told["change"] == "new"
    alone = json.loads(called("fit", path, *NAMED, "--resamples", "100", "--json")[1])
    beside = json.loads(called("fit", tmp_path / "out", "--resamples", "100", "--json")[1])
    assert beside["n"] == 20
    assert beside["parameters"] == pytest.approx(alone["parameters"], rel=1e-5)
    code, out, _ = called("frontier", tmp_path / "out", "--flops", "1e19", "--json")
    assert code == 0
    assert json.loads(out)["rows"]


def test_every_run_says_where_it_comes_from(imported, called, tmp_path, csv):
    imported(csv, *NAMED)
    found = load(tmp_path / "out").set_index("imported_row").sort_index()
    assert list(found.index) == list(range(20))
    assert (found["imported_from"] == str(csv)).all()
    assert (found["status"] == "imported").all(), "a column of the file does not stand for ours"
    assert list(found["recipe"]) == list(table()["recipe"]), "but what is its own can be chosen by"
    assert found["run_id"].str.fullmatch("i[0-9a-f]{11}").all()
    assert found["run_id"].is_unique
    np.testing.assert_allclose(found["loss"], table()["val"])
    (kept,) = (tmp_path / "out" / "imports").iterdir()
    content = json.loads(kept.read_text())
    assert content["sha256"] == hashlib.sha256(csv.read_bytes()).hexdigest()
    assert content["columns"]["loss_column"] == "val"
    assert content["original_columns"] == ["N", "D", "val", "recipe", "status"]
    assert content["runs"][3]["original"]["status"] == "great"
    assert json.loads(called("fit", tmp_path / "out", "--where", "recipe == 'wsd'", "--json")[1])["n"] == 10
    assert len(json.loads(called("runs", tmp_path / "out", "--json")[1])["runs"]) == 20
    assert sum(status(tmp_path / "out").runs.values()) == 0, "nobody trains them here"


def test_twice_is_once_and_other_columns_take_the_place_of_before(imported, tmp_path, csv):
    imported(csv, *NAMED)
    (kept,) = (tmp_path / "out" / "imports").iterdir()
    before = kept.read_bytes(), kept.stat().st_mtime_ns
    assert imported(csv, *NAMED)[0]["change"] == "same"
    shutil.copy(csv, tmp_path / "copy.csv")
    assert imported(tmp_path / "copy.csv", *NAMED)[0]["change"] == "same", "a file is what is in it"
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == before
    assert imported(csv, *NAMED, "--where", "recipe == 'wsd'")[0]["change"] == "replaced"
    assert len(load(tmp_path / "out")) == 10


def test_a_row_that_two_files_have_is_one_run_and_is_said(imported, tmp_path, csv):
    imported(csv, *NAMED)
    longer = tmp_path / "longer.csv"
    pd.concat([pd.read_csv(csv), table(4).assign(recipe="new")]).to_csv(longer, index=False)
    (told,) = imported(longer, *NAMED)
    assert told["runs"] == 24
    assert told["known"] == 20
    found = load(tmp_path / "out")
    assert len(found) == 24
    assert (found["imported_from"] == str(csv)).sum() == 20


def test_of_two_files_the_one_imported_first_counts_whatever_their_times(imported, tmp_path, csv):
    (tmp_path / "again.csv").write_text(csv.read_text() + "\n")
    for path, data in ((csv, "one"), (tmp_path / "again.csv", "two")):
        imported(path, *NAMED, "--data", data)
    for i, path in enumerate(sorted((tmp_path / "out" / "imports").glob("*.json"), key=os.path.getmtime)):
        os.utime(path, (10**9 - i, 10**9 - i))
    assert set(load(tmp_path / "out")["data"]) == {"one"}


def test_what_is_no_number_or_twice_is_left_out_and_said(imported, tmp_path):
    rows = table()
    rows.loc[0, "val"], rows.loc[1, "D"], rows.loc[2, "N"] = np.nan, np.inf, -1
    path = tmp_path / "odd.csv"
    pd.concat([rows, rows.iloc[5:7]]).to_csv(path, index=False)
    (told,) = imported(path, *NAMED)
    assert told["runs"] == 17
    assert any("3 of 22 rows left out" in text for text in told["notes"])
    assert any("2 rows left out: exact duplicates" in text for text in told["notes"])


LABELS = {
    "repeated": list(range(10)) * 2,
    "words": [f"run{i}" for i in range(20)],
    "named": pd.Index(range(5, 25), name="number"),
}


@pytest.mark.parametrize(
    ("kind", "labels"), [("parquet", "repeated"), ("parquet", "words"), ("parquet", "named"), ("json", "words")]
)
def test_labels_of_rows_are_not_taken_for_their_numbers(imported, tmp_path, kind, labels):
    rows, path = table().set_axis(LABELS[labels]), tmp_path / f"theirs.{kind}"
    if kind == "parquet":
        rows.to_parquet(path)
    else:
        rows.to_json(path, double_precision=15)
    (told,) = imported(path, *NAMED)
    assert told["runs"] == 20
    assert not any("duplicates" in text for text in told["notes"])
    found = load(tmp_path / "out").set_index("imported_row").sort_index()
    assert list(found.index) == list(range(20))
    np.testing.assert_allclose(found["loss"], table()["val"])
    (kept,) = (tmp_path / "out" / "imports").iterdir()
    for run in json.loads(kept.read_text())["runs"]:
        assert run["loss"] == pytest.approx(run["original"]["val"]), "a run has its own row beside it"


def test_what_n_counts_is_kept(imported, called, tmp_path, csv):
    imported(csv, *NAMED, "--count", "non_embedding")
    assert load(tmp_path / "out")["params"].isna().all()
    beside = json.loads(called("fit", tmp_path / "out", "--count", "non_embedding", "--json")[1])
    assert beside["params_convention"] == "non_embedding"
    assert called("fit", tmp_path / "out")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs two of params, tokens and flops"),
        (("--params-column", "N", "--tokens-column", "D"), "name it with --loss-column"),
        ((*NAMED, "--from", "tensorboard"), "is no scalar downloaded from TensorBoard"),
        ((*NAMED, "--from", "wandb"), "is no export of Weights & Biases"),
        ((*NAMED, "--with", "flops"), "--with flops: write it as NAME=EXPRESSION"),
        ((*NAMED, "--with", "flops=6*nothing"), "--with flops=6*nothing: cannot be used"),
        ((*NAMED, "--where", "nothing > 1"), "--where nothing > 1: cannot be used"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(called, tmp_path, csv, arguments, message):
    if not arguments:
        table().rename(columns={"val": "loss", "D": "seen"}).to_csv(csv, index=False)
    code, _, error = called("import", csv, "--out", tmp_path / "out", *arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "imports").exists()
    assert called("import", csv, tmp_path / "gone.csv", "--out", tmp_path / "out", *NAMED)[0] == 2
    assert not (tmp_path / "out" / "imports").exists()


def test_a_damaged_import_is_named(imported, called, tmp_path, csv):
    imported(csv, *NAMED)
    (kept,) = (tmp_path / "out" / "imports").iterdir()
    kept.write_text("{")
    code, _, error = called("runs", tmp_path / "out")
    assert code == 2
    assert f"{kept}: is damaged; delete it" in error


def test_imported_and_own_runs_are_fitted_as_one_only_if_they_are_said_to_be_of_one_data(
    imported, called, tmp_path, csv, spec_file
):
    from nextscale.sweeps.design.expand import planned_runs
    from nextscale.sweeps.plan.spec_files import load_spec
    from nextscale.sweeps.store.store import Store

    store = Store.at(tmp_path / "out")
    own = planned_runs(load_spec(spec_file()))[:6]
    for planned in own:
        run = store.run(planned.config.run_id)
        run.write_config(planned.config)
        counted = {"params": planned.params, "tokens": planned.tokens, "flops": planned.flops}
        loss = 1.7 + 400 / planned.params**0.34 + 410 / planned.tokens**0.28
        run.write_record({"run_id": planned.config.run_id, "status": "done", "reason": None, "loss": loss, **counted})
    imported(csv, *NAMED)
    code, _, error = called("fit", tmp_path / "out")
    assert code == 2
    assert "2 different data (imported from theirs.csv" in error
    assert "nextscale import --data" in error
    trained_on = load(tmp_path / "out").query("status == 'done'")["data"].iloc[0]
    code, out, _ = called("fit", tmp_path / "out", "--where", f"data == '{trained_on}'", "--json")
    assert json.loads(out)["n"] == 6
    assert imported(csv, *NAMED, "--data", trained_on)[0]["change"] == "replaced"
    assert json.loads(called("fit", tmp_path / "out", "--resamples", "100", "--json")[1])["n"] == 26


def test_of_a_table_of_weights_and_biases_what_finished_counts(imported, tmp_path):
    rows = table().drop(columns="status").rename(columns={"val": "eval/loss"})
    rows.insert(0, "Name", [f"run-{i}" for i in range(20)])
    rows.insert(1, "State", ["finished"] * 16 + ["crashed"] * 3 + ["running"])
    path = tmp_path / "wandb_export.csv"
    rows.to_csv(path, index=False)
    named = ("--params-column", "N", "--tokens-column", "D", "--loss-column", "eval/loss")
    (told,) = imported(path, *named)
    assert told["runs"] == 16
    assert any("4 rows left out as not finished by column 'State' (3 crashed, 1 running)" in n for n in told["notes"])
    found = load(tmp_path / "out").set_index("Name")
    np.testing.assert_allclose(found.loc["run-3", "loss"], rows["eval/loss"][3])
    assert imported(path, *named, "--keep-unfinished", out="other")[0]["runs"] == 20


def test_of_a_chart_of_weights_and_biases_the_last_value_or_the_lowest_counts(imported, tmp_path):
    steps = np.arange(1, 6)
    curves = {f"run-{i} - eval/loss": 3.0 + i - np.array([0.0, 0.3, 0.9, 0.8, np.nan if i else 0.7]) for i in range(3)}
    extremes = {f"{name}__{kind}": values for name, values in curves.items() for kind in ("MIN", "MAX")}
    path = tmp_path / "chart.csv"
    pd.DataFrame({"Step": steps, **curves, **extremes}).to_csv(path, index=False)
    given = ("--from", "wandb", "--with", "params=1e6 * (1 + index)", "--with", "tokens=step * 2048")
    named = ("--loss-column", "eval/loss")
    imported(path, *given, *named)
    found = load(tmp_path / "out").sort_values("loss")
    np.testing.assert_allclose(found["loss"], [2.3, 3.2, 4.2])
    assert list(found["tokens"]) == [5 * 2048, 4 * 2048, 4 * 2048]
    imported(path, *given, *named, "--take", "min")
    np.testing.assert_allclose(sorted(load(tmp_path / "out")["loss"]), [2.1, 3.1, 4.1])


def chart(path, metric, curves, **columns):
    """As Weights & Biases exports it, of (step, value) pairs by run."""
    frames = [
        pd.DataFrame(pairs, columns=["Step", f"{run} - {metric}"]).set_index("Step") for run, pairs in curves.items()
    ]
    whole = pd.concat(frames, axis=1).sort_index()
    for name in list(whole):
        whole[f"{name}__MIN"] = whole[f"{name}__MAX"] = whole[name]
    whole.reset_index().to_csv(path, index=False)


def test_charts_are_joined_by_step_and_with_a_table_of_sizes_by_run(imported, called, tmp_path):
    losses, tokens, sizes = (tmp_path / f"{name}.csv" for name in ("losses", "tokens", "sizes"))
    chart(losses, "eval/loss", {f"r{i}": [(10, 4.0 + i), (20, 2.5 + i), (30, 3.0 + i)] for i in range(4)})
    chart(tokens, "tokens", {f"r{i}": [(10, 1e9), (20, 2e9), (30, 3e9 + i), (40, 9e9)] for i in range(4)})
    pd.DataFrame({"model": [f"r{i}" for i in range(3)], "params": [1e7, 2e7, 3e7]}).to_csv(sizes, index=False)
    files = (losses, tokens, sizes, "--join", "--loss-column", "eval/loss")
    (told,) = imported(*files)
    assert told["runs"] == 3
    assert any("1 runs left out: sizes.csv does not have them (r3)" in note for note in told["notes"])
    found = load(tmp_path / "out").sort_values("params")
    assert found[["run", "step", "params", "tokens", "loss"]].values.tolist() == [
        [f"r{i}", 30, (i + 1) * 1e7, 3e9 + i, 3.0 + i] for i in range(3)
    ]
    imported(*files, "--take", "min")
    found = load(tmp_path / "out").sort_values("params")
    assert list(found["loss"]) == [2.5, 3.5, 4.5]
    assert list(found["tokens"]) == [2e9] * 3, "of the same step"


@pytest.mark.parametrize(
    ("sizes", "more", "message"),
    [
        ("name,params\nx,1e7\n", (), "no column of {} names a run of the curves, such as 'r0'"),
        ("name,params\nr0,1e7\nr0,2e7\n", (), "{} has run 'r0' twice; keep one of the rows"),
        ("name,params,eval/loss\nr0,1e7,3\n", (), "'eval/loss' is a column of {} and of"),
        ("name,params\nr0,1e7\n", ("apart.csv",), "apart.csv has no run at a step"),
    ],
)
def test_what_cannot_be_joined_is_said(called, tmp_path, sizes, more, message):
    chart(tmp_path / "losses.csv", "eval/loss", {"r0": [(10, 4.0), (20, 2.5)]})
    chart(tmp_path / "apart.csv", "tokens", {"r0": [(11, 4.0), (21, 2.5)]})
    (tmp_path / "sizes.csv").write_text(sizes)
    files = [tmp_path / name for name in ("losses.csv", *more, "sizes.csv")]
    code, _, error = called("import", *files, "--join", "--out", tmp_path / "out")
    assert code == 2
    assert message.format(tmp_path / "sizes.csv") in error
    assert error.count("\n") == 1


def test_logs_are_runs_of_their_last_values(imported, tmp_path):
    for i in range(3):
        lines = [
            f"step {step}: train loss {4 - step / 1000}, val loss {4.1 - step / 1000 + i}" for step in (0, 500, 900)
        ]
        text = f"number of parameters: {i + 1}0.00M\ntokens per iteration will be: 500,000\n" + "\n".join(lines)
        (tmp_path / f"size-{i}.log").write_text(text + "\niter 990: loss 3.0, time 1.00ms, mfu 1.0%\n")
    files = [tmp_path / f"size-{i}.log" for i in range(3)]
    told = imported(*files, "--loss-column", "val loss", "--data", "one")
    assert any("'val loss' of 1 runs is of before their last step, as 900 of 990" in note for note in told[0]["notes"])
    found = load(tmp_path / "out").sort_values("params")
    assert list(found["params"]) == [1e7, 2e7, 3e7]
    np.testing.assert_allclose(found["loss"], [3.2, 4.2, 5.2])


def test_of_event_files_the_last_value_or_the_lowest_counts_with_what_was_taken_back(imported, tmp_path):
    for i in range(4):
        folder = tmp_path / "logs" / f"size-{i}"
        folder.mkdir(parents=True)
        curve = [event_files.scalars_event(step, {"eval/loss": 4 - i / 10 - step / 1000}) for step in (100, 200, 900)]
        again = [event_files.scalars_event(step, {"eval/loss": 4 - i / 10 - step / 1000}) for step in (300, 500)]
        worse = event_files.scalars_event(600, {"eval/loss": 3.8})
        ended = event_files.result_event(600, {"size": 10.0**i, "optimizer": "adam"}, {"spent": 1.5})
        events = [event_files.version_event(), *curve, event_files.restart_event(300), *again, worse, ended]
        content = b"".join(map(event_files.encoded, events))
        (folder / f"events.out.{event_files.MARK}.1.host").write_bytes(content + b"\x99torn")
    given = ("--with", "tokens=step*1000", "--params-column", "hparams.size", "--loss-column", "eval/loss", "--as-is")
    (told,) = imported(tmp_path / "logs", *given)
    assert told["runs"] == 4
    found = load(tmp_path / "out").sort_values("params")
    assert list(found["run"]) == [f"size-{i}" for i in range(4)]
    assert list(found["params"]) == [1, 10, 100, 1000]
    assert list(found["tokens"]) == [600_000] * 4
    assert list(found["hparams.optimizer"]) == ["adam"] * 4
    np.testing.assert_allclose(found["loss"], 3.8, rtol=1e-6)
    imported(tmp_path / "logs", *given, "--take", "min")
    found = load(tmp_path / "out").sort_values("params")
    np.testing.assert_allclose(found["loss"], [3.5, 3.4, 3.3, 3.2], rtol=1e-6)


def test_event_files_as_tensorflow_2_writes_them(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.proto.tensor_pb2 import TensorProto

    float32, float64 = 1, 2
    tensors = [
        TensorProto(dtype=float32, tensor_content=np.float32(2.5).tobytes()),
        TensorProto(dtype=float64, double_val=[2.25]),
    ]
    path = tmp_path / "events.out.tfevents.1"
    events = [
        Event(step=step, summary=Summary(value=[Summary.Value(tag="loss", tensor=tensor)]))
        for step, tensor in enumerate(tensors)
    ]
    path.write_bytes(b"".join(map(event_files.encoded, events)))
    assert event_files.read_run([path]).scalars == {"loss": [(0, 2.5), (1, 2.25)]}


def test_a_scalar_downloaded_from_tensorboard_is_one_run(imported, tmp_path):
    path = tmp_path / "run-large-tag-loss.csv"
    pd.DataFrame({"Wall time": [1.0, 2, 3], "Step": [10, 20, 30], "Value": [3.0, 2.4, 2.5]}).to_csv(path, index=False)
    given = ("--with", "params=1e6", "--with", "tokens=step * 1e4", "--loss-column", "value")
    assert imported(path, *given)[0]["runs"] == 1
    (row,) = load(tmp_path / "out").to_dict("records")
    assert (row["loss"], row["tokens"], row["run"]) == (2.5, 3e5, "run-large-tag-loss")
    imported(path, *given, "--take", "min")
    assert load(tmp_path / "out")["loss"].tolist() == [2.4]


def test_folders_of_weights_and_biases(imported, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for i, code in enumerate((0, 0, 1)):
        settings = wandb.Settings(mode="offline", console="off")
        run = wandb.init(project="p", id=f"r{i}", dir=tmp_path, config={"model": {"n": 10.0**i}}, settings=settings)
        for step, loss in ((1, 3.0), (2, 2.5 + i), (3, 2.6 + i)):
            run.log({"eval/loss": loss}, step=step)
        run.finish(exit_code=code)
    given = ("--params-column", "config.model.n", "--with", "tokens=_step*1e3", "--loss-column", "eval/loss")
    (told,) = imported(tmp_path / "wandb", *given)
    assert told["notes"][0] == "1 runs left out: they did not end, or by an error"
    found = load(tmp_path / "out").sort_values("params")
    assert found[["run", "params", "tokens", "loss"]].values.tolist() == [["r0", 1, 3000, 2.6], ["r1", 10, 3000, 3.6]]
    imported(tmp_path / "wandb", *given, "--take", "min")
    assert sorted(load(tmp_path / "out")["loss"]) == [2.5, 3.0]


def test_an_imported_table_holds_what_its_runs_are_fitted_by(imported, tmp_path, csv):
    imported(csv, *NAMED)
    runs = as_runs(load(tmp_path / "out"))
    assert fit(runs, resamples=100).parameters["E"] == pytest.approx(1.7, abs=0.2)
