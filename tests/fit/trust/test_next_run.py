"""What to run next: what is said to narrow the forecast does."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nextscale.fit import fit, plot
from nextscale.fit.errors import InputError
from nextscale.fit.trust.next_run import next_runs

TARGET = 1e23


def width(table, target, seed):
    """Of the law's bootstrap interval of the log loss at the target."""
    found = fit(table, resamples=300, bootstrap="residual", seed=seed)
    low, high = np.quantile(np.log(found.losses(found.resamples, [target.params], [target.tokens])), [0.05, 0.95])
    return high - low


@pytest.fixture
def measured(isoflop_grid):
    """A candidate as a finished run."""

    def run(row, rng, noise=0.003):
        loss = 1.8 + 480 / row["params"] ** 0.35 + 2100 / row["tokens"] ** 0.37
        return {**row[["params", "tokens", "flops"]], "loss": loss * np.exp(noise * rng.standard_normal())}

    return run


def test_the_spread_is_that_of_gauss_and_newton(isoflop_grid):
    """Small noise: the bootstrap's spread at the target, by another road."""
    found = fit(isoflop_grid(noise=1e-4), resamples=300, bootstrap="residual", loss="squared")
    design = next_runs(found, TARGET)
    draws = np.log(found.losses(found.resamples, [design.params], [design.tokens]))
    assert design.spread == pytest.approx(draws.std(), rel=0.3)


def test_sequence_keeps_to_the_budget_and_narrows_with_every_run(isoflop_grid):
    design = next_runs(fit(isoflop_grid(noise=0.003), resamples=0), TARGET, budget=1e21, runs=5)
    assert design.sequence["spent"].iloc[-1] <= 1e21
    assert (np.diff([design.spread, *design.sequence["spread_after"]]) < 0).all()
    assert design.candidates["per_flop"].iloc[0] == 1
    assert design.candidates["narrowing"].between(0, 1).all()
    json.dumps(design.to_dict(), allow_nan=False)


def test_the_whole_budget_goes_to_one_run_where_that_narrows_more(isoflop_grid):
    found = fit(isoflop_grid(noise=0.003), resamples=0)
    offered = pd.DataFrame({"params": [1.2e9, 1e10], "tokens": [2.4e10, 2e11]})
    design = next_runs(found, TARGET, offered, budget=1.2e22, runs=1)
    assert design.sequence["params"].tolist() == [1e10]


def test_an_error_of_the_law_beyond_the_runs_calls_for_dearer_runs(isoflop_grid):
    found = fit(isoflop_grid(noise=0.003), resamples=0)
    drifting = dataclasses.replace(found, extrapolation_error=0.01)
    first, second = (next_runs(each, TARGET).candidates.sort_values("narrowing").iloc[-1] for each in (found, drifting))
    assert second["flops"] == pytest.approx(1e22)
    assert first["flops"] <= second["flops"]


def test_no_number_of_runs_tells_what_a_law_does_between_them_and_the_target(isoflop_grid):
    """The variance of a Brownian discrepancy over the stretch from the dearest run to the target stays."""
    exact = fit(isoflop_grid(noise=0.003), resamples=0)
    for cost in (1e21, 1e22):
        params = np.sqrt(cost / 120) * np.geomspace(1 / 8, 8, 9)
        offered = pd.DataFrame({"params": params, "tokens": cost / 6 / params, "flops": cost})
        stays = 0.01 * np.sqrt(np.log(TARGET / cost))
        for drift, enough in ((0.0, False), (0.01, True)):
            found = dataclasses.replace(exact, extrapolation_error=drift)
            left = next_runs(found, TARGET, offered, runs=300).sequence["spread_after"].iloc[-1]
            assert left >= 0.999 * stays if enough else left < 0.1 * stays


def test_a_law_in_compute_alone_has_a_next_run(isoflop_grid):
    best = isoflop_grid(noise=0.001, budgets=8, step=2.5).groupby("flops", as_index=False)["loss"].min()
    design = next_runs(fit(best, "saturating", resamples=0), TARGET)
    assert design.params is None
    assert next(iter(design.candidates)) == "flops"
    assert plot.next_runs(Figure().subplots(), design).has_data()


def test_what_cannot_be_ranked_is_refused(isoflop_grid):
    found = fit(isoflop_grid(noise=0.003), resamples=0)
    with pytest.raises(InputError, match="no column tokens"):
        next_runs(found, TARGET, pd.DataFrame({"params": [1e9]}))
    with pytest.raises(InputError, match="none is within the budget"):
        next_runs(found, TARGET, pd.DataFrame({"params": [1e9], "tokens": [1e10]}), budget=1e18)


def test_the_figure_is_drawn_on_the_axes_given(isoflop_grid):
    ax = Figure().subplots()
    assert plot.next_runs(ax, next_runs(fit(isoflop_grid(noise=0.003), resamples=0), TARGET)) is ax
    assert ax.get_xlabel() and ax.get_ylabel()


@pytest.mark.slow
@pytest.mark.soak
def test_the_run_chosen_narrows_the_interval_more_than_another_of_its_cost(isoflop_grid, measured):
    """Three of each run, so that what they do stands out from the bootstrap's own scatter."""
    cost = 1e21
    params = np.sqrt(cost / 6 / 20) * np.geomspace(1 / 8, 8, 9)
    candidates, ratios = pd.DataFrame({"params": params, "tokens": cost / 6 / params, "flops": cost}), []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        table = isoflop_grid(noise=0.003, seed=seed)
        design = next_runs(fit(table, resamples=0), TARGET, candidates)
        best, others = design.candidates.iloc[0], design.candidates.iloc[1:]

        def after(row, table=table, design=design, rng=rng, seed=seed):
            more = pd.DataFrame([measured(row, rng) for _ in range(3)])
            return width(pd.concat([table, more], ignore_index=True), design, seed)

        ratios.append(after(best) / np.median([after(row) for _, row in others.iterrows()]))
    assert np.exp(np.mean(np.log(ratios))) < 0.95
