"""The page of a sweep that was run."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe

from nextscale.fit.optimum.forecast import forecast
from nextscale.fit.trust.backtest import fit_backtested
from nextscale.fit.trust.consensus import Member
from nextscale.fit.trust.forecaster import fit_forecaster
from nextscale.fit.trust.reach import ReachErrors, reach_errors
from nextscale.sweeps.budget.targets import forecast_targets
from nextscale.sweeps.commands.app import main
from nextscale.sweeps.report.answer import Answer
from nextscale.sweeps.report.calculator import calculator_data
from nextscale.sweeps.show import sentences

NARROW = {"width": 360, "height": 740}
SOME = {
    "flops": (1e6, 3.7e8, 2e9, 4.56e11, 1e15, 8e21),
    "usd": (1e-3, 2e6, 3e12),
    "days": (0.25, 90),
    "device-hours": (3e4,),
}
TEN = {
    unit: np.geomspace(*ends, 10)
    for unit, ends in {
        "flops": (1e7, 1e24),
        "usd": (1e-4, 1e8),
        "days": (1e-6, 3e3),
        "device-hours": (1e-4, 1e8),
    }.items()
}
ANSWER = """
() => Object.fromEntries([...document.querySelectorAll("#forecast-answer tr[data-row]")].map((row) =>
  [row.dataset.row, [...row.querySelectorAll("data")].map((one) => Number(one.value))]))
"""


@pytest.fixture
def reported(swept):
    """The folder of a small sweep, and its page."""
    return swept[1]


@pytest.fixture
def page(opened, reported):
    return opened(reported / "report.html", viewport={"width": 1280, "height": 900})


def test_it_opens_without_errors_and_asks_nobody(page):
    assert page.seen.errors == page.seen.requests == []
    names = page.eval_on_selector_all("section", "sections => sections.map(section => section.id)")
    assert {"calculator", "trust", "law", "training", "ledger", "cost", "fit-card", "runs"} <= set(names)
    links = page.eval_on_selector_all("nav a", "links => links.map(link => link.hash.slice(1))")
    assert links == names
    assert page.eval_on_selector_all("[id]", "all => all.length - new Set(all.map(one => one.id)).size") == 0
    drawn = page.eval_on_selector_all("figure svg", "all => all.every(one => one.getBoundingClientRect().height > 100)")
    assert drawn


@pytest.mark.parametrize(
    ("budgets", "stated"), [(SOME, True), pytest.param(TEN, False, marks=pytest.mark.slow)], ids=["some", "ten"]
)
def test_the_calculator_agrees_with_the_command(page, reported, capsys, budgets, stated):
    asked = [text for unit, amounts in budgets.items() for one in amounts for text in (f"--{unit}", f"{one:g}")]
    base = page.evaluate("page.calculator.command").split()[3:]
    hardware = ["--on", "h100x512", *(("--utilisation", "0.31", "--price", "2.5") if stated else ())]
    with pytest.raises(SystemExit):
        main(["forecast", str(reported), *base, *asked, *hardware, "--json"])
    targets = json.loads(capsys.readouterr().out)["targets"]
    page.select_option("[name=on]", "h100")
    for name, text in (("chips", "512"), *((("utilisation", "0.31"), ("price", "2.5")) if stated else ())):
        page.fill(f"[name={name}]", text)
    for target in targets:
        ((kind, value),) = target["asked"].items()
        page.select_option("[name=unit]", kind.replace("_", "-"))
        page.fill("[name=budget]", f"{value:g}")
        told = page.evaluate(ANSWER)
        assert page.inner_text("#forecast-sentence") == target["sentence"]
        assert page.inner_text("#forecast-basis") == target["cost_basis"]
        assert page.inner_text("#forecast-trust") == target["trust"]["sentence"]
        assert page.inner_text("#forecast-grade") == target["trust"]["grade"]
        shown = page.eval_on_selector_all("[data-row=loss] data", "all => all.map(one => one.textContent)")
        assert all(one in target["sentence"] for one in shown), "the digits of the sentence"
        for name in ("flops", "loss", "params", "tokens", "tokens_per_param", "device_hours", "days", "usd", "kwh"):
            expected = [target[name], *(target.get(f"{name}_interval") or ())]
            assert told[name] == pytest.approx([one for one in expected if one is not None], rel=1e-5), (name, value)
    assert page.seen.errors == []


@pytest.mark.parametrize(
    "law, budgets",
    [("chinchilla", 4), ("consensus", 4), ("consensus", 2), pytest.param("consensus", 6, marks=pytest.mark.slow)],
)
def test_its_arithmetic_is_that_of_any_forecast(page, law, budgets):
    """Of one law; of several laws, whose backtests reach a part of the way; and of one that nothing tested."""
    flops = np.repeat(np.geomspace(1e19, 1e21, budgets), 5)
    params = np.sqrt(flops / 120) * np.tile(np.geomspace(1 / 3, 3, 5), budgets)
    loss = 1.8 + 480 / params**0.35 + 2100 / (flops / 6 / params) ** 0.37
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(loss)))
    runs = pd.DataFrame({"params": params, "flops": flops, "loss": loss * noise})
    found = fit_forecaster(runs, law, resamples=200)
    largest = found.runs.table["flops"].max()
    asked = [float(largest * times) for times in (0.01, 1, 1.5, 8, 40, 1e4)]
    told = page.evaluate(
        "([told, asked]) => asked.map(forecaster(told))",
        [calculator_data(Answer(found, ReachErrors(), None, None, None), ""), asked],
    )
    for one, target in zip(told, forecast(found, asked)["targets"], strict=True):
        for name in ("loss", "params", "tokens", "tokens_per_param"):
            expected = [target[name], *target[f"{name}_interval"]]
            assert [one[name]["value"], *one[name]["interval"]] == pytest.approx(expected, rel=1e-5), (name, target)
        assert one["reach"] == pytest.approx(target["reach"])


def test_a_budget_stands_on_the_first_figure_where_runs_of_its_compute_do(page):
    columns, rows = (page.evaluate(f"page.tables.loss.{part}") for part in ("columns", "rows"))
    dots = "all => all.map(one => [Number(one.getAttribute('x')), Number(one.getAttribute('y'))])"
    there = page.eval_on_selector_all("#figure-loss use", dots)
    page.select_option("[name=unit]", "flops")
    for row in rows:
        page.fill("[name=budget]", str(row[columns.index("flops")]))
        x = float(page.get_attribute("#figure-loss .budget line", "x1"))
        assert min(abs(x - one) for one, _ in there) < 0.01
    page.fill("[name=budget]", "1e30")
    assert "far beyond" in page.text_content("#figure-loss .budget text")
    assert page.locator("#figure-loss .budget").count() == 1
    assert page.locator("#figure-loss .budget circle").count() == 0


def test_where_isoflop_minima_lead_elsewhere_the_intervals_are_said_to_be_of_the_law(page):
    page.select_option("[name=unit]", "flops")
    heading = page.locator("#forecast-answer thead th").last
    for times in (1, 3):
        page.fill("[name=budget]", "1e11")
        law = page.evaluate("forecaster(page.calculator)(1e11)")
        page.evaluate("size => (page.calculator.minima = [size / 1e11 ** .5, .5])", times * law["params"]["value"])
        page.fill("[name=budget]", "1.0e11")
        other = page.evaluate("forecaster(page.calculator)(1e11).minima")
        assert other["params"] == pytest.approx(times * law["params"]["value"])
        told = [text for text in page.locator("#forecast-warned p").all_inner_texts() if "isoFLOP minima" in text]
        if times == 1:
            assert other["loss"] == pytest.approx(law["loss"]["value"])
            assert (told, heading.inner_text()) == ([], "90% interval")
        else:
            assert other["loss"] > law["loss"]["value"]
            more = float(re.search(r"would raise the loss by ([\d.]+)%", told[0])[1])
            assert more == pytest.approx(100 * (other["loss"] / law["loss"]["value"] - 1), rel=0.06)
            assert heading.inner_text() == "90% interval by the law"


def test_dollars_are_typed_as_people_write_them(page):
    page.select_option("[name=on]", "h100")
    for text, dollars in (("$2M", 2e6), ("$4.8k", 4800), ("$1.5B", 1.5e9), ("$300", 300)):
        page.select_option("[name=unit]", "flops")
        page.fill("[name=budget]", text)
        assert page.input_value("[name=unit]") == "usd"
        assert page.evaluate(ANSWER)["usd"] == [pytest.approx(dollars, rel=1e-9)]
        assert page.inner_text("#forecast-sentence").startswith(f"With {text} on 8 h100: ")
        assert f"--usd {dollars:.0f} --on" in page.inner_text("#forecast-command")
    page.select_option("[name=unit]", "flops")
    assert said(page) == ["budget: $300 is in dollars; choose dollars, or type a number without $."]
    assert not any(page.evaluate(ANSWER).values())
    page.fill("[name=budget]", "2T")
    assert page.evaluate(ANSWER)["flops"] == [2e12]


def test_the_first_answer_is_there_without_scripts(chromium, reported):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((reported / "report.html").as_uri())
    without = [page.inner_text(f"#forecast-{name}") for name in ("sentence", "trust", "grade")]
    context.close()
    context = chromium.new_context()
    page = context.new_page()
    page.goto((reported / "report.html").as_uri())
    # With scripts its cost is in it too, on the hardware that is chosen.
    sentence, *others = [page.inner_text(f"#forecast-{name}") for name in ("sentence", "trust", "grade")]
    context.close()
    assert others == without[1:]
    assert sentence.split(",")[0] == without[0].split(",")[0]
    assert sentence.split("loss")[1] == without[0].split("loss")[1]


def test_the_budget_lies_on_the_curve_of_the_first_figure(page):
    """One fit on one figure: what is typed is answered by the law that is drawn."""
    curve = page.evaluate("page.tables.frontier.columns") and page.eval_on_selector_all(
        "#figure-loss svg path[style*='0072b2' i]", "all => all.map(one => one.getAttribute('d'))"
    )
    (drawn,) = [path for path in curve if path.count("L") > 10 and "z" not in path]
    places = np.array([[float(n) for n in pair.split()] for pair in re.findall(r"[ML] ([\d.]+ [\d.]+)", drawn)])
    for budget in ("2e9", "1e10"):
        page.fill("[name=budget]", budget)
        x, y = (float(page.get_attribute("#figure-loss .budget circle", name)) for name in ("cx", "cy"))
        assert np.interp(x, *places.T) == pytest.approx(y, abs=0.5)


def test_an_address_opens_what_it_was_copied_from(page, opened, reported):
    page.select_option("[name=on]", "a100")
    page.select_option("[name=unit]", "usd")
    for name, text in (("chips", "64"), ("price", "1.5"), ("budget", "2e3")):
        page.fill(f"[name={name}]", text)
    page.wait_for_function("location.hash.includes('figure-loss')")
    said, address = page.inner_text("#forecast-sentence"), page.evaluate("location.hash")
    assert address == "#usd=2e3&on=a100x64&price=1.5&figure-loss=further"
    again = opened(reported / "report.html")
    again.evaluate(f"location.hash = '{address}'")
    again.reload()
    assert again.inner_text("#forecast-sentence") == said
    assert "64 a100" in said


NO_NUMBERS = (
    "",
    "  ",
    "many",
    "-1",
    "0x10",
    "1e",
    "1,000",
    "1 000",
    "1e21 FLOPs",
    "Infinity",
    "1e999",
    "0",
    "٣",
    "<b>",
)


def said(page):
    """The lines that warn beside an answer, after no figure anywhere came out as none."""
    assert not re.search(r"NaN|undefined|null|Infinity,", page.inner_text("section#calculator .answer"))
    return page.eval_on_selector_all("#forecast-warned p", "all => all.map(one => one.textContent)")


@pytest.mark.parametrize("unit", ["flops", "usd"])
def test_what_is_no_budget_has_no_answer_and_one_clear_line(page, unit):
    page.select_option("[name=unit]", unit)
    page.select_option("[name=on]", "h100")
    for text in NO_NUMBERS:
        page.fill("[name=budget]", text)
        (line,) = said(page)
        assert line.startswith("budget: type a number above 0, such as 1e21 or $2M")
        assert line.endswith(f", not {text.strip()}." if text.strip() else "$2M.")
        assert page.get_attribute("[name=budget]", "aria-invalid") == "true"
        assert not any(page.evaluate(ANSWER).values())
        assert not re.search(r"--(flops|usd)", page.inner_text("#forecast-command"))
    for text in ("1e12", " 1E12 ", "1000000000000.", ".1e13"):
        page.fill("[name=budget]", text)
        assert page.evaluate(ANSWER)["loss"]
        assert page.get_attribute("[name=budget]", "aria-invalid") == "false"
        assert page.evaluate(ANSWER)["flops" if unit == "flops" else "usd"] == [pytest.approx(1e12, rel=1e-9)]
    assert page.seen.errors == []


@pytest.mark.parametrize(
    "field, texts, line",
    [
        ("chips", ("", "2.5", "0", "-8", "0x10", "1e8", "8 "), "chips: type a whole number from 1 to 10 million"),
        ("utilisation", ("", "40", "0", "-0.4", "40%"), "utilisation (of the peak): type a share of the peak"),
        ("price", ("-1", "free", "$2", "1e99"), "$ per chip-hour: type dollars, 0 or more, or nothing"),
    ],
)
def test_hardware_that_cannot_be_has_no_cost_and_one_clear_line(page, field, texts, line):
    page.select_option("[name=on]", "h100")
    page.fill("[name=budget]", "1e12")
    for text in texts:
        page.fill(f"[name={field}]", text)
        if text == "8 ":  # what surrounds a number is none of it
            assert said(page) == [] or "backtests" in said(page)[0].lower()
            continue
        assert said(page)[0].startswith(line), text
        told = page.evaluate(ANSWER)
        assert told["loss"]
        assert not told["days"] and not told["usd"]
        assert page.get_attribute(f"[name={field}]", "aria-invalid") == "true"
        assert "--on" not in page.inner_text("#forecast-command")
    assert page.seen.errors == []


def test_a_budget_beyond_all_and_dollars_without_a_price_are_told(page):
    page.select_option("[name=on]", "h100")
    for unit, budget, price, line in (
        ("flops", "1e-3", "2", "That is 0.001 FLOPs; a forecast is of 1 to 1e40."),
        ("days", "1e39", "2", "FLOPs; a forecast is of 1 to 1e40."),
        ("usd", "1e6", "", "Without a price above 0 dollars buy no certain compute: type one."),
        ("usd", "1e6", "0", "Without a price above 0 dollars buy no certain compute: type one."),
    ):
        page.select_option("[name=unit]", unit)
        page.fill("[name=price]", price)
        page.fill("[name=budget]", budget)
        (told,) = said(page)
        assert told.endswith(line)
        assert not any(page.evaluate(ANSWER).values())


def test_an_interval_narrower_than_its_backtest_is_told_first_as_the_command_does(page):
    """Of a curve that bends, by one law: that of its smallest runs misses what lies beyond by far."""
    rng = np.random.default_rng(0)
    flops = np.repeat([1e19, 3e19, 1e20, 3e20, 1e21], 5)
    params = np.sqrt(flops / 120) * np.tile(np.geomspace(1 / 3, 3, 5), 5)
    tokens = flops / 6 / params
    loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * (1 + 0.02 * (1e19 / flops) ** 1.5)
    table = pd.DataFrame({"params": params, "tokens": tokens, "flops": flops, "loss": loss})
    table["loss"] *= np.exp(1e-4 * rng.standard_normal(25))
    found, _ = fit_backtested(table, ("chinchilla",), bootstrap="case")
    tested = reach_errors(found)
    (far, graded), (near, also) = page.evaluate(
        """([told, asked]) => {
          page.calculator = told;
          return asked.map((flops) => forecaster(told)(flops)).map((one) => [warned(one), trust(one)]);
        }""",
        [calculator_data(Answer(found, tested, None, None, None), ""), [3.2e21, 5e20]],
    )
    told = forecast_targets(found, [{"flops": 3.2e21}, {"flops": 5e20}], backtests=tested)
    assert [f"3.20e+21 FLOPs: {text[0].lower()}{text[1:-1]}" for text in far] == told["warnings"][:1]
    assert near == []
    assert [graded, also] == [target["trust"] for target in told["targets"]]
    assert graded["grade"] == "too narrow"


@pytest.mark.parametrize("weights", [(0.5, 0.32, 0.18), (0.3, 0.2, 0.5)])
@pytest.mark.parametrize("loss", [2.5, 2.2, 1.5])
def test_laws_that_it_rests_on_or_that_contradict_it_are_told_as_the_command_does(page, weights, loss):
    limits, laws = (1.9, 2.4, 2.1), ("one", "one", "other")
    members = [Member(law, 1.0, 9, w, 0.0, {"E": e}) for law, w, e in zip(laws, weights, limits, strict=True)]
    target = {"reach": 5.0, "backtest": None, "tested_reach": 3.0, "loss": loss, "loss_interval": [loss, loss]}
    target["test_run"] = None
    shown = page.evaluate(
        """([members, loss]) => {
          page.calculator = {members, tested: {bands: [], furthest: 3, problem: null}};
          const told = {reach: 5, loss: {value: loss, interval: [loss, loss]}};
          return [trust(told), contradicted(told)];
        }""",
        [[[one.law, one.weight, one.parameters["E"]] for one in members], loss],
    )
    assert shown == [sentences.trust(target, members), [f"{text}." for text in sentences.contradicted(target, members)]]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [NARROW, {"width": 1280, "height": 900}], ids=["narrow", "wide"])
def test_it_reads_well(opened, reported, contrast, theme, viewport):
    page = opened(reported / "report.html", color_scheme=theme, viewport=viewport)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    worst, where = page.evaluate(contrast)
    assert worst >= 4.5, where
    for mark in page.eval_on_selector_all(
        "figure svg [style*='--c-']",
        "all => all.map(one => [getComputedStyle(one).stroke, getComputedStyle(one).fill].join())",
    ):
        assert "rgb" in mark  # each colour of a figure is known to this theme


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(opened, reported, theme):
    page = opened(reported / "report.html", color_scheme=theme)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:120]) for one in found] == []


BEYOND = """
() => {
  const every = document.querySelectorAll(".scroll, figure, .fact, .warning, #forecast-answer, .answer > *");
  return [...every].flatMap((one) => {
    let holder = one.parentElement;
    while (getComputedStyle(holder).display === "contents") holder = holder.parentElement;  // has no box
    const own = one.getBoundingClientRect(), around = holder.getBoundingClientRect();
    const inside = own.left >= around.left - 1 && own.right <= around.right + 1;
    return inside ? [] : [one.id || one.outerHTML.slice(0, 80)];
  });
}
"""


@pytest.mark.parametrize("width", [360, 768, 1024, 1280, 1440, 1920, "paper"])
def test_nothing_stands_beyond_what_holds_it_and_the_answer_is_seen_whole(opened, reported, width):
    page = opened(reported / "report.html", viewport={"width": 800 if width == "paper" else width, "height": 900})
    if width == "paper":
        page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.evaluate(BEYOND) == []


def test_it_prints(page):
    page.emulate_media(media="print")
    assert page.is_visible("[data-name=runs] th"), "what the columns are"
    boxes = page.eval_on_selector_all("th button", "all => all.filter((one) => one.getClientRects().length).length")
    assert boxes == 0, "a button is not drawn in the heads of later sheets"
    assert not page.is_visible("[data-csv=runs]")
    more = "rows => rows.forEach((row) => { for (let i = 0; i < 40; i++) row.after(row.cloneNode(true)); })"
    page.eval_on_selector_all("tbody tr:first-child", more)
    hidden = """all => all.filter((one) => {
      const {overflow, maxHeight} = getComputedStyle(one);
      return overflow !== 'visible' || maxHeight !== 'none';
    }).length"""
    assert page.eval_on_selector_all(".scroll", hidden) == 0, "all rows"
    printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") > 1


def test_a_figure_is_given_as_svg_and_its_data_as_csv(page):
    with page.expect_download() as download:
        page.click("#figure-loss [data-svg]")
    svg = download.value.path().read_text()
    assert svg.startswith("<svg")
    assert "var(" not in svg
    assert "#1b1f24" in svg
    assert "fill-opacity: 0.15" in svg
    assert "color-mix" not in svg
    with page.expect_download() as download:
        page.click("#figure-loss [data-csv]")
    head, *rows = download.value.path().read_text().splitlines()
    assert "loss" in head.split(",")
    assert len(rows) == page.evaluate("page.tables.loss.rows.length") == 10


HOSTILE = ("</script><script>window.hit=1</script>", "<!--<script>", "$x_{$", "=1+1")


@pytest.mark.slow
def test_hostile_names_stay_text(opened, reported, tmp_path):
    out = shutil.copytree(reported, tmp_path / "out")
    rows = [json.loads(line) for line in (out / "accounts.jsonl").read_text().splitlines()]
    named = [row | {"pool": HOSTILE[row["attempt"] % len(HOSTILE)]} for row in rows]
    (out / "accounts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    with pytest.raises(SystemExit) as ended:
        main(["report", str(out), "--out", str(tmp_path / "page.html")])
    assert ended.value.code == 0
    page = opened(tmp_path / "page.html")
    assert page.evaluate("window.hit") is None
    assert page.seen.errors == page.seen.requests == []
    cells = "cells => cells.map(cell => cell.textContent)"
    assert sorted(page.eval_on_selector_all("[data-name=pools] tbody td:first-child", cells)) == sorted(HOSTILE)
    with page.expect_download() as download:
        page.click("button[data-csv=pools]")
    assert not re.search(r"^=", download.value.path().read_text(), re.MULTILINE)
