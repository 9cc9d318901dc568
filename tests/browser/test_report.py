"""The page of a sweep that was run."""

import json
import re
import shutil

import pytest

from nextscale.sweeps.cli import main

NARROW = {"width": 360, "height": 740}
BUDGETS = (1e6, 3.7e8, 2e9, 4.56e11, 1e15, 8e21)
CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => colour.slice(0, 3).reduce((sum, c, i) => {
    c /= 255; c = c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; return sum + [0.2126, 0.7152, 0.0722][i] * c;
  }, 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  let worst = [21, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("script, style, svg") || !element.offsetParent) continue;
    const pair = [luminance(rgba(getComputedStyle(element).color)), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < worst[0]) worst = [contrast, element.outerHTML.slice(0, 80)];
  }
  return worst;
}
"""
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
    assert {"forecast", "calculator", "law", "training", "ledger", "cost", "fit-card", "runs"} <= set(names)
    links = page.eval_on_selector_all("nav a", "links => links.map(link => link.hash.slice(1))")
    assert links == names
    assert page.eval_on_selector_all("[id]", "all => all.length - new Set(all.map(one => one.id)).size") == 0
    drawn = page.eval_on_selector_all("figure svg", "all => all.every(one => one.getBoundingClientRect().height > 100)")
    assert drawn


def test_the_calculator_agrees_with_the_command(page, reported, capsys):
    asked = [text for flops in BUDGETS for text in ("--flops", f"{flops:g}")]
    dollars = [text for usd in (1e-3, 2e6) for text in ("--usd", f"{usd:g}")]
    base = page.evaluate("page.calculator.command").split()[3:]
    hardware = ["--on", "h100x512", "--utilisation", "0.31", "--price", "2.5"]
    with pytest.raises(SystemExit):
        main(["forecast", str(reported), *base, *asked, *dollars, *hardware, "--json"])
    targets = json.loads(capsys.readouterr().out)["targets"]
    page.select_option("[name=on]", "h100")
    for name, text in (("chips", "512"), ("utilisation", "0.31"), ("price", "2.5")):
        page.fill(f"[name={name}]", text)
    for target in targets:
        ((kind, value),) = target["asked"].items()
        page.select_option("[name=unit]", kind)
        page.fill("[name=budget]", f"{value:g}")
        told = page.evaluate(ANSWER)
        for name in ("flops", "loss", "params", "tokens", "tokens_per_param", "device_hours", "days", "usd", "kwh"):
            expected = [target[name], *(target.get(f"{name}_interval") or ())]
            assert told[name] == pytest.approx([one for one in expected if one is not None], rel=1e-5), (name, value)
    assert page.seen.errors == []


def test_what_is_no_budget_has_no_answer(page):
    for text in ("", "many", "-1", "1e99"):
        page.fill("[name=budget]", text)
        assert page.get_attribute("[name=budget]", "aria-invalid") == "true" or text == "1e99"
        assert not any(page.evaluate(ANSWER).values())
    page.fill("[name=budget]", "1e12")
    assert page.evaluate(ANSWER)["loss"]
    assert page.seen.errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [NARROW, {"width": 1280, "height": 900}], ids=["narrow", "wide"])
def test_it_reads_well(opened, reported, theme, viewport):
    page = opened(reported / "report.html", color_scheme=theme, viewport=viewport)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    contrast, where = page.evaluate(CONTRAST)
    assert contrast >= 4.5, where
    for mark in page.eval_on_selector_all(
        "figure svg [style*='--c-']",
        "all => all.map(one => [getComputedStyle(one).stroke, getComputedStyle(one).fill].join())",
    ):
        assert "rgb" in mark  # each colour of a figure is known to this theme


def test_it_prints(page):
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
    with page.expect_download() as download:
        page.click("#figure-loss [data-csv]")
    head, *rows = download.value.path().read_text().splitlines()
    assert "loss" in head.split(",")
    assert len(rows) == page.evaluate("page.tables.loss.rows.length") == 8


HOSTILE = ("</script><script>window.hit=1</script>", "<!--<script>", "$x_{$", "=1+1")


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
