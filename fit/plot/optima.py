"""Figures of compute-optimal sizes: isoFLOP curves, the frontier, and the approaches to it.

Every function draws on the `Axes` it is given, and returns it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from nextscale.fit.plot.style import BLUE, GREEN, GREY, INK, ORANGE, dense, power_of_ten, shades, stars

if TYPE_CHECKING:
    from nextscale.fit.optimum.isoflop import IsoFlop, PowerLaw

_MANY = 6
"""Curves of which a legend finds no room among them."""
_MARKS = "o^DvPX<>"
"""Of neighbouring budgets, whose shades are close, and the same in grey."""
_CLEAR = 3.0, 0.35
"""Decades of compute and of size within which a second name would lie on the first."""


def isoflop_curves(ax: Axes, curves: Sequence[IsoFlop], held_out: Sequence[IsoFlop] = ()) -> Axes:
    """Loss against size at each budget, the parabolas through them, and the lowest points (stars), without which a
    parabola is dotted; runs of budgets of fewer than three sizes are grey."""
    budgets = [curve for curve in curves if curve.is_budget]
    each = zip(budgets, shades(len(budgets)), itertools.cycle(_MARKS))
    styles: list[tuple[IsoFlop, Any, str, str]] = [(*one, "-") for one in each]
    styles += [(curve, ORANGE, "s", "--") for curve in held_out]
    many = dense(sum(len(curve.loss) for curve in curves))
    for curve, colour, marker, line in styles:
        label = power_of_ten(curve.flops) + (" (held out)" if marker == "s" else "")
        dots = ax.plot(curve.params, curve.loss, marker, color=colour, markersize=4, label=label, rasterized=many)
        if curve.coefficients is not None:
            sizes = np.geomspace(curve.params.min() / 1.1, curve.params.max() * 1.1, 100)
            style = ":" if curve.optimum is None else line
            dots += ax.plot(sizes, np.polyval(curve.coefficients, np.log(sizes)), style, color=colour, linewidth=1)
        if curve.optimum is not None:
            dots += ax.plot(*curve.optimum[::2], "*", color=colour, markersize=11, markeredgecolor=INK)
        for what, drawn in zip(("runs", "curve", "minimum"), dots, strict=False):
            drawn.set_gid(f"{what}-of-{curve.flops!r}")  # by which a page tells one budget's from the others'
    if single := [(curve.params, curve.loss) for curve in curves if not curve.is_budget]:
        sizes, losses = (np.concatenate(values) for values in zip(*single, strict=True))
        ax.plot(sizes, losses, "o", color=GREY, markersize=2, label="single runs", rasterized=dense(len(sizes)))
    ax.set(xscale="log", xlabel="parameters N", ylabel="loss (nats/token)", title="isoFLOP curves")
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.02)} if len(styles) > _MANY else {}
    ax.legend(title="FLOPs", fontsize="small", **beside)
    return ax


def frontier(
    ax: Axes,
    optima: pd.DataFrame,
    curves: Sequence[IsoFlop] = (),
    law: PowerLaw | None = None,
    held_out: Sequence[IsoFlop] = (),
    *,
    runs: pd.DataFrame | None = None,
    asked: Sequence[Mapping[str, Any]] = (),
    of: Literal["params", "tokens"] = "params",
    known: pd.DataFrame | None = None,
) -> Axes:
    """The compute-optimal size against compute, or the tokens: the law's with its band, the isoFLOP minima and the
    power law through them, and what the held-out scale measured.

    Args:
        optima: as `nextscale.fit.optimum.frontier.frontier` returns it.
        law: of the size; it is drawn where that is.
        runs: `flops`, `params` and `tokens` of those that it rests on.
        asked: as `nextscale.fit.optimum.forecast.forecast` returns targets; each is a star.
        known: models to lie beside it, as `nextscale.fit.optimum.known_models.known_models` returns them.
    """
    flops, at = optima["flops"], ("params", "tokens").index(of)
    if runs is not None:
        marks: dict[str, Any] = {"color": GREY, "markersize": 2, "alpha": 0.6, "rasterized": dense(len(runs))}
        ax.plot(runs["flops"], runs[of], "o", label="runs", **marks)
    ax.plot(flops, optima[of], color=BLUE, label="parametric law (approach 3)")
    ax.fill_between(flops, optima[f"{of}_low"], optima[f"{of}_high"], color=BLUE, alpha=0.15, linewidth=0)
    if law is not None and of == "params":
        ax.plot(flops, law(flops), "--", color=GREEN, label=f"isoFLOP minima (approach 2), $C^{{{law.exponent:.2f}}}$")
    found = [(c.flops, c.optimum[at]) for c in curves if c.optimum is not None]
    if found:
        ax.plot(*np.array(found).T, "*", color=GREEN, markersize=10)
    measured = [(c.flops, c.optimum[at]) for c in held_out if c.optimum is not None]
    if measured:
        ax.plot(
            *np.array(measured).T, "*", color=ORANGE, markersize=14, markeredgecolor="white", label="measured, held out"
        )
    stars(ax, asked, of)
    if known is not None:
        _beside(ax, known, of)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="compute C (FLOPs)" if known is None else "compute C (FLOPs; of known models 6ND)",
        ylabel="optimal parameters N*" if of == "params" else "optimal tokens D*",
        title="compute-optimal frontier",
    )
    ax.legend(fontsize="small")
    return ax


def _beside(ax: Axes, known: pd.DataFrame, of: str) -> None:
    """Published models, each named where no name beside it is in the way."""
    ax.plot(known["flops"], known[of], "D", color=ORANGE, markersize=4, label="known models")
    named = np.empty((0, 2))
    for name, flops, value in zip(known["name"], known["flops"], known[of], strict=True):
        at = np.log10([float(flops), float(value)])
        if not (np.abs(named - at) < _CLEAR).all(axis=1).any():
            ax.annotate(name, (flops, value), textcoords="offset points", xytext=(-5, 3), ha="right", fontsize=6)
            named = np.vstack([named, at])


def approaches(ax: Axes, table: pd.DataFrame) -> Axes:
    """The optimal size by each approach against compute, with its interval.

    Args:
        table: as `nextscale.fit.optimum.approaches.approaches` returns it.
    """
    known = table[table["params"].notna()]
    colours = {"envelope": GREY, "parabola": GREEN, "akima": ORANGE, "parametric": BLUE}
    for i, (name, colour) in enumerate(colours.items()):
        rows = known[known["approach"] == name].astype({"params": float, "params_low": float, "params_high": float})
        if rows.empty:
            continue
        # Side by side, or intervals of one budget would hide each other.
        flops = rows["flops"].astype(float) * 1.04 ** (i - 1.5)
        spread = np.nan_to_num([rows["params"] - rows["params_low"], rows["params_high"] - rows["params"]])
        exponent = rows["exponent"].iloc[0]
        ax.errorbar(
            flops,
            rows["params"],
            np.maximum(spread, 0),
            fmt="o-",
            color=colour,
            capsize=3,
            markersize=4,
            label=f"{name}, $C^{{{exponent:.2f}}}$",
        )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="compute C (FLOPs)",
        ylabel="optimal parameters N*",
        title="optimal size by approach",
    )
    if known["flops"].nunique() == 1:
        # Places between are where a budget's marks stand side by side, and no other budgets.
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks([float(known["flops"].iloc[0])], [power_of_ten(known["flops"].iloc[0])])
    ax.legend(fontsize="small")
    return ax
