"""Curves under a schedule: fitted on one, they forecast another; and accuracy in two steps."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import InputError, fit
from nextscale.fit.curves.schedule_laws import annealing, multi_power
from nextscale.fit.estimate.downstream import SIGMOID, accuracy

STEPS = 600


def cosine(peak=1e-3):
    t = np.arange(1, STEPS + 1)
    return peak * np.minimum(t / 50, 0.1 + 0.45 * (1 + np.cos(np.pi * np.clip((t - 50) / (STEPS - 50), 0, 1))))


def wsd(peak=1e-3):
    t = np.arange(1, STEPS + 1)
    return peak * np.minimum(np.minimum(t / 50, 1), 0.1 + 0.9 * np.clip((STEPS - t) / 150, 0, 1))


LAWS = {
    "annealing": (annealing, {"E": 2.0, "A": 0.5, "C": 0.5, "alpha": 0.5}),
    "multi-power": (
        multi_power,
        {"E": 2.0, "A": 0.5, "B": 300.0, "C": 1.5, "alpha": 0.5, "beta": 0.5, "gamma": 0.5},
    ),
}


@pytest.mark.parametrize(
    "name",
    ["annealing", pytest.param("multi-power", marks=pytest.mark.slow)],  # seven parameters take 17 s
)
def test_a_curve_on_one_schedule_forecasts_another(name):
    make, truth = LAWS[name]
    steps = np.arange(110, STEPS + 1, 20)
    on, other = make(cosine()), make(wsd())
    curve = np.exp(on.log_losses(on.theta(truth)[None], {"step": steps})[0])
    found = fit(pd.DataFrame({"step": steps, "loss": curve, "flops": steps}), on, resamples=0)
    np.testing.assert_allclose(found.predict(step=steps), curve, rtol=1e-4)
    expected = np.exp(other.log_losses(other.theta(truth)[None], {"step": steps})[0])
    forecast = np.exp(other.log_losses(found.theta[None], {"step": steps})[0])
    np.testing.assert_allclose(forecast, expected, rtol=2e-3)


def test_a_falling_rate_takes_off_the_loss_and_a_constant_one_does_not():
    constant = np.full(STEPS, 1e-3)
    for make, truth in LAWS.values():
        flat, falling = (make(s) for s in (constant, wsd()))
        zero = truth | {"C": 1e-12} if "B" not in truth else truth | {"B": 1e-12}
        end = {"step": np.array([STEPS])}
        without = np.exp(flat.log_losses(flat.theta(zero)[None], end))
        assert np.exp(flat.log_losses(flat.theta(truth)[None], end)) == pytest.approx(without)
        theta = falling.theta(truth)[None]
        assert (
            np.exp(falling.log_losses(theta, end)) < np.exp(falling.log_losses(falling.theta(zero)[None], end)) - 0.01
        )


def test_the_momentum_of_falls_is_the_sum_of_the_paper():
    rates = wsd()[::50]
    law = annealing(rates, decay=0.9)
    falls = np.concatenate([[0], np.maximum(rates[:-1] - rates[1:], 0)])
    i = len(rates)
    direct = sum(falls[k] * 0.9 ** (j - k) for j in range(i) for k in range(j + 1))
    truth = {"E": 2.0, "A": 0.5, "C": 0.5, "alpha": 0.5}
    loss = np.exp(law.log_losses(law.theta(truth)[None], {"step": np.array([i])}))[0, 0]
    assert loss == pytest.approx(2 + 0.5 * rates.sum() ** -0.5 - 0.5 * direct, rel=1e-9)


@pytest.mark.parametrize("schedule", [[1e-3], [1e-3, 0.0], [1e-3, np.nan], [[1e-3, 1e-3]]])
def test_a_schedule_is_positive_rates(schedule):
    with pytest.raises(InputError, match="learning rate of each of two or more steps"):
        annealing(np.array(schedule))


def test_accuracy_in_two_steps(isoflop_grid):
    truth = {"floor": 0.25, "gain": 0.7, "slope": 6.0, "middle": 2.3}
    losses = np.linspace(1.9, 3.2, 30)
    rng = np.random.default_rng(0)
    clean = np.exp(SIGMOID.log_losses(SIGMOID.theta(truth)[None], {"task_loss": losses})[0])
    exact = fit(pd.DataFrame({"task_loss": losses, "loss": clean}), SIGMOID, resamples=0)
    assert exact.parameters == pytest.approx(truth, rel=1e-4)
    noisy = pd.DataFrame({"task_loss": losses, "loss": clean * np.exp(0.01 * rng.standard_normal(30))})
    step_two = fit(noisy, SIGMOID, resamples=100)
    value, low, high = accuracy(
        fit(isoflop_grid(noise=0.003), resamples=100), step_two, params=[1e9, 1e11], tokens=2e11
    )
    assert (low < value).all()
    assert (value < high).all()
    assert value[1] > value[0]
    true_loss = 1.8 + 480 / 1e9**0.35 + 2100 / 2e11**0.37
    expected = 0.25 + 0.7 / (1 + np.exp(6 * (true_loss - 2.3)))
    assert low[0] < expected < high[0]
