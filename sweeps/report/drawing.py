"""Saves figures as SVG and PNG, in colours that a page can switch between light and dark."""

from __future__ import annotations

import dataclasses
import html
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from etils import epath
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from nextscale.fit.plot.style import INK, PAPER, STYLE, clear_labels, clear_legends, keep_readable
from nextscale.model.record import write_atomically
from nextscale.sweeps.page.document import packed

_DARK_PAPER = "#191d21"
"""As `--card` has it in page.css."""
_DPI = 150
"""Of the PNG."""
_PRINT_DPI = 300
FORMATS = ("pdf", "svg", "png")
COLUMNS = {"single": 3.25, "double": 6.75}
"""Inches, of a paper in two columns (ICML's style)."""
_NARROW, _SMALL = 4.5, 8.0
"""Inches up to which a figure is that of one column, and the font size there."""
_SEEN = 4.5
"""Contrast of a line or a mark on dark paper: more than the least with which it is seen (3, by WCAG 2.2, 1.4.11)."""
_THIN, _DARK_THIN = "0.15", 40
"""Opacity of a band, and in percent that on dark paper, where as much would not be seen."""
Panel = Callable[[Axes], Any]


@dataclasses.dataclass(frozen=True)
class Files:
    """How figures are saved.

    Attributes:
        formats: of `FORMATS`.
        width: inches; as the page has it unless given. Of several panels it is that of two columns, or more.
    """

    formats: tuple[str, ...] = ("svg", "png")
    width: float | None = None


@dataclasses.dataclass(frozen=True)
class Also:
    """What is written beside a page: files, none unless given.

    Attributes:
        slide: .svg, .png or .pdf.
        figures: as what, and how wide, figures are saved.
    """

    slide: Path | None = None
    markdown: Path | None = None
    pdf: Path | None = None
    figures: Files = dataclasses.field(default_factory=Files)


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure to be drawn.

    Attributes:
        name: of its files.
        title, caption: text.
        panels: each draws on the Axes that it is given; they stand side by side.
        data: what it shows, as a table.
        points: the columns of the page's `points` that its axes show, where a pointer finds runs on it.
        switches: what can be shown otherwise, by a word each, and what its button says.
        view: its panel with some of the switches on. One that is named like a column of `points` puts that on the y
            axis.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    data: pd.DataFrame | None = None
    points: tuple[str, str] | None = None
    switches: Mapping[str, str] = dataclasses.field(default_factory=dict)
    view: Callable[[frozenset[str]], Panel] | None = None

    def views(self) -> Iterator[Plot]:
        """With every choice of its switches, but for none of them; named as the page's address names it."""
        for number in range(1, len(self.switches) + 1):
            for chosen in itertools.combinations(sorted(self.switches), number):
                assert self.view is not None
                points = self.points
                if points is not None and "tokens" in chosen:
                    points = (points[0], "tokens")
                panels = (self.view(frozenset(chosen)),)
                yield dataclasses.replace(
                    self, name=f"{self.name}.{'.'.join(chosen)}", panels=panels, points=points, switches={}
                )

    def draw(self, inches: float | None = None) -> Figure:
        """
        Args:
            inches: how wide; as the page has it unless given. Nothing on it is written smaller than 6 pt.
        """
        width, height = (5.2, 4.0) if len(self.panels) == 1 else (5.0 * len(self.panels), 4.4)
        if inches is not None:
            width, height = inches, height * inches / width
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        for ax, panel in zip(figure.subplots(1, len(self.panels), squeeze=False)[0], self.panels, strict=True):
            panel(ax)
        keep_readable(figure)
        # The layout is found once: it takes as long as all the rest, and every file would do it again.
        figure.draw_without_rendering()
        clear_legends(figure)
        clear_labels(figure)
        figure.set_layout_engine("none")
        return figure


def save(plot: Plot, folder: Path, files: Files | None = None) -> str:
    """Writes a figure into a folder; returns the SVG of the page."""
    files = files or Files()
    usual = files.width is None
    svg = drawn(plot, folder / f"{plot.name}.png" if usual and "png" in files.formats else None)
    if usual and "svg" in files.formats:
        write_atomically(epath.Path(folder / f"{plot.name}.svg"), svg)
    others = [kind for kind in files.formats if not usual or kind == "pdf"]
    if others:
        width = (
            None
            if usual or files.width is None
            else max(files.width, 0 if len(plot.panels) == 1 else COLUMNS["double"])
        )
        scale: Any = {} if width is None or width > _NARROW else {"font.size": _SMALL, "lines.linewidth": 1.2}
        with matplotlib.rc_context({**STYLE, **scale, "svg.hashsalt": plot.name}):
            figure = plot.draw(width)
            for kind in others:
                metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
                figure.savefig(folder / f"{plot.name}.{kind}", metadata=metadata, dpi=_DPI if usual else _PRINT_DPI)
    return svg


def drawn(plot: Plot, png: Path | None = None) -> str:
    """A figure as SVG, and as a PNG file where that is wanted."""
    text = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": plot.name}):
        figure = plot.draw()
        # By the canvases themselves: `savefig` draws each file twice.
        if png is not None:
            FigureCanvasAgg(figure).print_png(png)
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue().replace("<svg ", f"<svg {_frame(plot, figure)} ", 1)


def _frame(plot: Plot, figure: Figure) -> str:
    """Of the first panel the ends of x and where in the SVG these are, and the same of y; the scales of both, and what
    they show of `points`: what a script needs to find a mark, or to add one."""
    ax = figure.axes[0]
    (left, bottom), (right, top) = ax.transAxes.transform([(0, 0), (1, 1)]) * 72 / figure.dpi
    height = figure.get_size_inches()[1] * 72
    numbers = [*ax.get_xlim(), left, right, *ax.get_ylim(), height - bottom, height - top]
    told = f'data-frame="{" ".join(f"{number:.6g}" for number in numbers)}"'
    told += f' data-scales="{ax.get_xscale()} {ax.get_yscale()}"'
    return told + (f' data-points="{" ".join(plot.points)}"' if plot.points else "")


def figure(plot: Plot, svg: str, views: Mapping[str, str] | None = None) -> str:
    """A figure as HTML, with buttons for its other views, and such as write it as SVG and its data as CSV.

    Args:
        views: the SVG of each of its `views`.
    """
    name = html.escape(plot.name)
    buttons = "".join(
        f'<button type="button" data-switch="{key}" aria-pressed="false">{html.escape(label)}</button>'
        for key, label in plot.switches.items()
    )
    buttons += f'<button type="button" data-svg="{name}">SVG</button>'
    if plot.data is not None:
        buttons += f'<button type="button" data-csv="{name}">CSV</button>'
    wide = ' class="wide"' if len(plot.panels) > 1 else ""
    packed_views = ""
    if views:
        inlined = {one.name.split(".", 1)[1]: _inline(one, views[one.name]) for one in plot.views()}
        packed_views = f'<script type="application/json" class="views">"{packed(inlined)}"</script>\n'
    return (
        f'<figure id="figure-{name}"{wide}>\n<div class="drawing" tabindex="0">{_inline(plot, svg)}</div>\n<figcaption>'
        f"<strong>{html.escape(plot.title)}.</strong> {html.escape(plot.caption)}</figcaption>\n"
        f'<div class="tools">{buttons}</div>\n{packed_views}</figure>\n'
    )


def palette(svgs: Iterable[str]) -> str:
    """CSS that gives every colour of some figures a lighter one on dark paper, where it would not be seen there."""
    found = sorted({colour for svg in svgs for colour in re.findall(r"#[0-9a-f]{6}\b", svg)} - {INK, PAPER})
    pairs = (f"--c-{colour[1:]}: light-dark({colour}, {_lifted(colour)});" for colour in found)
    return f":root {{ {' '.join(pairs)} }}"


def _inline(plot: Plot, svg: str) -> str:
    """The drawing alone, with names of its own and the colours of the page."""
    text = svg[svg.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{plot.name}-", text)
    text = re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", _as_variable, text)
    text = re.sub(rf"fill: (var\(--c-\w+\)); fill-opacity: {_THIN}", _band, text)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(plot.title)}"', 1)


def _as_variable(found: re.Match[str]) -> str:
    colour = found.group()
    return {INK: "var(--ink)", "#000000": "var(--ink)", PAPER: "var(--card)"}.get(colour, f"var(--c-{colour[1:]})")


def _band(found: re.Match[str]) -> str:
    shares = (f"{100 * float(_THIN):.0f}%", f"{_DARK_THIN}%")
    light, dark = (f"color-mix(in srgb, {found[1]} {share}, transparent)" for share in shares)
    return f"fill: light-dark({light}, {dark})"


def _lifted(colour: str) -> str:
    """A colour, mixed with as much white as it takes to be seen on dark paper."""
    for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        red, green, blue = (channel + (1 - channel) * share for channel in to_rgb(colour))
        lifted = red, green, blue
        if _contrast(lifted, to_rgb(_DARK_PAPER)) >= _SEEN:
            break
    return to_hex(lifted)


def _contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG 2.2's."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
