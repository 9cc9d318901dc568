"""How large the page of a sweep is, how long it takes to write and to open: `python benchmarks/page.py [RUNS]` (500).

The sweep is that of benchmarks/store.py, its numbers made up. Opening it is from the address to the second frame that
Chromium draws of it, its calculator's first answer among them, by Chromium's own clock; the least of seven, for what
others do on the machine can only add. How much they do is the load.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from store import leave_behind, spec_of

from nextscale.cluster.controller.accounts import Accounts
from nextscale.fit.table.cleaning import MOST_ROWS
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.show.tables import Table
from nextscale.sweeps.store.store import Store

RUNS = 500
_OPENS = 7
_WRITE = """
import json, sys, time
from pathlib import Path
from nextscale.sweeps.report.report import Report
began = time.perf_counter()
report = Report.from_files(sys.argv[1])
fitted = time.perf_counter()
page = report.write()
print(json.dumps([fitted - began, time.perf_counter() - fitted]))
"""
_ANSWER, _RUNS = "tr[data-row=loss] data", "[data-name=runs] td"
"""What is to be seen: of more runs than a law is fitted to, their table."""
_DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"


def opened(page: Path, there: str) -> float:
    """Seconds, in a browser that is at work already.

    Args:
        there: a selector of what is to be seen by then.
    """
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(_OPENS):
            tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            tab.goto(page.as_uri())
            seconds.append(tab.evaluate(_DRAWN) / 1000)
            assert tab.inner_text(there)
        browser.close()
    return min(seconds)


def main(runs: int = RUNS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store, accounts = Store.at(root), Accounts()
        spec = spec_of(runs)
        store.write_spec(spec)
        planned = planned_runs(spec)
        for run in planned:
            leave_behind(store, run.config, accounts)
        (root / "accounts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in accounts.rows))
        told = subprocess.run([sys.executable, "-c", _WRITE, folder], check=True, capture_output=True, text=True)
        fitting, writing = json.loads(told.stdout)
        page = root / "report.html"
        size = page.stat().st_size / 1e6
        row = [
            str(len(planned)),
            f"{size:.2f}",
            f"{fitting:.1f}",
            f"{writing:.1f}",
            f"{opened(page, _ANSWER if len(planned) <= MOST_ROWS else _RUNS):.2f}",
            f"{os.getloadavg()[0]:.1f}",
        ]
        columns = ["runs", "MB", "fitted in s", "written in s", "opened in s", "load"]
        Console().print(Table("The page of a sweep", columns, [row]).rich())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
