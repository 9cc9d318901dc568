"""What a page can be written as beside itself: a slide, Markdown, PDF, and figures for a paper."""

import re
import shutil

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text

from nextscale.sweeps.page.document import Section, table
from nextscale.sweeps.report import pdf
from nextscale.sweeps.report.drawing import COLUMNS, Files, Plot, save
from nextscale.sweeps.report.markdown import as_markdown
from nextscale.sweeps.report.slide import write_slide
from nextscale.sweeps.show.tables import Table

HOSTILE = "</td><script>window.hit=1</script> | [a](b) *c* `d` _e_"


def small(ax):
    """A figure with the smallest text that figures here have, and exponents."""
    ax.loglog(np.geomspace(1e18, 1e22, 5), np.geomspace(1e6, 1e9, 5), label="$10^{18}$")
    ax.annotate("tiny", (1e20, 1e8), fontsize="xx-small")
    ax.legend(fontsize="x-small")


def sizes(figure):
    """Points of every text that is seen; of one with an exponent that of the exponent (.7, matplotlib's mathtext)."""
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    return [text.get_fontsize() * (0.7 if "^" in text.get_text() else 1) for text in shown]


@pytest.mark.parametrize("width", [None, COLUMNS["single"], COLUMNS["double"]])
@pytest.mark.parametrize("font", [8, 10])
def test_nothing_on_a_figure_is_smaller_than_six_points(width, font):
    with matplotlib.rc_context({"font.size": font}):
        figure = Plot("one", "one", "", (small,)).draw(width)
    found = sizes(figure)
    assert len(found) > 10
    assert min(found) >= 6 - 1e-9
    if width is not None:
        assert figure.get_size_inches()[0] == pytest.approx(width)


def test_figures_for_a_paper_are_as_wide_as_asked_with_fonts_embedded(tmp_path):
    save(Plot("one", "one", "", (small,)), tmp_path, Files(("pdf", "svg"), COLUMNS["single"]))
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".svg"}
    written = (tmp_path / "one.pdf").read_bytes()
    assert b"/FontFile2" in written  # TrueType, embedded
    assert b"/Type3" not in written
    left, _, right, _ = map(float, re.search(rb"/MediaBox \[ ?([^\]]+)\]", written)[1].split())
    assert (right - left) / 72 == pytest.approx(COLUMNS["single"])
    assert f'width="{72 * COLUMNS["single"]:g}pt"' in (tmp_path / "one.svg").read_text()


def test_markdown_has_the_tables_and_images_and_names_stay_text():
    shown = Table("sizes", ["name", "size"], [[HOSTILE, "1.5e+09"], ["b", "2"]])
    figure = '<figure id="figure-loss"><svg></svg><figcaption><strong>Loss.</strong> A caption</figcaption></figure>'
    body = table(shown, "one") + figure + '<p class="warning">beware</p>'
    form = Section("calculator", "At your budget", "<form><label>budget</label></form><p>Loss 2.2.</p>")
    text = as_markdown("a | b", "", [Section("one", "One", body), form], "figures/", "end")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| name | size |"
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, "as many cells in each row"
    assert not re.search(r"(?<!\\)[<>`]", text.replace("> **Warning", "")), "no tag"
    assert "1.5×10⁹" in rows[2]
    assert "![Loss](figures/loss.png)" in text
    assert "> **Warning:** beware" in text
    assert "## At your budget\n\nLoss 2.2." in text


@pytest.mark.parametrize("words", [8, 60])
def test_on_a_slide_the_text_stands_beside_the_figure_and_not_on_it(tmp_path, words):
    sentence = " ".join(["forecast"] * words)
    for kind in ("svg", "png", "pdf"):
        write_slide(tmp_path / f"slide.{kind}", "title $x_{$", sentence, "trust", Plot("one", "", "", (small,)), "end")
        assert (tmp_path / f"slide.{kind}").stat().st_size > 1000
    assert 'viewBox="0 0 959.976 540"' in (tmp_path / "slide.svg").read_text()  # 16:9


@pytest.mark.slow
def test_without_a_browser_pdf_is_refused_in_one_line_before_any_work(called, swept, monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    code, _, error = called("report", swept[1], "--pdf", "page.pdf")
    assert code == 2
    assert re.fullmatch(r"nextscale: --pdf: there is no Chromium or Chrome here .*apt-get install chromium.*\n", error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--slide", "a.pptx"], r"--slide a\.pptx: cannot draw a '\.pptx' file; name a \.svg, \.png or \.pdf"),
        (["--format", "eps"], r"--format eps: cannot save a figure as 'eps'; name some of pdf, svg, png"),
        (["--figure-width", "narrow"], r"--figure-width narrow: name single .*"),
        (["--figure-width", "nan"], r"--figure-width nan: name single .*"),
        (["--markdown", "no/such/page.md"], r"--markdown no/such/page\.md: there is no folder .*; make it first"),
    ],
)
def test_what_cannot_be_written_is_one_line(called, swept, arguments, line):
    code, _, error = called("report", swept[1], *arguments)
    assert code == 2
    assert re.fullmatch(rf"nextscale: {line}\n", error)


@pytest.mark.slow
def test_of_a_sweep_all_say_the_same(called, swept, tmp_path):
    if not any(map(shutil.which, pdf._BROWSERS)):
        pytest.skip("there is no browser here")
    slide, markdown, printed = (tmp_path / name for name in ("slide.svg", "page.md", "page.pdf"))
    also = ("--slide", slide, "--markdown", markdown, "--pdf", printed, "--out", tmp_path / "page.html")
    code, said, _ = called("report", swept[1], *also, "--figures", tmp_path / "figures", "--json")
    assert code == 0
    assert str(slide) in said
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown.read_text())
    assert len(images) >= 8
    assert all((tmp_path / image).is_file() for image in images)
    page = (tmp_path / "page.html").read_text()
    sentence = re.search(r'<p class="sentence">(The best of .*?)</p>', page)[1]
    assert sentence in markdown.read_text()
    assert printed.read_bytes().startswith(b"%PDF")
