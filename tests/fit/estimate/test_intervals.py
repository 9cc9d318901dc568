"""Intervals hold what they say, of few runs too, and each holds the value that it is of."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nextscale.fit import fit
from nextscale.fit.estimate.bootstrap import spreads, usual_bootstrap
from nextscale.fit.intervals import ends_around
from nextscale.fit.optimum.approaches import approaches
from nextscale.fit.optimum.forecast import forecast
from nextscale.fit.optimum.inverse import compute_for
from nextscale.fit.trust.compare import compare
from nextscale.fit.trust.consensus import consensus
from nextscale.fit.trust.trend import trend

SEEDS = st.integers(0, 2**32 - 1)
LOW, HIGH = 0.84, 0.96


def in_compute(runs, noise, rng):
    """Runs of L = 1.8 + 900/C^.16."""
    flops = np.geomspace(1e17, 1e17 * 10 ** min(3, 0.75 * (runs - 1)), runs)
    return pd.DataFrame({"flops": flops, "loss": saturating(flops) * np.exp(noise * rng.standard_normal(runs))})


def saturating(flops):
    return 1.8 + 900 / flops**0.16


def coverage(runs, fixed, simulations, noise=0.01):
    """How often intervals hold the exponent, and what a run ten times and a hundred times beyond measures."""
    inside = []
    for seed in range(simulations):
        rng = np.random.default_rng([runs, seed])
        found = fit(in_compute(runs, noise, rng), "saturating", fixed=fixed, resamples=200, init="quick", seed=seed)
        low, high = found.interval("gamma")
        there = found.runs.table["flops"].max() * np.array([10.0, 100.0])
        measured = saturating(there) * np.exp(noise * rng.standard_normal(2))
        ends = found.predict_interval(flops=there)
        inside.append([low <= 0.16 <= high, *(ends[0] <= measured) & (measured <= ends[1])])
    return np.mean(inside, axis=0)


class TestFewRuns:
    @pytest.mark.slow
    def test_intervals_hold_what_they_say(self):
        # By drawing runs they would hold 61 to 67 %.
        held = coverage(3, {"E": 1.8}, 120)
        assert ((held >= 0.8) & (held <= 0.98)).all(), held

    @pytest.mark.slow
    @pytest.mark.soak
    @pytest.mark.parametrize(("runs", "fixed"), [(3, {"E": 1.8}), (4, {"E": 1.8}), (4, {}), (6, {}), (12, {"E": 1.8})])
    def test_intervals_hold_what_they_say_over_many_simulations(self, runs, fixed):
        held = coverage(runs, fixed, 1000)
        assert ((held >= LOW) & (held <= HIGH)).all(), held

    @given(st.integers(1, 30), SEEDS)
    @settings(max_examples=10, deadline=None)
    def test_scatter_is_drawn_as_students_t(self, freedom, seed):
        from scipy.stats import kstest

        drawn = spreads(freedom, 4000, seed) * np.random.default_rng([seed, 7]).standard_normal(4000)
        assert kstest(drawn, "t", (freedom,)).pvalue > 1e-5

    def test_which_bootstrap_is_usual(self):
        assert [usual_bootstrap(freedom) for freedom in (1, 8, 9, 200)] == ["normal", "normal", "case", "case"]
        table = in_compute(6, 0.01, np.random.default_rng(0))
        assert fit(table, "saturating", resamples=20).bootstrap == "normal"
        assert fit(table, "saturating", resamples=20, bootstrap="case").bootstrap == "case"


def check(value, path="result"):
    """Of all that JSON has: each interval rises, and holds what it is of."""
    if isinstance(value, dict):
        for name, ends in value.items():
            for stem, low, high in _intervals(value, name, ends):
                here = f"{path}.{name}: {stem} in [{low}, {high}]"
                assert None in (low, high) or math.isnan(low) or low <= high, here
                if isinstance(stem, float) and not math.isnan(stem):
                    assert low is None or math.isnan(low) or low <= stem * (1 + 1e-9) + 1e-12, here
                    assert high is None or math.isnan(high) or stem <= high * (1 + 1e-9) + 1e-12, here
            check(ends, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check(item, f"{path}[{i}]")


def _intervals(held, name, ends):
    if name == "intervals" and isinstance(ends, dict):
        yield from ((held["parameters"][key], *pair) for key, pair in ends.items())
    elif name.endswith("_interval") and ends is not None:
        yield (held.get(name.removesuffix("_interval")), *ends)
    elif name == "interval" and ends is not None:
        stem = next((name for name in ("per_decade", "multiplier", "flops") if name in held), None)
        yield (held.get(stem), *ends)
    elif name.endswith("_low"):
        stem = name.removesuffix("_low")
        yield (None if "near" in stem else held.get(stem), ends, held[f"{stem}_high"])


class TestEveryIntervalHoldsItsValue:
    @given(st.floats(-5, 5), st.integers(2, 50), st.floats(0.05, 0.99), SEEDS)
    @settings(deadline=None)
    def test_of_any_draws(self, best, count, level, seed):
        draws = np.random.default_rng(seed).standard_normal(count)
        low, high = ends_around(best, draws, level)
        assert low <= best <= high
        assert low <= np.median(draws) <= high

    @pytest.mark.slow
    @given(
        st.sampled_from(["chinchilla", "chinchilla-tied", "size-data", "saturating", "kaplan-c", "over-training"]),
        st.integers(7, 14),
        st.sampled_from([20, 30, 60]),
        st.sampled_from(["case", "stratified", "residual", "normal", None]),
        st.sampled_from([0.0, 0.01, 0.05]),
        SEEDS,
    )
    @settings(max_examples=20, deadline=None)
    def test_of_any_law_and_few_runs(self, law, runs, resamples, bootstrap, noise, seed):
        rng = np.random.default_rng(seed)
        params, tokens = 10 ** rng.uniform(7, 9, runs), 10 ** rng.uniform(9, 11, runs)
        loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * np.exp(noise * rng.standard_normal(runs))
        table = pd.DataFrame({"params": params, "tokens": tokens, "M": tokens / params, "loss": loss})
        how = {"resamples": resamples, "bootstrap": bootstrap, "seed": seed}
        found = fit(table, law, init="quick", **how)
        check(found.to_dict())
        if law == "over-training":
            return
        check(forecast(found, [1e16, 1e19, 1e22]))
        check(compute_for(found, loss=2.5).to_dict())
        if {"N", "D"} == {*found.law.variables}:
            check(compute_for(found, params=1e9).to_dict())
            check(approaches(found.runs, found, [1e19, 1e22]).to_dict("records"))

    @pytest.mark.slow
    @given(SEEDS, st.sampled_from([0.001, 0.01, 0.05]))
    @settings(max_examples=2, deadline=None, phases=[Phase.generate])
    def test_of_what_rests_on_fits(self, isoflop_grid, seed, noise):
        of_what_rests_on_fits(isoflop_grid, seed, noise)

    @pytest.mark.slow
    @pytest.mark.soak
    @given(SEEDS, st.sampled_from([0.001, 0.01, 0.05]))
    @settings(max_examples=15, deadline=None, phases=[Phase.generate])
    def test_of_what_rests_on_many_fits(self, isoflop_grid, seed, noise):
        of_what_rests_on_fits(isoflop_grid, seed, noise)


def of_what_rests_on_fits(isoflop_grid, seed, noise):
    table = isoflop_grid(noise=noise, seed=seed, budgets=3, sizes=5)
    made = consensus(fit(table, resamples=0, init="quick").runs, resamples=60, seed=seed)
    check(made.to_dict())
    check(forecast(made, [1e18, 1e23]))
    other = isoflop_grid(noise=noise, seed=seed + 1, budgets=3, sizes=5)
    check(compare(table, other, resamples=60).to_dict())
    check(trend(fit(table, resamples=100, init="quick"), other).to_dict())
