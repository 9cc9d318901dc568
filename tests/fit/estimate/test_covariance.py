"""Delta-method and bootstrap intervals: which is wider, and how often they cover."""

import numpy as np
import pytest

from nextscale.fit import fit
from nextscale.fit.estimate.covariance import delta_interval
from nextscale.fit.optimum.frontier import frontier


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
@pytest.mark.soak
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
