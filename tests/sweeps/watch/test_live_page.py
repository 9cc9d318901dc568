"""The live page in a real browser: it follows the sweep, and says so when it cannot."""

import contextlib
import threading

import pytest
from axe_playwright_python.sync_playwright import Axe

from nextscale.sweeps.watch.server import Server, Site

HOSTILE = "<img src=x onerror=window.hit=1></script><script>window.hit=1</script>\u2028"
_SOON = 15_000


@contextlib.contextmanager
def serving(out, port=0):
    with Server(Site(out), port=port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def at_work(staged, staging):
    """A sweep of which three runs have landed and two are being trained."""
    sweep = staged()
    for i, run in enumerate(sweep.runs[:5]):
        sweep.start(run, f"here-{i % 2}")
        if i < 3:
            sweep.land(run)
        else:
            sweep.train(run, 0.25 * i)
    sweep.began()
    return sweep


def text(page, selector):
    return " ".join(page.inner_text(selector).split())


def returned_to(page):
    """As when its tab comes to the front: it asks at once."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def soon(page, selector, expected):
    """Waits until an element says so."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)",
        arg=[selector, expected],
        timeout=_SOON,
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(opened, at_work, theme):
    with serving(at_work.out) as server:
        page = opened(server.url, color_scheme=theme)
        soon(page, "#counts", "3 done")
        found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:120]) for one in found] == []


def test_it_follows_the_sweep_without_being_loaded_again(opened, at_work):
    with serving(at_work.out) as server:
        page = opened(server.url)
        soon(page, "#counts", "3 done")
        assert text(page, "h1") == "staged"
        assert text(page, "#state").startswith("at work process")
        assert text(page, "#counts") == "3 done 2 running 3 waiting 0 failed"
        assert "on 2 slots" in text(page, "#left")
        assert page.locator("#curves path").count() == 2
        assert page.locator("#results circle").count() == 3
        assert page.locator('table[data-name="lanes"] tbody tr').count() == 2
        page.evaluate("window.first = document.querySelector('table[data-name=lanes] tbody tr')")
        done = float(page.get_attribute("#progress", "aria-valuenow"))
        at_work.land(at_work.runs[3], loss=1.2345)
        soon(page, 'table[data-name="newest"] tbody tr', "1.2345")
        assert text(page, "#counts") == "4 done 1 running 3 waiting 0 failed"
        assert float(page.get_attribute("#progress", "aria-valuenow")) > done
        assert page.locator("#results circle").count() == 4
        assert page.evaluate("window.first === document.querySelector('table[data-name=lanes] tbody tr')"), "in place"
        at_work.fail(at_work.runs[4], HOSTILE)
        server.site._due = 0.0
        returned_to(page)
        soon(page, 'table[data-name="failed"]', "onerror")
        assert page.evaluate("window.hit") is None
        assert page.seen.errors == []
        assert all(url.startswith(server.url) for url in page.seen.requests)


def test_it_says_since_when_there_is_no_answer_and_goes_on_when_there_is(opened, at_work):
    with serving(at_work.out) as server:
        port = server.server_port
        page = opened(server.url)
        soon(page, "#counts", "3 done")
        assert not page.is_visible("#silence")
        for away, said in ((True, "Since"), (False, "")):
            (at_work.out / ("runs" if away else "away")).rename(at_work.out / ("away" if away else "runs"))
            server.site._due = 0.0
            returned_to(page)
            page.wait_for_selector("#problem", state="visible" if away else "hidden", timeout=_SOON)
            assert text(page, "#problem").startswith(said)
            assert text(page, "#counts").startswith("3 done")
    page.wait_for_selector("#silence", state="visible", timeout=_SOON)
    assert text(page, "#silence").startswith("No answer since ")
    assert text(page, "#counts").startswith("3 done"), "what was known stays"
    at_work.land(at_work.runs[3])
    with serving(at_work.out, port):
        returned_to(page)
        soon(page, "#counts", "4 done")
        assert not page.is_visible("#silence")
    assert all("ERR_CONNECTION" in error for error in page.seen.errors)


def test_it_waits_for_a_sweep_that_has_not_begun_and_shows_its_report_in_the_end(opened, staged, tmp_path):
    with serving(tmp_path / "out") as server:
        page = opened(server.url)
        soon(page, "#problem", "holds no sweep yet")
        assert not page.is_visible("#cost")
        sweep = staged()
        server.site._due = 0.0
        returned_to(page)
        soon(page, "#counts", "0 done")
        assert not page.is_visible("#problem")
        for run in sweep.runs:
            sweep.start(run)
            sweep.land(run)
        sweep.close()
        (sweep.out / "report.html").write_text("<!doctype html><title>r</title><h1>what came of it</h1>")
        server.site._due = 0.0
        returned_to(page)
        soon(page, "#state", "ended")
        frame = page.frame_locator("#report-frame")
        assert frame.locator("h1").inner_text(timeout=_SOON) == "what came of it"
        assert page.evaluate("document.title").startswith("100 %")
        assert page.seen.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well_on_a_narrow_screen_and_in_the_dark(opened, at_work, scheme):
    (at_work.out / "figures").mkdir()
    for i in range(20):
        (at_work.out / "figures" / f"figure-{i}.svg").write_text("<svg/>")
    with serving(at_work.out) as server:
        page = opened(server.url, color_scheme=scheme, viewport={"width": 380, "height": 800})
        soon(page, "#counts", "3 done")
        assert page.locator("#files a").count() == 21
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
        paper, ink = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        shade = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
        assert (shade[0] < shade[1]) is (scheme == "dark")
        assert abs(shade[0] - shade[1]) > 450
