"""The page of a sweep, without a browser: what it says when there is little to say, and what is refused."""

import html
import json
import re
import shutil

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nextscale.fit.trust import reach
from nextscale.sweeps.page.document import readable
from nextscale.sweeps.report import figures as plots
from nextscale.sweeps.report.content import runs_in_words
from nextscale.sweeps.report.drawing import Plot, figure, palette, save
from nextscale.sweeps.store.store import Store
from nextscale.sweeps.study import summary
from nextscale.sweeps.study.study import Study


def sections(page):
    return re.findall(r'<section id="([^"]+)"', page.read_text())


def test_of_a_sweep_that_has_trained_nothing_it_says_so_and_shows_no_law(swept, called, tmp_path):
    out = shutil.copytree(swept[1], tmp_path / "out")
    shutil.rmtree(out / "runs")
    (out / "runs").mkdir()
    for name in ("accounts.jsonl", "ledger.jsonl", "ledger.head", "report.html"):
        (out / name).unlink()
    code, said, _ = called("report", out)
    assert code == 0
    assert "10 of 10 runs have not finished" in said
    assert sections(out / "report.html") == ["trust"]


@pytest.mark.slow
def test_it_is_written_where_it_is_wanted_and_the_folder_keeps_its_own(swept, called, tmp_path):
    out = shutil.copytree(swept[1], tmp_path / "out")
    before, ledger = (out / "report.html").read_text(), (out / "ledger.jsonl").read_bytes()
    code, said, _ = called("report", out, "--out", tmp_path / "page.html", "--figures", tmp_path / "figures", "--json")
    assert code == 0
    assert str(tmp_path / "page.html") in said
    assert sections(tmp_path / "page.html") == sections(out / "report.html")
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {path.name for path in (out / "figures").iterdir()}
    assert {"loss.svg", "loss.png", "surface.svg", "residuals.png", "training.svg", "spend.png"} <= drawn
    assert (out / "report.html").read_text() == before
    assert (out / "ledger.jsonl").read_bytes() == ledger


def said_in(page, section):
    """The warnings and paragraphs of a section, as text."""
    found = re.search(rf'<section id="{section}".*?</section>', page.read_text(), re.DOTALL)
    return [html.unescape(text) for text in re.findall(r"<p[^>]*>(.*?)</p>", found[0])] if found else []


@pytest.mark.parametrize("beaten", [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.slow
def test_a_verdict_against_the_law_is_the_first_warning(called, tmp_path, beaten):
    """Runs whose loss stays where it has come to, which its last value forecasts best, and runs of the law itself."""
    C = np.repeat(np.geomspace(1e18, 1e21, 6), 4)
    N = np.sqrt(C / 120) * np.tile([0.4, 0.8, 1.5, 3.0], 6)
    D = C / (6 * N)
    law = 1.8 + 480 / N**0.35 + 2100 / D**0.35
    loss = np.maximum(law, 3.1) if beaten else law
    table, out = tmp_path / "runs.csv", tmp_path / "out"
    pd.DataFrame({"params": N, "tokens": D, "flops": C, "loss": loss}).to_csv(table, index=False)
    assert called("import", table, "--out", out)[0] == 0
    assert called("report", out)[0] == 0
    said = said_in(out / "report.html", "trust")
    assert sum("no law here forecasts" in text for text in said) == beaten
    assert ("no law here forecasts" in said[1]) == beaten, said[0]


@pytest.mark.slow
def test_where_few_runs_can_be_backtested_the_warnings_and_the_section_say_so(swept, called, tmp_path):
    page = tmp_path / "page.html"
    assert called("report", swept[1], "--out", page, "--figures", tmp_path / "figures")[0] == 0
    reached = [re.match(r"backtests of this forecast reached ([\d.]+) times", text) for text in said_in(page, "trust")]
    assert len({found[1] for found in reached if found}) == 1
    assert any(re.match("(too )?few budgets", text) for text in said_in(page, "trust"))


@pytest.mark.slow
def test_an_interval_narrower_than_backtests_missed_by_is_told_beside_the_forecast(
    swept, called, tmp_path, monkeypatch
):
    rows = json.loads((swept[1] / "summary.json").read_text())["holdout"]
    best = min(rows, key=lambda row: row["predicted"])
    half = (best["interval"][1] - best["interval"][0]) / 2 / best["predicted"]
    band = {"reach": "1-100", "error": 1.01 * half, "se": 0.0, "bias": 0.0, "cuts": 2}
    monkeypatch.setattr(summary, "reach_errors", lambda fit: reach.ReachErrors((band,), furthest=100.0))
    page = tmp_path / "page.html"
    assert called("report", swept[1], "--out", page, "--figures", tmp_path / "figures")[0] == 0
    told = [text for text in said_in(page, "trust") if "backtests of such a reach missed the loss by" in text]
    assert len(told) == 1
    study = Study(Store.existing(swept[1]).newest_spec, swept[1], as_left=True)
    analysis = study.analyse()
    found = summary.summarise(study, analysis, study.standing_forecast(analysis), failed={}, reused=0)
    assert [f"{html.unescape(readable(text))}." for text in found["forecast"]["warnings"]] == told


@pytest.mark.slow
def test_so_it_is_of_runs_from_elsewhere(called, tmp_path, monkeypatch):
    """Beside the loss that is foretold at ten times their compute."""
    C = np.repeat(np.geomspace(1e18, 1e20, 5), 5)
    N = np.sqrt(C / 120) * np.tile(np.geomspace(1 / 4, 4, 5), 5)
    loss = 1.8 + 480 / N**0.35 + 2100 / (C / 6 / N) ** 0.37
    table, out = tmp_path / "runs.csv", tmp_path / "out"
    pd.DataFrame({"params": N, "flops": C, "loss": loss}).to_csv(table, index=False)
    assert called("import", table, "--out", out)[0] == 0
    band = {"reach": "3-100", "error": 0.3, "se": 0.0, "bias": 0.0, "cuts": 2}
    missed = reach.ReachErrors((band,), furthest=100.0)
    monkeypatch.setattr("nextscale.sweeps.report.answer.reach_errors", lambda fit, choice: missed)
    assert called("report", out)[0] == 0
    said = said_in(out / "report.html", "trust")
    assert any("missed the loss by 30.00% on average, more than the interval's" in text for text in said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], r"nowhere: holds no sweep"),
        (["{out}", "--out", "no/such/page.html"], r"--out no/such/page\.html: there is no folder"),
        (["{out}", "--out", "."], r"--out \.: is a folder"),
    ],
)
def test_what_cannot_be_written_is_one_line(swept, called, arguments, said):
    code, _, error = called("report", *(text.replace("{out}", str(swept[1])) for text in arguments))
    assert code == 2
    assert re.fullmatch(rf"nextscale: {said}.*\n", error)


@pytest.mark.parametrize(
    "status, said",
    [
        (["imported"] * 85, "85 runs, imported from a.csv"),
        (["done", "failed", "imported"], "1 of 2 runs done, 1 more, imported from a.csv"),
        (["done", "done"], "2 of 2 runs done"),
    ],
)
def test_what_was_run_elsewhere_is_not_called_done(status, said):
    files = ["/there/a.csv" if one == "imported" else None for one in status]
    assert runs_in_words(pd.DataFrame({"status": status, "imported_from": files})) == said


def test_thinned_curves_keep_their_ends_and_their_order():
    curves = pd.DataFrame({"run_id": ["a"] * 1000 + ["b"] * 5, "tokens": [*range(1000), *range(5)]})
    thin = plots.thinned(curves)
    assert thin.groupby("run_id")["tokens"].agg(["min", "max"]).to_numpy().tolist() == [[0, 999], [0, 4]]
    assert (thin.groupby("run_id").size() <= 60).all()
    assert thin["tokens"].diff().loc[thin["run_id"].duplicated()].gt(0).all()


def test_a_figure_takes_the_colours_of_the_page_and_its_file_keeps_its_own(tmp_path):
    def draw(ax):
        ax.plot([0, 1], [0, 1], color="#440154", label="<b>-- > $")
        ax.set_title("</svg><script>")
        ax.legend()

    plot = Plot("one", '"><script>', "<i>", (draw,))
    svg = save(plot, tmp_path)
    assert (tmp_path / "one.svg").read_text() == svg
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    shown = figure(plot, svg)
    assert "#440154" in svg
    assert "var(--c-440154)" in shown
    assert not re.search(r"#[0-9a-f]{6}\b", shown)
    assert "<script" not in shown
    assert "<!--" not in shown
    (light, dark) = re.search(r"--c-440154: light-dark\((#\w+), (#\w+)\)", palette([svg])).groups()
    assert light == "#440154" != dark
    assert sum(matplotlib.colors.to_rgb(dark)) > sum(matplotlib.colors.to_rgb(light))
    assert isinstance(plot.draw(), Figure)
