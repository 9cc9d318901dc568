"""Backtests: what they choose among the runs they are given, and how well that forecasts runs that were set aside."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import Columns, as_runs, fit, fit_backtested
from nextscale.fit.errors import InputError
from nextscale.fit.laws.catalogue import LAWS
from nextscale.fit.laws.loss import Loss
from nextscale.fit.trust.backtest import backtest, misfit_warnings
from nextscale.fit.trust.candidates import Candidate, candidates_for, variables_in, weigh_repeats_as_one
from nextscale.fit.trust.choice import backtest_table, choose
from nextscale.fit.trust.reach import reach_errors


class TestBacktest:
    def test_a_budget_is_never_split(self, isoflop_grid):
        """Runs to be forecast lie above those that forecast them, or there is no backtest."""
        two = isoflop_grid(budgets=2, sizes=8, noise=0.003)
        found, scores = fit_backtested(two, resamples=100)
        assert scores == []
        assert found.extrapolation_error == 0
        assert any("too few runs well below the largest budget" in w for w in found.warnings)

    @pytest.mark.parametrize("budgets", [2, 5], ids=["too few for a backtest", "with a backtest"])
    def test_a_drift_that_is_stated_widens_intervals_beyond_the_runs_alone(self, isoflop_grid, budgets):
        """By its normal quantile times the reach, where nothing else is uncertain."""
        table = isoflop_grid(budgets=budgets, noise=1e-5)
        found, _ = fit_backtested(table, resamples=2000, bootstrap="residual", drift=0.01)
        inside, beyond = table.iloc[-1][["params", "tokens", "flops"]], np.array([[4e9], [1.6e11], [3.84e21]])
        for (params, tokens, flops), half in ((inside, 0.0), (beyond, 1.645 * 0.01)):
            low, high = found.predict_interval(params, tokens, flops)
            reach = np.log(np.max(flops) / table.flops.max())
            assert np.log(high[0] / low[0]) / 2 == pytest.approx(half * reach, rel=0.1, abs=1e-4)
        assert found.extrapolation_error >= 0.01

    def test_holes_in_a_grid_leave_the_interval_what_it_was(self, isoflop_grid):
        whole = isoflop_grid(noise=0.003)
        holed = whole.drop(index=whole.index[[6, 7, 8]])
        widths = []
        for table in (whole, holed):
            found, scores = fit_backtested(table, resamples=200)
            assert scores
            low, high = found.predict_interval([1e10], [1e12], [6e22])
            widths.append(float(high[0] - low[0]))
        assert widths[1] < 3 * widths[0]

    def test_small_runs_that_bend_the_curve_are_left_out(self, isoflop_grid):
        table = isoflop_grid(budgets=6, noise=0.001)
        bent = table.assign(loss=table.loss * np.where(table.budget < 5e19, 1.05, 1))
        found, scores = fit_backtested(bent, resamples=200)
        assert found.runs.budgets[0] > 4e19
        assert scores[0].first_flops > 4e19

    def test_all_runs_are_kept_when_they_agree(self, isoflop_grid):
        table = isoflop_grid(noise=0.002)
        found, _ = fit_backtested(table, resamples=200)
        assert len(found.runs) == len(table)

    def test_too_few_runs_are_said(self, isoflop_grid):
        found, scores = fit_backtested(isoflop_grid(budgets=2), resamples=100)
        assert scores == []
        assert any("too few runs well below the largest budget" in w for w in found.warnings)

    def test_errors_on_the_public_record(self, published):
        """The best of three plain fits missed the runs above 1e21 FLOPs by .87 % (median) when fitted below."""
        table = published("chinchilla_epoch.csv").sort_values("loss").iloc[:-5]
        runs = as_runs(table, columns=Columns(params="Model Size", flops="Training FLOP"))
        assert backtest(runs)[0].error < 0.0087

    def test_a_changing_trend_is_said(self, isoflop_grid):
        table = isoflop_grid(noise=0.001, budgets=5)
        newest = table.budget == table.budget.max()
        broken = table.assign(loss=table.loss * np.where(newest, 0.985, 1))
        assert any(re.match("(fair|poor) fit: ", w) for w in misfit_warnings(fit(broken, delta=1.0, resamples=100)))
        robust = misfit_warnings(fit(broken, resamples=100))
        assert any("lie below the law" in w for w in robust)

    def test_one_side_by_less_than_the_scatter_is_no_trend(self, isoflop_grid):
        """Runs 1 % about the law, but the newest .01 % below it: all on one side, and nothing of it is a trend."""
        table = isoflop_grid(noise=0.01)
        law = isoflop_grid().loss
        newest = table.budget == table.budget.max()
        found = fit(table.assign(loss=np.where(newest, law, table.loss)), resamples=100)
        below = found.log_losses(found.theta[None], found.runs.table)[0] - 1e-4
        runs = found.runs.table.assign(loss=np.where(newest, np.exp(below), table.loss))
        close = dataclasses.replace(found, runs=dataclasses.replace(found.runs, table=runs))
        assert (close.residuals[newest.to_numpy()] < 0).all()
        assert not any("below the law" in w for w in misfit_warnings(close))

    @pytest.mark.slow
    def test_a_law_that_holds_gets_no_warning(self, isoflop_grid):
        warned = sum(bool(misfit_warnings(fit(isoflop_grid(noise=0.002, seed=s), resamples=100))) for s in range(20))
        assert warned <= 5


SQUARED, HUBER = Loss.of("squared"), Loss.of("huber", 1e-2)
PLAIN = [
    Candidate(LAWS[name], loss) for name in ("chinchilla", "chinchilla-tied", "saturating") for loss in (HUBER, SQUARED)
]


class TestChoice:
    def test_the_law_that_the_runs_follow_is_chosen_and_beats_every_baseline(self, isoflop_grid):
        apart = {"E": 1.8, "A": 120.0, "B": 16000.0, "alpha": 0.28, "beta": 0.45}
        choice = choose(isoflop_grid(noise=0.001, budgets=7, law=apart), PLAIN)
        assert choice.best.law.name == "chinchilla"
        whole = choice.table[choice.table["band"] == "all"].groupby(["law", "loss"])["mean_error"].mean()
        assert whole["chinchilla", "squared"] < 0.5 * whole.xs("-", level="loss").min()
        assert "chinchilla" in repr(choice)

    def test_of_laws_that_forecast_alike_the_simpler_is_chosen(self, isoflop_grid):
        """The exponents of these runs, .35 and .37, are hardly two."""
        choice = choose(isoflop_grid(noise=0.003, budgets=7), PLAIN)
        assert choice.best.law.name == "chinchilla-tied"

    def test_laws_are_compared_at_the_cuts_of_all_and_no_error_is_anothers(self, published):
        """15 runs free of noise: their law misses by nothing, though it could be fitted below one cut alone."""
        choice = choose(published("exact_chinchilla_15.csv"))
        assert choice.best.law.name == "chinchilla"
        whole = choice.summary[choice.summary["reach"] == "all"].set_index(["law", "loss"])
        own = choice.table[choice.table["band"] == "all"].groupby(["law", "loss"])["mean_error"].mean()
        assert whole["error"].to_dict() == pytest.approx(own.reindex(whole.index).to_dict())
        assert whole.loc["chinchilla", "error"].max() < 1e-4
        few, many = whole.loc["chinchilla"].iloc[0], whole.loc["kaplan-c"].iloc[0]
        assert few["cuts"] < many["cuts"]
        assert few["common_error"] < many["common_error"]

    def test_a_forecast_by_the_law_that_holds_is_not_told_of_anothers_errors(self, published):
        fit_, _ = fit_backtested(published("exact_chinchilla_15.csv"), resamples=100)
        assert all(band["error"] < 1e-4 for band in reach_errors(fit_).bands)

    def test_a_law_that_is_the_baseline_is_not_beaten_by_it(self, isoflop_grid):
        """A power law in C by squared loss, to rounding."""
        table = isoflop_grid(noise=0.002, budgets=6)
        table = table.assign(loss=40 * table.flops**-0.05 * table.loss / isoflop_grid(budgets=6).loss)
        choice = choose(table, [Candidate(LAWS["kaplan-c"], SQUARED)])
        assert choice.baselines.set_index("law").loc["power law", "error"] == pytest.approx(
            choice.summary["error"].iloc[0], rel=1e-6
        )
        assert choice.baseline_warning is None

    def test_laws_that_few_runs_cannot_show_are_named(self, published):
        """Six runs: no law of five parameters, and no verdict against those of two by a single test run."""
        six = published("exact_chinchilla_15.csv").iloc[[0, 1, 3, 4, 6, 7]]
        choice = choose(six)
        assert any(note.startswith("not fitted") and "chinchilla" in note for note in choice.notes)
        assert choice.baseline_warning is None

    def test_every_cut_is_below_what_it_scores_and_bands_part_the_runs(self, isoflop_grid):
        table = backtest_table(isoflop_grid(noise=0.001, budgets=7), PLAIN[:1])
        assert (table["reach"] > 1).all()
        parted = table[table["band"] != "all"].groupby(["law", "cut"])["n_test"].sum()
        whole = table[table["band"] == "all"].set_index(["law", "cut"])["n_test"]
        assert (parted == whole.reindex(parted.index)).all()
        assert (whole + table[table["band"] == "all"].set_index(["law", "cut"])["n_fit"] == 35).all()

    def test_bias_is_positive_where_runs_come_out_above_the_law(self, isoflop_grid):
        table = isoflop_grid(noise=0.001)
        worse = table.assign(loss=table.loss * np.where(table.budget > 9e20, 1.02, 1))
        (row,) = (
            backtest_table(worse, PLAIN[:1], cuts=[5e20]).query("law == 'chinchilla' and band == 'all'").itertuples()
        )
        assert row.bias == pytest.approx(0.02, abs=0.004)
        assert row.error == pytest.approx(0.02, abs=0.004)

    def test_intervals_of_a_law_that_holds_cover(self, isoflop_grid):
        table = backtest_table(isoflop_grid(noise=0.003, budgets=7), PLAIN[:1], resamples=200)
        assert table.query("n_fit >= 20 and loss != '-' and band == 'all'")["coverage"].mean() > 0.85
        assert table.query("loss == '-'")["coverage"].isna().all()

    def test_a_leaning_loss_counts_as_a_freedom(self):
        law = LAWS["chinchilla"]
        leaning = Candidate(law, Loss.of("asymmetric", 1e-2, 0.3))
        assert leaning.freedom == Candidate(law, SQUARED).freedom + 1
        assert leaning.loss_label == "asymmetric 0.01, 0.3"

    def test_runs_of_one_configuration_count_as_one(self, isoflop_grid):
        table = isoflop_grid(noise=0.001)
        again = as_runs(table.loc[[*table.index, 0, 0]].assign(loss=lambda t: t.loss + 1e-6 * np.arange(len(t))))
        weights = weigh_repeats_as_one(again).weights
        assert weights[0] == pytest.approx(weights[1] / 3)
        assert weigh_repeats_as_one(as_runs(table)).table is not None
        assert "weight" not in weigh_repeats_as_one(as_runs(table)).table

    def test_only_laws_whose_variables_vary_are_candidates(self, isoflop_grid):
        names = {c.law.name for c in candidates_for(as_runs(isoflop_grid()))}
        assert {"chinchilla", "saturating"} <= names
        assert not {"moe", "data-constrained"} & names

    def test_too_little_to_backtest_is_said(self, isoflop_grid):
        with pytest.raises(InputError, match="cut"):
            choose(isoflop_grid(budgets=2), PLAIN)

    def test_errors_on_the_public_record(self, published):
        """The best of three plain fits missed the runs above by .72 %, .82 % and .87 % (median): met by the plain law,
        to the figures given, and bettered by one candidate at all three cuts, its exponents tied."""
        table = published("chinchilla_epoch.csv").sort_values("loss").iloc[:-5]
        columns = Columns(params="Model Size", flops="Training FLOP")
        candidates = [Candidate(LAWS["chinchilla"], loss) for loss in (Loss(), HUBER, SQUARED)]
        candidates.append(Candidate(LAWS["chinchilla-tied"], Loss()))
        told = backtest_table(table, candidates, cuts=[1e20, 3e20, 1e21], columns=columns).query("band == 'all'")
        plain = told[told["law"] == "chinchilla"].groupby("cut")["error"].min()
        tied = told[told["law"] == "chinchilla-tied"].set_index("cut")["error"]
        naive = told[told["loss"] == "-"].groupby("cut")["error"].min()
        assert (plain.round(4) <= [0.0072, 0.0082, 0.0087]).all()
        assert (tied <= [0.0066, 0.0071, 0.0082]).all()
        assert (3 * tied < naive).all()


class TestWhatRunsAreTunedIn:
    """A learning rate is a variable of a law that is named alone: for all others the best run of those tuned counts."""

    def test_is_no_variable_unless_a_law_of_it_is_to_be_tried(self):
        table = pd.DataFrame(columns=["params", "tokens", "loss", "lr", "batch", "experts"])
        assert {*variables_in(table)} == {"N", "D", "C", "experts"}
        assert {*variables_in(table, laws=["lr-batch"])} == {"N", "D", "C", "experts", "lr", "batch"}
        named = variables_in(table.rename(columns={"batch": "bsz"}), Columns(others={"batch": "bsz"}))
        assert {*named} == {"N", "D", "C", "experts", "batch"}
