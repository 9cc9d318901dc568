"""The page of a sweep, without a browser: what it says when there is little to say, and what is refused."""

import re
import shutil

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nextscale.sweeps.page import plots
from nextscale.sweeps.page.drawing import Plot, figure, palette, save


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
    assert sections(out / "report.html") == ["warnings"]


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
