"""Laws of the loss under a schedule: they are the sums of their papers; and accuracy in two steps."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import InputError, fit
from nextscale.fit.curves.schedule_laws import MomentumLaw, schedule_law_named
from nextscale.fit.curves.schedules import schedule, warmup_end
from nextscale.fit.estimate.downstream import SIGMOID, accuracy

RATES = {
    "cosine": schedule("cosine:peak=3e-4,steps=3000,warmup=200,final=3e-5"),
    "wsd to 0": schedule("wsd:peak=3e-4,steps=3000,warmup=200,decay=600"),
    "up and down": np.repeat([1e-4, 3e-4, 1e-4, 2e-4, 3e-5], 600),
}


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
def test_a_law_is_the_sum_over_every_step(truth, rates):
    """Warm-up from 0 included, and with rates in units of the peak or as they are."""
    rates = np.concatenate([np.linspace(0, rates[0], 50), rates])
    steps = np.arange(warmup_end(rates), len(rates) + 1, 50)
    for peak in (1.0, rates.max()):
        np.testing.assert_allclose(np.exp(truth.expand(rates, steps, peak)[0]), truth.losses(rates, steps), rtol=3e-6)


def test_the_momentum_of_falls_is_the_double_sum_of_the_paper(momentum):
    rates = RATES["cosine"][::50]
    short = dataclasses.replace(momentum, law=MomentumLaw(decay=0.9))
    falls = np.maximum(-np.diff(rates, prepend=0), 0)
    last = len(rates)
    direct = sum(falls[k] * 0.9 ** (i - k) for i in range(last) for k in range(i + 1))
    expected = 2 + 0.5 * rates.sum() ** -0.5 - 0.5 * direct
    assert np.exp(short.expand(rates, [last])[0][0]) == pytest.approx(expected, rel=1e-12)


def test_slopes_are_those_of_the_values(truth):
    def values(theta):
        return truth.law.expand(theta, truth.law.course(RATES["cosine"] / 3e-4, np.array([200, 1000, 3000])))

    theta = truth.theta(3e-4)
    slopes, (natural, by_theta) = values(theta)[1], truth.law.natural(theta, 3e-4)
    np.testing.assert_allclose(np.exp(natural), [*truth.parameters.values()])
    for i, shift in enumerate(1e-5 * np.eye(len(theta))):
        np.testing.assert_allclose(slopes[i], (values(theta + shift)[0] - values(theta - shift)[0]) / 2e-5, atol=1e-8)
        ends = [truth.law.natural(theta + sign * shift, 3e-4)[0] for sign in (1, -1)]
        np.testing.assert_allclose(by_theta[:, i], np.subtract(*ends) / 2e-5, atol=1e-8)


def test_a_falling_rate_takes_off_the_loss_and_warm_up_does_not(truth):
    E, A, alpha = (truth.parameters[name] for name in ("E", "A", "alpha"))
    for rates, falls in ((schedule("constant:peak=3e-4,steps=900,warmup=100"), False), (RATES["wsd to 0"], True)):
        loss = float(np.exp(truth.expand(rates, [len(rates)])[0][0]))
        without = E + A * rates.sum() ** -alpha
        assert loss < without - 0.01 if falls else loss == pytest.approx(without)


def test_laws_have_names():
    assert schedule_law_named("momentum") == MomentumLaw()
    with pytest.raises(InputError, match="no law of curves 'momentun'; name one of multi-power, momentum"):
        schedule_law_named("momentun")


@pytest.mark.slow
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
