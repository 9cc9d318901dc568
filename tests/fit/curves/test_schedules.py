"""Schedules as text: they are what they say, and what they cannot be is said."""

import numpy as np
import pytest

from nextscale.fit import InputError, schedule
from nextscale.fit.curves.schedules import checked_rates, warmup_end


def test_each_kind_warms_up_stays_and_falls():
    cosine = schedule("cosine:peak=3e-4,steps=2000,warmup=500,final=3e-5")
    assert len(cosine) == 2000
    np.testing.assert_allclose(cosine[[0, 249, 499, 1249, 1999]], [6e-7, 1.5e-4, 3e-4, 1.65e-4, 3e-5])
    assert schedule("linear:peak=1,steps=100,warmup=20")[[19, 59, 99]].tolist() == [1, 0.5, 0]
    np.testing.assert_array_equal(schedule("constant:peak=1,steps=4,warmup=2"), [0.5, 1, 1, 1])
    wsd = schedule("wsd:peak=1,steps=100,warmup=10,decay=20,final=0.1")
    assert (wsd[9:80] == 1).all()
    np.testing.assert_allclose(wsd[[89, 99]], [0.55, 0.1])
    np.testing.assert_allclose(
        schedule("wsd:peak=1,steps=100,decay=20,final=0.01,shape=exponential")[[89, 99]], [0.1, 0.01]
    )
    np.testing.assert_allclose(schedule("wsd:peak=1,steps=100,decay=16,shape=1-sqrt")[[87, 99]], [0.5, 0])
    np.testing.assert_array_equal(schedule("wsd:peak=1,steps=50"), schedule("wsd:peak=1,steps=50,decay=10"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cosin:peak=1,steps=9", "there is no kind 'cosin'"),
        ("cosine", "needs peak and steps"),
        ("cosine:peak=1,steps", "'steps' is no option"),
        ("cosine:peak=1,steps=9,steps=8", "given twice"),
        ("cosine:peak=1,steps=9,decay=2", "there is no option 'decay'"),
        ("cosine:peak=one,steps=9", "peak=one is no number"),
        ("cosine:peak=1,steps=9.5", "whole number of steps"),
        ("cosine:peak=1,steps=1e12", "count steps, not tokens"),
        ("cosine:peak=1,steps=inf", "steps=inf is no number"),
        ("cosine:peak=1,steps=9,warmup=10", "do not fit into 9 steps"),
        ("wsd:peak=1,steps=9,decay=9,warmup=1", "do not fit into 9 steps"),
        ("wsd:peak=1,steps=9,shape=round", "there is no shape 'round'"),
        ("wsd:peak=1,steps=9,shape=exponential", "greater than 0 where the fall is exponential"),
        ("linear:peak=1,steps=9,final=2", "final should be at most the peak"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, said):
    with pytest.raises(InputError, match=said) as error:
        schedule(text)
    assert "\n" not in str(error.value)


def test_warm_up_ends_where_the_first_rise_does():
    assert warmup_end(schedule("constant:peak=1,steps=90,warmup=30")) == 30
    assert warmup_end(schedule("cosine:peak=1,steps=90")) == 1
    assert warmup_end(np.array([0, 1, 2, 2, 1, 3, 0.0])) == 3, "a rise after a fall is no warm-up"
    rounded = np.concatenate([np.linspace(0, 1, 30), np.full(60, 1) + 1e-9 * np.sin(np.arange(60))])
    assert warmup_end(rounded) == 30


@pytest.mark.parametrize("rates", [[1e-3], [1e-3, -1e-9], [1e-3, np.nan], [[1e-3, 1e-3]], [0, 0]])
def test_a_schedule_is_rates(rates):
    with pytest.raises(InputError, match="learning rate of each of two or more steps"):
        checked_rates(rates)
