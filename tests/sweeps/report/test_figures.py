"""Figures of the page that answer to a pointer and to the keyboard, and their other views."""

import json

import numpy as np
import pandas as pd
import pytest

from nextscale.fit.optimum.known_models import known_models

POINTS = """() => {
  const {columns, rows} = page.tables.points;
  return rows.map((row) => Object.fromEntries(row.map((value, i) => [columns[i], value])));
}"""
ON_SCREEN = """([name, x, y]) => {
  const svg = document.querySelector(`#figure-${name} svg`), at = placeOn(svg, x, y);
  const {x: left, y: top} = new DOMPoint(at.x, at.y).matrixTransform(svg.getScreenCTM());
  return [left, top];
}"""
DOTS = "all => all.map(one => ['x', 'y'].map(name => Number(one.getAttribute(name))))"


@pytest.fixture
def page(opened, swept):
    return opened(swept[1] / "report.html", viewport={"width": 1280, "height": 900})


def named(page, figure, x, y, what):
    """What the figure says of the place of these values, once it says this of it."""
    page.locator(f"#figure-{figure} .drawing").scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(ON_SCREEN, [figure, x, y]))
    tip = page.locator(f"#figure-{figure} .tip", has_text=what)
    tip.wait_for(timeout=10_000)
    return tip.inner_text()


def test_a_pointer_over_a_run_names_it_and_where_its_files_are(page, swept):
    dots = page.eval_on_selector_all("#figure-loss use", DOTS)
    for run in page.evaluate(POINTS)[::4]:
        assert named(page, "loss", run["flops"], run["loss"], f"loss {run['loss']:.4f}").startswith("run ")
        at = page.evaluate(
            "([x, y]) => placeOn(document.querySelector('#figure-loss svg'), x, y)", [run["flops"], run["loss"]]
        )
        assert min(abs(x - at["x"]) + abs(y - at["y"]) for x, y in dots) < 0.05, "a mark of the drawing is there"
    folder = page.get_attribute("#figure-loss .tip a", "href")
    assert (swept[1] / folder / "record.json").is_file()
    assert page.seen.errors == page.seen.requests == []


@pytest.mark.slow
def test_the_keyboard_goes_from_run_to_run_and_sets_a_budget_apart(page):
    points = sorted(page.evaluate(POINTS), key=lambda run: run["flops"])
    page.focus("#figure-loss .drawing")
    page.keyboard.press("ArrowRight")
    assert page.locator("#figure-loss .tip").inner_text().startswith(f"run {points[0]['run_id']}")
    page.keyboard.press("Enter")
    page.locator("#figure-frontier .apart").wait_for(state="attached")
    alike = [run for run in points if abs(run["budget"] / points[0]["budget"] - 1) < 0.01]
    assert page.locator("#figure-loss .apart circle").count() == len(alike)
    assert page.evaluate("location.hash") == f"#budget={points[0]['budget']:.0f}"
    page.keyboard.press("Escape")
    assert page.locator(".apart").count() == 0
    assert page.evaluate("location.hash") == ""
    assert page.seen.errors == []


@pytest.mark.slow
def test_another_view_has_an_address_that_opens_the_same(page, opened, swept):
    page.click("#figure-loss [data-switch=log]")
    page.click("#figure-frontier [data-switch=tokens]")
    page.wait_for_selector("#figure-frontier svg[data-points='flops tokens']")
    page.fill("[name=budget]", "1e12")  # beyond the figure
    page.wait_for_function("location.hash.includes('figure-loss=further.log')")
    address = page.evaluate("location.hash")
    assert "flops=1e12" in address
    again = opened(swept[1] / "report.html")
    again.evaluate(f"location.hash = '{address}'")
    again.reload()
    again.wait_for_selector("#figure-frontier svg[data-points='flops tokens']")
    assert again.get_attribute("#figure-loss svg", "data-scales") == "log log"
    assert again.locator("#figure-loss .budget").count() == 1, "the budget is on the new view too"
    assert again.evaluate("location.hash") == address
    run = again.evaluate(POINTS)[0]
    assert named(again, "loss", run["flops"], run["loss"], f"loss {run['loss']:.4f}")
    assert again.seen.errors == again.seen.requests == []


def test_a_budget_beyond_the_figure_is_shown_on_a_view_that_goes_further(page):
    further, budget = "#figure-loss [data-switch=further]", page.locator("#figure-loss .budget")
    largest = max(run["flops"] for run in page.evaluate(POINTS))
    page.fill("[name=budget]", f"{5e3 * largest:.3g}")
    page.wait_for_selector("#figure-loss .budget circle", state="attached")
    assert page.get_attribute(further, "aria-pressed") == "true"
    assert "figure-loss=further" in page.evaluate("location.hash")
    assert "beyond" not in budget.text_content()
    page.click(further)
    page.wait_for_function("document.querySelector('#figure-loss .budget').textContent.includes('far beyond')")
    assert page.get_attribute(further, "aria-pressed") == "false", "it is not pressed again until a budget is typed"
    assert budget.locator("circle").count() == 0


@pytest.mark.slow
def test_known_models_are_off_until_they_are_asked_for(page):
    model = known_models().iloc[-3]
    assert "known models" not in page.inner_text("#figure-frontier figcaption")
    page.click("#figure-frontier [data-switch=known]")
    page.locator("#figure-frontier svg [id^='frontier.known-']").first.wait_for(state="attached")
    told = named(page, "frontier", float(model["flops"]), float(model["params"]), f"{model['name']} ({model['date']})")
    assert model["source"] in told


@pytest.mark.slow
def test_without_a_script_the_figures_stand_as_they_are(chromium, swept):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((swept[1] / "report.html").resolve().as_uri())
    assert page.locator("figure svg[role=img]").count() == page.locator("figure").count() >= 8
    context.close()


@pytest.mark.slow
def test_known_models_lie_beside_a_frontier_in_the_terminal_too(called, tmp_path):
    """On runs of the law of Besiroglu et al. 2024."""
    C = np.repeat(np.geomspace(1e19, 1e22, 5), 5)
    N = np.sqrt(C / 120) * np.tile(np.geomspace(1 / 3, 3, 5), 5)
    loss = 1.8172 + 482.01 / N**0.3478 + 2085.43 / (C / 6 / N) ** 0.3658
    pd.DataFrame({"params": N, "flops": C, "loss": loss}).to_csv(tmp_path / "runs.csv", index=False)
    figure = tmp_path / "frontier.svg"
    law = ("--law", "chinchilla", "--flops", "1e22", "--known-models", "--plot", figure)
    code, said, _ = called("frontier", tmp_path / "runs.csv", *law, "--json")
    assert code == 0
    models = {row["name"]: row for row in json.loads(said)["known_models"]}
    # Hoffmann et al. 2022: Gopher was too large for its compute, and Chinchilla about right.
    assert models["Gopher"]["params"] > 2 * models["Gopher"]["best_params"]
    assert figure.is_file()
    assert 0.5 < models["Chinchilla"]["params"] / models["Chinchilla"]["best_params"] < 2
