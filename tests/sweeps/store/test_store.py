"""What is read back from a folder of runs: one row each, from an index that changes nothing but the time it takes."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from etils import epath

from nextscale.cluster.controller.caps import Caps
from nextscale.model.accounting import flops_per_token, parameter_groups, parameters
from nextscale.model.record import append_row
from nextscale.sweeps import load, load_curves
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.run_rows import COLUMNS, run_costs
from nextscale.sweeps.store.store import Store


@pytest.fixture
def trained(swept, tmp_path):
    """The runs of a sweep, and a folder that they are in."""
    spec, folder = swept
    shutil.copytree(folder, tmp_path / "out")
    return [planned.config for planned in planned_runs(load_spec(spec))], tmp_path / "out"


def cold(out):
    """The table as it is without an index."""
    (out / "index.parquet").unlink(missing_ok=True)
    return load(out)


def another(store, config, seed):
    """A run like another, with a seed of its own."""
    twin = config.model_copy(update={"seed": seed})
    directory = store.run(twin.run_id)
    directory.write_config(twin)
    directory.write_record((store.record(config.run_id) or {}) | {"run_id": twin.run_id, "seed": seed})
    return twin


def test_the_curves_of_a_sweep_are_one_tidy_table_that_ends_in_its_results(trained):
    runs, out = trained
    curves, table = load_curves(out), load(out).set_index("run_id")
    assert list(curves.columns) == [
        *("run_id", "params", "tokens", "flops", "lr"),
        *("loss", "bits_per_byte", "loss_other", "bits_per_byte_other", "in_context_learning"),
    ]
    assert {"loss_other", "bits_per_byte_other"} <= set(table.columns)
    assert (table["epochs"] == 1).all(), "a Markov source is fresh without end"
    assert (table["unique_tokens"] == table["tokens"]).all()
    for run in runs:
        curve = curves[curves["run_id"] == run.run_id]
        assert len(curve) > 4
        assert curve["tokens"].is_monotonic_increasing
        assert (curve["flops"] == flops_per_token(run.model) * curve["tokens"]).all()
        assert set(curve["params"]) == {parameters(run.model)}
        for column in ("tokens", "flops", "loss", "loss_other"):
            assert curve[column].iloc[-1] == table.loc[run.run_id, column]


def test_a_run_that_is_on_its_way_has_the_curve_so_far_and_counts_once(trained, tmp_path):
    runs, out = trained
    other = Store.at(tmp_path / "other").run(runs[0].run_id)
    other.write_config(runs[0])
    lines = (out / "runs" / runs[0].run_id / "evaluations.jsonl").read_text().splitlines(keepends=True)
    epath.Path(other.evaluations_file).write_text("".join(lines[:2]) + lines[2][:9])
    assert len(load_curves(tmp_path / "other")) == 2
    both = load_curves(tmp_path / "other", out)
    assert len(both) == len(load_curves(out))


def test_a_folder_without_curves_has_an_empty_table_and_one_without_a_sweep_none(tmp_path):
    assert load_curves(Store.at(tmp_path / "out").root).empty
    with pytest.raises(SpecError, match="holds no sweep"):
        load_curves(tmp_path / "nothing")


def test_training_curves_are_a_table_too(trained):
    runs, out = trained
    curves = load_curves(out, of="training")
    assert list(curves.columns[:4]) == ["run_id", "params", "tokens", "flops"]
    assert {"loss", "gradient_norm"} <= set(curves.columns)
    assert set(curves["run_id"]) == {run.run_id for run in runs}
    assert curves.groupby("run_id")["tokens"].max().to_dict() == {run.run_id: run.tokens for run in runs}


def test_how_fast_a_run_was_stands_beside_its_training_curve(trained, tmp_path):
    run = trained[0][0]
    other = Store.at(tmp_path / "other").run(run.run_id)
    other.write_config(run)
    for tokens in (1000, 2000):
        append_row(other.metrics_file, {"tokens": tokens, "loss": 2.0})
    h100 = {"devices": 8, "device": "NVIDIA H100 80GB HBM3", "memory_bytes": 7, "seconds": 10.0}
    timed = {"tokens": 2000, "flops_per_second": 8 * 989.4e12 / 4, "tokens_per_second": 100.0, "data_seconds": 1.0}
    append_row(other.speed_file, h100 | timed)
    first, second = load_curves(tmp_path / "other", of="training").to_dict("records")
    assert np.isnan(first["tokens_per_second"])
    assert (second["tokens_per_second"], second["memory_bytes"], second["data_seconds"]) == (100, 7, 1)
    assert second["utilisation"] == pytest.approx(0.25, rel=1e-3)


def test_a_row_says_all_that_was_asked_and_counted(trained):
    runs, out = trained
    table = load(out)
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    for run in runs:
        row = table.set_index("run_id").loc[run.run_id]
        groups = parameter_groups(run.model)
        assert {name: row[f"params_{name}"] for name in groups} == groups
        assert sum(groups.values()) == row["params"]
        assert row["flops_6nd"] == 6 * row["params"] * row["tokens"]
        for name in ("palm", "chinchilla", "kaplan"):
            assert row[f"flops_{name}"] == flops_per_token(run.model, name) * run.tokens
        assert (row["heads"], row["schedule"], row["lr"]) == (2, "wsd", 0.01)
        assert (row["tokens_done"], row["folder"], row["sweep"]) == (run.tokens, str(out), "swept")
        assert "jax=" in row["versions"]


def test_columns_and_their_kinds_do_not_depend_on_the_runs(trained, tmp_path):
    _, out = trained
    table, empty = load(out), load(Store.at(tmp_path / "empty").root)
    assert list(empty.columns) == list(COLUMNS)
    whole = [name for name in COLUMNS if table[name].notna().all()]
    assert empty.dtypes[whole].equals(table.dtypes[whole])
    assert table["params"].dtype == np.int64
    assert table["usd"].dtype == float, "of runs that nobody kept accounts of too"


def test_costs_are_of_all_attempts_and_the_wasted_part_apart(tmp_path):
    rows = [
        # (FLOPs kept, lost, hours, utilisation, how it ended)
        (300, 100, 4.0, 0.4, "lost"),
        (0, 0, 1.0, 0.0, "error"),
        (600, 0, 3.0, 0.8, "finished"),
        (0, 0, 2.0, None, "finished"),
    ]
    for i, (kept, lost, hours, used, outcome) in enumerate(rows):
        row = {"kind": "settled", "attempt": i, "run_id": "r", "pool": "p", "accelerator": "h100", "outcome": outcome}
        row |= {"device_us": hours * 3.6e9, "usd": 2 * hours, "flops_kept": kept, "flops_lost": lost}
        row |= {"slot": "p-0", "chips": 1, "started": 1e9, "seconds": hours * 3600}
        append_row(epath.Path(tmp_path / "accounts.jsonl"), row | {"utilisation": used})
    open_ = row | {"kind": "reserved", "attempt": 9, "usd_per_hour": 2, "position": 0, "flops": 10}
    append_row(epath.Path(tmp_path / "accounts.jsonl"), open_)
    cost = run_costs(tmp_path / "accounts.jsonl")["r"]
    assert cost["device_hours"] == 10
    assert cost["device_hours_wasted"] == pytest.approx(4.0 / 4 + 1)
    assert cost["usd"] == 20
    assert cost["usd_wasted"] == pytest.approx(2 * (4.0 / 4 + 1))
    assert (cost["flops_kept"], cost["flops_lost"]) == (900, 100)
    assert cost["utilisation"] == pytest.approx((4 * 0.4 + 3 * 0.8) / (4 + 1 + 3))


def change_record(store, run):
    path = store.root / "runs" / run.run_id / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"loss": 1.25}))


def become_unfinished(store, run):
    (store.root / "runs" / run.run_id / "record.json").unlink()


def fail(store, run):
    become_unfinished(store, run)
    store.run(run.run_id).add_attempt({"status": "error", "message": "it broke"})


def go_on(store, run):
    become_unfinished(store, run)
    load(store.root)
    append_row(store.run(run.run_id).metrics_file, {"tokens": 10**9, "loss": 1.0})


def run_another_sweep(store, run):
    del run
    (spec,) = store.specs()
    store.write_spec(spec.model_copy(update={"name": "other"}))


def test_a_spec_has_one_file_whatever_digest_it_was_kept_under(trained):
    store = Store.at(trained[1])
    (spec,) = store.specs()
    path = store.write_spec(spec)
    earlier = path.rename(path.with_name(f"{spec.name}-0123456789abcdef.json"))
    assert store.write_spec(spec) == earlier
    assert store.specs() == [spec]
    assert store.write_spec(spec.model_copy(update={"caps": Caps(max_usd=3.0)})) != earlier


def test_which_sweep_was_run_last_stands_in_files_not_in_their_times(trained):
    _, out = trained
    spec = SweepSpec.model_validate_json(next((out / "sweeps").glob("*.json")).read_text())
    for name in ("later", "last", "later"):
        Store.at(out).write_spec(spec.model_copy(update={"name": name}))
    for when, name in enumerate(("later", "last", spec.name), 10**9):
        for path in (out / "sweeps").glob(f"{name}-*.json"):
            os.utime(path, (when, when))
    assert Store.existing(out).newest_spec.name == "later"
    assert set(load(out)["sweep"]) == {"later"}


@pytest.mark.parametrize("name", ["lr=[0.1,0.2]", "a\\b", "a*b"])
def test_a_folder_that_checkpoints_do_not_read_back_from_is_refused_at_the_start(spec_file, tmp_path, called, name):
    for arguments in (("run", spec_file()), ("run", spec_file(), "--detach"), ("quickstart",)):
        code, _, error = called(*arguments, "--out", tmp_path / name)
        assert code == 2
        (line,) = error.strip().splitlines()
        assert line.startswith(f"nextscale: --out {tmp_path / name}: ") and "read as a pattern" in line
    assert not (tmp_path / name).exists()


def test_an_option_that_is_added_with_a_default_names_no_spec_anew(trained, tmp_path):
    class Later(SweepSpec):
        added: int = 3

    (spec,) = Store.at(trained[1]).specs()
    now, later = Store.at(tmp_path / "now"), Store.at(tmp_path / "later")
    assert later.write_spec(Later(**spec.model_dump())).name == now.write_spec(spec).name


CHANGES = {
    "changed": change_record,
    "unfinished": become_unfinished,
    "failed": fail,
    "gone on": go_on,
    "added": lambda store, run: another(store, run, 7),
    "removed": lambda store, run: shutil.rmtree(store.root / "runs" / run.run_id),
    "all removed": lambda store, run: [shutil.rmtree(path) for path in (store.root / "runs").iterdir()],
    "another sweep": run_another_sweep,
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_noticed(trained, change):
    runs, out = trained
    before = load(out)
    assert (out / "index.parquet").exists()
    pd.testing.assert_frame_equal(load(out), before)
    CHANGES[change](Store.existing(out), runs[0])
    after = load(out)
    assert not after.equals(before)
    pd.testing.assert_frame_equal(load(out), after)
    pd.testing.assert_frame_equal(cold(out), after)


@pytest.mark.parametrize("spoil", ["empty", "garbage", "cut", "other table", "older", "folder"])
def test_an_index_that_cannot_be_used_is_made_anew(trained, spoil):
    _, out = trained
    index, expected = out / "index.parquet", load(out)
    whole = index.read_bytes()
    if spoil == "other table":
        pd.DataFrame({"a": [1]}).to_parquet(index)
    elif spoil == "older":
        pd.DataFrame({"run_id": expected["run_id"], "stamp": "x"}).to_parquet(index)
    elif spoil == "folder":  # as where nothing can be written
        index.unlink()
        index.mkdir()
    else:
        index.write_bytes({"empty": b"", "garbage": b"PAR1nonsense", "cut": whole[: len(whole) // 2]}[spoil])
    pd.testing.assert_frame_equal(load(out), expected)
    if spoil != "folder":
        assert index.read_bytes() != b""
        pd.testing.assert_frame_equal(load(out), expected)
    assert not list(out.glob(".index*")), "nothing is left lying about"


READS_ON = """
import pathlib, sys
from nextscale.sweeps import load
out = pathlib.Path(sys.argv[1])
while not (out / "enough").exists():
    table = load(out)
    assert table["run_id"].is_unique
    assert (table["status"] == "done").all()
"""


def test_processes_read_a_folder_that_is_being_written_to(trained):
    runs, out = trained
    readers = [subprocess.Popen([sys.executable, "-c", READS_ON, str(out)]) for _ in range(2)]
    index, store = out / "index.parquet", Store.existing(out)
    while not index.exists() and all(reader.poll() is None for reader in readers):
        time.sleep(0.05)
    for seed in range(1, 31):
        twin = runs[0].model_copy(update={"seed": seed})
        # The whole run appears at once, for here every run that is seen is done.
        hidden = out / twin.run_id
        shutil.copytree(store.run(runs[0].run_id).path, hidden)
        (hidden / "config.json").write_text(twin.model_dump_json())
        hidden.rename(out / "runs" / twin.run_id)
        if seed % 3 == 0:
            shutil.rmtree(out / "runs" / twin.run_id)
    (out / "enough").touch()
    assert [reader.wait(60) for reader in readers] == [0, 0]
    table = load(out)
    assert len(table) == 10 + 20
    pd.testing.assert_frame_equal(cold(out), table)


@pytest.mark.slow
def test_two_sweeps_share_the_runs_that_both_ask_for(swept, tmp_path, monkeypatch, in_process_backend):
    from nextscale.sweeps.run import session
    from nextscale.sweeps.run.loop import run_study

    spec, finished = swept
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    monkeypatch.setattr(session, "RayBackend", in_process_backend)
    changes = ["name=other", "design.tokens=[4e4, 8e4]", "design.seeds=[0, 1]", "holdout=null"]
    summary = run_study(load_spec(spec, changes), out)
    assert summary["runs"] == {"done": 8, "reused": 4, "failed": 0}
    table = load(out)
    assert len(table) == 10 + 4
    assert table["sweeps"].value_counts().to_dict() == {"swept": 6, "swept, other": 4, "other": 4}
    other, first = load(out, sweep="other"), load(out, sweep="swept")
    assert (len(other), len(first)) == (8, 10)
    assert set(other["sweep"]) == {"other"}
    shared = set(other["run_id"]) & set(first["run_id"])
    assert len(shared) == 4
    assert (table.set_index("run_id").loc[list(shared), "attempts"] == 1).all()
    branches = table[table["trunk"].notna()]
    assert set(branches["trunk"]) <= set(table["run_id"])
    assert (branches["flops_kept"] < branches["flops"]).all(), "a branch was trained from its trunk's state on"
    with pytest.raises(SpecError, match="there is other, swept"):
        load(out, sweep="third")


def test_of_several_folders_the_one_where_a_run_is_done_counts(trained, tmp_path):
    runs, out = trained
    elsewhere = Store.at(tmp_path / "elsewhere")
    elsewhere.run(runs[0].run_id).write_config(runs[0])
    table = load(elsewhere.root, out)
    assert len(table) == 10
    assert (table["status"] == "done").all()
    assert set(table["folder"]) == {str(out)}
