"""`verify` finds what is wrong and nothing else; `gc` frees what nothing needs and nothing else."""

import itertools
import json
import os
import re
import shutil
import threading
import time

import numpy as np
import pytest
from etils import epath

from nextscale.cluster.controller.lease import Lease
from nextscale.model.config.data import TokenData
from nextscale.model.data.sources import resolve
from nextscale.model.record import RunDirectory, append_row, read_rows, write_atomically
from nextscale.sweeps import load, load_curves
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.forecasts.calibration import outcomes
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.store.garbage import collect, garbage
from nextscale.sweeps.store.verify import verify
from nextscale.sweeps.study.study import Study
from nextscale.sweeps.watch.status import status


@pytest.fixture
def out(swept, tmp_path):
    shutil.copytree(swept[1], tmp_path / "out")
    return tmp_path / "out"


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_row(path, number, **changes):
    rows = read_rows(path)
    rows[number] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_checkpoint_notes(run):
    (path,) = run.glob("checkpoints/*/state/_METADATA")
    notes = json.loads(path.read_text())
    leaf = next(
        leaf
        for leaf in notes["tree_metadata"].values()
        if leaf["key_metadata"][1:2] and leaf["key_metadata"][1]["key"] == "params"
    )
    leaf["value_metadata"]["write_shape"] = [3, 3]
    path.write_text(json.dumps(notes))


def move_checkpoint(run):
    (path,) = run.glob("checkpoints/*")
    path.rename(path.with_name(str(10**12)))


def swap_configs(run):
    other = next(path for path in run.parent.iterdir() if path != run)
    (run / "config.json").write_text((other / "config.json").read_text())


def forget_the_config(run):
    (run / "config.json").unlink()


def settle_again(run):
    accounts = run.parents[1] / "accounts.jsonl"
    append_row(epath.Path(accounts), read_rows(epath.Path(accounts))[-1])


def without(path, *names):
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name not in names})
    )


def edit_lines(path, edit):
    path.write_text("".join(f"{line}\n" for line in edit(path.read_text().splitlines())))


def edit_accounts(edit):
    """A fault: `edit` takes the rows of the accounts, and returns those that are left."""

    def break_(run):
        edit_lines(run.parents[1] / "accounts.jsonl", lambda lines: map(json.dumps, edit(list(map(json.loads, lines)))))

    return break_


def make_a_folder(path):
    path.unlink()
    path.mkdir()


def damage_an_import(run):
    (run.parents[1] / "imports").mkdir()
    (run.parents[1] / "imports" / "0.json").write_text("broken")


FAULTS = {
    "damaged config": (lambda run: (run / "config.json").write_text("{"), r"config\.json: is damaged; delete"),
    "another's config": (swap_configs, "is that of another run"),
    "no config": (forget_the_config, "no config that says of what"),
    "damaged record": (lambda run: (run / "record.json").write_text("[]"), r"record\.json: is damaged; delete it"),
    "counts": (lambda run: edited(run / "record.json", params=7), "params is 7, and its config says"),
    "tokens": (lambda run: edited(run / "record.json", tokens=1), "tokens is 1, and"),
    "flops": (lambda run: edited(run / "record.json", flops=1.0), "flops is 1.0, and"),
    "loss": (lambda run: edited(run / "record.json", loss=2.0), "loss is 2.0, and"),
    "no loss": (lambda run: edited(run / "record.json", loss=None), "its loss is None, no number"),
    "status": (lambda run: edited(run / "record.json", status="fine"), "neither done nor diverged"),
    "diverged": (lambda run: edited(run / "record.json", status="diverged"), "diverged, and has a loss"),
    "epochs": (lambda run: edited(run / "record.json", epochs=3.0), "epochs is 3.0, and"),
    "curve cut": (lambda run: edit_row(run / "metrics.jsonl", -1, tokens=5), "positions do not rise|ends at token 5"),
    "evaluation": (lambda run: edit_row(run / "evaluations.jsonl", -1, loss=9.0), "its evaluation at the end 9.0"),
    "checkpoint cut": (
        lambda run: next(run.glob("checkpoints/*/state/manifest.ocdbt")).unlink(),
        "is not whole; delete it: the result does not need it",
    ),
    "checkpoint of another": (edit_checkpoint_notes, "parameters, and the model has"),
    "checkpoint elsewhere": (move_checkpoint, "outside of this run"),
    "ledger": (lambda run: edit_row(run.parents[1] / "ledger.jsonl", 0, level=0.5), "is not as it was written"),
    "ledger cut": (
        lambda run: (run.parents[1] / "ledger.jsonl").write_text(""),
        "entries were cut off; restore the ledger from a copy",
    ),
    "cost": (lambda run: edit_row(run.parents[1] / "accounts.jsonl", -1, device_us=1), "its cost is not that of"),
    "settled twice": (settle_again, "is settled twice"),
    "never reserved": (
        lambda run: edit_row(run.parents[1] / "accounts.jsonl", -1, attempt=99),
        "never reserved|was never settled",
    ),
    "little told": (
        lambda run: (run / "record.json").write_text('{"status": "done", "loss": 1.0}'),
        "does not say run_id, params,",
    ),
    "no losses by position": (
        lambda run: without(run / "record.json", "loss_by_position"),
        "its loss_by_position no list of numbers",
    ),
    "losses by position are text": (
        lambda run: edited(run / "record.json", loss_by_position=["a"]),
        "its loss_by_position no list of numbers",
    ),
    "losses by position are a number": (
        lambda run: edited(run / "record.json", loss_by_position=3),
        "its loss_by_position no list of numbers",
    ),
    "bits per byte": (lambda run: edited(run / "record.json", bits_per_byte=9.0), "bits_per_byte does not follow"),
    "bits per byte of a set": (
        lambda run: edited(run / "record.json", bits_per_byte_other=9.0),
        "bits_per_byte_other does not follow",
    ),
    "score of context": (
        lambda run: edited(run / "record.json", in_context_learning=9.0),
        "in_context_learning is 9.0, and its losses by position say",
    ),
    "unique tokens are text": (lambda run: edited(run / "record.json", unique_tokens="x"), "unique_tokens is x"),
    "record is a folder": (lambda run: make_a_folder(run / "record.json"), r"record\.json: is damaged"),
    "config is a folder": (lambda run: make_a_folder(run / "config.json"), r"config\.json: is damaged"),
    "curve with a gap": (
        lambda run: edit_lines(run / "metrics.jsonl", lambda lines: lines[:1] + lines[2:]),
        r"rows between tokens \d+ and \d+ are not there",
    ),
    "curve with a line of nothing": (
        lambda run: edit_lines(run / "metrics.jsonl", lambda lines: [*lines[:1], "garbage", *lines[2:]]),
        "1 of its lines are no rows of a curve",
    ),
    "curve with an empty row": (
        lambda run: edit_lines(run / "metrics.jsonl", lambda lines: [*lines[:1], "{}", *lines[2:]]),
        "1 of its lines are no rows of a curve",
    ),
    "curve that is no text": (
        lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\n"),
        "1 of its lines are no rows of a curve",
    ),
    "attempt gone": (
        edit_accounts(lambda rows: [row for row in rows if row["attempt"] != 3]),
        "attempt 3: is not there",
    ),
    "FLOPs": (
        edit_accounts(lambda rows: [row | ({"flops_kept": 1} if row is rows[-1] else {}) for row in rows]),
        "made 1 FLOPs of .* and is finished",
    ),
    "accounts gone": (lambda run: (run.parents[1] / "accounts.jsonl").unlink(), "is not there or empty, and runs were"),
    "an account of nothing": (edit_accounts(lambda rows: [*rows, {}]), "is damaged: its kind is None, neither"),
    "an account of text": (
        edit_accounts(lambda rows: [*rows[:-1], rows[-1] | {"seconds": "long"}]),
        "is damaged: its seconds is long, no number",
    ),
    "choices": (
        lambda run: (run.parents[1] / "sequence.jsonl").write_text('x\n[]\n{"of": "it"}\n'),
        "3 of its lines are no choices",
    ),
    "import": (damage_an_import, r"imports/0\.json: is damaged; delete it, and import its file again"),
    "spec": (lambda run: next(run.parents[1].glob("sweeps/*.json")).write_text("{"), "no spec that this version"),
}


def test_a_sound_folder_has_no_faults(swept):
    assert verify(swept[1]) == (10, [])
    assert verify(swept[1], deep=True) == (10, [])


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_line_that_says_how_to_mend_it(out, fault):
    break_, says = FAULTS[fault]
    run = next(path for path in sorted((out / "runs").iterdir()) if (path / "evaluations.jsonl").exists())
    break_(run)
    _, faults = verify(out)
    assert faults
    assert any(re.search(says, str(one)) for one in faults), faults
    for one in faults:
        assert "\n" not in str(one)
        assert one.mend
    assert len(faults) <= 3


def test_the_ledger_is_held_against_the_records(out):
    run_id = load(out, sweep="swept").set_index("role").loc["holdout", "run_id"].iloc[0]
    record = out / "runs" / run_id / "record.json"
    positions = [2.0, 2.0]
    edited(record, loss=2.0, loss_by_position=positions)
    found = [fault.what for fault in verify(out)[1]]
    assert any(f"of run {run_id}, whose record says 2.0" in what for what in found)


def test_only_a_deep_look_sees_a_rotten_byte(out):
    data = max(out.glob("runs/*/checkpoints/*/state/**/d/*"), key=lambda path: path.stat().st_size)
    text = bytearray(data.read_bytes())
    text[len(text) // 2] ^= 1
    data.write_bytes(text)
    assert verify(out)[1] == []
    (fault,) = verify(out, deep=True)[1]
    assert "does not read back" in fault.what
    assert fault.where in str(data)


def test_a_deep_look_finds_data_that_was_overwritten_and_who_may_have_read_it(out, tmp_path):
    """As runs were left by a version that looked at their data too seldom."""
    file = tmp_path / "other.bin"
    tokens = np.random.default_rng(9).integers(0, 16, 20_000).astype(np.uint16)
    tokens.tofile(file)
    data = resolve(TokenData(source="tokens", path=str(file), vocab=16, bytes_per_token=2))
    for path in out.glob("runs/*/config.json"):
        config = json.loads(path.read_text())
        assert config["evaluation"]["sets"]["other"]["fingerprint"] == data.fingerprint
        config["evaluation"]["sets"]["other"]["path"] = str(file)
        path.write_text(json.dumps(config))
    assert verify(out, deep=True)[1] == []
    np.full(20_000, 7, np.uint16).tofile(file)
    *before, one, other = sorted(out.glob("runs/*/record.json"))
    for path, minutes in (*((path, 9) for path in before), (file, 8), (one, 7), (other, 6)):
        os.utime(path, (time.time() - 60 * minutes,) * 2)
    assert verify(out)[1] == []
    (fault,) = verify(out, deep=True)[1]
    assert fault.where == str(file)
    assert re.fullmatch(rf"is no longer the data of 10 runs \([0-9a-f]{{16}}, was {data.fingerprint}\)", fault.what)
    ended = f"{one.parent.name}, {other.parent.name}"
    assert fault.mend == f"restore it, and delete the folders of {ended}, which ended since"
    file.unlink()
    assert verify(out, deep=True)[1] == [], "results do not need their data"


def test_verify_ends_with_1_where_there_are_faults(out, called):
    code, said, _ = called("verify", out)
    assert code == 0
    assert "10 runs, no faults" in said
    edited(next(out.glob("runs/*/record.json")), steps=3)
    code, said, _ = called("verify", out, "--json")
    assert code == 1
    told = json.loads(said)
    assert told["runs"] == 10
    assert "steps is 3" in told["faults"][0]["what"]


def positions(out):
    return {path.parent.name: sorted(child.name for child in path.iterdir()) for path in out.glob("runs/*/checkpoints")}


def pin(out, run_id, tokens):
    """Lays a checkpoint where a trunk keeps one for a branch."""
    (newest,) = (out / "runs" / run_id / "checkpoints").iterdir()
    shutil.copytree(newest, newest.with_name(str(tokens)))


def test_gc_frees_what_nothing_needs_and_only_when_told(out, swept, called):
    before = positions(out)
    assert garbage(out) == [], "what is left of a sweep is its trained models"
    run_id = next(iter(before))
    pin(out, run_id, 128)
    (out / "runs" / run_id / "checkpoints" / "256.orbax-checkpoint-tmp").mkdir()
    (one,) = garbage(out)
    held = [path for path in one.checkpoints if path.name == "128"]
    size = sum(path.stat().st_size for path in held[0].rglob("*") if path.is_file())
    assert (one.run_id, one.bytes) == (run_id, size)
    assert "--yes deletes them" in called("gc", out)[1]
    assert len(positions(out)[run_id]) == 3
    assert json.loads(called("gc", out, "--yes", "--json")[1])["bytes"] == size
    assert positions(out) == before
    collect(out, finals=True)
    assert not any(positions(out).values())
    assert verify(out)[1] == []
    assert len(load(out)) == 10


def test_gc_keeps_what_a_branch_without_a_result_begins_from(out, swept):
    study = Study(load_spec(swept[0]), out)
    branch = next(run for run in study.planned if run.trunk is not None)
    pin(out, branch.trunk.run_id, branch.branches_at)
    assert [one.run_id for one in garbage(out)] == [branch.trunk.run_id]
    (out / "runs" / branch.config.run_id / "record.json").unlink()
    assert garbage(out) == []
    assert [one.run_id for one in garbage(out, finals=True) if one.run_id == branch.trunk.run_id]
    collect(out, finals=True)
    assert positions(out)[branch.trunk.run_id] == [str(branch.branches_at)]
    assert positions(out)[branch.config.run_id], "a run without a result keeps all"


def test_gc_leaves_runs_alone_that_somebody_is_at_work_on(out):
    run_id = next(iter(positions(out)))
    pin(out, run_id, 128)
    with Lease(out / "runs" / run_id):
        assert garbage(out) == []
        assert collect(out) == []
    assert len(positions(out)[run_id]) == 2
    assert [one.run_id for one in collect(out)] == [run_id]


def test_gc_notices_a_sweep_that_is_begun_meanwhile(out, swept, monkeypatch):
    """Its specs are written down before it asks for anything."""
    study = Study(load_spec(swept[0]), out)
    branch = next(run for run in study.planned if run.trunk is not None)
    (spec,) = (out / "sweeps").glob("*.json")
    text = spec.read_text()
    (out / "runs" / branch.config.run_id / "record.json").unlink()
    spec.unlink()
    pin(out, branch.trunk.run_id, branch.branches_at)
    from nextscale.sweeps.store import garbage as module

    found = module.garbage

    def then_it_begins(*arguments, **options):
        told = found(*arguments, **options)
        spec.write_text(text)
        return told

    monkeypatch.setattr(module, "garbage", then_it_begins)
    collect(out)
    assert str(branch.branches_at) in positions(out)[branch.trunk.run_id]


def test_gc_does_nothing_where_it_cannot_tell_what_is_needed(out):
    next(out.glob("sweeps/*.json")).write_text("{")
    with pytest.raises(SpecError, match="what its runs need cannot be told"):
        garbage(out)


def test_a_sweep_that_does_not_keep_its_models_frees_them(out, swept):
    spec = load_spec(swept[0], ["checkpoint.final=false"])
    for path in (out / "sweeps").iterdir():
        path.unlink()
    (out / "sweeps" / "swept-0.json").write_text(spec.model_dump_json())
    assert {one.run_id for one in garbage(out)} == {run.config.run_id for run in planned_runs(spec)}


def test_nothing_trips_over_a_folder_that_is_being_written_to(out, tmp_path):
    """Runs come and go, are finished, begun again and written to, and so are the ledger and the specs."""
    source = next(out.glob("runs/*"))
    ledger, stop = Ledger(out / "ledger.jsonl"), threading.Event()
    spec = next(out.glob("sweeps/*.json"))

    def write():
        for i in itertools.count():
            if stop.is_set():
                return
            shutil.copytree(source, tmp_path / "coming")
            twin = out / "runs" / f"{i:012x}"
            (tmp_path / "coming").rename(twin)
            run = RunDirectory(epath.Path(twin))
            run.add_attempt({"status": "error", "message": "it broke"})
            record = run.record()
            (twin / "record.json").unlink()
            run.write_record(record)
            target = {"run_id": "r", "flops": 1.0, "predicted": 2.0, "interval": [1.0, 3.0]}
            ledger.register({"sweep": "s", "inputs": str(i), "level": 0.9, "targets": [target]})
            write_atomically(epath.Path(spec), spec.read_text())
            shutil.rmtree(twin)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            assert len(load(out)) >= 10
            assert len(load_curves(out)) > 0
            checked, _ = verify(out)
            assert checked >= 10
            garbage(out)
            assert len(outcomes([ledger])) >= 2
            assert status(out).runs["done"] >= 10
    finally:
        stop.set()
        writer.join()
    assert verify(out) == (10, [])
