"""Surprises: rare when the law holds, at the rate that is stated; found when it breaks."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nextscale.fit import fit, fit_backtested, plot
from nextscale.fit.errors import InputError
from nextscale.fit.trust.trend import trend


@pytest.fixture
def new_runs(isoflop_grid):
    """Five runs of a budget three times the largest, off the law by a relative shift."""

    def build(seed=0, shift=0.0, noise=0.003):
        table = isoflop_grid(noise=noise, seed=10_000 + seed, budgets=1, first=3e21)
        return table.assign(loss=table["loss"] * (1 + shift))

    return build


def floored(table, floor=2.45):
    """A smooth floor under the losses: the law of the cheaper runs breaks at the dearer ones."""
    return table.assign(loss=(table["loss"] ** 60 + floor**60) ** (1 / 60))


@pytest.mark.slow
def test_a_run_on_the_law_continues_it_and_one_off_it_does_not(isoflop_grid, new_runs):
    found = fit(isoflop_grid(noise=0.003), resamples=300)
    on, above, below = (trend(found, new_runs(shift=shift).iloc[[2]]) for shift in (0.0, 0.05, -0.05))
    assert [told.runs["verdict"].iloc[0] for told in (on, above, below)] == ["continues", "above", "below"]
    row = above.runs.iloc[0]
    assert row["surprise"] > 3 and row["p"] < 0.01
    assert row["low"] < row["predicted"] < row["high"] < row["loss"]
    json.dumps(above.to_dict(), allow_nan=False)


def test_runs_together_show_what_one_does_not(isoflop_grid, new_runs):
    found = fit(isoflop_grid(noise=0.003), resamples=300)
    told = trend(found, new_runs(shift=0.012))
    assert told.p < told.runs["p"].median()
    assert told.shift == pytest.approx(0.012, abs=0.005)


def test_a_floor_is_found(isoflop_grid):
    found = fit(floored(isoflop_grid(noise=0.002)), resamples=200)
    told = trend(found).flattening
    assert told.verdict == "flattening"
    assert (told.runs, told.older) == (5, 20)


@pytest.mark.parametrize(
    "shift, verdict",
    [
        (0.02, "flattening"),
        pytest.param(0.0, "continues", marks=pytest.mark.slow),
        pytest.param(-0.02, "steepening", marks=pytest.mark.slow),
    ],
)
def test_what_a_backtest_missed_does_not_excuse_itself(isoflop_grid, shift, verdict):
    """Newest runs off the law are what the backtest of a fit trips over."""
    table = isoflop_grid(noise=0.003)
    moved = table.assign(loss=table.loss * np.where(table.budget == table.budget.max(), 1 + shift, 1))
    found, _ = fit_backtested(moved, resamples=200)
    assert trend(found).flattening.verdict == verdict


def test_the_same_numbers_are_not_new_whatever_they_are_called(isoflop_grid, new_runs):
    table = isoflop_grid(noise=0.003)
    found = fit(table, resamples=200)
    with pytest.raises(InputError, match="fitted to every one"):
        trend(found, table.sample(frac=1, random_state=0))
    told = trend(found, pd.concat([new_runs(), table.iloc[[3]]], ignore_index=True))
    assert len(told.runs) == 5
    assert any("1 of the new runs left out" in warning for warning in told.warnings)


def test_runs_that_the_law_has_seen_are_not_new(isoflop_grid):
    table = isoflop_grid(noise=0.003)
    named = table.assign(run_id=[f"run{i}" for i in range(len(table))])
    found = fit(named, resamples=200)
    with pytest.raises(InputError, match="fitted to every one"):
        trend(found, named)


def test_too_few_budgets_are_said(isoflop_grid):
    told = trend(fit(isoflop_grid(noise=0.003, budgets=2), resamples=200))
    assert told.flattening is None
    assert "no test for flattening" in told.warnings[0]


def test_a_law_in_compute_alone_has_a_trend_too(isoflop_grid):
    best = isoflop_grid(noise=0.001, budgets=8, step=2.5).groupby("flops", as_index=False)["loss"].min()
    told = trend(fit(best.iloc[:-1], "saturating", resamples=200), best.iloc[-1:].assign(loss=2.6))
    assert told.runs["verdict"].iloc[0] == "above"


def test_the_figure_is_drawn_on_the_axes_given(isoflop_grid, new_runs):
    found = fit(isoflop_grid(noise=0.003), resamples=200)
    ax = Figure().subplots()
    assert plot.trend(ax, found, trend(found, pd.concat([new_runs(), new_runs(1, 0.05)]))) is ax
    assert ax.has_data() and ax.get_xlabel()


@pytest.mark.slow
@pytest.mark.soak
def test_false_alarms_are_as_rare_as_stated(isoflop_grid, new_runs):
    """5 % nominal. In 100 repeats 1 to 10 % of verdicts on one run are wrong; the test for flattening extrapolates
    from fewer budgets, where intervals are wide, and may be as careful as 1 %."""
    one, flat, caught = [], [], []
    for seed in range(100):
        table = isoflop_grid(noise=0.003, seed=seed)
        told = trend(fit(table, resamples=300), new_runs(seed).iloc[[2]])
        one.append(told.runs["p"].iloc[0])
        flat.append(trend(fit(table, resamples=100)).flattening.p)
        if seed < 20:
            caught.append(trend(fit(floored(table), resamples=100)).flattening.verdict == "flattening")
    assert 0.01 <= np.mean(np.array(one) < 0.05) <= 0.10
    assert np.mean(np.array(flat) < 0.05) <= 0.10
    assert np.mean(caught) > 0.8
