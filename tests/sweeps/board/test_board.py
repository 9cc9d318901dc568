"""The board of ten sweeps in a real browser: three recipes, one sweep at work, one broken, names that are hostile."""

import json

import pytest

from nextscale.sweeps.board.board import Board
from nextscale.sweeps.board.found import find_sweeps
from nextscale.sweeps.board.recipes import differences, pairs, recipes
from nextscale.sweeps.board.standing import standings
from nextscale.sweeps.ledger import Ledger

CELLS = """
name => [...document.querySelectorAll(`table[data-name="${name}"] tbody tr`)].map(row =>
  [...row.cells].map(cell => cell.textContent))
"""


@pytest.fixture(scope="session")
def board_file(at_work, tmp_path_factory):
    """The board as a file."""
    file = tmp_path_factory.mktemp("board") / "index.html"
    file.write_text(Board("all", lambda one: f"./{one.name}").page(standings(find_sweeps(at_work))))
    return file


@pytest.fixture
def page(opened, board_file):
    return opened(board_file, viewport={"width": 1280, "height": 900})


def test_a_row_per_sweep_says_how_it_stands(page, hostile):
    rows = {row[0]: row[1:] for row in page.evaluate(CELLS, "sweeps")}
    assert set(rows) == {"base-1", "base-2", "nested/warm-1", "warm-2", "cosine-1", "running", "broken", *hostile}
    state, told, error, inside, *runs, usd, _ = rows["base-2"]
    assert (state, error, inside, runs, usd) == ("done", "5.00%", "0 of 2", ["14", "0", "0"], "0.84")
    assert "was forecast before any of them had started" in told and "0 of 2 inside" in told
    assert rows["base-1"][2:4] == ["0.00%", "2 of 2"]
    assert (rows["running"][0], rows["running"][1], rows["running"][4:7]) == (
        "running",
        "Not made yet.",
        ["3", "0", "11"],
    )
    assert rows["broken"][0] == "broken"
    assert rows["broken"][1].startswith("Wrong: broken: holds no sweep")
    assert page.inner_text(".top .quiet") == "8 done; 1 broken; 1 running"


def test_every_forecast_stands_there_with_its_hash_and_outcome(page, at_work):
    entries = [one for file in at_work.rglob("ledger.jsonl") for one in Ledger(file).entries()]
    told = page.evaluate("page.tables.calibration")
    rows = [dict(zip(told["columns"], row, strict=True)) for row in told["rows"]]
    made = {
        (one["hash"], target["run_id"]) for one in entries if one["kind"] == "forecast" for target in one["targets"]
    }
    assert len(made) == 16
    assert {(row["forecast"], row["run_id"]) for row in rows} == made
    assert {row["verdict"] for row in rows if row["sweep"].startswith("base-2")} == {"miss"}
    assert {row["verdict"] for row in rows if not row["sweep"].startswith("base-2")} == {"hit"}
    assert {row[1] for row in page.evaluate(CELLS, "ledger-1")} == {one[:8] for one, _ in made}
    assert page.evaluate(CELLS, "ledger-2")[-1][:4] == ["all", "16", "14", "88%"]


def test_recipes_are_worth_what_their_losses_say(page, worth):
    """The better needs half the compute for the loss of the other, and so on."""
    rows = page.evaluate(CELLS, "recipes")
    assert len(rows) == 3
    for b, a, verdict, apart, _, multiplier, *_ in rows:
        kinds = [next(kind for kind in worth if kind in name) for name in (b, a)]
        expected = worth[kinds[0]] / worth[kinds[1]]
        assert float(multiplier) == pytest.approx(expected, rel=0.05)
        assert verdict == ("better" if expected > 1 else "worse")
        assert ("training.lr: " in apart) == ("warm" in kinds)
        assert ("training.schedule: " in apart) == ("cosine" in kinds)


def test_sweeps_with_a_target_in_common_stand_by_their_loss(page, hostile):
    rows = page.evaluate(CELLS, "target-1")
    measured = [row for row in rows if row[2] != "not measured yet"]
    assert [row[0] for row in measured] == list("1234567")
    losses = [float(row[-1]) for row in measured]
    assert losses == sorted(losses)
    assert {row[1] for row in measured[:2]} <= {"nested/warm-1", "warm-2", hostile[1]}
    assert measured[-1][1] == "cosine-1"
    assert rows[-1] == ["-", "running", "not measured yet", "-", "-", "-"]
    assert hostile[2] not in {row[1] for row in rows}, "it was trained on other data"


def test_it_says_of_which_specs_and_data_it_is_and_by_what_it_was_written(page, at_work):
    rows = {name: rest for name, *rest in page.evaluate(CELLS, "sources")}
    (spec,) = (at_work / "base-1" / "sweeps").glob("*.json")
    assert rows["base-1"][:2] == [spec.stem, "source=markov vocab=16 seed=1"]
    assert page.inner_text("footer").startswith("written by nextscale ")
    assert str(at_work) not in page.content(), "where the folder lies is nobody's business"


def test_hostile_names_stay_text_and_nothing_is_asked_of_anybody(page):
    assert page.evaluate("window.hit") is None
    assert page.seen.errors == page.seen.requests == []
    assert page.query_selector_all("img, iframe, link, script[src]") == []


def test_it_can_be_sorted_and_kept_as_csv(page):
    page.click("[data-sort=error]")
    page.click("[data-sort=error]")
    assert page.evaluate(CELLS, "sweeps")[0][0] == "base-2"
    with page.expect_download() as download:
        page.click("button[data-csv=sweeps]")
    head, *rows = download.value.path().read_text().splitlines()
    assert head.startswith("name,state,told,error")
    assert len(rows) == 10


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_reads_well(opened, board_file, contrast, theme, width):
    page = opened(board_file, color_scheme=theme, viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    worst, where = page.evaluate(contrast)
    assert worst >= 4.5, where


ACCESSIBLE = """
() => {
  const faults = [], named = (one) => one.textContent.trim() || one.getAttribute("aria-label");
  if (!document.documentElement.lang) faults.push("no language");
  for (const one of document.querySelectorAll("a, button")) if (!named(one)) faults.push(one.outerHTML);
  for (const one of document.querySelectorAll("svg")) if (!one.getAttribute("aria-label")) faults.push("a drawing");
  for (const one of document.querySelectorAll("th")) if (one.scope !== "col") faults.push(one.outerHTML);
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  if (new Set(ids).size !== ids.length) faults.push("an id twice");
  let level = 0;
  for (const one of document.querySelectorAll("h1, h2, h3, h4")) {
    if (one.tagName[1] > level + 1) faults.push(`${one.tagName} after H${level}`);
    level = Number(one.tagName[1]);
  }
  for (const one of document.querySelectorAll("*")) {
    const style = getComputedStyle(one);
    const scrolls = /auto|scroll/.test(style.overflowX) && one.scrollWidth > one.clientWidth + 1;
    if (scrolls && one.tabIndex < 0 && !one.querySelector("a, button")) faults.push(`unreachable: ${one.outerHTML}`);
  }
  return faults;
}
"""


def test_everything_has_a_name_and_can_be_reached_by_keyboard(page):
    assert page.evaluate(ACCESSIBLE) == []
    wanted = page.evaluate("document.querySelectorAll('a, button').length")
    reached = set()
    for _ in range(4 * wanted):
        page.keyboard.press("Tab")
        told = page.evaluate(
            """() => {
              const all = [...document.querySelectorAll("a, button")], here = document.activeElement;
              return [all.indexOf(here), getComputedStyle(here).outlineStyle];
            }"""
        )
        if told[0] >= 0:
            assert told[1] != "none", "where the keyboard is is seen"
            reached.add(told[0])
        if len(reached) == wanted:
            break
    assert len(reached) == wanted


def test_it_is_small(board_file):
    assert board_file.stat().st_size < 3e5


def test_a_copied_ledger_counts_once(at_work, tmp_path):
    """Of two the one that has the score."""
    one, other = (tmp_path / name for name in ("one", "other"))
    for folder in (one, other):
        (folder / "runs").mkdir(parents=True)
        lines = (at_work / "base-1" / "ledger.jsonl").read_text().splitlines(keepends=True)
        (folder / "ledger.jsonl").write_text("".join(lines if folder is other else lines[:1]))
    text = Board("x", lambda _: None).page(standings(find_sweeps(tmp_path)))
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert len(data["tables"]["calibration"]["rows"]) == 2


def test_recipes_that_cannot_be_compared_say_why_and_those_of_other_data_are_not(staged, tmp_path):
    data = {"source": "markov", "vocab": 16}
    for name, lr, seed in (("a", 0.01, 1), ("b", 0.02, 1), ("c", 0.03, 2)):
        training = {"batch_tokens": 128, "schedule": "linear", "lr": lr}
        sweep = staged(f"all/{name}", training=training, data=data | {"seed": seed}, holdout=None)
        sweep.start(sweep.runs[0])
        sweep.land(sweep.runs[0])
        sweep.close()
    found = recipes(standings(find_sweeps(tmp_path / "all")))
    ((pair,), left_out) = pairs(found, {})
    assert (pair.a.name, pair.b.name, pair.found, left_out) == ("a", "b", None, 0)
    assert "needs 5 runs or more" in pair.problem
    assert differences(pair.a, pair.b) == "training.lr: 0.01, 0.02"


def test_a_board_of_broken_sweeps_alone_is_a_board(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ledger.jsonl").write_text("[]\n")
        (tmp_path / name / "runs").write_text("")
    found = standings(find_sweeps(tmp_path))
    text = Board("x", lambda _: None).page(found)
    assert [one.state for one in found] == ["broken", "broken"]
    assert found[0].problems[0].startswith("one: holds no sweep")
    assert found[0].problems[1].startswith("one/ledger.jsonl:1: this entry")
    assert "Wrong: one: holds no sweep" in text
