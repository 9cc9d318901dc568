"""Leases: one holder at a time; the dead are replaced, the living are not, and a zombie finds out."""

import errno
import multiprocessing
import os
import time

import pytest

from nextscale.cluster.controller import lease as leases
from nextscale.cluster.controller.lease import Lease, LeaseHeld, LeaseLost


def file_of(lease):
    return lease._directory / "leases" / lease._name


def age(lease, seconds):
    then = time.time() - seconds
    os.utime(file_of(lease), (then, then))


def test_a_living_holder_keeps_its_run(tmp_path):
    with Lease(tmp_path), pytest.raises(LeaseHeld, match=f"process {os.getpid()}"):
        Lease(tmp_path)


def test_a_run_given_back_is_free_and_generations_rise(tmp_path):
    with Lease(tmp_path) as first:
        assert first.replaced is None
    with Lease(tmp_path) as second:
        assert second.generation == first.generation + 1
        assert second.replaced is None


def sign_of(path):
    with pytest.raises(LeaseHeld) as held:
        Lease(path)
    return held.value.heartbeat


def test_a_silent_holder_is_replaced_and_finds_out(tmp_path):
    zombie = Lease(tmp_path)
    with Lease(tmp_path, silent=sign_of(tmp_path)) as heir:
        assert heir.replaced["pid"] == os.getpid()
        with pytest.raises(LeaseLost):
            zombie.check()
        heir.check()
        zombie.close()
        heir.check()
    with pytest.raises(LeaseLost):
        zombie.check()


@pytest.mark.parametrize("skew", [-1e5, 1e5])
def test_clocks_that_differ_take_nothing_from_the_living(tmp_path, skew):
    with Lease(tmp_path) as lease:
        age(lease, skew)
        before = sign_of(tmp_path)
        age(lease, skew - 4)  # it beats, by its own clock
        with pytest.raises(LeaseHeld):
            Lease(tmp_path, silent=before)


def test_a_process_id_of_another_machine_or_container_says_nothing(tmp_path, monkeypatch):
    process = multiprocessing.get_context("spawn").Process(target=hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(leases, "_machine", lambda: "another")
        assert sign_of(tmp_path) is not None
    with Lease(tmp_path) as heir:
        assert heir.replaced["pid"] == process.pid


@pytest.mark.parametrize("text", ["", '{"host": "x", "pi'])
def test_a_lease_half_written_is_held_until_its_holder_is_silent(tmp_path, text):
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "000001.json").write_text(text)
    with Lease(tmp_path, silent=sign_of(tmp_path)) as heir:
        assert heir.generation == 2


def test_a_lease_that_vanishes_while_it_is_looked_at_is_held(tmp_path, monkeypatch):
    Lease(tmp_path).close()
    monkeypatch.setattr(leases._Files, "newest", lambda self: "000000.json")
    with pytest.raises(LeaseHeld):
        Lease(tmp_path)


def test_a_full_disk_leaves_no_lease_behind_and_does_not_trouble_its_end(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(leases.json, "dumps", full)
        with pytest.raises(OSError, match="No space"):
            Lease(tmp_path)
    with Lease(tmp_path):
        monkeypatch.setattr(leases.json, "dumps", full)


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
    monkeypatch.setattr(leases, "BEAT", 0.05)
    with Lease(tmp_path) as lease:
        age(lease, 100)
        deadline = time.time() + 10
        while time.time() - file_of(lease).stat().st_mtime > 50 and time.time() < deadline:
            time.sleep(0.02)
        assert time.time() - file_of(lease).stat().st_mtime < 50


def test_a_beat_that_fails_is_not_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.02)
    beats = []

    def stutter(path):
        beats.append(path)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(leases.os, "utime", stutter)
    with Lease(tmp_path) as lease:
        deadline = time.time() + 10
        while len(beats) < 3 and time.time() < deadline:
            time.sleep(0.01)
        assert len(beats) >= 3
        lease.check()
