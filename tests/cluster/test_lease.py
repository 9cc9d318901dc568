"""Leases: one holder at a time; the dead are replaced, the living are not, and a zombie finds out."""

import multiprocessing
import os
import time

import pytest

from nextscale.cluster import lease as leases
from nextscale.cluster.lease import Lease, LeaseHeld, LeaseLost


def age(lease, seconds):
    then = time.time() - seconds
    os.utime(lease._file, (then, then))


def test_a_living_holder_keeps_its_run(tmp_path):
    with Lease(tmp_path), pytest.raises(LeaseHeld, match=f"process {os.getpid()}"):
        Lease(tmp_path)


def test_a_run_given_back_is_free_and_generations_rise(tmp_path):
    with Lease(tmp_path) as first:
        assert first.replaced is None
    with Lease(tmp_path) as second:
        assert second.generation == first.generation + 1
        assert second.replaced is None


def test_a_silent_holder_is_replaced_and_finds_out(tmp_path):
    zombie = Lease(tmp_path)
    age(zombie, leases.TIME_TO_LIVE + 1)
    with Lease(tmp_path) as heir:
        assert heir.replaced["pid"] == os.getpid()
        with pytest.raises(LeaseLost):
            zombie.check()
        heir.check()
        zombie.close()
        heir.check()
    with pytest.raises(LeaseLost):
        zombie.check()


def hold_and_die(path):
    Lease(path)
    os._exit(9)


def test_a_dead_process_on_this_machine_is_replaced_at_once(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    with Lease(tmp_path) as heir:
        assert heir.replaced["pid"] == process.pid


def take(path, barrier, results):
    barrier.wait()
    try:
        lease = Lease(path)
    except LeaseHeld:
        results.put(False)
    else:
        results.put(True)
        barrier.wait()
        lease.close()
        return
    barrier.wait()


def test_of_many_at_the_same_moment_one_wins(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(6), context.Queue()
    processes = [context.Process(target=take, args=(tmp_path, barrier, results)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(results.get() for _ in processes) == [False] * 5 + [True]


def test_a_holder_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "_BEAT", 0.05)
    with Lease(tmp_path) as lease:
        age(lease, 100)
        deadline = time.time() + 10
        while time.time() - lease._file.stat().st_mtime > 50 and time.time() < deadline:
            time.sleep(0.02)
        assert time.time() - lease._file.stat().st_mtime < 50
