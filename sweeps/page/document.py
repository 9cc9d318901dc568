"""One HTML file with its sections, style, script and data: it loads nothing from a network."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from nextscale.fit.jsonable import jsonable
from nextscale.sweeps.show.formats import raised_powers
from nextscale.sweeps.show.tables import Table

_PACKED = 100_000
"""Characters of a table from which on it is compressed: it is read when it is wanted, and not when the page opens."""
_ROWS = 200
"""Of a table that are there when the page opens; the script adds the others as they are scrolled to."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        name: its anchor.
        title: text.
        body: HTML, in which all text is escaped.
    """

    name: str
    title: str
    body: str


def document(
    title: str,
    sections: Sequence[Section],
    data: Mapping[str, Any],
    *,
    subtitle: str = "",
    footer: str = "",
    style: str = "",
    scripts: Sequence[str] = ("page.js", "figures.js", "calculator.js"),
    connects: bool = False,
) -> str:
    """A page as HTML.

    Args:
        title, subtitle, footer: text.
        data: what the scripts read, JSON; `tables` (see `raw`) are what its buttons write as CSV.
        style: CSS, beside that of every page.
        scripts: files of this folder.
        connects: whether it may ask the server that it came from for more, and show pages of it.
    """
    script = "\n".join(_file(name) for name in scripts)
    return Template(_file("page.html")).substitute(
        policy=_policy(script, connects),
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        footer=html.escape(footer),
        style=_file("page.css") + "\n" + style,
        nav="\n".join(f'<a href="#{section.name}">{html.escape(section.title)}</a>' for section in sections),
        sections="\n".join(_section(section) for section in sections),
        data=embedded(data),
        script=script,
    )


def embedded(value: Any) -> str:
    """JSON that no text in it can break out of: neither a tag nor a line separator is left as it is."""
    text = json.dumps(jsonable(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(
    shown: Table, name: str, *, columns: Sequence[str] | None = None, links: Sequence[str | None] | None = None
) -> str:
    """A table as HTML, with a button that writes it as CSV.

    Args:
        columns: where the page's data has more of it under this name, the columns there of those shown: it can be
            sorted by them.
        links: of each row, where its first cell leads to.
    """
    keys: Sequence[str | None] = columns or [None] * len(shown.columns)
    sides = [' class="left"' if i < shown.left else "" for i in range(len(shown.columns))]
    head = "".join(map(_heading, shown.columns, keys, sides))
    body = [
        f"<tr>{''.join(f'<td{side}>{cell}</td>' for side, cell in zip(sides, cells, strict=True))}</tr>\n"
        for cells in map(_cells, shown.rows, links or [None] * len(shown.rows))
    ]
    kind = ' class="wraps"' if shown.wraps else ""
    return (
        f'<h3>{html.escape(shown.title)}</h3>\n<div class="scroll" tabindex="0">'
        f'<table data-name="{html.escape(name)}"{kind}><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{''.join(body[:_ROWS])}</tbody></table>{_rest(body[_ROWS:])}</div>\n"
        f'<div class="tools"><button type="button" data-csv="{html.escape(name)}">CSV</button></div>\n'
    )


def _rest(rows: Sequence[str]) -> str:
    """Rows beyond the first, for the script to add; they were escaped as the first were."""
    if not rows:
        return ""
    note = f"The first {_ROWS} of {len(rows) + _ROWS:,} rows: more as you scroll, all in the CSV."
    return f'<p class="quiet more">{note}</p><script type="application/json" class="rest">"{packed(rows)}"</script>'


def readable(text: str) -> str:
    """Text as HTML, in which 1.56e+13 is written 1.56×10¹³."""
    return raised_powers(html.escape(text))


def raw(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """A table for `data`: as it is, for machines; a long one by columns, compressed."""
    told = {"columns": list(columns), "rows": [list(row) for row in rows]}
    if len(json.dumps(jsonable(told))) < _PACKED:
        return told
    return {"columns": told["columns"], "packed": packed([list(column) for column in zip(*rows, strict=True)])}


def packed(value: Any) -> str:
    """JSON, compressed (gzip, in base64), for the script's `unpacked`."""
    text = json.dumps(jsonable(value), allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _cells(row: Sequence[str], link: str | None) -> list[str]:
    cells = list(map(_cell, row))
    if link is not None:
        cells[0] = f'<a href="{html.escape(link)}">{cells[0]}</a>'
    return cells


def _cell(text: str) -> str:
    """Where it is written otherwise than it is, it keeps what it is for the CSV."""
    shown, plain = readable(text), html.escape(text)
    return shown if shown == plain else f'<data value="{plain}">{shown}</data>'


def _section(section: Section) -> str:
    return f'<section id="{section.name}">\n<h2>{html.escape(section.title)}</h2>\n{section.body}</section>'


def _heading(text: str, key: str | None, side: str) -> str:
    if not text:
        return f"<td{side}></td>"
    shown = html.escape(text)
    if key is not None:
        shown = f'<button type="button" data-sort="{html.escape(key)}">{shown}</button>'
    return f'<th scope="col"{side}>{shown}</th>'


def _policy(script: str, connects: bool) -> str:
    # Of scripts this one alone runs: text that found its way into the page as a script would not.
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    connect = "; connect-src 'self'; frame-src 'self'" if connects else ""
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:{connect}"


def _file(name: str) -> str:
    return (resources.files("nextscale.sweeps.page") / name).read_text(encoding="utf-8").strip()
