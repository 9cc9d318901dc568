"""The sweep on one slide, 16:9: what it says, how well that was tested, and the figure that it rests on."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from nextscale.fit.plot.style import INK, STYLE, clear_labels, clear_legends
from nextscale.sweeps.report.drawing import Plot

_QUIET = "#56606b"
_INCHES = (13.333, 7.5)
_WIDTH, _LONGEST = 0.42, 80
"""Of the text, of the slide's width; characters of a line at most."""


def write_slide(file: Path, title: str, sentence: str, trust: str, plot: Plot, footer: str) -> None:
    """Writes it as SVG, PNG or PDF, by the name of the file.

    Args:
        plot: of one panel.
        footer: of what and by what it was made.
    """
    rc = {**STYLE, "font.size": 14, "svg.hashsalt": "slide"}
    with matplotlib.rc_context(rc):
        figure = Figure(figsize=_INCHES)
        ax = figure.add_axes((0.53, 0.24, 0.43, 0.58))
        for panel in plot.panels:
            panel(ax)
        figure.text(0.04, 0.9, title, fontsize=18, color=_QUIET, va="bottom", parse_math=False)
        below = _write(figure, 0.82, sentence, fontsize=26, fontweight="bold", color=INK, linespacing=1.25)
        _write(figure, below - 0.05, trust, fontsize=18, color=_QUIET, linespacing=1.35)
        figure.text(0.04, 0.06, footer, fontsize=10, color=_QUIET, va="top", parse_math=False)
        clear_legends(figure)
        clear_labels(figure)
        kind = file.suffix[1:].lower()
        metadata = {"Date": None} if kind == "svg" else {"CreationDate": None} if kind == "pdf" else None
        figure.savefig(file, format=kind, dpi=144, metadata=metadata)


def _write(figure: Figure, top: float, text: str, **style: Any) -> float:
    """Writes text in lines as long as its half of the slide holds; returns where it ends."""
    written = figure.text(0.04, top, text, va="top", parse_math=False, **style)
    for columns in range(_LONGEST, 10, -1):
        written.set_text(textwrap.fill(text, columns))
        box = written.get_window_extent()
        if box.width <= _WIDTH * figure.bbox.width:
            break
    return float(box.y0 / figure.bbox.height)
