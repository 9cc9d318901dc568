"""Sentences are true: what they say of recipes whose multiplier is known, and of curves that flatten or do not."""

import json
import re

import numpy as np
import pytest

from nextscale.fit import fit
from nextscale.fit.optimum.forecast import forecast
from nextscale.fit.trust.backtest import with_extrapolation_error
from nextscale.fit.trust.compare import compare
from nextscale.fit.trust.trend import trend

LAW = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
HALF_MORE = LAW | {"A": 480 / 1.5**0.175, "B": 2100 / 1.5**0.185}
"""Parameters and tokens each worth √1.5 times as much: 1.5 times the compute."""


@pytest.fixture
def recipes(isoflop_grid):
    def build(noise=0.003, law=HALF_MORE):
        return isoflop_grid(noise=noise), isoflop_grid(noise=noise, seed=1, law=law)

    return build


def numbers(text):
    return [float(found) for found in re.findall(r"(?<![\w.])-?\d+\.?\d*(?:e[+-]\d+)?", text)]


class TestIsItWorthMore:
    def test_a_known_multiplier_its_savings_and_its_reach_are_told(self, recipes):
        told = compare(*recipes(), flops=1e22, resamples=100)
        first, saves, growth, reach, level = re.split(r"(?<=\.) (?=[A-Z\d])", told.answer)
        assert first.startswith("At 1e+22 FLOPs recipe B is worth ")
        _, worth, low, high = numbers(first)
        assert low < 1.5 < high
        assert (worth, low, high) == pytest.approx((told.multiplier, *told.interval), rel=5e-3)
        assert numbers(saves) == pytest.approx(
            [(1 - 1 / x) * 1e22 for x in (told.multiplier, *told.interval)], rel=5e-3
        )
        assert first.endswith(" the compute of A, by the measured envelopes and chinchilla beyond.")
        assert saves.startswith("For the loss that A has there, B needs ") and saves.endswith(" less.")
        assert growth.startswith("No sign that it changes with compute: by the measured envelopes it is ")
        assert " and if that goes on " in growth
        assert numbers(growth)[1] < 1 < numbers(growth)[2], "it is the same at every compute"
        assert numbers(reach) == [1e22, pytest.approx(1e22 / 1e21, rel=5e-3)]
        assert level == "Intervals are of 90%."
        json.dumps(told.to_dict(), allow_nan=False)
        assert told.to_dict()["answer"] == told.answer

    def test_equal_recipes_are_not_distinguishable_and_save_nothing(self, recipes):
        told = compare(*recipes(law=LAW), resamples=100)
        assert "the recipes are not distinguishable: B is worth" in told.answer
        assert "For the loss" not in told.answer
        low, high = numbers(told.answer)[2:4]
        assert low < 1 < high

    def test_a_worse_recipe_is_told_what_the_other_does_without(self, recipes):
        told = compare(*reversed(recipes()), resamples=100)
        worth, less = numbers(told.answer)[1], numbers(told.answer.split("there,")[1])
        assert worth < 1
        assert "FLOPs [" in told.answer and " less." in told.answer
        assert "so far out" not in told.answer, "it is told amid the runs"
        assert less[1] < less[0] < less[2]
        assert less[0] == pytest.approx((1 - told.multiplier) * told.flops, rel=5e-3)

    def test_a_multiplier_that_changes_is_said_to_and_that_the_figure_does_not_allow_for_it(self, recipes):
        told = compare(*recipes(noise=0.0005, law=LAW | {"alpha": 0.37, "A": 480 * 1.4}), flops=1e22, resamples=50)
        assert "It grows with compute: by the measured envelopes it is" in told.answer
        assert told.growth.multiplier != pytest.approx(told.multiplier, rel=0.01), "the figure does not allow for it"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "law, verb",
        [({"alpha": 0.37, "A": 480 * 1.4}, "grows"), pytest.param({"alpha": 0.33}, "shrinks", marks=pytest.mark.soak)],
    )
    def test_the_rate_at_which_it_changes_is_that_of_the_laws(self, recipes, law, verb):
        told = compare(*recipes(noise=0.0005, law=LAW | law), shared="asymptote", resamples=200)
        assert f"It {verb} with compute: " in told.answer and "of its own" not in told.answer
        assert told.growth.multiplier == pytest.approx(told.multiplier)
        exactly = compare(*recipes(noise=0.0, law=LAW | law), shared="asymptote", resamples=20).table
        inside = exactly[exactly["inside"]].iloc[[0, -1]]
        rate = np.diff(np.log(inside["multiplier"].astype(float))) / np.diff(np.log10(inside["flops"]))
        low, high = told.growth.interval
        assert low <= np.exp(rate[0]) <= high

    @pytest.mark.slow
    def test_what_b_has_at_once_has_no_number(self, isoflop_grid):
        a, b = isoflop_grid(noise=0.002), isoflop_grid(noise=0.002, seed=1, law=LAW | {"E": 0.5})
        told = compare(a, b, resamples=100)
        assert "recipe A has a loss that B has with a thousandth of the compute of these runs" in told.answer
        assert "inf" not in told.answer and "nan" not in told.answer


class TestIsItFlattening:
    @pytest.mark.parametrize(
        "shift, says", [(0.03, "Yes, it is flattening: "), (0.0, "No sign of flattening: "), (-0.03, "No, it is steep")]
    )
    def test_the_verdict_comes_first_with_its_evidence(self, isoflop_grid, shift, says):
        table = isoflop_grid(noise=0.002)
        moved = table.assign(loss=table.loss * np.where(table.budget == table.budget.max(), 1 + shift, 1))
        told = trend(fit(moved, resamples=100))
        assert told.answer.startswith(says)
        runs, at, apart, older, p = numbers(told.answer.split(";")[0])[:5]
        assert (runs, older) == (5, 20)
        assert at == pytest.approx(table.budget.max(), rel=5e-3)
        assert apart == pytest.approx(100 * abs(shift), abs=0.6)
        assert ("above" in told.answer) == (told.flattening.shift > 0)
        assert (p < 0.05) == (shift != 0)
        json.dumps(told.to_dict(), allow_nan=False)

    @pytest.mark.slow
    def test_how_small_a_shift_would_have_been_seen_is_where_the_verdict_turns(self, isoflop_grid):
        table = isoflop_grid(noise=0.002)
        found = trend(fit(table, resamples=100)).flattening
        assert found.verdict == "continues"
        for part, verdict in ((0.98, "continues"), (1.02, "flattening")):
            lift = (1 + part * found.detectable) / (1 + found.shift)
            moved = table.assign(loss=table.loss * np.where(table.budget == table.budget.max(), lift, 1))
            assert trend(fit(moved, resamples=100)).flattening.verdict == verdict

    @pytest.mark.slow
    def test_what_follows_is_the_forecast_of_the_law_without_and_with_the_newest(self, isoflop_grid):
        table = isoflop_grid(noise=0.002)
        floored = table.assign(loss=(table["loss"] ** 60 + 2.45**60) ** (1 / 60))
        told = trend(fit(floored, resamples=100, level=0.8), flops=1e22)
        outlook, level = told.answer.split("At 1e+22 FLOPs")[1].split(". Intervals")
        without, following = numbers(outlook)[0::3]
        assert level == " are of 80%."
        assert following > without, "the newest budgets lie on a floor"
        for kept, (loss, ends) in (
            (floored.budget < floored.budget.max(), told.outlook.without),
            (floored.budget > 0, told.outlook.following),
        ):
            alone = fit(floored[kept], resamples=400, level=0.8)
            (direct,) = forecast(with_extrapolation_error(alone), [1e22])["targets"]
            assert loss == pytest.approx(direct["loss"], abs=1e-4)
            assert ends == pytest.approx(direct["loss_interval"])

    def test_what_follows_allows_for_what_a_backtest_missed(self, isoflop_grid):
        """A law that missed the floor of its newest budget will miss beyond it."""
        table = isoflop_grid(noise=0.0005)
        floored = table.assign(loss=(table["loss"] ** 60 + 2.2**60) ** (1 / 60))
        found = fit(floored, resamples=100)
        low, high = trend(found, flops=1e24).outlook.following[1]
        (plain,) = forecast(fit(floored, resamples=400), [1e24])["targets"]
        assert plain["loss_interval"][1] - plain["loss_interval"][0] < 0.7 * (high - low)

    @pytest.mark.slow
    def test_a_shift_of_nothing_has_a_shift_that_would_have_been_seen(self, isoflop_grid, monkeypatch):
        """It is a matter of the forecast's own error, which is known whatever the newest runs show."""
        found = fit(isoflop_grid(noise=0.002), resamples=100)
        moved = trend(found).flattening
        newest = found.runs.table.budget == found.runs.table.budget.max()
        level = found.runs.table.assign(loss=found.runs.table.loss / np.where(newest, 1 + moved.shift, 1))
        still = trend(fit(level, resamples=100)).flattening
        assert still.shift == pytest.approx(0, abs=1e-9)
        assert still.detectable == pytest.approx(moved.detectable, rel=1e-6)
        monkeypatch.setattr("nextscale.fit.trust.trend._mean_surprise", lambda *_: (0.0, 0.0, 1.0, 0.01))
        assert trend(found).flattening.detectable == pytest.approx(np.expm1(0.01 * 2.131), rel=1e-3), (
            "Student's t of 15"
        )

    @pytest.mark.slow
    def test_new_runs_are_told_first(self, isoflop_grid):
        found = fit(isoflop_grid(noise=0.002), resamples=100)
        new = isoflop_grid(noise=0.002, seed=10_000, budgets=1, first=3e21)
        assert trend(found, new).answer.startswith("The 5 new runs continue the law: together ")
        above = trend(found, new.assign(loss=new.loss * 1.05).iloc[[2]])
        assert above.answer.startswith("The 1 new run breaks the law: together ")
        assert numbers(above.answer)[1] == pytest.approx(5, abs=1)

    def test_too_few_budgets_are_no_answer(self, isoflop_grid):
        assert "cannot be told" in trend(fit(isoflop_grid(noise=0.003, budgets=2), resamples=100)).answer

    def test_a_law_in_size_alone_has_an_answer_without_an_outlook(self, isoflop_grid):
        table = isoflop_grid(noise=0.002, budgets=8)[["params", "loss"]].iloc[::5]
        told = trend(fit(table, "kaplan-n", resamples=100))
        assert "params" in told.answer and "FLOPs" not in told.answer
