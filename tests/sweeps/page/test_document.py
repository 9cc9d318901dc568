"""The page itself, with sections of the test's own."""

import csv
import io

import pytest

from nextscale.sweeps.page.document import Section, document, raw, table
from nextscale.sweeps.show.tables import Table

HOSTILE = (
    "</script><script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "<!-- <script>",
    "'\"><svg onload=window.hit=1>",
    "\u2028\u2029]]>",
    "=1+1",
    "@SUM(A1)",
    '+1 "quoted", twice\nin lines',
)


@pytest.fixture
def page_file(tmp_path):
    def write(sections, data, **options):
        (tmp_path / "page.html").write_text(document("a page", sections, {"tables": {}} | data, **options))
        return tmp_path / "page.html"

    return write


@pytest.fixture
def hostile(page_file):
    shown = Table("<b>names</b>", ["<i>name</i>", "number"], [[name, "1"] for name in HOSTILE])
    data = {"tables": {"raw": raw(["name", "number"], [[name, -0.5] for name in HOSTILE])}}
    body = table(shown, "shown") + table(shown, "raw", columns=["name", "number"])
    return page_file([Section("one", HOSTILE[0], body)], data, subtitle=HOSTILE[1], footer=HOSTILE[2])


def test_names_stay_text(opened, hostile):
    page = opened(hostile)
    assert page.evaluate("window.hit") is None
    assert page.evaluate("page.tables.raw.rows.map(row => row[0])") == list(HOSTILE)
    cells = page.eval_on_selector_all("table[data-name=shown] td:first-child", "cells => cells.map(c => c.textContent)")
    assert cells == list(HOSTILE)
    assert page.inner_text("h2") == HOSTILE[0]
    assert page.seen.errors == page.seen.requests == []


@pytest.mark.parametrize("name", ["shown", "raw"])
def test_a_table_as_csv_holds_no_formula(opened, hostile, name):
    page = opened(hostile)
    with page.expect_download() as download:
        page.click(f"button[data-csv={name}]")
    assert download.value.suggested_filename == f"{name}.csv"
    text = download.value.path().read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == (["<i>name</i>", "number"] if name == "shown" else ["name", "number"])
    for name_, (cell, number) in zip(HOSTILE, rows[1:], strict=True):
        assert cell == ("'" + name_ if name_[0] in "=+-@" else name_)
        assert number in ("1", "-0.5")


def test_a_script_that_is_not_the_pages_own_does_not_run(opened, page_file):
    page = opened(
        page_file([Section("one", "one", "<script>window.hit=1</script><b onclick='window.hit=1'>b</b>")], {})
    )
    page.click("b")
    assert page.evaluate("window.hit") is None
    assert page.seen.errors  # the browser says that it refused


def test_a_table_is_sorted_by_the_values_behind_it(opened, page_file):
    shown = Table("sizes", ["size"], [["900"], ["1k"], ["-"], ["2M"]])
    data = {"tables": {"sizes": raw(["params"], [[900], [1000], [None], [2e6]])}}
    page = opened(page_file([Section("one", "one", table(shown, "sizes", columns=["params"]))], data))
    cells = "cells => cells.map(c => c.textContent)"
    for expected in (["900", "1k", "2M", "-"], ["2M", "1k", "900", "-"]):
        page.click("th button")
        assert page.eval_on_selector_all("td", cells) == expected


def test_a_long_table_has_all_its_rows_in_order_though_few_are_there_at_first(opened, page_file):
    names = [f"<b>{i}</b>, {'x' * 40}" for i in range(3000)]
    shown = Table("many", ["name", "number"], [[name, str(i)] for i, name in enumerate(names)])
    data = {"tables": {"many": raw(["name", "number"], [[name, i] for i, name in enumerate(names)])}}
    body = table(shown, "many", columns=["name", "number"]) + table(shown, "text")
    page = opened(page_file([Section("one", "one", body)], data))
    rows = "table[data-name=many] tbody tr"
    cell = "cells => cells.map(c => c.textContent)"
    assert page.locator(rows).count() == 200
    page.eval_on_selector(".scroll", "one => one.scrollTo(0, one.scrollHeight)")
    page.locator(rows).nth(200).wait_for()
    assert page.eval_on_selector_all(f"{rows} td:first-child", cell) == names[: page.locator(rows).count()]
    for first in (0, 2999):
        page.click("th button >> nth=1")
        page.wait_for_selector(f"{rows}:first-child td:last-child:text-is('{first}')")
    for name in ("many", "text"):
        with page.expect_download() as download:
            page.click(f"button[data-csv={name}]")
        text = download.value.path().read_bytes().decode()
        assert [row[0] for row in csv.reader(io.StringIO(text, newline=""))][1:] == names
    assert page.seen.errors == page.seen.requests == []


def test_the_toggle_turns_to_the_other_theme_and_back(opened, page_file):
    page = opened(page_file([Section("one", "one", "<p>text</p>")], {}), color_scheme="light")

    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    page.click("#theme")
    assert background() != light
    page.click("#theme")
    assert background() == light
