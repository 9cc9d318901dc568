"""What cannot be read of a folder is told in a line, without a traceback, and the rest is shown."""

import http.client
import json
import shutil
import threading

import pytest

from nextscale.cluster.controller.accounts import Accounts
from nextscale.sweeps import load
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.store.garbage import garbage
from nextscale.sweeps.watch.server import Server, Site
from nextscale.sweeps.watch.status import status
from nextscale.sweeps.watch.watcher import Watcher

DEEP = "[" * 10**5 + "]" * 10**5
HUGE = "1" + "0" * 400
SHOWN = ("runs", "status", "logs")
"""The commands that show what can be read."""


@pytest.fixture
def out(swept, tmp_path):
    return shutil.copytree(swept[1], tmp_path / "out")


def a_run(out):
    return sorted(path for path in (out / "runs").iterdir() if "parent" in path.joinpath("config.json").read_text())[0]


def told(called, out):
    """What the commands that show a folder say of it: exit codes, and all lines."""
    answers = {command: called(command, out) for command in SHOWN}
    for command, (code, _, err) in answers.items():
        assert code in (0, None), (command, err)
        assert "Traceback" not in err
    return {command: (said, " ".join(err.split())) for command, (_, said, err) in answers.items()}


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class TestRunsOfAnotherVersion:
    @pytest.fixture(params=["unknown key", "key of a model", "status", "no such value"])
    def alien(self, request, out):
        run = a_run(out)
        edit(run / "record.json", versions={"nextscale": "99.1"})
        config = json.loads((run / "config.json").read_text())
        match request.param:
            case "unknown key":
                edit(run / "config.json", colour="blue")
            case "key of a model":
                edit(run / "config.json", model=config["model"] | {"colour": "blue"})
            case "status":
                edit(run / "record.json", status="extended")
            case "no such value":
                edit(run / "config.json", training=config["training"] | {"optimizer": "shiny"})
        return run

    def test_the_rest_is_shown_and_who_wrote_it_is_told(self, called, out, alien):
        answers = told(called, out)
        found = answers["status"][1]
        assert "written by nextscale 99.1" in found and alien.name in found
        assert "delete" not in found
        assert alien.name in answers["runs"][0] and "unreadable" in answers["runs"][0]
        assert "10 runs" in answers["runs"][0]
        found = status(out)
        assert (found.runs["done"], found.runs["unreadable"]) == (9, 1)

    def test_no_law_is_fitted_to_a_part_without_a_word(self, out, alien):
        with pytest.raises(SpecError, match=r"written by nextscale 99\.1; read this run with that version") as raised:
            load(out)
        assert "delete" not in str(raised.value)

    def test_what_it_needs_is_no_garbage(self, called, out, alien):
        if (alien / "config.json").read_text().find("blue") < 0:
            pytest.skip("its config can be read")
        assert alien.name not in {one.run_id for one in garbage(out, finals=True)}
        assert len(garbage(out, finals=True)) > 0, "of the others some is"
        code, _, err = called("gc", out, "--finals")
        assert code in (0, None) and "delete" not in err

    def test_it_comes_back_as_it_was(self, out, alien, swept):
        assert status(out).runs["unreadable"] == 1
        shutil.copytree(swept[1] / "runs" / alien.name, alien, dirs_exist_ok=True)
        assert status(out).runs["unreadable"] == 0
        assert len(load(out)) == 10


RUNS = {
    "a number beyond floats": lambda run: (run / "record.json").write_text(
        (run / "record.json").read_text().replace('"params": ', f'"params": {HUGE}, "was": ', 1)
    ),
    "a further number beyond floats": lambda run: edit(run / "record.json", another=int(HUGE)),
    "text for a number": lambda run: edit(run / "record.json", loss="low"),
    "an unknown status": lambda run: edit(run / "record.json", status="odd"),
    "a status that is none": lambda run: edit(run / "record.json", status=["done"]),
    "a deep record": lambda run: (run / "record.json").write_text(f'{{"status": "done", "x": {DEEP}}}'),
    "a record that is a list": lambda run: (run / "record.json").write_text(DEEP),
    "a deep config": lambda run: (run / "config.json").write_text(DEEP),
    "bytes": lambda run: (run / "config.json").write_bytes(b"\xff\xfe"),
    "versions that are none": lambda run: edit(run / "record.json", versions=3),
}


@pytest.mark.parametrize("what", RUNS)
def test_a_damaged_run_is_told_and_the_others_are_shown(called, out, what):
    run = a_run(out)
    RUNS[what](run)
    answers = told(called, out)
    assert run.name in answers["runs"][0]
    assert run.name in answers["status"][1].replace(" ", "")
    found = status(out)
    assert (found.runs["done"], found.runs["unreadable"]) == (9, 1)
    with pytest.raises(SpecError, match=run.name):
        load(out)


ROWS = {
    "no kind": "{}",
    "nothing but a kind": '{"kind": "settled"}',
    "a number beyond floats": f'{{"kind": "settled", "attempt": {HUGE}}}',
    "no number": '{"kind": "reserved", "attempt": NaN}',
    "a deep row": DEEP,
}


@pytest.mark.parametrize("what", [*ROWS, "one value"])
def test_a_damaged_account_is_told_and_the_others_count(called, out, what):
    rows, before = [ROWS.get(what)], status(out)
    if what == "one value":
        last = json.loads((out / "accounts.jsonl").read_text().splitlines()[-1])
        names = ("usd", "seconds", "device_us", "flops_kept", "attempt")
        rows = [json.dumps(last | {name: value}) for name in names for value in (int(HUGE), "x", None, float("nan"))]
        rows += [json.dumps({k: v for k, v in last.items() if k != name}) for name in ("pool", "slot", "accelerator")]
    with (out / "accounts.jsonl").open("a") as file:
        file.write("".join(f"{row}\n" for row in rows))
    answers = told(called, out)
    assert status(out).spent == before.spent
    if rows == [DEEP]:
        return
    for command in ("runs", "status"):
        assert "accounts.jsonl" in answers[command][1]
    with pytest.raises(ValueError, match=r"row \d+ is damaged: .*; restore the accounts from a copy"):
        Accounts(out / "accounts.jsonl")


@pytest.mark.parametrize(
    "row", ['{"time": "x"}', "{}", f'{{"time": {HUGE}}}', '{"time": 1e99, "event": "a", "text": ""}']
)
def test_an_event_that_is_none_is_told_and_the_others_are_shown(called, out, row):
    before = called("logs", out)[1]
    with (out / "events.jsonl").open("a") as file:
        file.write(f"{row}\n")
    answers = told(called, out)
    assert answers["logs"][0] == before
    assert "events.jsonl: row" in answers["logs"][1] and "is damaged: its time is" in answers["logs"][1]
    assert "events.jsonl" in answers["status"][1]


def test_a_curve_with_rows_that_are_none_is_followed(staged):
    sweep = staged()
    run = sweep.runs[0]
    sweep.start(run)
    sweep.train(run, 0.5)
    with sweep.store.run(run.config.run_id).metrics_file.open("a") as file:
        file.write(f'{{"tokens": "x"}}\n{{"tokens": {HUGE}, "loss": 1}}\n{DEEP}\n{{"tokens": 9999999, "loss": "x"}}\n')
    watcher = Watcher(sweep.out)
    watcher.look()
    assert watcher.curves[run.config.run_id].position == run.tokens // 2
    (one,) = status(sweep.out).running
    assert one.share == pytest.approx(0.5)


def test_the_server_answers_and_goes_on_telling_of_it(out):
    with Server(Site(out), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:

            def ask(path):
                server.site._due = 0.0
                link = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
                link.request("GET", path)
                answer = link.getresponse()
                body = answer.read()
                link.close()
                assert answer.status == 200
                return body

            assert json.loads(ask("/api/status"))["problem"] is None
            with (out / "accounts.jsonl").open("a") as file:
                file.write('{"kind": "settled"}\n')
            edit(a_run(out) / "record.json", status="odd")
            for _ in range(3):
                found = json.loads(ask("/api/status"))
                assert "accounts.jsonl: rows that are none: 1; the first: its attempt is None" in found["problem"]
                assert found["spent"]["attempts"] == 10
            assert len(ask("/runs.csv").splitlines()) == 11
        finally:
            server.shutdown()
            thread.join()
