"""Colours of the figures, and labels of their axes that do not touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox, ScaledTranslation

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
"""Okabe & Ito's palette, distinct with any colour vision."""
INK, PAPER = "#1b1f24", "#ffffff"
STYLE: Any = {
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # fonts embedded as such: type 3, the default, is refused by many publishers
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
"""Of every figure, as matplotlib's rcParams."""
_LEAST, _EXPONENT = 6.0, 0.7
"""Points, and the size of an exponent / that of its number as matplotlib sets it."""
_APART = 3.0
"""Pixels between two labels of an axis, and between a legend and what is drawn."""
_BENEATH = 3.6
"""How far below an axis a legend stands, where its numbers and its label have room, / the size of a letter."""
_WIDER, _TALLER = 1.1, 0.4
"""A legend there may be so many times as wide as its axes, for the numbers beside these have room too; and as high."""

_MARKS, _LINES = 2000, 400
"""Marks and lines of which a vector file is no longer small, nor drawn at once."""


def dense(marks: int = 0, lines: int = 0) -> bool:
    """Whether there are so many that a vector file takes them as one image (`rasterized` of matplotlib)."""
    return marks > _MARKS or lines > _LINES


def shades(number: int) -> list[tuple[float, ...]]:
    """So many colours, from dark to light, for curves that have an order."""
    return [tuple(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, number))]


def power_of_ten(flops: float) -> str:
    """Compute to two digits, as matplotlib sets it: 3 × 10²⁰, and 10²⁰ of 1."""
    digits, exponent = f"{flops:.1e}".split("e")
    times = "" if float(digits) == 1 else f"{float(digits):g} \\times "
    return f"${times}10^{{{int(exponent)}}}$"


def stars(ax: Axes, targets: Sequence[Mapping[str, Any]], key: str, per_flop: float = 1.0) -> None:
    """What was asked, against compute: a hollow star of each target that has the figure, with its interval.

    Args:
        targets: as `nextscale.fit.optimum.forecast.forecast` returns them.
        key: `loss` or `params`.
        per_flop: what the x axis counts, of one FLOP.
    """
    known = [target for target in targets if target["flops"] is not None and target[key] is not None]
    for i, target in enumerate(known):
        value, (low, high) = target[key], target.get(f"{key}_interval") or (None, None)
        spread = [
            [value - min(value, value if low is None else low)],
            [max(value, value if high is None else high) - value],
        ]
        at = [target["flops"] * per_flop]
        ax.errorbar(at, [value], spread, fmt="none", color=BLUE, capsize=4, zorder=4)
        name = "forecast" if len(known) > 1 else f"forecast at {power_of_ten(target['flops'])} FLOPs"
        label = name if i == 0 else None
        ax.plot(at, [value], "*", color="white", markersize=15, markeredgecolor=BLUE, zorder=5, label=label)


def clear_labels(figure: Figure) -> None:
    """Hides labels of minor ticks that another label of their x axis would touch: of a log axis that spans little there
    are more than its width holds. The figure has been drawn, or laid out, once."""
    for ax in figure.axes:
        low, high = sorted(ax.get_xlim())
        seen = [tick.label1 for tick in ax.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        taken = [label.get_window_extent() for label in seen if label.get_text()]
        kept: dict[float, str] = {}
        minor = [tick for tick in ax.xaxis.get_minor_ticks() if low <= tick.get_loc() <= high]
        for tick in sorted(minor, key=lambda tick: tick.get_loc()):
            box = tick.label1.get_window_extent()
            if tick.label1.get_text() and not any(box.padded(_APART).overlaps(other) for other in taken):
                taken.append(box)
                kept[tick.get_loc()] = tick.label1.get_text()
        if minor:
            ax.xaxis.set_minor_formatter(_kept(kept))


def _kept(labels: Mapping[float, str]) -> FuncFormatter:
    return FuncFormatter(lambda place, _: labels.get(place, ""))


def clear_legends(figure: Figure) -> None:
    """Puts every legend that lies on what is drawn beneath its axes. The figure has been drawn, or laid out, once."""
    moved = [ax for ax in figure.axes if (legend := ax.get_legend()) is not None and _covers(ax, legend)]
    for ax in moved:
        put_beneath(ax)
    if moved:
        figure.draw_without_rendering()


def put_beneath(ax: Axes) -> None:
    """Puts the legend of a panel below it, in as many columns as it is wide; one that would take the panel's room stays
    where it is."""
    old = ax.get_legend()
    assert old is not None
    handles, labels = ax.get_legend_handles_labels()
    texts = [text.get_text() for text in old.get_texts()]
    if labels != texts:
        handles, labels = [one for one in old.legend_handles if one is not None], texts
    letter = matplotlib.rcParams["font.size"] / 72
    below = ax.transAxes + ScaledTranslation(0, -_BENEATH * letter, ax.figure.dpi_scale_trans)
    how: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below}
    how |= {"fontsize": old.get_texts()[0].get_fontsize(), "title": old.get_title().get_text() or None}
    for columns in range(len(labels), 0, -1):
        made = ax.legend(handles, labels, ncols=columns, **how)
        taken = made.get_window_extent()
        if taken.width <= _WIDER * ax.bbox.width and taken.height <= _TALLER * ax.bbox.height:
            return
    ax.legend_ = old


def _covers(ax: Axes, legend: Legend) -> bool:
    box = legend.get_window_extent().padded(_APART)
    for line in ax.lines:
        path = line.get_transform().transform_path(line.get_path())
        reach = box.padded(line.get_markersize() / 2 * ax.figure.dpi / 72)
        if line.get_linestyle() != "None" and _meets(path, box, filled=False):
            return True
        if line.get_marker() not in ("None", None, "") and reach.count_contains(path.vertices):
            return True
    for drawn in ax.collections:
        if isinstance(drawn, PathCollection):
            if box.count_contains(drawn.get_offset_transform().transform(drawn.get_offsets())):
                return True
            continue
        placed, filled = (
            map(drawn.get_transform().transform_path, drawn.get_paths()),
            np.size(drawn.get_facecolor()) > 0,
        )
        if any(_meets(path, box, filled) for path in placed):
            return True
    shapes = [patch.get_transform().transform_path(patch.get_path()) for patch in ax.patches]
    return any(_meets(path, box) for path in shapes) or any(
        text.get_window_extent().overlaps(box) for text in ax.texts if text.get_text()
    )


def _meets(path: Path, box: Bbox, filled: bool = True) -> bool:
    clean = path.cleaned(remove_nans=True)
    return np.size(clean.vertices) > 2 and bool(clean.intersects_bbox(box, filled=filled))


def keep_readable(figure: Figure) -> None:
    """Writes nothing smaller than 6 pt, exponents too."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_fontsize(max(text.get_fontsize(), _LEAST / (_EXPONENT if "^" in text.get_text() else 1)))
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            least, usual = _LEAST / (_EXPONENT if axis.get_scale() == "log" else 1), matplotlib.rcParams["font.size"]
            axis.set_tick_params(which="both", labelsize=max(least, usual))
