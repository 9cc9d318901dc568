"""A folder that was touched, or copied with new times: what stands in its files counts, and no time of a file."""

import dataclasses
import math
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.attempt import settle_orphan
from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.controller.failures import Limits
from nextscale.cluster.controller.lease import Lease, life
from nextscale.cluster.controller.run_directories import RunDirectories
from nextscale.cluster.hardware.seat import Seat

RESERVED = 68.0


def train_and_die(path, begins):
    lease = Lease(path, attempt=1)
    if begins:
        lease.begin()
    os._exit(9)


def touched(folder):
    for path in folder.rglob("*"):
        os.utime(path)
    return folder


def copied(folder):
    shutil.copytree(folder, folder.with_name("copy"), copy_function=shutil.copyfile)
    return folder.with_name("copy")


@pytest.mark.parametrize("handle", [touched, copied])
@pytest.mark.parametrize("begins", [False, True])
def test_what_is_booked_of_a_crash_is_what_was_lived_and_made(job, tmp_path, handle, begins):
    """Its worker died at once, half an hour ago; its curve was there before, and is its own only if it had begun."""
    j = job(steps=100)
    directory = Path(j.directory)
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text(f'{{"tokens": {j.config.tokens // 2}, "loss": 1.0}}\n')
    accounts = Accounts(tmp_path / "accounts.jsonl", clock=lambda: time.time() - 1800)
    reservation = accounts.reserve(j.run_id, "s", Seat("p", seconds=60), "h100", 0, RESERVED, int(j.flops))
    process = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(directory, begins))
    process.start()
    process.join()
    moved = dataclasses.replace(j, directory=str(handle(tmp_path / "runs") / j.run_id))
    settle_orphan(reservation, moved, RunDirectories(), accounts)
    accounts.close()
    totals = accounts.totals()
    assert 4.0 <= totals["seconds"] < 20.0, "it lived for a moment, and then for less than until its next sign of life"
    assert (totals["flops_kept"], totals["flops_lost"]) == (0, int(j.flops) // 2 if begins else 0)


@pytest.mark.parametrize("seconds", [10.0, 1e4])
def test_no_more_is_booked_than_was_reserved(job, tmp_path, seconds):
    j = job()
    accounts = Accounts(tmp_path / "accounts.jsonl")
    reservation = accounts.reserve(j.run_id, "s", Seat("p"), "h100", 0, RESERVED, int(j.flops))
    with Lease(Path(j.directory), attempt=1, lived=seconds):
        pass
    settle_orphan(reservation, j, RunDirectories(), accounts)
    accounts.close()
    assert accounts.totals()["seconds"] == pytest.approx(min(seconds, RESERVED), abs=2.0)


def test_the_life_of_another_attempt_says_nothing_of_this_one(job, tmp_path):
    j = job()
    accounts = Accounts(tmp_path / "accounts.jsonl")
    first, second = (accounts.reserve(j.run_id, "s", Seat("p"), "h100", 0, RESERVED, 1) for _ in range(2))
    with Lease(Path(j.directory), attempt=first.attempt):
        pass
    assert "no sign of life" in settle_orphan(second, j, RunDirectories(), accounts).message
    accounts.close()
    assert accounts.totals()["seconds"] == RESERVED


@pytest.mark.parametrize("text", [b"", b"released\n", b'{"pid": 1', b"[" * 10**5, b'{"seconds": "x"}', b"\xff", b"7"])
def test_a_lease_that_tells_nothing_leaves_all_that_was_reserved(job, tmp_path, text):
    j = job()
    accounts = Accounts(tmp_path / "accounts.jsonl")
    reservation = accounts.reserve(j.run_id, "s", Seat("p"), "h100", 0, RESERVED, 1)
    (Path(j.directory) / "leases").mkdir(parents=True)
    (Path(j.directory) / "leases" / "000001.json").write_bytes(text)
    assert life(Path(j.directory)).attempt == 0
    settle_orphan(reservation, j, RunDirectories(), accounts)
    accounts.close()
    assert accounts.totals()["seconds"] == RESERVED


@pytest.mark.parametrize("speed", [1.0, 0.05])
def test_a_run_that_takes_long_is_reserved_for_also_without_caps(fake, tmp_path, speed):
    """Whenever its controller dies, what was reserved covers what was spent, to a sign of life."""
    for dies in (150.0, 1900.0, 7000.0):
        world = fake.World({"p": fake.pool()}, speeds={"p-h0": speed})
        path, seat = tmp_path / f"{dies}.jsonl", Seat("p", seconds=1000.0, usd_per_hour=3.6)
        jobs = [fake.job(str(i), 1e6, seats=(seat,)) for i in range(3)]
        world.at(dies, lambda world=world: setattr(world, "changed", True))
        world.die_at = dies
        for caught in (fake.ControllerDied, None):
            accounts = Accounts(path, clock=lambda world=world: world.time)
            options = {"accounts": accounts, "runs": fake.FakeRuns(world), "limits": Limits(poll=math.inf)}
            if caught is None or dies > 3000 / speed:
                run_all(jobs, fake.FakeBackend(world), **options)
            else:
                with pytest.raises(caught):
                    run_all(jobs, fake.FakeBackend(world), **options)
                world.controller_dies()
            accounts.close()
        reserved = {row["attempt"]: row["seconds"] for row in accounts.rows if row["kind"] == "reserved"}
        ended = {row["attempt"]: row["seconds"] for row in accounts.rows if row["kind"] == "settled"}
        assert all(ended[attempt] <= reserved[attempt] for attempt in reserved)
        assert world.billed <= accounts.totals()["usd"] <= float(world.billed) + 0.001 * 2 * fake.BEAT
