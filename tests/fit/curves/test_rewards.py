"""The sigmoid of rewards: it finds its own constants again, says what it does not know, and holds what comes."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.signal import lfilter

from nextscale.fit import InputError, fit_rewards, plot, rewards_of

TRUTH = {"R0": 0.25, "A": 0.61, "B": 1.92, "C_mid": 3500.0}
"""As of a long run in the form of Khatri et al. 2025, eq. 1; compute in GPU-hours."""


def sigmoid(compute, R0, A, B, C_mid):
    with np.errstate(divide="ignore"):
        return R0 + (A - R0) / (1 + (C_mid / np.asarray(compute, float)) ** B)


def run(last=16_000, points=120, noise=0.01, alike=0.5, seed=0, **changed):
    """Evaluations along a run, with errors that are as much alike from one to the next."""
    compute = np.linspace(last / points, last, points)
    errors = lfilter([np.sqrt(1 - alike**2)], [1, -alike], np.random.default_rng(seed).standard_normal(points + 60))
    return compute, np.clip(sigmoid(compute, **TRUTH | changed) + noise * errors[60:], 0, 1)


@pytest.mark.parametrize("initial", [None, 0.25])
def test_finds_its_own_constants_again(initial):
    found = fit_rewards(*run(noise=0.0), initial=initial)
    assert found.parameters == pytest.approx(TRUTH, rel=1e-4)
    assert found.forecast(1e5)[0] == pytest.approx(sigmoid(1e5, **TRUTH), abs=1e-5)


def test_points_before_training_tell_the_reward_there():
    compute, rewards = run(noise=0.003)
    early = compute > 3000
    without = fit_rewards(compute[early], rewards[early])
    found = fit_rewards([0, 0, *compute[early]], [0.249, 0.252, *rewards[early]])
    assert np.diff(found.interval("R0")) < 0.5 * np.diff(without.interval("R0"))
    assert found.parameters["R0"] == pytest.approx(0.25, abs=0.01)
    assert found.parameters["A"] == pytest.approx(0.61, abs=0.02)  # within which Khatri et al. find it again
    assert fit_rewards(compute, rewards, initial=0.25).to_dict()["parameters"][0]["interval"] is None


def test_errors_that_are_alike_tell_less():
    apart, alike = (fit_rewards(*run(alike=alike, seed=3)) for alike in (0.0, 0.7))
    assert apart.alike < 0.3
    assert alike.alike > 0.6
    assert np.diff(alike.interval("A")) > 1.5 * np.diff(apart.interval("A"))


def test_the_forecast_is_the_same_in_any_unit():
    compute, rewards = run()
    hours, flops = fit_rewards(compute, rewards), fit_rewards(compute * 3.6e18, rewards)
    assert flops.parameters["A"] == pytest.approx(hours.parameters["A"], abs=1e-4)
    assert flops.forecast(1e5 * 3.6e18) == pytest.approx(hours.forecast(1e5), abs=0.01)


def test_an_asymptote_that_the_points_do_not_tell_is_refused():
    """All of them lie where the curve still bends upwards."""
    with pytest.raises(InputError, match="the asymptote is not identified"):
        fit_rewards(*run(last=1200))


@pytest.mark.parametrize(
    "rewards", [np.full(120, 0.3), run(A=0.25)[1], 0.9 - run()[1]], ids=["constant", "noise", "falls"]
)
def test_rewards_that_do_not_rise_are_refused(rewards):
    with pytest.raises(InputError, match="no sigmoid shows in 120 points"):
        fit_rewards(run()[0], rewards)


def test_a_run_that_does_not_follow_one_sigmoid_has_wider_intervals():
    compute, rewards = run(noise=0.003, alike=0.0)
    broken = rewards + 0.02 * (compute > 8000)
    straight, kinked = fit_rewards(compute, rewards), fit_rewards(compute, broken)
    assert straight.widening < 1.5
    assert kinked.widening > 2
    assert "the reward does not follow one sigmoid" in kinked.warnings[0]
    assert kinked.backtest["until"].tolist() == pytest.approx([4000, 5600, 8000, 11200], rel=0.02)


def test_too_few_points_for_a_backtest_is_said():
    found = fit_rewards(*run(points=14, noise=0.001))
    assert found.backtest.empty
    assert "nothing tested how far the sigmoid holds" in found.warnings[0]


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_intervals_hold_what_comes_at_four_times_the_compute(alike):
    hits = []
    for seed in range(100):
        try:
            found = fit_rewards(*run(seed=seed, alike=alike))
        except InputError:
            continue
        _, low, high = found.forecast(64_000)
        measured = sigmoid(64_000, **TRUTH) + 0.01 * np.random.default_rng(1000 + seed).standard_normal()
        hits.append(low <= measured <= high)
    assert len(hits) > 80
    assert np.mean(hits) > 0.84


def test_what_is_no_run_of_rewards_is_said():
    compute, rewards = run()
    for given, said in (
        ((compute, rewards * 3), "run from .* and should be shares from 0 to 1"),
        ((-compute, rewards), "each needs a compute, 0 or more"),
        ((compute[:5], rewards[:5]), "5 points with a compute above 0 are too few; 12 are needed"),
    ):
        with pytest.raises(InputError, match=said):
            fit_rewards(*given)
    table = pd.DataFrame({"gpu_hours": compute, "val/pass_rate": rewards, "run": "a"})
    with pytest.raises(InputError, match="has 2 runs, and a sigmoid is of one"):
        rewards_of(table.assign(run=["a", "b"] * 60))
    np.testing.assert_array_equal(rewards_of(table)[:2], (compute, rewards))
    percent = rewards_of(table.assign(**{"val/pass_rate": 100 * rewards}))
    np.testing.assert_allclose(percent[1], rewards)
    assert "read as percent" in percent[2][0]


def test_the_figure_shows_points_curve_and_what_is_forecast():
    found = fit_rewards(*run())
    ax = plot.rewards(Figure().subplots(), found, [1e5])
    assert ax.get_xlim()[1] > 1e5
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"measured", "sigmoid", "asymptote", "90%"}
