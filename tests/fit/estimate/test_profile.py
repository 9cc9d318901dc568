"""Profile likelihoods are minima over all other parameters, and say what the runs do not identify."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import Formula, InputError, Shape, fit
from nextscale.fit.estimate.covariance import covariance, delta_interval
from nextscale.fit.estimate.profile import profile, profile_interval, profiled, unidentified
from nextscale.fit.optimum.isoflop import isoflops, optimum_law
from nextscale.fit.table.runs import as_runs


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
