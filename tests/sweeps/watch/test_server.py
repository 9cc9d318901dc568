"""The live page's server: what it answers, to whom, and what it never does."""

import contextlib
import csv
import http.client
import io
import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pandas as pd
import pytest

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.show.spreadsheet import csv_of
from nextscale.sweeps.store.store import load
from nextscale.sweeps.watch import controller
from nextscale.sweeps.watch.server import Server, Site
from nextscale.sweeps.watch.status import status

HOSTILE = '<script>alert(1)</script> & "quoted" \'\u2028'


@pytest.fixture
def served():
    """Asks a server of a folder: `served(out)("/path", method=..., **headers)` is the response, with its `body`."""
    with contextlib.ExitStack() as stack:

        def serve(out, **options):
            server = stack.enter_context(Server(Site(out), **{"port": 0} | options))
            server.site._due = 0.0
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)

            def ask(path, method="GET", **headers):
                with contextlib.closing(http.client.HTTPConnection(*server.server_address[:2], timeout=20)) as link:
                    link.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
                    answer = link.getresponse()
                    answer.body = answer.read()
                return answer

            ask.server = server
            return ask

        yield serve


def told(ask):
    ask.server.site._due = 0.0  # a look is due
    answer = ask("/api/status")
    assert answer.status == 200
    return json.loads(answer.body)


def test_a_finished_sweep(served, swept, tmp_path):
    shutil.copytree(swept[1], tmp_path / "out")
    ask = served(tmp_path / "out")
    found = told(ask)
    assert found["runs"] == status(tmp_path / "out").runs
    assert ask("/report").body == (tmp_path / "out" / "report.html").read_bytes()
    assert found["figures"]
    for name in found["figures"]:
        answer = ask(f"/figures/{name}")
        assert answer.body == (tmp_path / "out" / "figures" / name).read_bytes()
        assert answer.headers["Content-Type"] == {"svg": "image/svg+xml", "png": "image/png"}[name[-3:]]
    rows = list(csv.DictReader(io.StringIO(ask("/runs.csv").body.decode())))
    assert [row["status"] for row in rows] == ["done"] * 10


FORMULAS = ["=1+1", '=HYPERLINK("http://x","y")', "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "a\r=1", "a\n=1"]


def test_the_table_of_runs_holds_no_formula(served, swept, tmp_path):
    """Text from elsewhere, such as why a run failed or on what it ran, stays text; numbers stay numbers."""
    out = shutil.copytree(swept[1], tmp_path / "out")
    lines = [json.loads(line) for line in (out / "accounts.jsonl").read_text().splitlines()]
    hostile = [line | {"accelerator": FORMULAS[i % 8]} for i, line in enumerate(lines)]
    (out / "accounts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in hostile))
    text = served(out)("/runs.csv").body.decode()
    rows, plain = list(csv.DictReader(io.StringIO(text, newline=""))), load(out)
    assert {row["accelerator"] for row in rows} <= {f"'{value}" for value in FORMULAS}
    assert len({row["accelerator"] for row in rows}) > 1
    for name in ("params", "tokens", "flops", "loss"):
        assert [float(row[name]) for row in rows] == pytest.approx(plain[name].tolist(), rel=1e-12)


def test_only_text_is_guarded_against_formulas():
    frame = pd.DataFrame(
        {
            "=1+1": [*FORMULAS, "a=b", "", "-1.5e-3", "+7"],
            "number": [-float(i) for i in range(14)],
            "whole": range(-6, 8),
            "mixed": [-1, -2.5, None, "=x", True, *[0] * 9],
        }
    )
    head, *rows = csv.reader(io.StringIO(csv_of(frame), newline=""))
    assert head == ["'=1+1", "number", "whole", "mixed"]
    assert [row[0] for row in rows] == [
        *(f"'{value}" for value in FORMULAS[:8]),
        *FORMULAS[8:],
        "a=b",
        "",
        "-1.5e-3",
        "+7",
    ]
    assert [float(row[1]) for row in rows] == frame["number"].tolist()
    assert [int(row[2]) for row in rows] == frame["whole"].tolist()
    assert [row[3] for row in rows][:5] == ["-1", "-2.5", "", "'=x", "True"]


def test_the_page_is_one_file_with_nothing_from_elsewhere(served, staged):
    page = served(staged().out)("/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    text = page.body.decode()
    assert not re.search(r"<(link|img|script)[^>]+(src|href)=|@import|url\(", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/figures/../ledger.jsonl",
        "/figures/..%2f..%2fetc%2fpasswd.csv",
        "/figures/%2e%2e/accounts.jsonl",
        "/figures/away.png",
        "/figures/none.svg",
        "/accounts.jsonl",
        "/runs/",
        "/report/",
        "//etc/passwd",
        "/%00",
    ],
)
def test_what_is_not_named_is_not_there(served, staged, path):
    sweep = staged()
    (sweep.out / "figures").mkdir()
    (sweep.out / "figures" / "away.png").symlink_to("/etc/passwd")
    answer = served(sweep.out)(path)
    assert answer.status == 404
    assert b"root:" not in answer.body


def test_another_name_for_this_machine_is_refused(served, staged):
    """A page elsewhere could have its own name point here and read what it likes."""
    ask = served(staged().out)
    for host in (
        "evil.example",
        "evil.example:8420",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "[::2]:80",
    ):
        answer = ask("/api/status", Host=host)
        assert answer.status == 403, host
        assert b"localhost" in answer.body
        assert b"staged" not in answer.body
    for host in ("localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8420", "[::1]"):
        assert ask("/api/status", Host=host).status == 200, host


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(served, staged, method):
    sweep = staged()
    before = {path: path.stat().st_mtime_ns for path in sweep.out.rglob("*") if path.name != "000001.json"}
    answer = served(sweep.out)("/api/status", method=method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert before == {path: path.stat().st_mtime_ns for path in sweep.out.rglob("*") if path.name != "000001.json"}


@pytest.mark.parametrize("path", ["/", "/api/status", "/report", "/runs.csv", "/figures/a.svg", "/none"])
def test_every_answer_is_guarded_and_head_is_it_without_its_body(served, staged, path):
    sweep = staged()
    (sweep.out / "report.html").write_text("<p>report</p>")
    (sweep.out / "figures").mkdir()
    (sweep.out / "figures" / "a.svg").write_text("<svg/>")
    ask = served(sweep.out)
    whole, head = ask(path), ask(path, method="HEAD")
    assert head.body == b""
    assert {**head.headers} | {"Date": ""} == {**whole.headers} | {"Date": ""}
    assert int(whole.headers["Content-Length"]) == len(whole.body)
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    policy = whole.headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy
    if path == "/":
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', whole.body.decode())[1]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_what_has_not_changed_is_not_sent_again(served, staged):
    sweep = staged()
    sweep.start(sweep.runs[0])
    ask = served(sweep.out)
    for path in ("/", "/api/status"):
        tag = ask(path).headers["ETag"]
        again = ask(path, If_None_Match=tag)
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == tag
    sweep.land(sweep.runs[0])
    ask.server.site._due = 0.0
    news = ask("/api/status", If_None_Match=tag)
    assert news.status == 200
    assert news.headers["ETag"] != tag
    other = served(sweep.out)
    assert other("/api/status", If_None_Match=news.headers["ETag"]).status == 200, "another server numbers for itself"


def test_many_who_ask_at_once_are_told_of_one_look(served, staged):
    ask = served(staged().out)
    looks, look = [], ask.server.site.live.look

    def slow():
        looks.append(time.monotonic())
        time.sleep(0.1)
        return look()

    ask.server.site.live.look = slow
    threads = [threading.Thread(target=ask, args=("/api/status",)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 1
    assert ask.server.site._due - looks[0] >= 1.0, "a look that takes long is taken seldom"


def test_hostile_names_are_data(served, staged):
    sweep = staged(data={"source": "markov", "vocab": 16})
    sweep.start(sweep.runs[0], slot=HOSTILE)
    sweep.fail(sweep.runs[0], HOSTILE)
    ask = served(sweep.out)
    assert told(ask)["failures"] == {sweep.runs[0].config.run_id: HOSTILE}
    assert ask("/api/status").headers["Content-Type"] == "application/json"
    hostile = sweep.out.parent / "<b onmouseover=alert(1)>&"
    assert b"<b " not in served(hostile)("/").body


def test_before_it_has_begun_while_it_is_away_and_after_its_controller_has_died(served, staged, tmp_path, monkeypatch):
    ask = served(tmp_path / "out")
    assert not told(ask)["begun"]
    assert ask("/report").status == 404
    assert ask("/runs.csv").status == 503
    sweep = staged()
    sweep.start(sweep.runs[0])
    assert told(ask)["controller"] == "at work"
    sweep.lease._closed.set()
    sweep.lease._thread.join()
    monkeypatch.setattr(controller, "TIME_TO_LIVE", 0.0)
    found = told(ask)
    assert (found["controller"], found["runs"]["unfinished"]) == ("silent", 1)
    shutil.move(tmp_path / "out", tmp_path / "away")
    assert "holds no sweep" in told(ask)["problem"]
    shutil.move(tmp_path / "away", tmp_path / "out")
    assert told(ask)["problem"] is None


def test_a_port_that_is_taken_and_a_host_that_is_none(called, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = called("serve", tmp_path, "--port", port)
    assert (code, out) == (2, "")
    assert err == f"nextscale: --port {port}: is in use on 127.0.0.1; name another, or 0 for one that is free\n"
    with pytest.raises(SpecError, match=r"--host 192\.0\.2\.1: is no address of this machine"):
        Server(Site(tmp_path), "192.0.2.1", 0)
    assert called("serve", tmp_path, "--port", 70000)[0] == 2


def test_ctrl_c_ends_the_command(command, tmp_path):
    process = subprocess.Popen(
        [*command, "serve", str(tmp_path), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it puts in the background ignore Ctrl-C, these tests, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    where = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    with socket.create_connection((where["host"], where["port"]), timeout=20):
        process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 130


def test_it_is_said_when_others_can_read_the_page(called, monkeypatch, tmp_path):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    assert called("serve", tmp_path, "--port", 0)[2] == ""
    code, out, err = called("serve", tmp_path, "--port", 0, "--host", "0.0.0.0")
    assert code == 130
    assert err.startswith("warning: whoever reaches http://0.0.0.0:")
    assert len(err.splitlines()) == len(out.splitlines()) == 1


def test_every_address_may_ask_by_any_name_where_it_was_asked_for(served, staged):
    ask = served(staged().out, host="0.0.0.0")
    assert ask("/api/status", Host="node17:8420").status == 200


@pytest.mark.slow
def test_a_sweep_is_followed_from_before_it_begins_until_its_report(served, command, spec_file, tmp_path):
    ask, seen = served(tmp_path / "out"), []
    assert not told(ask)["begun"]
    with subprocess.Popen([*command, "run", spec_file(), "--out", tmp_path / "out"], stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            found = told(ask)
            if found["begun"] and found["problem"] is None and found != (seen and seen[-1]):
                seen.append(found)
            time.sleep(0.2)
    seen.append(told(ask))
    assert run.returncode == 0
    done = [found["sweeps"][0]["runs"]["done"] for found in seen if found["sweeps"]]
    assert done == sorted(done)
    assert len(set(done)) > 5
    assert done[-1] == 15
    shares = [one["flops"][0] / one["flops"][1] for found in seen for one in found["sweeps"]]
    assert all(later >= earlier * 0.98 for earlier, later in itertools.pairwise(shares))
    assert shares[-1] == 1
    working = [found for found in seen if found["controller"] == "at work"]
    assert any(found["time_left"] for found in working)
    assert any(lane["run_id"] for found in working for lane in found["lanes"])
    assert any(found["curves"] for found in working)
    last = seen[-1]
    assert (last["controller"], last["runs"]["done"], last["time_left"]) == ("none", 15, None)
    assert last["runs"] == status(tmp_path / "out").runs
    assert last["forecasts"][0]["targets"][0]["measured"] > 0
    assert last["summary"]["sweep"] == "tiny"
    assert ask("/report").status == 200
