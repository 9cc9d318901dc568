"""Optima: against closed forms, against published ones, and none where the runs show none."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nextscale.fit import as_runs, fit, isoflops, plot
from nextscale.fit.errors import InputError
from nextscale.fit.optimum.approaches import akima, approaches, envelope
from nextscale.fit.optimum.forecast import forecast
from nextscale.fit.optimum.frontier import TokenCost, closed_form, frontier
from nextscale.fit.optimum.inverse import compute_for
from nextscale.fit.optimum.isoflop import optimum_interval, optimum_law, run_noise


class TestFrontier:
    def test_agrees_with_the_closed_form_of_6nd(self, isoflop_grid):
        """Hoffmann et al. 2022, eq. 4: N* = G (C/6)^a, G = (αA/βB)^(1/(α+β)), a = β/(α+β)."""
        found = fit(isoflop_grid(), resamples=0)
        flops = np.geomspace(1e20, 1e25, 6)
        growth = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)
        exact = growth * (flops / 6) ** (0.37 / 0.72)
        table = frontier(found, flops.tolist())
        np.testing.assert_allclose(table["params"], exact, rtol=1e-3)
        np.testing.assert_allclose(6 * table["params"] * table["tokens"], flops, rtol=1e-9)

    def test_the_closed_form_is_the_numeric_optimum(self, isoflop_grid):
        found = fit(isoflop_grid(noise=0.002), resamples=0)
        flops = np.geomspace(1e19, 1e24, 4).tolist()
        exact, numeric = closed_form(found, flops), frontier(found, flops)
        for name in ("params", "tokens", "tokens_per_param", "loss"):
            np.testing.assert_allclose(numeric[name], exact[name], rtol=2e-3)
        assert exact["exponent"].iloc[0] == pytest.approx(np.diff(np.log(exact["params"]))[0] / np.log(10**5) * 3)

    def test_no_closed_form_of_another_law(self, isoflop_grid):
        with pytest.raises(InputError, match="needs one power of N, one of D"):
            closed_form(fit(isoflop_grid(noise=0.002), "saturating", resamples=0), [1e21])

    def test_a_size_that_costs_more_per_token_is_chosen_smaller(self, isoflop_grid):
        found = fit(isoflop_grid(), resamples=0)
        sizes = np.geomspace(1e7, 1e12, 30)
        steeper = TokenCost.of(sizes.tolist(), (6 * sizes * (sizes / 1e9) ** 0.1).tolist())
        plain, dear = (frontier(found, [1e23], cost).iloc[0] for cost in (None, steeper))
        assert dear["params"] < 0.9 * plain["params"]

    def test_near_optimal_sizes_surround_the_optimum_and_are_a_wide_range(self, isoflop_grid):
        row = frontier(fit(isoflop_grid(), resamples=0), [1e22]).iloc[0]
        assert row["params_near_low"] < 0.9 * row["params"] < 1.1 * row["params"] < row["params_near_high"]
        assert row["params_near_wide_low"] < 0.8 * row["params_near_low"]
        assert row["params_near_wide_high"] > 1.2 * row["params_near_high"]
        assert row["interior"]

    def test_token_cost_goes_through_the_sizes_known_and_on_as_a_power(self):
        sizes = np.geomspace(1e3, 1e6, 8)
        cost = TokenCost.of(sizes.tolist(), (2 * sizes**0.9).tolist())
        beyond = np.geomspace(1e2, 1e8, 13)
        np.testing.assert_allclose(cost(beyond), 2 * beyond**0.9, rtol=1e-9)

    def test_the_public_record_of_compute_optimal_exponents(self, published):
        """a = β/(α+β) = .513 ± .020 on the data of the replication; some 20 tokens per parameter at 5.76e23 FLOPs."""
        from nextscale.fit import Columns

        table = published("chinchilla_epoch.csv").sort_values("loss").iloc[:-5]
        found = fit(table, columns=Columns(params="Model Size", flops="Training FLOP"))
        rows = frontier(found, [1e21, 5.76e23])
        exponent = np.diff(np.log(rows["params"]))[0] / np.log(5.76e23 / 1e21)
        assert exponent == pytest.approx(0.513, abs=0.005)
        at_chinchilla = rows.iloc[1]
        assert at_chinchilla["tokens_per_param_low"] < 20 < at_chinchilla["tokens_per_param_high"]
        assert at_chinchilla["params_low"] < 70e9 < at_chinchilla["params_high"]


class TestIsoFlop:
    def test_minima_and_their_law(self, isoflop_grid):
        curves = isoflops(as_runs(isoflop_grid()))
        assert all(curve.interior for curve in curves)
        law = optimum_law(curves)
        assert law.exponent == pytest.approx(0.37 / 0.72, abs=0.01)
        assert optimum_law(curves, "tokens").exponent == pytest.approx(0.35 / 0.72, abs=0.01)

    @pytest.mark.parametrize("keep, says", [(slice(0, 2), "fewer than three"), (slice(2, 5), "add smaller")])
    def test_no_optimum_without_an_interior_minimum(self, isoflop_grid, keep, says):
        table = isoflop_grid(budgets=1, sizes=9)
        shifted = table.iloc[4:].iloc[keep] if says == "add smaller" else table.iloc[keep]
        (curve,) = isoflops(as_runs(shifted))
        assert not curve.interior
        assert curve.optimum is None
        assert says in curve.problem

    def test_no_optimum_on_a_curve_that_bends_down(self):
        params = np.geomspace(1e6, 1e7, 5)
        table = pd.DataFrame({"params": params, "flops": 1e18, "loss": 3 - (np.log(params / 3e6)) ** 2 / 10})
        (curve,) = isoflops(as_runs(table))
        assert "does not curve upwards" in curve.problem

    def test_scatter_is_the_noise_of_a_run(self, isoflop_grid):
        measured = [run_noise(isoflops(as_runs(isoflop_grid(noise=0.004, seed=s)))) for s in range(40)]
        assert np.sqrt(np.mean(np.square(measured))) == pytest.approx(0.004, rel=0.15)

    @pytest.mark.slow
    def test_the_interval_of_the_optimum_covers(self, isoflop_grid):
        growth = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)
        exact = growth * (1e22 / 6) ** (0.37 / 0.72)
        inside = 0
        for seed in range(40):
            curves = isoflops(as_runs(isoflop_grid(noise=0.004, seed=seed)))
            low, high = optimum_interval(curves, 1e22, 0.9, draws=200)
            inside += low <= exact <= high
        assert inside >= 30


def test_a_forecast_carries_its_intervals_and_says_how_far_it_reaches(isoflop_grid):
    told = forecast(fit(isoflop_grid(noise=0.002)), [3e21, 1e25])
    near = told["targets"][0]
    for target in told["targets"]:
        for name in ("loss", "params", "tokens", "tokens_per_param"):
            low, high = target[f"{name}_interval"]
            assert low < target[name] < high
    assert near["reach"] == pytest.approx(3)
    assert any("nothing here tested" in w for w in told["warnings"])
    widths = [t["params_interval"][1] / t["params_interval"][0] for t in told["targets"]]
    assert widths[0] < widths[1]


PORIAN_COLUMNS = ("hparams", "warmup", "decay", "param_count")
PORIAN = {
    ("base", "long", "kaplan", "kaplan"): 0.835,
    ("base", "long", "kaplan", "standard"): 0.706,
    ("base", "short", "kaplan", "standard"): 0.602,
    ("base", "short", "chinchilla", "standard"): 0.571,
    ("tuned", "short", "const", "standard"): 0.497,
}
"""The exponent of N*, from Kaplan et al.'s to Hoffmann et al.'s, step by step (Porian et al. 2024, fig. 1)."""


class TestApproaches:
    def test_agree_on_a_known_law(self, isoflop_grid):
        table = isoflop_grid(noise=0.001, budgets=6, sizes=9)
        found = fit(table, resamples=200)
        told = approaches(found.runs, found, [1e21, 1e22], draws=100)
        assert told["approach"].tolist() == 2 * ["envelope", "parabola", "akima", "parametric"]
        assert (told["exponent"].astype(float) - 0.37 / 0.72).abs().max() < 0.06
        assert told["disagreement"].max() < 1.6
        exact = closed_form(found, [1e21]).iloc[0]
        assert told["params"].iloc[3] == pytest.approx(exact["params"], rel=2e-3)
        assert told["loss"].iloc[:4].tolist() == pytest.approx([exact["loss"]] * 4, rel=0.01)
        assert plot.approaches(Figure().subplots(), told).has_data()

    def test_say_why_there_is_nothing(self, isoflop_grid):
        table = isoflop_grid(noise=0.001, sizes=2)
        told = approaches(as_runs(table), fit(table, resamples=50), [1e21])
        assert told["params"].iloc[:3].tolist() == [None] * 3
        assert "fewer than four sizes" in told["problem"].iloc[2]
        assert told["problem"].iloc[3] is None

    def test_an_envelope_takes_no_run_from_the_end_of_the_sizes(self, isoflop_grid):
        table = isoflop_grid(sizes=9)
        cut = table[table.groupby("budget").cumcount() >= 4]
        assert len(envelope(as_runs(table)).flops) == 5
        assert envelope(as_runs(cut)).law is None

    @pytest.mark.parametrize("setting, exponent", PORIAN.items())
    def test_the_public_record_from_kaplan_to_chinchilla(self, published, setting, exponent):
        from nextscale.fit import Columns

        table = published("isoflop_porian_refinedweb.csv")
        rows = table[[row == setting for row in zip(*(table[name] for name in PORIAN_COLUMNS), strict=True)]]
        # Seeds scatter by .002 nats (the paper's own figure), of losses of about 3.5.
        minima = akima(as_runs(rows, columns=Columns(params="n")), noise=0.0006, draws=300)
        assert minima.law.exponent == pytest.approx(exponent, abs=0.006)
        if exponent == 0.497:
            assert minima.exponent_interval(0.95) == pytest.approx((0.491, 0.505), abs=0.003)


class TestCompute:
    def test_is_the_inverse_of_the_forecast(self, isoflop_grid):
        found = fit(isoflop_grid(noise=0.002), resamples=100)
        for flops in (1e20, 1e22):
            told = compute_for(found, forecast(found, [flops])["targets"][0]["loss"])
            assert told.flops == pytest.approx(flops, rel=0.01)
            assert told.interval[0] < flops < told.interval[1]
            assert told.verdict == ("reached" if flops < 1e21 else "forecast")

    def test_below_the_irreducible_loss_there_is_none(self, isoflop_grid):
        told = compute_for(fit(isoflop_grid(noise=0.0005), resamples=100), 1.5)
        assert told.verdict == "unreachable"
        assert told.to_dict()["interval"] == [None, None]
        assert "below the irreducible loss" in told.reason

    def test_a_law_in_compute_alone(self, isoflop_grid):
        best = isoflop_grid(noise=0.001, budgets=8, step=2.5).groupby("flops", as_index=False)["loss"].min()
        found = fit(best, "saturating", resamples=100)
        (target,) = forecast(found, [1e23])["targets"]
        assert target["params"] is None
        assert target["loss_interval"][0] < target["loss"] < target["loss_interval"][1]
        assert compute_for(found, target["loss"]).flops == pytest.approx(1e23, rel=0.02)


def test_figures_are_drawn_on_the_axes_given(isoflop_grid):
    found = fit(isoflop_grid(noise=0.002), resamples=100)
    curves = isoflops(found.runs)
    optima = frontier(found, [1e19, 1e20, 1e21])
    axes = Figure().subplots(1, 4)
    assert plot.isoflop_curves(axes[0], curves, curves[-1:]) is axes[0]
    assert plot.frontier(axes[1], optima, curves, optimum_law(curves), curves[-1:]) is axes[1]
    assert plot.loss_against(axes[2], found, optima) is axes[2]
    assert plot.forecast(axes[3], [1e9, 2e9], [2.0, 2.1], [(1.9, 2.1), (2, 2.2)], [2.0, None], level=0.9) is axes[3]
    assert all(ax.has_data() and ax.get_xlabel() and ax.get_ylabel() for ax in axes)
