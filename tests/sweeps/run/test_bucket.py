"""A sweep in a bucket ends like one in a folder, whatever is killed, wherever it goes on, whatever requests meet."""

import gc
import json
import random
import threading

import pytest

from nextscale.model.record import read_rows
from nextscale.model.storage.bucket import Bucket, BucketError
from nextscale.model.storage.sweep_copy import copy_of
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.plan.spec_files import load_spec
from nextscale.sweeps.run import session
from nextscale.sweeps.run.loop import run_study
from nextscale.sweeps.store.store import Store, load

SWEEP = """\
name: small
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training: {batch_tokens: 128, schedule: wsd, warmup_tokens: 1280, lr: 0.01}
design: {kind: wsd, widths: [4, 8], tokens: [5.0e+3, 1e4, 2e4]}
evaluation: {tokens: 256, points: 2}
forecast: {law: none}
checkpoint: {every_seconds: 0.2}
"""


def told(summary):
    """A summary, but for what may differ between two ways to the same end."""
    forecast = summary["forecast"] and {name: one for name, one in summary["forecast"].items() if name != "time"}
    return {name: one for name, one in summary.items() if name not in ("seconds", "runs", "spent")} | {
        "forecast": forecast
    }


def same_files(there, here):
    """Of two folders of a sweep: the same runs, of the same curves and results, each finished once."""
    assert {run.name for run in there.glob("runs/*")} == {run.name for run in here.glob("runs/*")}
    for run in here.glob("runs/*"):
        twin = there / "runs" / run.name
        for name in ("metrics.jsonl", "evaluations.jsonl", "config.json"):
            if (run / name).exists():
                assert (twin / name).read_bytes() == (run / name).read_bytes(), (run.name, name)
        mine, theirs = (json.loads((one / "record.json").read_text()) for one in (run, twin))
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}
        assert [row["status"] for row in read_rows(twin / "attempts.jsonl")].count("finished") == 1


def elsewhere(monkeypatch, folder):
    """From now on as on another machine, where nothing is known."""
    monkeypatch.setenv("NEXTSCALE_CACHE", str(folder))


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "spec.yaml").write_text(SWEEP)
    return tmp_path / "spec.yaml"


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch, in_process_backend):
    monkeypatch.setattr(session, "RayBackend", in_process_backend)


class Killed(BaseException):
    pass


# The dead leave files open, and threads that still write where nobody reads.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.slow
@pytest.mark.soak
def test_one_that_dies_goes_on_elsewhere(spec, s3, tmp_path, monkeypatch):
    """Again and again, at whatever request, on machines where nothing is known: what the bucket was told is all that
    the next one has."""
    summary, here = run_study(load_spec(spec), tmp_path / "out"), tmp_path / "out"
    address, dice, deaths, put = f"{s3.bucket()}/sweep", random.Random(0), 0, Bucket.put
    for attempt in range(40):
        elsewhere(monkeypatch, tmp_path / f"machine-{attempt}")
        left = [dice.randrange(4, 20)]

        def dying(bucket, name, content, size=0, left=left, mortal=attempt < 4):
            left[0] -= 1
            if left[0] < 0 and mortal:
                raise Killed if threading.current_thread() is threading.main_thread() else BucketError(name, "dead")
            put(bucket, name, content, size)

        monkeypatch.setattr(Bucket, "put", dying)
        try:
            found = run_study(load_spec(spec), address)
            break
        except Killed:
            deaths += 1
    assert deaths >= 3
    assert told(found) == told(summary)
    same_files(Store.existing(address).root, here)
    gc.collect()  # what the dead left is told of here, where it is expected


class TestWhatIsRefused:
    def test_what_changes_nothing_there(self, s3, called):
        address = f"{s3.bucket()}/x"
        for arguments in (("rerun", address, "1234"), ("gc", address, "--yes"), ("verify", address)):
            code, _, said = called(*arguments)
            where = f"(there is no {address}/runs); name the --out of `nextscale run`"
            assert (code, said) == (2, f"nextscale: {address}: holds no sweep {where}\n")
        assert Bucket(address).list() == []
        with pytest.raises(SpecError, match="written to by `nextscale run` alone"):
            Store.at(address)

    def test_an_address_where_there_is_no_sweep(self, s3, called):
        address = f"{s3.bucket()}/nothing"
        assert called("status", address)[0] == 2
        with pytest.raises(SpecError, match=rf"{address}: holds no sweep \(there is no {address}/runs\)"):
            load(address)

    def test_the_ledger_of_a_copy(self, s3, tmp_path):
        address = f"{s3.bucket()}/x"
        with pytest.raises(SpecError, match=f"{address}: this is a copy of its ledger"):
            Ledger(copy_of(address) / "ledger.jsonl").approve({"sweep": "x", "gate": "y", "value": 1})
