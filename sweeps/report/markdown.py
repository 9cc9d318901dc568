"""The page as Markdown, for issues and wikis: text, tables and images of its sections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser

from nextscale.sweeps.page.document import Section

_SPECIAL = re.compile(r"([\\`*_\[\]<>|])")
_HEADINGS = {"h3": "### ", "summary": "### "}
_LEFT_OUT = {"script", "button", "svg", "form", "template"}


def as_markdown(title: str, subtitle: str, sections: Sequence[Section], figures: str, footer: str) -> str:
    """
    Args:
        sections: of the page; of what is computed in a browser, the answer that it begins with.
        figures: where their PNG files are, as an address ending in a slash.
    """
    parts = [f"# {_text(title)}", _text(subtitle)]
    for section in sections:
        parts += [f"## {_text(section.title)}", *_blocks(section.body, figures)]
    return "\n\n".join([*filter(None, parts), f"---\n{_text(footer)}"]) + "\n"


def _blocks(body: str, figures: str) -> list[str]:
    reader = _Reader(figures)
    reader.feed(body)
    return [block for block in reader.blocks if block]


def _text(text: str) -> str:
    """Text that stays text: no name in it is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


class _Reader(HTMLParser):
    """Takes apart what `document.py` and `content.py` write."""

    def __init__(self, figures: str):
        super().__init__()
        self.figures = figures
        self.blocks: list[str] = []
        self._rows: list[list[str]] = []
        self._said, self._skipped, self._figure, self._warning = "", 0, "", False
        self._terms: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag in _LEFT_OUT:
            self._skipped += 1
        elif tag == "figure":
            self._figure = (told["id"] or "").removeprefix("figure-")
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        if tag in ("p", "h3", "summary", "td", "th", "dt", "dd", "figcaption", "li"):
            self._said, self._warning = "", told.get("class") == "warning"

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._said += data

    def handle_endtag(self, tag: str) -> None:
        said = _text(self._said)
        if tag in _LEFT_OUT:
            self._skipped -= 1
        elif tag == "p":
            self.blocks.append(f"> **Warning:** {said}" if self._warning else said)
        elif tag in _HEADINGS:
            self.blocks.append(_HEADINGS[tag] + said)
        elif tag in ("td", "th"):
            self._rows[-1].append(said)
        elif tag == "table" and any(any(row[1:]) for row in self._rows[1:]):
            self.blocks.append(_pipes(self._rows))
        elif tag == "figcaption":
            self.blocks += [f"![{said.split('. ')[0]}]({self.figures}{self._figure}.png)", said]
        elif tag in ("dt", "dd"):
            self._terms.append(said)
        elif tag == "dl" and self._terms:
            what, *values = self._terms
            self.blocks.append(f"- {what}: {', '.join(filter(None, values))}")
            self._terms = []


def _pipes(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head, *body = rows
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))
