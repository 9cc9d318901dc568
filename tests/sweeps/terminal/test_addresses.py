"""Every command where a sweep is in a bucket: it says and does what it does in a folder, or in one line why not."""

import json
import shutil

import pytest
import typer

from nextscale.cluster.controller.lease import Lease
from nextscale.model.storage.bucket import Bucket
from nextscale.model.storage.mirror import Mirror, newest_states
from nextscale.model.storage.sweep_copy import CONTROLLER, copy_of, stays_here
from nextscale.sweeps.commands.app import app
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.run.bucket import whole_copy
from nextscale.sweeps.store.store import Store, load
from nextscale.sweeps.terminal.addresses import with_places_here

READS = {
    "status": [],
    "runs": [],
    "logs": [],
    "ledger show": [],
    "verify": ["--deep"],
    "gc": ["--finals"],
    "fit": ["--resamples", "100"],
    "backtest": [],
    "trend": [],
    "compare": ["OUT", "--resamples", "100"],
    "forecast": ["--flops", "1e10", "--resamples", "100", "--law", "chinchilla"],
    "frontier": ["--flops", "1e10", "--resamples", "100"],
    "next": ["--target", "1e10", "--budget", "1e9"],
    "inference": ["--served", "1e9", "--loss", "2.0", "--resamples", "100"],
    "overtrain": ["--params", "1e5", "--tokens", "1e7", "--resamples", "100"],
    "curve fit": ["--where", "params == 1024"],
    "curve collapse": [],
}
"""Commands with what is said beside the folder."""
CHANGES = {"rerun", "drop", "import", "export", "ledger score"}
TRIED_ELSEWHERE = {
    "run": "tests/sweeps/run/test_bucket.py",
    "quickstart": "is `run`",
    "stop": "TestAskedToStop",
    "report": "TestFiles",
    "site": "TestFiles",
    "plan": "TestFiles",
    "serve": "tests/sweeps/watch/test_server.py, of a folder: it is given a copy",
    "mixture": "is given a table as `fit` is",
    "family": "is given a table as `fit` is",
    "curve forecast": "is given curves as `curve fit` is",
    "curve rl": "is given curves as `curve fit` is",
    "model export": "tests/sweeps/commands/models/test_model.py",
    "model sample": "tests/sweeps/commands/models/test_model.py",
    "model evaluate": "tests/sweeps/commands/models/test_model.py",
}
REFUSED = {
    "init": ["ADDRESS"],
    "launch": ["ADDRESS"],
    "laws": ["ADDRESS"],
    "hardware": ["--site", "ADDRESS"],
    "specs": ["ADDRESS"],
    "schema": ["ADDRESS"],
    "trainer check": ["ADDRESS"],
}


def commands(group, path=()):
    for name, command in group.commands.items():
        inside = hasattr(command, "commands")
        yield from commands(command, (*path, name)) if inside else [" ".join((*path, name))]


@pytest.fixture
def stored(s3):
    """Keeps a folder as a sweep in a new bucket; tells its address."""

    def store(out):
        address = f"{s3.bucket()}/sweeps/one"
        Mirror(address, out, left_out=stays_here).push()
        for run in (out / "runs").iterdir():
            Mirror(f"{address}/runs/{run.name}", run).push()
        return address

    return store


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """From now on as on another machine, where nothing is known."""

    def move():
        monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / f"machine-{len(list(tmp_path.glob('machine-*')))}"))

    return move


def test_no_command_is_forgotten():
    tried = [*READS, *CHANGES, *TRIED_ELSEWHERE, *REFUSED]
    assert sorted(tried) == sorted(commands(typer.main.get_command(app)))


@pytest.mark.slow
@pytest.mark.parametrize("command", READS)
def test_it_says_what_it_says_of_a_folder(command, swept, stored, called):
    _, out = swept
    address = stored(out)

    def said_of(place, shown):
        given = [str(place) if one == "OUT" else one for one in (*command.split(), "OUT", *READS[command], "--json")]
        code, told, error = called(*given)
        for path in shown:
            told, error = told.replace(str(path), "OUT"), error.replace(str(path), "OUT")
        return code, told, error

    of_folder, of_bucket = said_of(out, [out]), said_of(address, [address, copy_of(address)])
    assert of_folder == of_bucket
    assert of_folder[0] == 0 or command == "curve collapse", of_folder


@pytest.mark.parametrize("command", REFUSED)
def test_what_takes_no_folder_says_so(command, s3, called):
    address = f"{s3.bucket()}/x"
    given = [address if one == "ADDRESS" else one for one in REFUSED[command]]
    code, out, error = called(*command.split(), *given)
    name = command.split()[0]
    said = f"nextscale: {address}: `nextscale {name}` reads nothing from a bucket; name a path of this machine\n"
    assert (code, out, error) == (2, "", said)


class TestAskedToStop:
    def test_it_is_left_in_the_bucket(self, swept, stored, called):
        address = stored(swept[1])
        assert called("stop", address, "--now")[0] == 0
        assert Bucket(address).get("stop") == b"0.0\n"


class TestFiles:
    @pytest.mark.parametrize("option", ["--out", "--slide", "--markdown", "--figures"])
    def test_none_is_written_there(self, s3, called, option):
        address = f"{s3.bucket()}/x"
        line = f"nextscale: {option} {address}/y: is in a bucket; name a path of this machine, and copy it there\n"
        for given in ([option, f"{address}/y"], [f"{option}={address}/y"]):
            assert called("report", address, *given) == (2, "", line)

    def test_they_are_read_there(self, s3, called, tmp_path):
        address = s3.bucket()
        (tmp_path / "runs.csv").write_text(
            "params,tokens,loss\n" + "".join(f"{n}e6,{n}e8,{4 - n / 9}\n" for n in (1, 2, 4))
        )
        Bucket(address).put("runs.csv", (tmp_path / "runs.csv").read_bytes())
        here, there = (
            called("import", one, "--out", tmp_path / "out", "--json")
            for one in (tmp_path / "runs.csv", f"{address}/runs.csv")
        )
        assert json.loads(there[1])["imported"][0]["runs"] == json.loads(here[1])["imported"][0]["runs"] == 3
        assert called("fit", f"{address}/none.csv") == (
            2,
            "",
            f"nextscale: there is no file or folder {address}/none.csv; name one\n",
        )

    @pytest.mark.slow
    def test_pages_and_plans(self, swept, stored, called, tmp_path):
        spec, out = swept
        address = stored(out)
        assert called("report", address, "--out", tmp_path / "page.html")[0] == 0
        assert called("plan", spec, "--out", address, "--json")[0] == 0
        for folder in (address, address.rpartition("/")[0]):
            assert called("site", folder, "--out", tmp_path / "public")[0] == 0
            assert "swept" in (tmp_path / "public/index.html").read_text()
        assert (tmp_path / "public/one/index.html").exists()


@pytest.mark.slow
class TestChanges:
    @pytest.fixture
    def address(self, swept, stored):
        return stored(swept[1])

    def test_runs_are_done_again(self, address, swept, called, elsewhere):
        run = sorted(path.name for path in (swept[1] / "runs").iterdir())[0]
        code, told, _ = called("rerun", address, run[:8], "--json")
        assert code == 0
        (one,) = json.loads(told)["runs"]
        assert (one["run_id"], one["was"], one["kept"]) == (run, "done", f"{address}/set-aside/{run}-1")
        elsewhere()
        table, before = load(address), load(swept[1])
        assert {*before["run_id"]} - {*table["run_id"]} == {run}
        kept = Store.existing(address).set_aside(run)[0].record()
        assert kept == Store(swept[1]).record(run)
        assert not list(Store.existing(address).root.glob("set-aside/*/checkpoints/*/*"))
        assert called("rerun", address, run)[0] == 2
        assert called("verify", address, "--deep")[:2] == (0, "9 runs, no faults\n")
        # Whoever held the run before is not heard any more: what comes next is a later holder's.
        assert newest_states(address, "runs/")[run] > "states/000000-"

    def test_runs_are_dropped_and_taken_back(self, address, swept, called, elsewhere):
        run = load(swept[1])["run_id"][0]
        called("rerun", address, run)
        assert called("drop", address, run, "--reason", "too small")[0] == 0
        elsewhere()
        found = load(address).set_index("run_id")
        assert (found["status"][run], found["reason"][run]) == ("dropped", "too small")
        assert called("drop", address, run, "--undo")[0] == 0
        elsewhere()
        assert run not in {*load(address)["run_id"]}

    def test_checkpoints_are_freed(self, address, swept, called, elsewhere):
        held = json.loads(called("gc", address, "--finals", "--json")[1])
        assert held["bytes"] > 0
        assert not held["deleted"]
        freed = json.loads(called("gc", address, "--finals", "--yes", "--json")[1])
        assert freed == held | {"deleted": True}
        elsewhere()
        assert json.loads(called("gc", address, "--finals", "--json")[1])["bytes"] == 0
        expected, found = load(swept[1]).drop(columns="folder"), load(address).drop(columns="folder")
        assert found.equals(expected)
        with whole_copy(address) as whole:
            there = {path.relative_to(whole).as_posix() for path in whole.glob("runs/*/checkpoints/*")}
        gone = {f"runs/{one['run_id']}/checkpoints/{name}" for one in held["runs"] for name in one["checkpoints"]}
        here = {path.relative_to(swept[1]).as_posix() for path in swept[1].glob("runs/*/checkpoints/*")}
        assert there == here - gone

    def test_what_is_written_down_is_there(self, address, called, tmp_path, elsewhere):
        before = len(Ledger(copy_of(address) / "ledger.jsonl").entries())
        arguments = ("--flops", "1e10", "--resamples", "100", "--law", "chinchilla", "--register", "--json")
        target = json.loads(called("forecast", address, *arguments)[1])["targets"][0]
        elsewhere()
        size = ("--params", target["params"], "--tokens", target["tokens"])
        assert called("ledger", "score", address, "--loss", "2.0", *size)[0] == 0
        elsewhere()
        kinds = [entry["kind"] for entry in Ledger(copy_of(address) / "ledger.jsonl").entries()]
        assert kinds[before:] == ["forecast", "score"]

    def test_runs_are_imported_and_exported(self, address, called, tmp_path, elsewhere):
        (tmp_path / "runs.csv").write_text("params,tokens,loss\n1e6,1e8,4\n2e6,2e8,3.7\n")
        for place, before in ((address, 10), (f"{address}-new", 0)):
            assert called("import", tmp_path / "runs.csv", "--out", place)[0] == 0
            elsewhere()
            assert len(load(place)) == before + 2
        shown = json.loads(called("export", address, "--to", "tensorboard", "--json")[1])
        assert shown["done"] == 10
        elsewhere()
        assert list(copy_of(address).glob("tensorboard/**/events.*"))

    def test_nothing_is_changed_where_it_fails_or_something_is_at_work(self, address, swept, called):
        run = load(swept[1])["run_id"][0]
        names = [one.name for one in Bucket(address).list() if "/leases/" not in one.name]
        assert called("rerun", address, run, "none")[0] == 2
        with Lease(f"{address}/{CONTROLLER}"):
            code, _, said = called("drop", address, run)
            assert (code, said) == (
                2,
                f"nextscale: {address}: a controller is at work there; `nextscale stop` it, and ask again\n",
            )
        with Lease(f"{address}/runs/{run}"):
            code, _, said = called("rerun", address, run)
            assert code == 2
            assert said.startswith(
                f"nextscale: run {run}: a worker may be at work on it; wait until it is done or dead"
            )
        assert [one.name for one in Bucket(address).list() if "/leases/" not in one.name] == names


def test_what_is_no_address_is_left_as_it_is(tmp_path):
    given = ["run", "spec.yaml", "--set", "data.path=s3://bucket/x", "--out", str(tmp_path)]
    with with_places_here(given) as found:
        assert found == given
    shutil.rmtree(tmp_path)
