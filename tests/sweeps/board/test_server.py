"""The board from a server: made anew when something has changed, with the live page of each sweep below it."""

import json
import threading
import urllib.error
import urllib.request

import pytest

from nextscale.sweeps.board import standing
from nextscale.sweeps.board.server import BoardSite
from nextscale.sweeps.watch.server import Server

NAME = "two & three#"


@pytest.fixture
def serving(staged, tmp_path):
    """Two sweeps, and a server of their folder."""
    sweeps = [staged(f"all/{name}") for name in ("one", NAME)]
    with Server(BoardSite(tmp_path / "all"), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server, sweeps
        server.shutdown()
        thread.join()


def text_of(server, path=""):
    server.site._due = 0.0  # a look is due
    while True:
        with urllib.request.urlopen(server.url + path, timeout=30) as answer:
            if answer.headers["Refresh"] is None:
                return answer.read().decode(), answer.headers["ETag"]


def test_it_is_made_anew_when_something_has_changed(serving):
    server, (one, _) = serving
    first, tag = text_of(server)
    assert "2 running" in first
    assert text_of(server)[1] == tag
    one.close()
    second, other = text_of(server)
    assert other != tag
    assert "1 running; 1 not begun" in second or "1 not begun; 1 running" in second


def test_while_sweeps_are_read_the_page_says_so_and_asks_again(serving, monkeypatch, opened):
    server, _ = serving
    goes_on = threading.Event()
    monkeypatch.setattr("nextscale.sweeps.board.server._PATIENCE", 0.01)
    monkeypatch.setattr("nextscale.sweeps.board.server._AGAIN", 1)
    real = standing.standings
    monkeypatch.setattr("nextscale.sweeps.board.server.standings", lambda sweeps: goes_on.wait(30) and real(sweeps))
    page = opened(server.url)
    assert "2 being read" in page.inner_text("header")
    goes_on.set()
    page.wait_for_function("() => document.querySelector('header').innerText.includes('2 running')", timeout=30_000)
    assert page.seen.errors == []


def test_only_what_has_changed_is_read_again(serving, monkeypatch):
    server, (one, _) = serving
    text_of(server)
    read, real = [], standing.standings
    monkeypatch.setattr(
        "nextscale.sweeps.board.server.standings", lambda sweeps: [read.extend(s.name for s in sweeps), real(sweeps)][1]
    )
    one.close()
    assert "1 running" in text_of(server)[0]
    assert read == ["one"]


def test_below_it_is_the_live_page_of_each(serving, opened):
    server, (_, other) = serving
    other.start(other.runs[0])
    other.land(other.runs[0])
    page = opened(server.url)
    page.click("tbody tr:last-child a")
    page.wait_for_function("() => document.querySelector('#counts')?.innerText.includes('1 done')", timeout=15_000)
    assert page.seen.errors == []
    assert text_of(server, "one/runs.csv")[0].startswith("run_id,")
    assert json.loads(text_of(server, "one/api/status")[0])["runs"]["done"] == 0


@pytest.mark.parametrize("path", ["one", "three/", "one/../../", "two/api/status", "api/status"])
def test_there_is_nothing_else(serving, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        text_of(serving[0], path)
