"""A real browser for the tests of pages: Debian's Chromium, headless."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("of_sweeps", Path(__file__).parents[1] / "sweeps" / "conftest.py")
_of_sweeps = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_of_sweeps)
in_process_backend, swept = (getattr(_of_sweeps, fixture) for fixture in ("in_process_backend", "swept"))

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@dataclasses.dataclass
class Seen:
    """What a page did that it should not: errors of its script or its console, and requests to anywhere."""

    errors: list[str] = dataclasses.field(default_factory=list)
    requests: list[str] = dataclasses.field(default_factory=list)


@pytest.fixture(scope="session")
def chromium():
    """The browser; what needs it is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Opens a page: `opened(address_or_file, color_scheme="dark", viewport=...)` is the page; `page.seen` tells what it
    did. A page that is its own file has no business with any address but its own."""
    contexts = []

    def open_page(address, **options):
        url = address if "://" in str(address) else address.resolve().as_uri()
        context = chromium.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.seen = Seen()
        page.on("pageerror", lambda error: page.seen.errors.append(str(error)))
        page.on("console", lambda said: page.seen.errors.append(said.text) if said.type != "log" else None)
        page.on("request", lambda request: page.seen.requests.append(request.url) if request.url != url else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
