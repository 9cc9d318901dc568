"""The option `--plot`: figures drawn into files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.sweeps.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nextscale.fit.estimate.fit import Fit


def _drawable(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise SpecError(f"--plot {path}: cannot draw a '{path.suffix}' file; name a .png, .svg or .pdf")
    return path


PlotFile = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="draw it too: .png, .svg or .pdf", callback=_drawable),
]


@contextlib.contextmanager
def axes_at(path: Path) -> Iterator[Axes]:
    """Axes to draw on, saved as a file after."""
    with _figure_at(path, 7) as figure:
        yield figure.subplots()


@contextlib.contextmanager
def two_axes_at(path: Path) -> Iterator[tuple[Axes, Axes]]:
    """The same with two, side by side."""
    with _figure_at(path, 11) as figure:
        left, right = figure.subplots(1, 2)
        yield left, right


def draw_fit(
    path: Path,
    found: Fit,
    reach: float | None = None,
    asked: Sequence[Mapping[str, Any]] = (),
    known: pd.DataFrame | None = None,
) -> None:
    """A law and its runs; of one in N and D the frontier beside it.

    Args:
        asked: as `nextscale.fit.optimum.forecast.forecast` returns targets; each is a star.
        known: models to lie beside the frontier, as `nextscale.fit.optimum.known_models.known_models` returns them.
    """
    from nextscale.fit import plot

    if set(found.law.variables) != {"N", "D"}:
        with axes_at(path) as axes:
            plot.law(axes, found, reach, asked)
        return
    optima = found.frontier(plot.budgets(found, reach))
    with two_axes_at(path) as (left, right):
        plot.loss_against(left, found, optima, asked=asked)
        if known is not None:
            optima = found.frontier(plot.budgets(found, 1.5 * max(known["flops"].max(), reach or 0)))
        draw_frontier(right, found, optima, asked, known)


def draw_frontier(
    axes: Axes,
    found: Fit,
    optima: pd.DataFrame,
    asked: Sequence[Mapping[str, Any]],
    known: pd.DataFrame | None = None,
) -> None:
    """The best size at each budget by the law, the runs, and the lowest points of their budgets."""
    from nextscale.fit import plot
    from nextscale.fit.optimum.isoflop import isoflops, optimum_law

    curves = isoflops(found.runs)
    plot.frontier(axes, optima, curves, optimum_law(curves), runs=found.runs.table, asked=asked, known=known)


@contextlib.contextmanager
def _figure_at(path: Path, width: float) -> Iterator[Figure]:
    """In the style of the pages."""
    import matplotlib
    from matplotlib.figure import Figure

    from nextscale.fit.plot.style import STYLE, clear_labels, clear_legends, keep_readable

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 4.6), layout="constrained")
        yield figure
        keep_readable(figure)
        figure.draw_without_rendering()
        clear_legends(figure)
        clear_labels(figure)
        figure.savefig(path, dpi=150)
