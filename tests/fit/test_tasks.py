"""Scores on downstream tasks: known curves are found again, and published runs that were not seen lie inside."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import as_runs, fit, fit_forecaster
from nextscale.fit.errors import InputError
from nextscale.fit.table.columns import Columns
from nextscale.fit.tasks import Sigmoids, TaskForecaster, scores_of


def share_of(loss):
    """Of four answers one is right by chance; at a loss of 2.9 half of what can be learnt is."""
    return 0.25 + 0.7 / (1 + np.exp(4 * (loss - 2.9)))


@pytest.fixture
def law(isoflop_grid):
    return fit(isoflop_grid(noise=0.002, budgets=6), resamples=100, init="quick")


def scored(law, noise=0.0, seed=0):
    losses = law.runs.table["loss"].to_numpy()
    return share_of(losses) + noise * np.random.default_rng(seed).standard_normal(len(losses))


class TestCurve:
    @pytest.mark.parametrize("slope", [1.0, 4.0, 12.0])
    def test_a_known_one_is_found_again(self, slope):
        x = np.linspace(-3.4, -2.4, 40)
        share = 0.25 + 0.7 / (1 + np.exp(-slope * (x + 2.9)))
        found = Sigmoids.fitted(x, share, np.ones((1, 40)))
        further = np.linspace(-3.4, -2.2, 7)
        expected = 0.25 + 0.7 / (1 + np.exp(-slope * (further + 2.9)))
        assert found.at(further)[0] == pytest.approx(expected, abs=2e-3)

    def test_no_share_is_below_nothing_or_above_everything(self):
        rng = np.random.default_rng(0)
        for _ in range(20):
            x, share = rng.uniform(-4, -2, 12), rng.uniform(0, 1, 12)
            found = Sigmoids.fitted(x, share, rng.multinomial(12, np.full(12, 1 / 12), size=30).astype(float))
            far = found.at(np.array([-50.0, -3.0, 50.0]))
            assert (far >= -1e-9).all() and (far <= 1 + 1e-9).all()
            assert (np.diff(far, axis=1) >= -1e-12).all()


class TestForecast:
    def test_a_share_of_the_loss_is_forecast_through_it(self, law):
        task = TaskForecaster(law, scored(law, 0.003), "acc")
        there = task.forecast(1e9, 1e11)
        truth = share_of(law.predict(1e9, 1e11)[0])
        assert task.by == "loss"
        assert there.value == pytest.approx(truth, abs=0.02)
        assert there.interval[0] < truth < there.interval[1]
        assert task.tested["loss"]["error"] < 0.5 * task.tested["newest"]["error"]

    def test_percent_and_error_rates_are_the_same_task(self, law):
        share = scored(law, 0.003)
        plain, percent, errors = (
            TaskForecaster(law, values, "acc").forecast(1e9, 1e11) for values in (share, 100 * share, 1 - share)
        )
        assert percent.value == pytest.approx(100 * plain.value)
        assert percent.interval == pytest.approx(tuple(100 * end for end in plain.interval))
        assert errors.value == pytest.approx(1 - plain.value, abs=1e-6)
        assert errors.interval == pytest.approx((1 - plain.interval[1], 1 - plain.interval[0]), abs=1e-6)
        for name, sign in (("error", 1), ("bias", -1)):
            assert errors.tested["loss"][name] == pytest.approx(sign * plain.tested["loss"][name], abs=1e-6)
            assert percent.tested["loss"][name] == pytest.approx(100 * plain.tested["loss"][name])

    def test_runs_without_a_score_do_not_count(self, law):
        share = scored(law, 0.003)
        share[::5] = np.nan
        assert TaskForecaster(law, share, "acc").forecast(1e9, 1e11).value == pytest.approx(
            share_of(law.predict(1e9, 1e11)[0]), abs=0.03
        )

    def test_without_resamples_there_is_no_interval(self, isoflop_grid):
        law = fit(isoflop_grid(noise=0.002, budgets=6), resamples=0)
        there = TaskForecaster(law, scored(law, 0.003), "acc").forecast(1e9, 1e11)
        assert np.isnan(there.interval).all() and np.isfinite(there.value)

    def test_it_widens_with_reach(self, law):
        task = TaskForecaster(law, scored(law, 0.01), "acc")
        near, far = (np.ptp(task.forecast(n, 20 * n).interval) for n in (1e9, 1e10))
        assert near < far

    @pytest.mark.parametrize(
        ("scores", "says"),
        [
            (
                lambda share: np.random.default_rng(3).uniform(0.2, 0.3, len(share)),
                "acc does not scale in these 30 runs",
            ),
            (lambda share: np.full(len(share), 0.25), "acc is the same in every run"),
            (lambda share: 100 * share + 50, "is a share from 0 to 1, or in percent"),
            (lambda share: np.where(np.arange(len(share)) < 4, share, np.nan), "4 runs have a score"),
        ],
    )
    def test_what_is_no_trend_is_refused_in_words(self, law, scores, says):
        with pytest.raises(InputError, match=says) as error:
            TaskForecaster(law, scores(scored(law)), "acc")
        assert "\n" not in str(error.value)

    @pytest.mark.slow
    @pytest.mark.soak
    def test_intervals_hold_as_claimed_on_a_curve_that_holds(self, isoflop_grid):
        held = []
        for seed in range(60):
            law = fit(isoflop_grid(noise=0.003, seed=seed, budgets=6), resamples=100, init="quick", seed=seed)
            there = TaskForecaster(law, scored(law, 0.01, seed), "acc", seed=seed).forecast(1e9, 1e11)
            true = 1.8 + 480 / 1e9**0.35 + 2100 / 1e11**0.37
            measured = share_of(true) + 0.01 * np.random.default_rng([seed, 1]).standard_normal()
            held.append(there.interval[0] < measured < there.interval[1])
        assert 0.9 - 3 * np.sqrt(0.09 / 60) <= np.mean(held)


def published_tasks(published, names=None):
    """Of each suite of Gadre et al. 2024 the two largest runs, 3 to 18 times beyond the others that they are forecast
    from: columns `task`, `value`, `low`, `high`, `measured` and `newest`, the mean of the three largest others."""
    table, rows = published("overtraining_gadre.csv"), []
    for _, suite in table[table["loss_openlm"].notna()].groupby("dataset"):
        order = (suite["N"].astype(float) * suite["D"]).sort_values().index
        others = suite.loc[order[:-2]].reset_index(drop=True)
        runs = as_runs(others, columns=Columns("N", "D", loss="loss_openlm"), rows="all")
        law = fit_forecaster(runs, resamples=200)
        largest = runs.scale.to_numpy().argsort()[-3:]
        for task in names or [name for name in table if name.startswith("acc_")]:
            scores = scores_of(law.runs, others, task)
            try:
                forecaster = TaskForecaster(law, scores, task)
            except InputError:
                continue
            for i in order[-2:]:
                there = forecaster.forecast(suite.loc[i, "N"], suite.loc[i, "D"])
                rows.append((task, there.value, *there.interval, suite.loc[i, task], scores[largest].mean()))
    return pd.DataFrame(rows, columns=["task", "value", "low", "high", "measured", "newest"])


class TestPublishedRuns:
    def check(self, found, most_apart):
        inside = (found["low"] <= found["measured"]) & (found["measured"] <= found["high"])
        error, newest = (found[name] - found["measured"] for name in ("value", "newest"))
        assert inside.mean() >= 0.85, found[~inside]
        assert error.abs().mean() <= most_apart * newest.abs().mean()

    @pytest.mark.slow
    def test_two_larger_runs_score_as_forecast(self, published):
        tasks = ["acc_arc_easy", "acc_hellaswag", "acc_lambada_openai", "acc_piqa"]
        found = published_tasks(published, tasks)
        assert len(found) == 2 * 3 * len(tasks)
        self.check(found, 0.65)

    @pytest.mark.slow
    @pytest.mark.soak
    def test_they_do_on_every_task(self, published):
        found = published_tasks(published)
        assert len(found) > 100
        self.check(found, 0.65)
