"""The list schedule."""

import math

from hypothesis import given
from hypothesis import strategies as st

from nextscale.sweeps.plan.schedule import Task, critical, schedule


def tasks(*seconds):
    return [Task(str(i), {"p": value}) for i, value in enumerate(seconds)]


def test_the_longest_go_first():
    assert schedule(tasks(1, 1, 1, 3), {"p": 2}).seconds == 3
    assert schedule(tasks(2, 2, 2), {"p": 2}).seconds == 4


def test_the_cheapest_go_first_where_that_is_asked():
    assert schedule(tasks(1, 1, 1, 3), {"p": 2}, order="cheapest").seconds == 4


def test_a_branch_starts_where_its_trunk_has_come_to():
    trunk = Task("trunk", {"p": 10})
    branch = Task("branch", {"p": 2}, after="trunk", share=0.5)
    assert schedule([trunk, branch], {"p": 2}).seconds == 10
    assert schedule([trunk, branch], {"p": 1}).seconds == 12
    late = Task("branch", {"p": 4}, after="trunk", share=0.9)
    assert schedule([trunk, late], {"p": 2}).seconds == critical([trunk, late]) == 13


def test_a_trunk_goes_before_what_is_shorter_than_it_and_its_branches():
    trunk, branch = Task("trunk", {"p": 4}), Task("branch", {"p": 4}, after="trunk", share=1.0)
    assert schedule([Task("other", {"p": 5}), trunk, branch, Task("last", {"p": 3})], {"p": 2}).seconds == 8


def test_a_run_takes_the_slower_pool_where_it_is_done_sooner():
    both = [Task(name, {"quick": 2, "slow": 3}) for name in "ab"]
    found = schedule(both, {"quick": 1, "slow": 1})
    assert sorted(found.pools.values()) == ["quick", "slow"]
    assert found.seconds == 3


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=30), st.integers(1, 8))
def test_never_shorter_than_can_be_nor_twice_as_long(seconds, slots):
    """Graham 1969: a list schedule takes at most (2 - 1/m) times the shortest there is."""
    least = max(max(seconds), math.fsum(seconds) / slots)
    found = schedule(tasks(*seconds), {"p": slots}).seconds
    assert least * (1 - 1e-9) <= found <= (2 - 1 / slots) * least * (1 + 1e-9)


def test_what_is_busy_is_waited_for():
    assert schedule([], {"p": 2}, {"p": [3.0, 5.0]}).seconds == 5
    assert schedule(tasks(4), {"p": 2}, {"p": [3.0, 5.0]}).seconds == 7
    assert schedule(tasks(4), {"p": 3}, {"p": [3.0, 5.0]}).seconds == 5


def test_nothing_starts_before_it_may():
    assert schedule([Task("a", {"p": 2}, begins=3.0), Task("b", {"p": 1})], {"p": 1}).seconds == 5
