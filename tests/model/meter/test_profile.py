"""Traces: of the steps that were asked for, into the run's folder, and no part of what a run means."""

import pytest
from pydantic import ValidationError

from nextscale.model.config.training import Profile
from nextscale.model.training import attempt
from nextscale.model.training.train import train


def traced(monkeypatch):
    """At which positions a trace is begun and ended, as it happens."""
    seen = []
    for name in ("before", "after"):
        method = getattr(attempt.Trace, name)

        def told(self, position, state, method=method):
            was = self._at_work
            method(self, position, state)
            if self._at_work != was:
                seen.append(position)

        monkeypatch.setattr(attempt.Trace, name, told)
    return seen


@pytest.mark.slow
def test_a_trace_is_of_the_steps_that_were_named_and_changes_no_bit(tiny_run, run_directory, monkeypatch):
    plain, seen = tiny_run(steps=200), traced(monkeypatch)
    run = tiny_run(steps=200, profile={"steps": [10, 13]})
    assert run.run_id == plain.run_id
    assert run.but_for_its_course() == plain.but_for_its_course()
    train(plain, run_directory)
    assert not run_directory.profile.exists()
    assert seen == []
    other = run_directory.sibling("traced")
    train(run, other)
    assert seen == [10 * 32, 13 * 32]
    assert list(other.profile.glob("plugins/profile/*/*.xplane.pb"))
    assert other.metrics_file.read_bytes() == run_directory.metrics_file.read_bytes()


@pytest.mark.slow
def test_one_that_reaches_beyond_the_end_ends_there(tiny_run, run_directory):
    run = tiny_run(steps=40, profile={"steps": [39, 99]})
    train(run, run_directory)
    assert list(run_directory.profile.glob("plugins/profile/*/*.xplane.pb"))
    late = run_directory.sibling("late")
    train(tiny_run(steps=40, profile={"steps": [40, 99]}), late)
    assert not late.profile.exists()


@pytest.mark.parametrize("steps", [[13, 10], [3, 3], [-1, 3], [3]])
def test_steps_that_do_not_rise_are_refused(steps):
    with pytest.raises(ValidationError, match=r"later one|greater than|at least|required"):
        Profile(steps=steps)
