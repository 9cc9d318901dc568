"""Figures: what is written on them can be read."""

import dataclasses
import io
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nextscale.fit import as_runs, fit
from nextscale.fit.optimum.approaches import approaches
from nextscale.fit.optimum.forecast import forecast
from nextscale.fit.optimum.isoflop import isoflops
from nextscale.fit.plot.laws import loss_against
from nextscale.fit.plot.optima import approaches as draw_approaches
from nextscale.fit.plot.optima import frontier, isoflop_curves
from nextscale.fit.plot.runs import residuals, surface
from nextscale.fit.plot.style import clear_labels, clear_legends
from nextscale.fit.plot.trust import backtest, recipes
from nextscale.fit.trust.choice import choose
from nextscale.fit.trust.consensus import consensus


def shown(ax):
    low, high = ax.get_xlim()
    ticks = [*ax.xaxis.get_major_ticks(), *ax.xaxis.get_minor_ticks()]
    return [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()]


@pytest.mark.parametrize("span", [(2e9, 6e10), (9.4e21, 1.06e22), (3.33, 3.47), (1e18, 1e22), (5e8, 1.5e9)])
def test_labels_of_a_log_axis_do_not_touch(span):
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.subplots()
    ax.plot(span, (1, 2))
    ax.set_xscale("log")
    figure.draw_without_rendering()
    clear_labels(figure)
    figure.draw_without_rendering()
    labels = shown(ax)
    assert len(labels) >= 1
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_a_linear_axis_keeps_its_labels():
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.subplots()
    ax.plot((0, 10), (1, 2))
    figure.draw_without_rendering()
    before = [label.get_text() for label in shown(ax)]
    clear_labels(figure)
    figure.draw_without_rendering()
    assert [label.get_text() for label in shown(ax)] == before


def beneath_legends(figure):
    """Whether anything is drawn where the legends are, the legends themselves taken away."""
    figure.set_layout_engine("none")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [ax.get_legend().get_window_extent() for ax in figure.axes if ax.get_legend()]
    for ax in figure.axes:
        if ax.get_legend():
            ax.get_legend().set_visible(False)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[::-1, :, :3]
    assert boxes
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    return any((image[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] < 250).any() for box in boxes)


@pytest.mark.parametrize("budgets", [2, 5])
@pytest.mark.parametrize("draw", ["surface", "residuals", "frontier", "isoflop", "loss"])
def test_a_legend_lies_on_nothing_that_is_drawn(isoflop_grid, draw, budgets):
    found = fit(isoflop_grid(budgets=budgets, noise=0.02), resamples=20)
    optima = found.frontier(np.geomspace(1e18, 1e22, 9))
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    ax = figure.subplots()
    {
        "surface": lambda: surface(ax, found, optima),
        "residuals": lambda: residuals(ax, found),
        "frontier": lambda: frontier(ax, optima, runs=found.runs.table),
        "isoflop": lambda: isoflop_curves(ax, isoflops(found.runs)),
        "loss": lambda: loss_against(ax, found, optima).set_ylim(3),
    }[draw]()
    figure.draw_without_rendering()
    clear_legends(figure)
    assert not beneath_legends(figure)


def test_single_runs_are_no_budgets(isoflop_grid):
    table = isoflop_grid(budgets=3).iloc[:11]
    ax = Figure().subplots()
    isoflop_curves(ax, isoflops(as_runs(table)))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(labels) == 3
    assert labels[-1] == "single runs"
    marks = [line for line in ax.lines if line.get_marker() not in ("*", "None")]
    assert sum(len(line.get_xdata()) for line in marks) == 11
    first, second, single = marks
    assert first.get_marker() != second.get_marker(), "told apart in grey too"
    assert single.get_label() == "single runs"


def test_what_a_mean_of_laws_missed_by_is_drawn_beside_them_in_their_place(isoflop_grid):
    choice = choose(isoflop_grid(noise=0.002))
    for together in ({}, {1e19: 0.02, 3e19: 0.01}):
        lines = {line.get_label(): line for line in backtest(Figure().subplots(), choice, together).lines}
        assert any(label.endswith(", chosen") for label in lines) != bool(together)
        (bold,) = [line for line in lines.values() if line.get_linewidth() > 2]
        if together:
            assert bold is lines["the forecast, a mean of fits"]
            assert bold.get_xydata().tolist() == [[1e19, 2.0], [3e19, 1.0]]


def test_one_budget_is_the_one_place_on_the_axis_of_compute(isoflop_grid):
    runs = as_runs(isoflop_grid(noise=0.002))
    ax = draw_approaches(Figure(layout="constrained").subplots(), approaches(runs, fit(runs, resamples=100), [1e22]))
    ax.figure.draw_without_rendering()
    assert [label.get_text() for label in shown(ax)] == ["$10^{22}$"]


def test_a_forecast_is_drawn_over_the_runs_that_it_rests_on(isoflop_grid):
    found = fit(isoflop_grid(noise=0.002), resamples=50)
    told, table = forecast(found, [1e22])["targets"], found.runs.table
    left, right = Figure(layout="constrained").subplots(1, 2)
    loss_against(left, found, found.frontier([1e20, 1e22]), asked=told)
    frontier(right, found.frontier([1e20, 1e22]), runs=table, asked=told)
    for ax, name in ((left, "loss"), (right, "params")):
        lines = {line.get_label(): line.get_xydata() for line in ax.lines}
        assert sorted(map(tuple, lines["runs"])) == sorted(zip(table["flops"], table[name], strict=True))
        assert lines["forecast at $10^{22}$ FLOPs"].tolist() == [[1e22, told[0][name]]]


def test_the_band_is_fainter_beyond_what_backtests_reached(isoflop_grid):
    runs = as_runs(isoflop_grid(noise=0.002))
    mean = consensus(runs, resamples=100)
    reached = runs.table["flops"].max() * np.exp(mean.tested)
    for found, times in ((mean, 10), (mean, 0.5), (fit(runs, resamples=100), 10)):
        optima = found.frontier(np.geomspace(1e20, times * reached, 9))
        ax = loss_against(Figure().subplots(), found, optima)
        bands = {one.get_alpha(): one.get_paths() for one in ax.collections}
        marked = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
        beyond = found is mean and times > 1
        assert marked == ([pytest.approx(reached)] if beyond else [])
        (sure,), ends = bands[0.15], optima[["loss_low", "loss_high"]].to_numpy()
        assert sure.vertices[:, 0].max() == pytest.approx(reached if beyond else times * reached)
        (last,) = bands[0.09 if beyond else 0.15]
        x, y = last.vertices.T
        assert [y[x > 0.99 * x.max()].min(), y[x > 0.99 * x.max()].max()] == pytest.approx(ends[-1])


def test_of_very_many_runs_a_vector_file_holds_an_image_of_the_marks_alone(isoflop_grid):
    found, size = fit(isoflop_grid(noise=0.002), resamples=50), {}
    for times in (1, 200):
        table = pd.concat([found.runs.table] * times, ignore_index=True)
        many = dataclasses.replace(found, runs=dataclasses.replace(found.runs, table=table))
        figure, file = Figure(figsize=(5, 4)), io.BytesIO()
        loss_against(figure.subplots(), many, found.frontier([1e20, 1e22]))
        figure.savefig(file, format="svg")
        assert (b"<image" in file.getvalue()) == (times > 1)
        size[times] = len(file.getvalue())
    assert size[200] < 3 * size[1]


def test_a_comparison_is_drawn_over_the_runs_of_both(isoflop_grid):
    a, b = as_runs(isoflop_grid(noise=0.002)), as_runs(isoflop_grid(noise=0.001))
    ax = recipes(Figure().subplots(), a, b)
    for runs, lines in ((a, ax.lines[:2]), (b, ax.lines[2:])):
        assert len(lines[0].get_xdata()) == len(runs)
        assert [*lines[1].get_ydata()] == [*runs.table.groupby("budget")["loss"].min()]
