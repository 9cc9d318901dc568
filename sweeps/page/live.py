"""The live page of a running sweep: empty sections that live.js fills from the server."""

from __future__ import annotations

from importlib import resources

from nextscale.sweeps.page.document import Section, document, table
from nextscale.sweeps.show.tables import Table

_NOW = """\
<p class="warning" id="silence" role="status" hidden></p>
<p class="warning" id="problem" role="status" hidden></p>
<noscript><p class="warning">This page asks its server how the sweep stands, and needs scripts for that;
<code>nextscale status</code> tells the same.</p></noscript>
<div id="warnings"></div>
<p id="state"><b></b> <span></span></p>
<div id="progress" role="progressbar" aria-label="FLOPs done" aria-valuemin="0" aria-valuemax="100"></div>
<p id="counts"></p>
<p id="left" class="quiet"></p>
<p id="others" class="quiet"></p>
"""
_COST = '<dl class="facts" id="costs"></dl>\n'
_LOSSES = """\
<div class="drawings">
<figure id="curves"><svg role="img" aria-label="losses along the runs at work"></svg><ul class="legend"></ul>
<figcaption><strong>At work.</strong> Training loss against tokens, of the runs that were started last.</figcaption>
</figure>
<figure id="results"><svg role="img" aria-label="losses of runs that are done"></svg><ul class="legend"></ul>
<figcaption></figcaption></figure>
</div>
"""
_NARROWING = """\
<div class="drawings">
<figure id="narrowing"><svg role="img" aria-label="the interval of the forecast as runs land"></svg>
<ul class="legend"></ul>
<figcaption><strong>As it narrows.</strong> Half the interval of the loss at the target, each time runs were chosen.
</figcaption></figure>
</div>
"""
_REPORT = """\
<p id="files"></p>
<iframe id="report-frame" title="the report"></iframe>
"""


def live_page(name: str) -> str:
    """As HTML; what it shows it asks of the server that it comes from."""
    sections = [
        Section("now", "Now", _NOW),
        Section(
            "failures",
            "Failures",
            _empty("failed", "Runs that failed for good", ["run", "what it is", "attempts", "why"], 4, wraps=True),
        ),
        Section("cost", "Spent", _COST),
        Section("where", "Where it runs", _where()),
        Section("losses", "Losses", _LOSSES + _newest()),
        Section("forecasts", "Forecasts", _forecasts()),
        Section(
            "events", "What happened", _empty("events", "The newest first", ["when", "what", "run", ""], 4, wraps=True)
        ),
        Section("report", "Report", _REPORT),
    ]
    return document(
        name,
        sections,
        {"tables": {}},
        subtitle="live",
        footer="read from files alone; nothing here is sent anywhere",
        style=(resources.files("nextscale.sweeps.page") / "live.css").read_text(encoding="utf-8"),
        scripts=("page.js", "chart.js", "live.js"),
        connects=True,
    )


def _where() -> str:
    pools = ["pool", "accelerator", "slots at work", "attempts", "in vain", "device-hours", "$", "utilisation"]
    slots = ["slot", "pool", "run", "what it is", "done", "loss", "since"]
    return _empty("pools", "Pools", pools, 2) + _empty("lanes", "Slots", slots, 4)


def _newest() -> str:
    columns = ["run", "params", "tokens", "FLOPs", "loss (nats/token)", "bits/byte", "landed"]
    return _empty("newest", "Landed last", columns, 1)


def _forecasts() -> str:
    columns = ["made", "by", "FLOPs", "params", "tokens", "predicted", "interval", "level", "measured", ""]
    return _NARROWING + _empty("forecasts", "Written down before, and what was measured after (nats/token)", columns, 2)


def _empty(name: str, title: str, columns: list[str], left: int, *, wraps: bool = False) -> str:
    return table(Table(title, columns, [], left, wraps), name)
