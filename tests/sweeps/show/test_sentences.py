"""A forecast in a sentence: its figures are those of the forecast, to the digits shown."""

import re

import numpy as np
import pandas as pd
import pytest

from nextscale.cluster.hardware.catalogue import CATALOGUE
from nextscale.fit.trust.consensus import Member
from nextscale.fit.trust.forecaster import fit_forecaster
from nextscale.fit.trust.reach import reach_errors
from nextscale.sweeps.budget.cluster import cluster_of
from nextscale.sweeps.budget.targets import forecast_targets
from nextscale.sweeps.show.sentences import contradicted, loss_with_interval, outcome, trust

_SIZES = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def figures(text):
    """Every number of a sentence."""
    plain = re.sub(r"(?:([\d.]+)×)?10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)", lambda m: f"{m[1] or 1}e{m[2].translate(_RAISED)}", text)
    found = re.findall(r"(?<![\w.])\$?(\d+(?:\.\d+)?(?:e-?\d+)?)([kMBT](?![a-z]))?", plain)
    return [float(number) * _SIZES.get(letter, 1) for number, letter in found]


@pytest.fixture(scope="module")
def fitted():
    flops = np.repeat([1e18, 3e18, 1e19, 3e19, 1e20], 5)
    params = np.sqrt(flops / 120) * np.tile(np.geomspace(1 / 3, 3, 5), 5)
    loss = 1.8 + 480 / params**0.35 + 2100 / (flops / 6 / params) ** 0.37
    noise = np.exp(0.002 * np.random.default_rng(3).standard_normal(len(loss)))
    return fit_forecaster(pd.DataFrame({"params": params, "flops": flops, "loss": loss * noise}), resamples=200)


@pytest.mark.parametrize("kind", ["flops", "usd", "days", "device_hours", "params", "tokens"])
def test_its_figures_are_those_of_the_forecast(fitted, kind):
    cluster = cluster_of("h100x64", accelerators=CATALOGUE)
    low, high = {"flops": (1e19, 1e22), "usd": (50, 1e6), "days": (0.01, 30), "device_hours": (10, 1e5)}.get(
        kind, {"params": (3e8, 1e10), "tokens": (5e9, 3e11)}.get(kind)
    )
    asked = [{kind: float(value)} for value in np.geomspace(low, high, 10)]
    told = forecast_targets(fitted, asked, cluster=cluster, backtests=reach_errors(fitted))
    for target in told["targets"]:
        shown = figures(target["sentence"])
        for name in ("loss", "params", "tokens"):
            assert any(one == pytest.approx(target[name], rel=6e-3) for one in shown), (name, target["sentence"])
        for end in target["loss_interval"]:
            assert any(abs(one - end) <= 0.0051 for one in shown), target["sentence"]
        assert (target["trust"]["grade"] == "inside the runs") == (target["reach"] <= 1)


def test_a_loss_is_told_by_what_it_takes_or_why_it_is_out_of_reach(fitted):
    best = float(fitted.runs.table["loss"].min())
    near, never = forecast_targets(fitted, [{"loss": 0.97 * best}, {"loss": 0.1}])["targets"]
    assert any(one == pytest.approx(near["flops"], rel=6e-3) for one in figures(near["sentence"]))
    assert near["sentence"].startswith("Loss ")
    assert never["reason"] in never["sentence"]
    assert never["trust"] is None


@pytest.mark.parametrize(
    "interval, shown",
    [
        ([2.5679, 2.7507], "2.66 (90%: 2.57 to 2.75)"),
        ([2.6530, 2.6622], "2.658 (90%: 2.653 to 2.662)"),
        ([2.65759, 2.65761], "2.6576 (90%: 2.6576 to 2.6576)"),
        ([None, 2.7], "2.6576 (90%: open to 2.7000)"),
    ],
)
def test_a_loss_has_the_digits_that_its_interval_leaves(interval, shown):
    told = {"level": 0.9, "loss_unit": "nats/token"}
    assert loss_with_interval({"loss": 2.6576, "loss_interval": interval}, told) == shown


def reached(error, half=0.02, cuts=3):
    band = {"reach": "3-10", "error": error, "se": 0.0, "bias": 0.0, "cuts": cuts}
    return {"reach": 5.0, "backtest": band, "loss": 2.0, "loss_interval": [2 - 2 * half, 2 + 2 * half]}


@pytest.mark.parametrize("cuts", [1, 3])
def test_an_interval_that_backtests_missed_by_more_than_is_not_called_tested(cuts):
    told, within = trust(reached(0.021, cuts=cuts)), trust(reached(0.019, cuts=cuts))
    assert told["grade"] == "too narrow"
    assert "missed the loss by 2.10%, more than the interval's ±2.00%" in told["sentence"]
    assert within["grade"] == ("tested" if cuts > 1 else "tested once")
    assert "narrow" not in within["sentence"]


@pytest.mark.parametrize("weights, said", [((0.5, 0.32, 0.18), " (82% of the weight)."), ((0.3, 0.19, 0.51), " (51%")])
def test_one_law_that_has_most_of_the_weight_is_named(weights, said):
    members = [Member(law, 1.0, 9, w, 0.0, {}) for law, w in zip(("one", "one", "other"), weights, strict=True)]
    sentence = trust(reached(0.01), members)["sentence"]
    assert f"It rests on one law, {'one' if weights[2] < 0.5 else 'other'}{said}" in sentence
    assert "one law" not in trust(reached(0.01), [Member(law, 1.0, 9, 0.5, 0.0, {}) for law in "ab"])["sentence"]


@pytest.mark.parametrize(
    "limits, said", [((1.9, 1.0, 1.99), None), ((2.3, 1.0, 2.1), (2, 0.5, 2.1)), ((0, 0, 2.2), (1, 0.2, 2.2))]
)
def test_laws_whose_limit_lies_above_the_loss_are_told(limits, said):
    members = [Member("a", 1.0, 9, w, 0.0, {"E": float(e)}) for w, e in zip((0.3, 0.5, 0.2), limits, strict=True)]
    lines = contradicted(reached(0.01), members)
    assert len(lines) == (said is not None)
    if said is not None:
        count, weight, limit = said
        assert lines[0].startswith(f"{count} of the 3 fits that the forecast is a mean of (weight {weight:.0%})")
        assert f"below a loss of {limit:.2f}" in lines[0]


def test_of_what_was_held_out_it_tells_what_came():
    row = {"flops": 1e21, "reach": 4.0, "predicted": 2.3346, "interval": [2.305, 2.3685], "measured": 2.322}
    other = row | {"predicted": 2.35, "interval": [2.33, 2.37], "measured": 2.40}
    forecast = {"level": 0.9, "started_before": []}
    assert outcome({"holdout": [], "forecast": None}) is None
    assert outcome({"holdout": [other, row], "forecast": forecast}) == (
        "The best of 2 runs at 10²¹ FLOPs, 4 times the largest run that was fitted then, was forecast before any of "
        "them had started: loss 2.33 (90%: 2.31 to 2.37); measured 2.32, and 1 of 2 inside their intervals."
    )
    waiting = outcome({"holdout": [row | {"measured": None}], "forecast": forecast | {"started_before": ["a"]}})
    assert waiting.endswith(
        "was predicted when some of its runs had started: loss 2.33 (90%: 2.31 to 2.37); not measured yet."
    )
