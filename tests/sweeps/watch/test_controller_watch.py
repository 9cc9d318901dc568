"""Who is at work in a folder is told also where the clocks of those who work and those who watch are far apart."""

import multiprocessing
import os
import time

import pytest

from nextscale.cluster.controller import lease as leases
from nextscale.cluster.controller.lease import Lease
from nextscale.sweeps.run.session import stop_asked
from nextscale.sweeps.watch import controller
from nextscale.sweeps.watch.controller import ControllerWatch, controller_of
from nextscale.sweeps.watch.snapshot import Live
from nextscale.sweeps.watch.status import ask_to_stop, status

HOUR = 3600.0


@pytest.fixture
def elsewhere(staged, monkeypatch):
    """A sweep at work on another machine, with one run in training, seen from one whose clock is so far ahead."""

    def watched(ahead):
        monkeypatch.setattr(leases, "BEAT", 0.1)
        monkeypatch.setattr(controller, "_DOUBT", 1.0)
        sweep = staged()
        sweep.now = time.time()
        sweep.start(sweep.runs[0])
        sweep.train(sweep.runs[0], 0.3)
        real = time.time
        monkeypatch.setattr(leases, "_machine", lambda: "another")
        monkeypatch.setattr(time, "time", lambda: real() + ahead)
        return sweep

    return watched


@pytest.mark.parametrize("ahead", [0.0, 30.0, -30.0, HOUR, -HOUR])
def test_a_living_controller_is_at_work_and_hears_a_stop(elsewhere, ahead):
    sweep = elsewhere(ahead)
    found = status(sweep.out)
    assert (found.controller, found.runs["running"], found.left_open["attempts"]) == ("at work", 1, 0)
    assert 0 <= found.running[0].seconds < 10, "by the clock of whoever started it"
    assert ask_to_stop(sweep.out, within=7.0)
    assert stop_asked(sweep.out) == 7.0


def test_the_page_tells_times_by_the_clock_of_whoever_looks(elsewhere):
    sweep = elsewhere(HOUR)
    live = Live(sweep.out)
    deadline = time.monotonic() + 10
    while live.look()["controller"] != "at work" and time.monotonic() < deadline:
        time.sleep(0.05)
    (lane,), wall = live.state["lanes"], live.state["costs"][-1]
    assert 0 <= time.time() - lane["since"] < 10
    assert wall["spent"] * HOUR < 10 and 0 <= time.time() - wall["since"] < 10


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_dead_one_is_silent_whatever_the_clocks_and_is_asked_all_the_same(elsewhere, ahead):
    sweep = elsewhere(ahead)
    sweep.lease._closed.set()
    sweep.lease._thread.join()
    found = status(sweep.out)
    assert (found.controller, found.left_open["attempts"]) == ("silent", 1)
    assert not ask_to_stop(sweep.out)
    assert stop_asked(sweep.out) is not None


def hold_and_die(path):
    Lease(path)
    os._exit(9)


def test_one_that_died_on_this_machine_is_silent_at_once(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=hold_and_die, args=(tmp_path / "controller",))
    process.start()
    process.join()
    began = time.monotonic()
    assert controller_of(tmp_path).state == "silent"
    assert time.monotonic() - began < 1


def test_who_looks_again_sees_it_die_and_another_come(tmp_path, monkeypatch):
    monkeypatch.setattr(controller, "TIME_TO_LIVE", 0.3)
    monkeypatch.setattr(leases, "BEAT", 0.05)
    watch = ControllerWatch(tmp_path)
    assert watch.look().state == "none"
    first = Lease(tmp_path / "controller")
    for _ in range(10):
        assert watch.look().state == "at work"
        time.sleep(0.05)
    first._closed.set()
    first._thread.join()
    watch.look()
    time.sleep(0.4)
    assert watch.look().state == "silent"
    os.utime(tmp_path / "controller" / "leases" / first._name)
    assert watch.look().state == "silent", "touched, and as dead as before"
    with Lease(tmp_path / "controller", silent=leases.holder(tmp_path / "controller")):
        assert watch.look().state == "at work"
    assert watch.look().state == "none"
