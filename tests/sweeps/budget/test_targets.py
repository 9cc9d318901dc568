"""A forecast in every direction: each is the other turned round, and all agree with the fit itself."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import fit
from nextscale.fit.optimum.frontier import closed_form
from nextscale.fit.optimum.inverse import Frontiers, compute_for
from nextscale.fit.optimum.repetition import PUBLISHED_WORTH
from nextscale.fit.trust.backtest import fit_backtested
from nextscale.fit.trust.reach import ReachErrors, reach_errors
from nextscale.sweeps.budget.cluster import cluster_of
from nextscale.sweeps.budget.frame import forecast_budget
from nextscale.sweeps.budget.plot import loss_against_cost
from nextscale.sweeps.budget.queries import size_queries
from nextscale.sweeps.budget.targets import AvailableData, bits_per_nat_of, forecast_targets
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.show.formats import count, dollars

FAST = ("--resamples", "100")


class TestDirections:
    @pytest.mark.parametrize("back", ["loss", "params", "tokens", "usd", "device_hours", "days"])
    @pytest.mark.parametrize("flops", [2e20, 7.7e21])
    def test_each_is_the_others_turned_round(self, found, cluster, flops, back):
        (there,) = forecast_targets(found, [{"flops": flops}], cluster=cluster)["targets"]
        (again,) = forecast_targets(found, [{back: there[back]}], cluster=cluster)["targets"]
        for name in ("loss", "usd", "device_hours", "days", "kwh"):
            assert again[name] == pytest.approx(there[name], rel=1e-9 if name == "loss" else 2e-9), name
        assert again["flops"] == pytest.approx(flops, rel=1e-9)
        assert again["params"] == pytest.approx(there["params"], rel=1e-9)
        assert again["tokens"] == pytest.approx(there["tokens"], rel=1e-9)
        assert again[back] == there[back]

    def test_they_agree_with_the_fit_itself(self, found, cluster):
        """To four digits, as all that is printed; the optimum by Hoffmann et al. 2022, eq. 4."""
        for one in forecast_targets(found, [{"flops": 5e21}, {"usd": 2e4}, {"loss": 2.05}], cluster=cluster)["targets"]:
            exact = closed_form(found, [one["flops"]]).iloc[0]
            for name in ("params", "tokens", "tokens_per_param", "loss"):
                assert one[name] == pytest.approx(exact[name], rel=1e-5), name
            assert one["loss"] == pytest.approx(found.predict([one["params"]], [one["tokens"]])[0], rel=1e-9)
            low, high = found.predict_interval([one["params"]], [one["tokens"]], [one["flops"]])
            assert one["loss_interval"] == pytest.approx([low[0], high[0]], rel=1e-9)
            assert one["usd"] == pytest.approx(one["flops"] / (989.4e12 * 0.4 * 3600) * 6.88, rel=1e-9)

    @pytest.mark.parametrize("asked", [{"flops": 5e21}, {"usd": 2e4}, {"days": 30.0}])
    def test_the_ends_of_the_utilisation_are_what_it_would_be_there(self, found, asked):
        cluster = cluster_of("h100x64")
        (told,) = forecast_targets(found, [asked], cluster=cluster)["targets"]
        ends = [dataclasses.replace(cluster, utilisation=end) for end in cluster.utilisation_range]
        there = [forecast_targets(found, [asked], cluster=one)["targets"][0] for one in ends]
        moved = told["by_utilisation"]
        assert {*moved} == ({"flops", "loss"} if "flops" not in asked else {"device_hours", "days", "usd", "kwh"})
        for name, values in moved.items():
            expected = [one[name] for one in there]
            assert values == pytest.approx(expected if "flops" in moved else expected[::-1], rel=1e-9)
        assert "assumed; published runs of large models reached 21% to 46%" in told["cost_basis"]
        assert forecast_targets(found, [asked], cluster=cluster_of("h100x64", utilisation=0.3))["targets"][0][
            "cost_basis"
        ].startswith("At 30% of the chips' peak, as stated; at half of that")

    def test_a_run_of_any_shape(self, found):
        (told,) = forecast_targets(found, [{"params": 3e9, "tokens": 1e11}])["targets"]
        assert told["flops"] == pytest.approx(6 * 3e9 * 1e11)
        assert told["loss"] == pytest.approx(found.predict([3e9], [1e11])[0], rel=1e-9)
        assert told["optimal"]["loss"] < told["loss"]
        assert told["optimal"]["params"] == pytest.approx(closed_form(found, [1.8e21])["params"].iloc[0], rel=1e-5)
        assert (told["params_interval"], told["tokens_per_param"]) == ([3e9, 3e9], pytest.approx(100 / 3))

    def test_what_is_asked_backwards_is_as_unsure_as_its_compute(self, found, cluster):
        for one in forecast_targets(found, [{"loss": 2.05}, {"params": 3e9}, {"tokens": 1e11}], cluster=cluster)[
            "targets"
        ]:
            for name in ("flops", "usd", "device_hours", "days", "kwh"):
                low, high = one[f"{name}_interval"]
                assert low < one[name] < high
                assert high / low == pytest.approx(one["flops_interval"][1] / one["flops_interval"][0])

    def test_every_figure_has_its_interval(self, found, cluster):
        asked = [{"flops": 1e22}, {"loss": 2.0}, {"usd": 1e4}, {"params": 3e9}, {"params": 3e9, "tokens": 1e11}]
        told = forecast_targets(
            found, asked, cluster=cluster, data=AvailableData(1e10, PUBLISHED_WORTH), bits_per_nat=0.35
        )
        for one in told["targets"]:
            for name in ("loss", "bits_per_byte", "params", "tokens", "tokens_per_param"):
                low, high = one[f"{name}_interval"]
                assert low <= one[name] <= high, (one["asked"], name)
            best = one["data"]["best"]
            assert all(best[f"{n}_interval"][0] <= best[n] <= best[f"{n}_interval"][1] for n in ("loss", "params"))

    def test_without_intervals_there_is_no_forecast(self, simulated):
        with pytest.raises(InputError, match="needs intervals"):
            forecast_targets(fit(simulated(), resamples=0), [{"flops": 1e22}])

    def test_what_is_not_reached_has_an_open_interval_and_a_reason(self, found, cluster):
        told = forecast_targets(found, [{"loss": 1.2}, {"loss": 1.84}], cluster=cluster)
        never, far = told["targets"]
        assert (never["flops"], never["usd"], never["flops_interval"]) == (None, None, [None, None])
        assert "irreducible loss" in never["reason"]
        assert far["usd_interval"][1] is None
        assert any("loss 1.84: the interval of" in text and "open above" in text for text in told["warnings"])
        assert any(text.startswith("loss 1.2: it is below") for text in told["warnings"])

    def test_no_optimum_is_no_compute(self, simulated):
        """Of a law in which larger is always better: at no compute is a size the best."""
        found = fit(simulated(), resamples=100, fixed={"B": 1e-9, "beta": 0.37})
        for asked in ({"params": 1e9}, {"loss": 2.1}):
            told = compute_for(found, **asked)
            assert (told.flops, told.interval) == (None, (None, None))
            assert told.reason

    @pytest.mark.slow
    @pytest.mark.soak
    def test_intervals_of_the_compute_cover(self, simulated):
        """90 % of them hold the truth: of 60 sweeps of a known law, within three standard errors."""
        flops = 8e21
        truth = forecast_targets(fit(simulated(noise=1e-7), resamples=100), [{"flops": flops}])["targets"][0]
        inside = dict.fromkeys(("loss", "params", "tokens"), 0)
        for seed in range(60):
            frontiers = Frontiers.of(fit_backtested(simulated(seed), resamples=100)[0])
            for asked in inside:
                low, high = frontiers.compute_for(**{asked: truth[asked]}).interval
                inside[asked] += (low or 0) <= flops <= (high or np.inf)
        assert min(inside.values()) / 60 > 0.9 - 3 * np.sqrt(0.09 / 60), inside


class TestData:
    def test_enough_is_said_and_nothing_else(self, found):
        (told,) = forecast_targets(found, [{"flops": 1e22}], data=AvailableData(1e13, PUBLISHED_WORTH))["targets"]
        assert (told["data"]["enough"], told["data"]["epochs"], told["data"]["best"]) == (True, 1.0, None)

    def test_short_data_costs_loss_and_favours_smaller_models_less_than_epochs(self, found):
        """Muennighoff et al. 2023, fig. 1: with repeats, more epochs are the better use of compute than parameters."""
        (told,) = forecast_targets(found, [{"flops": 1e22}], data=AvailableData(1e10, PUBLISHED_WORTH))["targets"]
        data, fresh = told["data"], told
        assert data["epochs"] == pytest.approx(fresh["tokens"] / 1e10)
        assert 0 < data["repeats_cost_interval"][0] < data["repeats_cost"] < data["repeats_cost_interval"][1]
        assert fresh["loss"] < data["best"]["loss"] <= fresh["loss"] + data["repeats_cost"]
        assert data["best"]["epochs"] > data["epochs"]

    def test_compute_that_buys_nothing_on_so_little_data_is_told(self, found):
        told = forecast_targets(found, [{"flops": 1e24}, {"flops": 3e20}], data=AvailableData(1e9, PUBLISHED_WORTH))
        wasted, spent = (one["data"]["best"]["flops"] for one in told["targets"])
        assert wasted < 0.5e24 and spent == 3e20
        (line,) = [text for text in told["warnings"] if "the rest buys nothing" in text]
        assert line.startswith(f"1.00e+24 FLOPs: on 1e+09 tokens {wasted:.3g} of 1e+24 FLOPs come within 0.1%")

    def test_a_law_in_compute_alone_knows_no_tokens(self, simulated):
        with pytest.raises(InputError, match="says nothing of tokens"):
            forecast_targets(
                fit(simulated(), "saturating", resamples=100),
                [{"flops": 1e22}],
                data=AvailableData(1e10, PUBLISHED_WORTH),
            )

    @pytest.mark.slow
    @pytest.mark.soak
    def test_runs_that_repeat_their_data_say_what_that_is_worth(self, called, tmp_path):
        rows = []
        for N in (1e7, 3e7, 1e8, 3e8):
            for D in (1e9, 4e9, 1.6e10, 6.4e10):
                for U in (D, min(D, 2e9)):
                    worth = U * (1 + 8 * (1 - np.exp(-(D / U - 1) / 8)))
                    loss = 1.8 + 480 / N**0.35 + 2100 / worth**0.35
                    rows.append({"params": N, "tokens": D, "unique_tokens": U, "loss": loss})
        path = tmp_path / "repeated.csv"
        pd.DataFrame(rows).drop_duplicates().to_csv(path, index=False)
        code, out, _ = called("forecast", path, *FAST, "--flops", "1e21", "--data-available", "1e9", "--json")
        told = json.loads(out)
        assert code == 0
        assert any(text.startswith("repeated data: fitted to these runs: R_D 8") for text in told["notes"])
        assert any("the law is fitted to the others" in text for text in told["notes"])


class TestReach:
    def test_a_backtest_of_such_a_reach_is_told(self, found):
        told = reach_errors(found)
        assert told.band_of(0.5) is None
        assert told.band_of(2)["reach"] == "1-3"
        assert 0 < told.band_of(5)["error"] < 0.02
        assert told.band_of(1e4) is None
        assert "tests no more than" in told.warnings(1e4)[0]
        assert told.warnings(2) == []

    @pytest.mark.parametrize("times", [20, 40, 1e4])
    def test_how_far_a_compute_lies_is_a_warning_where_no_backtest_came(self, found, times):
        flops, told = times * float(found.runs.table["flops"].max()), reach_errors(found)
        said = forecast_targets(found, [{"flops": flops}], backtests=told)
        far = [text for text in said["warnings"] if "times the largest run fitted" in text]
        assert len(far) == (times > told.furthest)
        assert all(text.startswith(f"{flops:.3g} FLOPs is {times:.3g} times") and "a backtest" in text for text in far)
        assert (said["targets"][0]["trust"]["grade"] == "untested") == bool(far)

    @pytest.mark.parametrize(
        ("on", "asked"), [("h100x64", {"usd": 1e7}), ("h100x64", {"flops": 1e26}), (None, {"flops": 1e26})]
    )
    def test_the_run_that_would_test_a_forecast_is_the_best_of_ten_times_the_largest(self, found, on, asked):
        cluster, largest = on and cluster_of(on), float(found.runs.table["flops"].max())
        told = forecast_targets(found, [asked], cluster=cluster, backtests=reach_errors(found))["targets"][0]
        run, best = told["test_run"], closed_form(found, [10 * largest]).iloc[0]
        assert run["flops"] == pytest.approx(10 * largest)
        assert [run["params"], run["tokens"]] == pytest.approx([best["params"], best["tokens"]], rel=1e-4)
        hours = 10 * largest / (989.4e12 * 0.4 * 3600)
        assert run["usd"] == (on and pytest.approx(6.88 * hours, rel=1e-9))
        sized = f"a {count(run['params'])} model on {count(run['tokens'])} tokens"
        priced = f" for {dollars(run['usd'])}" if on else ""
        share = float(f"{told['flops'] / (10 * largest):.3g}")
        advice = (
            rf"First train a run 10 times the largest, {sized}{re.escape(priced)} \(1/(.*) of this\): a loss of (.*) to"
        )
        advised = re.search(f"{advice} (.*) there bears", told["trust"]["sentence"])
        assert float(advised[1]) == share
        (there,) = forecast_targets(found, [{"flops": 10 * largest}])["targets"]
        assert [*map(float, advised.groups()[1:])] == pytest.approx(there["loss_interval"], abs=0.0051)
        near = forecast_targets(found, [{"flops": 2 * largest}], cluster=cluster, backtests=reach_errors(found))
        assert near["targets"][0]["test_run"] is None

    def test_a_pinned_law_is_not_backtested_without_its_pins(self, simulated):
        told = reach_errors(fit(simulated(), resamples=100, fixed={"alpha": 0.35}))
        assert "pinned" in told.problem
        assert ReachErrors(problem="x").warnings(100) == []


class TestNarrowIntervals:
    """What a backtest of such a reach missed by is held against the interval."""

    def missed(self, error):
        return ReachErrors(({"reach": "10-100", "error": error, "se": 0.001, "bias": 0.0, "cuts": 3},), furthest=40.0)

    def half(self, target):
        low, high = target["loss_interval"]
        return (high - low) / 2 / target["loss"]

    @pytest.mark.parametrize("times, warned", [(0.99, False), (1.01, True)])
    def test_a_larger_error_is_the_first_warning(self, found, times, warned):
        asked = [{"flops": 2e22}]
        (target,) = forecast_targets(found, asked)["targets"]
        told = forecast_targets(found, asked, backtests=self.missed(times * self.half(target)))
        narrow = "2.00e+22 FLOPs: the interval may be too narrow"
        first = f"{narrow}: backtests of such a reach missed the loss by {times * self.half(target):.2%} on average"
        assert [text.startswith(first) for text in told["warnings"][:1]] == [True] * warned
        assert any("more than the interval's" in text for text in told["warnings"]) is warned
        assert not any("nothing here tested" in text for text in told["warnings"])

    def test_so_is_that_of_a_shorter_reach_where_none_is_as_long(self, found):
        first = forecast_targets(found, [{"flops": 1e24}], backtests=self.missed(0.3))["warnings"][0]
        assert "backtests of 10 to 40 times, a shorter reach, missed the loss by 30.00%" in first

    def test_inside_the_runs_there_is_nothing_to_warn_of(self, found):
        told = forecast_targets(found, [{"flops": 2e20}], backtests=self.missed(0.3))
        assert not any("backtests" in text for text in told["warnings"])

    @pytest.mark.parametrize("error, says", [(0.0, "allows for the resamples"), (1e-3, "is widened already")])
    def test_what_the_interval_holds_already_is_told_truly(self, found, error, says):
        widened = dataclasses.replace(found, extrapolation_error=error)
        assert says in forecast_targets(widened, [{"flops": 2e22}], backtests=self.missed(0.3))["warnings"][0]

    def test_forecasts_of_one_reach_share_a_line(self, found):
        told = forecast_targets(found, [{"flops": 2e22}, {"flops": 3e22}], backtests=self.missed(0.3))
        assert told["warnings"][0].startswith("2.00e+22 FLOPs, 3.00e+22 FLOPs: the interval may be too narrow")

    @pytest.mark.slow
    def test_the_command_says_it(self, called, csv, simulated):
        """Of a curve that bends: the law of the smallest runs misses what lies beyond by more than that of all says."""
        table = simulated(noise=1e-4)
        table.assign(loss=table.loss * (1 + 0.02 * (1e19 / table.flops) ** 1.5)).to_csv(csv, index=False)
        code, out, _ = called(
            "forecast", csv, *FAST, "--bootstrap", "case", "--law", "chinchilla", "--flops", "3.2e21", "--json"
        )
        told = json.loads(out)
        (target,) = told["targets"]
        assert code == 0
        assert target["backtest"]["error"] > self.half(target)
        assert told["warnings"][0].startswith(
            "3.20e+21 FLOPs: the interval may be too narrow: backtests of such a reach"
        )

    def test_a_longer_reach_is_none_to_hold_it_against(self):
        tested = ReachErrors(({"reach": "10-100", "error": 0.3, "se": 0.0, "bias": 0.0, "cuts": 2},), furthest=40.0)
        assert tested.band_exceeding(2.0, 0.01) is None
        assert tested.band_exceeding(20.0, 0.01) is tested.band_exceeding(80.0, 0.01) is tested.bands[0]


class TestBitsPerByte:
    def test_they_are_proportional_to_the_loss(self):
        table = pd.DataFrame({"loss": [2.0, 3.0], "bits_per_byte": [1.0, 1.5]})
        assert bits_per_nat_of(table) == (0.5, None)

    @pytest.mark.parametrize("bits, says", [([1.0, 1.8], "differ"), ([None, None], "how many"), (None, "how many")])
    def test_or_it_is_said_why_there_are_none(self, bits, says):
        table = pd.DataFrame({"loss": [2.0, 3.0]} | ({} if bits is None else {"bits_per_byte": bits}))
        factor, why = bits_per_nat_of(table)
        assert factor is None
        assert says in why


@pytest.mark.parametrize(
    "asked, says",
    [
        ({}, "asked: nothing; ask one of flops"),
        ({"dollars": 1.0}, "asked: dollars; ask one of"),
        ({"flops": 1e22, "loss": 2.0}, "asked: flops, loss; ask one of"),
        ({"flops": -1.0}, "flops: should be greater than 0, not -1"),
        ({"loss": float("nan")}, "loss: should be greater than 0, not nan"),
        ({"params": 1e9, "tokens": float("inf")}, "tokens: should be greater than 0, not inf"),
    ],
)
def test_what_cannot_be_asked(found, asked, says):
    with pytest.raises(InputError, match=says):
        forecast_targets(found, [asked])


def test_a_frame_has_a_row_for_each_thing_asked(found, cluster):
    table = forecast_budget(
        found, flops=[1e22], usd=[1e4, 1e5], params=[3e9], cluster=cluster, data=AvailableData(1e11, PUBLISHED_WORTH)
    )
    assert len(table) == 4
    assert table["asked_usd"].dropna().tolist() == [1e4, 1e5]
    assert (table["loss_low"] < table["loss"]).all()
    assert {"usd", "usd_low", "params_high", "data_epochs", "backtest_error", "data_best_loss_low"} <= {*table.columns}
    assert table.attrs["cluster"]["name"] == "h100x64"


def test_the_figure_is_of_dollars_or_hours(found, cluster):
    told = forecast_targets(found, [{"usd": 1e4}, {"loss": 2.0}], cluster=cluster)
    axes = loss_against_cost(Figure().subplots(), found, cluster, told["targets"])
    assert axes.get_xlabel() == "dollars on h100"
    free = cluster_of("h100x64", utilisation=0.4, price=0.0)
    assert loss_against_cost(Figure().subplots(), found, free).get_xlabel() == "device-hours on h100"


def test_sizes_and_tokens_pair():
    assert size_queries([1.0, 2.0], [3.0, 4.0]) == [{"params": 1.0, "tokens": 3.0}, {"params": 2.0, "tokens": 4.0}]
    assert size_queries([1.0], []) == [{"params": 1.0}]
    assert size_queries([], [2.0]) == [{"tokens": 2.0}]
    with pytest.raises(SpecError, match="2 times and --tokens 1"):
        size_queries([1.0, 2.0], [3.0])
