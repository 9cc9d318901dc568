"""Sweeps that share a cluster: each comes to its share of the slots, and none lies idle for it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.cluster.ray.shares import Claim, Shares, give_away, shares_of

HOUR = 3600.0
CLAIMS = st.lists(
    st.builds(Claim, st.integers(-1, 1), st.integers(0, 9), st.integers(0, 9), st.floats(0, 24 * HOUR)), max_size=5
)


def claim(held, wanted, used=0.0, priority=0):
    return Claim(priority, held, wanted, used)


@pytest.mark.parametrize(
    "claims, given",
    [
        ([claim(4, 4), claim(0, 4)], [2, 0]),
        ([claim(4, 4), claim(0, 1)], [1, 0]),
        ([claim(4, 4), claim(0, 0)], [0, 0]),
        ([claim(4, 1), claim(0, 4)], [3, 0]),
        ([claim(4, 4), claim(0, 4, priority=1)], [4, 0]),
        ([claim(4, 4), claim(0, 4, priority=-1)], [0, 0]),
        ([claim(6, 6), claim(0, 6), claim(0, 6)], [4, 0, 0]),
        ([claim(4, 4, used=9 * HOUR), claim(0, 4)], [4, 0]),
        ([claim(1, 1, used=200.0), claim(0, 1)], [0, 0]),
        ([claim(1, 1, used=400.0), claim(0, 1)], [1, 0]),
    ],
)
def test_what_is_given_up(claims, given):
    assert give_away(sum(each.held for each in claims), claims) == given


@given(CLAIMS)
def test_shares_are_what_there_is_and_no_more_than_is_wanted(claims):
    total = sum(each.held for each in claims)
    shares = shares_of(total, claims)
    assert sum(shares) == min(total, sum(each.wanted for each in claims))
    assert all(share <= each.wanted for share, each in zip(shares, claims, strict=True))


@given(CLAIMS)
def test_nothing_lies_idle_for_it_and_it_comes_to_rest(claims):
    total = sum(each.held for each in claims)
    given, shares = give_away(total, claims), shares_of(total, claims)
    assert all(0 <= gone <= each.held for gone, each in zip(given, claims, strict=True))
    lacking = [max(share - each.held, 0) for share, each in zip(shares, claims, strict=True)]
    assert sum(given) <= sum(lacking)
    after, left = [], sum(given)
    for each, gone, lack in zip(claims, given, lacking, strict=True):
        taken = min(lack, left)  # by whoever lacks
        left -= taken
        after.append(dataclasses.replace(each, held=each.held - gone + taken))
    assert sum(give_away(total, after)) == 0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_slot_that_changes_hands_is_asked_for_once():
    clock = Clock()
    shares = Shares(clock)
    shares.report("a", 0, {"cpu": 2}, {"cpu": 2})
    shares.report("b", 0, {"cpu": 0}, {"cpu": 2})
    assert shares.report("a", 0, {"cpu": 2}, {"cpu": 2}) == ({"cpu": 1}, ["b"])
    for _ in range(10):
        clock.now += 2
        shares.report("b", 0, {"cpu": 0}, {"cpu": 2})
        assert shares.report("a", 0, {"cpu": 1}, {"cpu": 2}) == ({"cpu": 0}, [])
    shares.report("b", 0, {"cpu": 1}, {"cpu": 2})
    assert shares.report("a", 0, {"cpu": 1}, {"cpu": 2})[0] == {"cpu": 0}


def test_who_left_or_fell_silent_wants_nothing():
    clock = Clock()
    shares = Shares(clock)
    for name in "abc":
        shares.report(name, 0, {"cpu": 4 * (name == "a")}, {"cpu": 4})
    shares.leave("b")
    assert shares.report("a", 0, {"cpu": 4}, {"cpu": 4}) == ({"cpu": 2}, ["c"])
    clock.now += 31
    assert shares.report("a", 0, {"cpu": 4}, {"cpu": 4}) == ({"cpu": 0}, [])


def test_kinds_are_shared_apart():
    shares = Shares(Clock())
    shares.report("a", 0, {"H100 1": 4, "CPU 1": 2}, {"H100 1": 4, "CPU 1": 2})
    shares.report("b", 0, {"CPU 1": 0}, {"CPU 1": 2})
    assert shares.report("a", 0, {"H100 1": 4, "CPU 1": 2}, {"H100 1": 4, "CPU 1": 2})[0] == {"H100 1": 0, "CPU 1": 1}


def test_over_a_day_all_have_used_the_same():
    """Of eight slots one sweep has had all for six hours when a second comes: it has them all until it has used as
    much, and half of them then."""
    clock, step, comes = Clock(), 20.0, 6 * HOUR
    shares, held, evened = Shares(clock), {"a": 8, "b": 0}, None
    while clock.now < 20 * HOUR:
        clock.now += step
        for name, other in (("a", "b"), ("b", "a")) if clock.now >= comes else (("a", "b"),):
            moved = shares.report(name, 0, {"gpu": held[name]}, {"gpu": 8})[0]["gpu"]
            held[name], held[other] = held[name] - moved, held[other] + moved
        if clock.now == comes + 60:
            assert held == {"a": 0, "b": 8}
        elif clock.now > comes + 60 and evened is None and held["a"]:
            evened = clock.now
    assert 4 * HOUR < evened - comes < 6 * HOUR, "what was used first is forgotten in part"
    assert held == {"a": 4, "b": 4}
