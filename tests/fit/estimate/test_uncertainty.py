"""How sure a fit is: resamples with the properties they are named for, intervals that cover, a plain word about what
the runs cannot tell."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextscale.fit import Formula, InputError, Shape, fit
from nextscale.fit.estimate.bootstrap import (
    covariance,
    delta_interval,
    profile,
    profile_interval,
    profiled,
    resamples,
    seed_noise,
    unidentified,
)
from nextscale.fit.optimum.frontier import frontier
from nextscale.fit.optimum.isoflop import isoflops, optimum_law
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
        again = resamples(runs, "case", 50, np.zeros(15), 10, seed)
        assert again.targets is None
        np.testing.assert_array_equal(again.weights.sum(axis=1), 15)

    @given(SEEDS)
    @settings(max_examples=20, deadline=None)
    def test_stratified_keeps_the_size_of_every_budget(self, runs, seed):
        weights = resamples(runs, "stratified", 50, np.zeros(15), 10, seed).weights
        for budget, size in zip(runs.budgets, (4, 5, 6), strict=True):
            np.testing.assert_array_equal(weights[:, runs.table["budget"] == budget].sum(axis=1), size)

    @given(SEEDS)
    @settings(max_examples=20, deadline=None)
    def test_cluster_keeps_groups_whole(self, runs, seed):
        weights = resamples(runs, "cluster", 50, np.zeros(15), 10, seed).weights
        for name in runs.table["group"].unique():
            assert (np.ptp(weights[:, (runs.table["group"] == name).to_numpy()], axis=1) == 0).all()
        np.testing.assert_array_equal(weights.sum(axis=1), 15)

    @given(SEEDS)
    @settings(max_examples=20, deadline=None)
    def test_residual_redraws_distances_without_bias(self, runs, seed):
        fitted = np.log(runs.table["loss"].to_numpy()) + np.random.default_rng(1).normal(0.5, 0.01, 15)
        again = resamples(runs, "residual", 2000, fitted, 10, seed)
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
        drawn = resamples(as_runs(table), "stratified", 200, np.zeros(20), 15, 0).weights
        assert (drawn.std(axis=0) > 0.5).all()
        assert (drawn.sum(axis=1) == 20).all()

    def test_checkpoints_of_one_run_are_not_independent(self, published_folder):
        table = pd.read_json(published_folder / "gemstones_cool_end.jsonl", lines=True)
        columns = Columns(params="params_active_precise", loss="final_loss", group="run_name")
        alpha = {}
        for kind in ("case", "cluster"):
            found = fit(table, columns=columns, delta=1e-4, bootstrap=kind, resamples=200)
            alpha[kind] = np.ptp(found.interval("alpha"))
        # The size is the same all through a run, so its exponent is known from few runs, not many rows.
        assert alpha["cluster"] > 1.5 * alpha["case"]


class TestProfile:
    def test_it_is_lowest_at_the_fit_and_rises_to_both_sides(self, isoflop_grid):
        found = fit(isoflop_grid(noise=0.003), resamples=0)
        alpha = found.parameters["alpha"]
        table = profile(found, "alpha", alpha * np.array([0.8, 0.9, 1, 1.1, 1.2]))
        assert table["rise"][2] == pytest.approx(0, abs=1e-9 * found.objective)
        assert (np.diff(table["rise"][:3]) < 0).all() and (np.diff(table["rise"][2:]) > 0).all()

    def test_every_point_is_the_minimum_with_that_value_given(self, isoflop_grid):
        table = isoflop_grid(noise=0.01)
        found = fit(table, resamples=0)
        for name, value in (("beta", 0.3), ("E", 1.7), ("A", 300.0)):
            row = profile(found, name, [value * 0.9, value, value * 1.1]).iloc[1]
            assert row["objective"] == pytest.approx(fit(table, fixed={name: value}, resamples=0).objective, rel=1e-6)

    def test_with_squared_loss_it_is_the_likelihood_ratio(self):
        """For y = E alone but for an exact power, the interval is Student's."""
        rng = np.random.default_rng(3)
        flops = np.geomspace(1e18, 1e21, 40)
        loss = 2.0 * np.exp(0.01 * rng.standard_normal(40)) * (flops / 1e19) ** -0.05
        found = fit(pd.DataFrame({"flops": flops, "loss": loss}), POWER, loss="squared", resamples=0)
        assert np.sqrt(covariance(found)[1, 1]) == pytest.approx(
            np.polyfit(*LOGS(flops, loss), 1, cov=True)[1][0, 0] ** 0.5, rel=0.25
        )
        assert profile_interval(found, "gamma") == pytest.approx(delta_interval(found, "gamma"), rel=0.05)

    def test_intervals_agree_with_the_bootstrap_where_runs_are_many(self, isoflop_grid):
        found = fit(isoflop_grid(noise=0.005, budgets=8, sizes=12))
        for name in ("alpha", "beta", "E"):
            by_profile, by_bootstrap = np.array(profile_interval(found, name)), np.array(found.interval(name))
            assert np.ptp(by_profile) == pytest.approx(np.ptp(by_bootstrap), rel=0.4)
        assert not unidentified(found)

    def test_only_free_parameters_have_one(self, isoflop_grid):
        found = fit(isoflop_grid(noise=0.003), fixed={"E": 1.8}, resamples=0)
        for name in ("E", "gamma"):
            with pytest.raises(InputError, match=f"has no free parameter '{name}'"):
                profile(found, name)


POWER = Formula.of(
    lambda C, K, gamma: K * (C / 1e19) ** -gamma,
    "power",
    "L = K/C^gamma",
    "a line in the logarithms",
    coefficients=("K",),
    shapes={"gamma": Shape(0.001, 2.0)},
)


def LOGS(flops, loss):
    return np.log(flops), np.log(loss)


def _data_constrained(N, D, U, E, A, B, alpha, R_D, R_N):
    import jax.numpy as jnp

    known = jnp.minimum(N, (A / B) ** (1 / alpha) * U)
    size = known * (1 - R_N * jnp.expm1((1 - N / known) / R_N))
    once = jnp.minimum(D, U)
    tokens = once * (1 - R_D * jnp.expm1((1 - D / once) / R_D))
    return E + A / size**alpha + B / tokens**alpha


DATA_CONSTRAINED = Formula.of(
    _data_constrained,
    "data-constrained-staged",
    "L = E + A/N'^alpha + B/D'^alpha",
    "Muennighoff et al. 2023, eq. 5 and 6",
    shapes={
        "E": Shape(0.5, 3, positive=True),
        "A": Shape(50, 5000, positive=True),
        "B": Shape(100, 1e4, positive=True),
        "alpha": Shape(0.1, 1),
        "R_D": Shape(1, 1e4, positive=True),
        "R_N": Shape(0.3, 300, positive=True),
    },
)


class TestIdentifiability:
    @pytest.mark.slow
    def test_how_much_repetition_is_worth_is_not_identified_by_the_published_runs(self, published):
        """Their profile is flat within .5 % from 12 to 1000 and more."""
        table = published("data_constrained_datablations.csv").rename(columns={"val_loss": "loss"})
        first = {"E": np.exp(0.62548), "A": np.exp(6.2554), "B": np.exp(7.3050), "alpha": 0.35266}
        found = fit(table, DATA_CONSTRAINED, fixed=first, resamples=0)
        said = profiled(found, "R_D")
        assert not said.identified
        assert said.flat[0] < 12 and said.flat[1] > 1000
        assert said.interval[1] == np.inf and 1 < said.interval[0] < 12
        assert "R_D is not identified" in said.warning

    def test_a_fit_says_so_itself(self):
        """Runs in which the second power never shows; its exponent may be anything."""
        flops = np.geomspace(1e18, 1e21, 30)
        loss = 2 + 3 * (flops / 1e18) ** -0.2
        loss *= np.exp(0.002 * np.random.default_rng(0).standard_normal(30))
        found = fit(pd.DataFrame({"flops": flops, "loss": loss}), SATURATING_IN_A_BREAK, resamples=50)
        assert any("turn is not identified" in warning for warning in found.warnings)
        assert np.inf in found.interval("turn")
        assert None in found.to_dict()["intervals"]["turn"]

    @pytest.mark.parametrize("law", ["chinchilla", "chinchilla-tied"])
    def test_constant_tokens_per_parameter_are_refused(self, law):
        with pytest.raises(InputError, match=r"cannot separate the exponent of N from that of D \(alpha from beta\)"):
            fit(constant_ratio(), law)

    def test_with_an_exponent_given_they_are_not(self):
        found = fit(constant_ratio(), fixed={"alpha": 0.35}, resamples=0)
        assert any("cannot tell the exponent" in warning for warning in found.warnings)

    def test_nearly_constant_tokens_per_parameter_are_warned_about(self):
        found = fit(constant_ratio(scatter=0.15), resamples=0)
        assert any("cannot tell the exponent of N from that of D" in warning for warning in found.warnings)

    def test_a_budget_without_an_interior_minimum_has_no_optimum(self, isoflop_grid):
        table = isoflop_grid(sizes=9)
        middle = np.sqrt(table.flops / 120)
        one_sided = [
            isoflops(as_runs(table[side])) for side in (table.params > middle * 1.2, table.params < middle / 1.2)
        ]
        for curves, word in zip(one_sided, ("smaller", "larger"), strict=True):
            assert all(c.optimum is None and word in c.problem for c in curves)
            assert optimum_law(curves) is None


SATURATING_IN_A_BREAK = Formula.of(
    lambda C, E, K, gamma, turn: E + K * (C / 1e18) ** -gamma / (1 + C / turn) ** 0.1,
    "broken",
    "L = E + K/C^gamma/(1 + C/turn)^.1",
    "a break that may lie beyond the runs",
    coefficients=("E", "K"),
    shapes={"gamma": Shape(0.03, 1.0), "turn": Shape(1e16, 1e28, positive=True)},
)


def constant_ratio(scatter=0.0):
    params = np.geomspace(1e7, 1e10, 12)
    tokens = 20 * params * np.exp(scatter * np.random.default_rng(0).standard_normal(12))
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": 1.8 + 480 / params**0.35 + 2100 / tokens**0.37})


class TestSeeds:
    @staticmethod
    def repeated(noise, seeds=4, seed=0):
        rng = np.random.default_rng(seed)
        params = np.repeat(np.geomspace(1e7, 1e9, 40), seeds)
        scatter = np.repeat(np.broadcast_to(noise, 40), seeds)
        loss = (1.8 + 480 / params**0.35) * np.exp(scatter * rng.standard_normal(len(params)))
        return pd.DataFrame({"params": params, "tokens": 1e10, "loss": loss})

    def test_the_noise_of_a_run_is_found(self):
        told = seed_noise(self.repeated(0.004))
        assert told.noise == pytest.approx(0.004, rel=0.15)
        assert told.freedom == 120
        assert told.weights.max() / told.weights.min() < 6

    def test_quieter_configurations_count_more(self):
        told = seed_noise(self.repeated(np.repeat([0.001, 0.01], 20)))
        quiet, loud = told.weights[:80].median(), told.weights[80:].median()
        assert 20 < quiet / loud < 300

    def test_single_runs_take_the_pooled_noise_and_something_must_be_repeated(self):
        table = self.repeated(0.004).drop(index=[1, 2, 3])
        assert np.isfinite(seed_noise(table).weights).all()
        with pytest.raises(InputError, match="no two runs have the same params and tokens"):
            seed_noise(table.drop_duplicates("params"))

    def test_weights_narrow_the_interval(self, isoflop_grid):
        rng = np.random.default_rng(0)
        table = pd.concat([isoflop_grid(sizes=7)] * 4, ignore_index=True)
        scatter = np.where(table.groupby("params").ngroup() % 2, 0.02, 0.001)
        table["loss"] *= np.exp(scatter * rng.standard_normal(len(table)))
        table["weight"] = seed_noise(table).weights
        columns = Columns(weight="weight")
        plain, weighed = (fit(table, columns=c, loss="squared", resamples=200) for c in (Columns(), columns))
        assert np.ptp(weighed.interval("alpha")) < np.ptp(plain.interval("alpha"))


class TestIntervals:
    def test_one_run_is_less_certain_than_the_law(self, isoflop_grid):
        found = fit(isoflop_grid(noise=0.005), resamples=300)
        at = {"params": [1e9, 1e10], "tokens": [2e10, 2e11]}
        law, run = found.confidence_interval(**at), found.predict_interval(**at)
        assert (run[1] - run[0] > law[1] - law[0]).all()
        assert (law[0] < found.predict(**at)).all() and (found.predict(**at) < law[1]).all()
        point = {name: values[0] for name, values in at.items()}
        narrow, wide = delta_interval(found, point), delta_interval(found, point, one_run=True)
        assert wide[0] < narrow[0] < found.predict(1e9, 2e10)[0] < narrow[1] < wide[1]

    def test_optima_have_intervals(self, isoflop_grid):
        row = frontier(fit(isoflop_grid(noise=0.003), resamples=100), [1e22]).iloc[0]
        for name in ("params", "tokens", "tokens_per_param", "loss"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]

    def test_a_parameter_that_is_given_does_not_vary(self, isoflop_grid):
        found = fit(isoflop_grid(noise=0.003), fixed={"E": 1.8}, resamples=0)
        assert delta_interval(found, "E") == pytest.approx((1.8, 1.8))


@pytest.mark.slow
class TestCoverage:
    """Simulated from a known law: 5 budgets of 5 runs over 2 decades, log-noise .003; the loss ten times beyond."""

    REPEATS = 300

    @pytest.fixture
    def point(self):
        budget = 1e19 * 10**2 * 10
        params = np.sqrt(budget / 6 / 20)
        return {"params": params, "tokens": budget / 6 / params}

    def test_bootstraps_cover_and_the_delta_method_falls_short(self, isoflop_grid, point):
        true = 1.8 + 480 / point["params"] ** 0.35 + 2100 / point["tokens"] ** 0.37
        inside = dict.fromkeys(("one run", "law", "delta, one run", "delta, law"), 0)
        for seed in range(self.REPEATS):
            found = fit(isoflop_grid(noise=0.003, seed=seed), resamples=300, seed=seed, bootstrap="stratified")
            measured = true * np.exp(0.003 * np.random.default_rng(10_000 + seed).standard_normal())
            intervals = {
                "one run": found.predict_interval(**point),
                "law": found.confidence_interval(**point),
                "delta, one run": delta_interval(found, point, one_run=True),
                "delta, law": delta_interval(found, point),
            }
            for name, (low, high) in intervals.items():
                value = measured if "run" in name else true
                inside[name] += bool(np.all(low <= value) and np.all(value <= high))
        share = {name: count / self.REPEATS for name, count in inside.items()}
        assert 0.85 <= share["one run"] <= 0.97, share
        assert share["delta, one run"] <= share["one run"] and share["delta, law"] <= share["law"], share
