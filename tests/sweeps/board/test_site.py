"""The board and its pages as files: what is written, what is kept, what a broken sweep does not keep from the rest."""

import html
import json
import os
import re
import shutil
from urllib.parse import unquote

import pytest

from nextscale.sweeps.board.found import find_sweeps
from nextscale.sweeps.board.standing import standings
from nextscale.sweeps.store.store import Store

NAME = '<b>"two" & three#'


@pytest.fixture
def folder(staged, tmp_path):
    """Two sweeps that have not begun, one of a hostile name, and one that is broken."""
    for name in ("one", f"below/{NAME}", "broken"):
        staged(f"all/{name}", forecast={"law": "none"}, holdout=None).close()
    shutil.rmtree(tmp_path / "all" / "broken" / "runs")
    return tmp_path / "all"


def links(page):
    return [html.unescape(one) for one in re.findall(r'<td class="left"><a href="([^"]*)"', page.read_text())]


def test_each_sweep_has_a_page_that_is_made_again_only_when_it_has_changed(called, folder, tmp_path, opened):
    public = tmp_path / "public"
    code, said, _ = called("site", folder, "--out", public, "--json")
    told = json.loads(said)
    assert code == 0
    assert (told["written"], told["kept"]) == ([f"below/{NAME}", "one"], [])
    (problem,) = told["problems"]["broken"]
    assert problem.startswith("broken: holds no sweep") and "\n" not in problem
    pages = [public / unquote(link) for link in links(public / "index.html")]
    assert pages == [public / f"below/{NAME}/index.html", public / "one" / "index.html"]
    assert all(page.is_file() for page in pages)

    page = opened(public / "index.html")
    page.click("tbody a")
    assert page.inner_text("h1") == "staged: a scaling study"
    assert re.match(r"Spec staged \(digest [0-9a-f]{16}\).*; written by nextscale \d", page.inner_text("footer"))
    assert page.seen.errors == []

    before = pages[0].stat().st_mtime_ns
    shutil.copytree(folder / "one", tmp_path / "copy")  # with its times
    shutil.rmtree(folder / "one")
    (tmp_path / "copy").rename(folder / "one")
    told = json.loads(called("site", folder, "--out", public, "--json")[1])
    assert (told["written"], told["kept"]) == ([], [f"below/{NAME}", "one"])
    with (folder / "one" / "accounts.jsonl").open("a") as file:
        file.write("\n")
    told = json.loads(called("site", folder, "--out", public, "--json")[1])
    assert (told["written"], told["kept"]) == (["one"], [f"below/{NAME}"])
    assert pages[0].stat().st_mtime_ns == before


def test_a_sweep_whose_page_would_be_the_board_is_told_so(called, staged, tmp_path):
    staged("all/index.html", forecast={"law": "none"}, holdout=None).close()
    code, said, _ = called("site", tmp_path / "all", "--out", tmp_path / "public")
    assert code == 0
    assert "index.html: its page would lie where the board does; rename the folder" in said
    assert links(tmp_path / "public" / "index.html") == []


@pytest.mark.slow
def test_the_pages_are_those_of_the_report(called, swept, tmp_path):
    """And the board's forecast is the sentence that stands there."""
    shutil.copytree(swept[1], tmp_path / "all" / "swept")
    code, said, _ = called("site", tmp_path / "all", "--out", tmp_path / "public")
    assert code == 0
    assert "pages of sweeps: 1 written, 0 kept" in said
    board, page = ((tmp_path / "public" / name / "index.html").read_text() for name in ("", "swept"))
    assert re.findall(r'<section id="([^"]+)"', page) == re.findall(
        r'<section id="([^"]+)"', (swept[1] / "report.html").read_text()
    )
    (sentence,) = re.findall(r'<p class="sentence">(The best of .*?)</p>', page)
    assert sentence in board
    assert re.search(
        r"<footer[^>]*>Spec swept \(digest [0-9a-f]{16}\), trained on markov \(vocab 16, seed 1\); written by", page
    )
    figures = {path.name for path in (swept[1] / "figures").iterdir()}
    assert {path.name for path in (tmp_path / "public" / "swept" / "figures").iterdir()} == figures


@pytest.mark.parametrize(
    "place, out, line",
    [
        ("nowhere", "public", "is no folder; name one that holds"),
        ("empty", "public", "holds no sweep; name a folder with some --out"),
        ("all", "all", "is among the sweeps themselves; name another folder"),
        ("all", "all/one/public", "is among the sweeps themselves; name another folder"),
        ("all", "file", "cannot be written to"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(called, staged, tmp_path, place, out, line):
    staged("all/one").close()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    code, _, err = called("site", tmp_path / place, "--out", tmp_path / out)
    assert code == 2
    assert line in err
    assert err.count("\n") == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-20] + b"\n")


def damaged_ledger(out):
    (out / "ledger.jsonl").write_text('{"kind": "forecast"}\n')


def damaged_record(out):
    cut(next(out.glob("runs/*/record.json")))


def damaged_config(out):
    next(out.glob("runs/*/config.json")).write_text("[]")


def damaged_accounts(out):
    with (out / "accounts.jsonl").open("a") as file:
        file.write('{"kind": "settled"}\n')


def damaged_import(out):
    (out / "imports").mkdir()
    (out / "imports" / "x.json").write_text("{")


def damaged_spec(out):
    for path in out.glob("sweeps/*.json"):
        path.write_text("{}")


def no_folder_of_runs(out):
    shutil.rmtree(out / "runs")
    (out / "runs").write_text("")


@pytest.mark.parametrize(
    "damage, state",
    [
        (damaged_ledger, "stopped"),
        (damaged_record, "stopped"),
        (damaged_config, "stopped"),
        (damaged_accounts, "stopped"),
        (damaged_import, "broken"),
        (damaged_spec, "broken"),
        (no_folder_of_runs, "broken"),
    ],
)
def test_whatever_is_broken_in_one_is_told_there_and_nowhere_else(staged, tmp_path, damage, state):
    for name in ("whole", "hurt"):
        sweep = staged(f"all/{name}", holdout=None)
        sweep.start(sweep.runs[0])
        sweep.land(sweep.runs[0])
        sweep.close()
    damage(tmp_path / "all" / "hurt")
    hurt, whole = standings(find_sweeps(tmp_path / "all"))
    assert (whole.state, whole.runs, whole.problems) == (
        "stopped",
        {"done": 1, "failed": 0, "left": 5, "imported": 0},
        [],
    )
    assert hurt.state == state
    assert hurt.problems
    assert all(len(line.splitlines()) == 1 for line in hurt.problems)
    assert str(tmp_path) not in " ".join(hurt.problems)


def test_sweeps_are_found_wherever_they_lie_and_nothing_else_is(tmp_path):
    for name in ("b", "a/deep/er", "a/other", ".hidden", "b/runs/inner"):
        (Store.at(tmp_path / name).root / "ledger.jsonl").write_text("")
    (tmp_path / "a" / "docs" / "runs").mkdir(parents=True)
    (tmp_path / "a" / "docs" / "sweeps").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    (tmp_path / "loop").symlink_to(tmp_path)
    Store.at(tmp_path / os.fsdecode(b"caf\xe9\n") / "x").root.joinpath("ledger.jsonl").write_text("")
    names = [one.name for one in find_sweeps(tmp_path)]
    assert names == ["a/deep/er", "a/other", "b", "caf\ufffd\ufffd/x", "linked"]
    assert [one.name for one in find_sweeps(tmp_path / "b")] == ["b"]
