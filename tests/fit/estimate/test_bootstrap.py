"""Resamples have the properties that their kinds are named for."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.fit import InputError, fit
from nextscale.fit.estimate.bootstrap import draw_resamples
from nextscale.fit.table.columns import Columns
from nextscale.fit.table.runs import as_runs

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def runs():
    """Three budgets of 4, 5 and 6 runs, in five groups."""
    params = np.concatenate([np.geomspace(1e7, 1e8, n) for n in (4, 5, 6)])
    budget = np.repeat([1e17, 1e18, 1e19], [4, 5, 6])
    loss = 1.8 + 480 / params**0.35 + 2100 / (budget / 6 / params) ** 0.37
    loss *= np.exp(0.01 * np.random.default_rng(0).standard_normal(15))
    table = pd.DataFrame({"params": params, "flops": budget, "loss": loss, "name": [f"g{i % 5}" for i in range(15)]})
    return as_runs(table, columns=Columns(group="name"))


class TestResamples:
    @given(SEEDS)
    @settings(max_examples=20, deadline=None)
    def test_case_draws_as_many_runs_as_there_are(self, runs, seed):
        again = draw_resamples(runs, "case", 50, np.zeros(15), 10, seed)
        assert again.targets is None
        np.testing.assert_array_equal(again.weights.sum(axis=1), 15)

    @given(SEEDS)
    @settings(max_examples=20, deadline=None)
    def test_stratified_keeps_the_size_of_every_budget(self, runs, seed):
        weights = draw_resamples(runs, "stratified", 50, np.zeros(15), 10, seed).weights
        for budget, size in zip(runs.budgets, (4, 5, 6), strict=True):
            np.testing.assert_array_equal(weights[:, runs.table["budget"] == budget].sum(axis=1), size)

    @given(SEEDS)
    @settings(max_examples=20, deadline=None)
    def test_cluster_keeps_groups_whole(self, runs, seed):
        weights = draw_resamples(runs, "cluster", 50, np.zeros(15), 10, seed).weights
        for name in runs.table["group"].unique():
            assert (np.ptp(weights[:, (runs.table["group"] == name).to_numpy()], axis=1) == 0).all()
        np.testing.assert_array_equal(weights.sum(axis=1), 15)

    @given(SEEDS)
    @settings(max_examples=20, deadline=None)
    def test_residual_redraws_distances_without_bias(self, runs, seed):
        fitted = np.log(runs.table["loss"].to_numpy()) + np.random.default_rng(1).normal(0.5, 0.01, 15)
        again = draw_resamples(runs, "residual", 2000, fitted, 10, seed)
        assert (again.weights == 1).all()
        distances = again.targets - fitted
        # The mean of 1 / chi-squared with 10 degrees of freedom is 1 / (10 - 2).
        expected = np.sqrt(15 / 8) * np.std(np.log(runs.table["loss"]) - fitted)
        assert np.abs(distances.mean()) < 5 * expected / np.sqrt(distances.size)
        assert distances.std() == pytest.approx(expected, rel=0.1)

    def test_unknown_kinds_and_missing_groups(self, runs, isoflop_grid):
        with pytest.raises(InputError, match="is not one of case, stratified, cluster, residual"):
            fit(runs, bootstrap="jackknife")
        with pytest.raises(InputError, match="which rows belong together"):
            fit(isoflop_grid(noise=0.01), bootstrap="cluster", resamples=50)

    def test_strata_of_single_runs_are_joined_or_nothing_would_vary(self):
        flops = np.geomspace(1e18, 1e21, 20)
        table = pd.DataFrame({"flops": flops, "params": np.sqrt(flops / 120), "loss": 2 + (flops / 1e18) ** -0.2})
        drawn = draw_resamples(as_runs(table), "stratified", 200, np.zeros(20), 15, 0).weights
        assert (drawn.std(axis=0) > 0.5).all()
        assert (drawn.sum(axis=1) == 20).all()

    @pytest.mark.slow
    def test_checkpoints_of_one_run_are_not_independent(self, published_folder):
        table = pd.read_json(published_folder / "gemstones_cool_end.jsonl", lines=True)
        columns = Columns(params="params_active_precise", loss="final_loss", group="run_name")
        alpha = {}
        for kind in ("case", "cluster"):
            found = fit(table, columns=columns, delta=1e-4, bootstrap=kind, resamples=200)
            alpha[kind] = np.ptp(found.interval("alpha"))
        # The size is the same all through a run, so its exponent is known from few runs, not many rows.
        assert alpha["cluster"] > 1.5 * alpha["case"]
