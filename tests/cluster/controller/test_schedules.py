"""Random schedules of deaths, preemptions, slow hosts, lost leases and controllers that die, in virtual time.

Whatever happens: every run is finished exactly once or failed with a reason (or a cap is named), no cap is crossed by
what is booked or by what was truly spent, no slot has two runs and no run two writers (the fake cluster sees to that).
"""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.caps import Amount, Caps
from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.controller.failures import Limits
from nextscale.cluster.hardware.seat import Seat

LIMITS = Limits(poll=math.inf)
ROUNDING = 1e-6


def world_of(fake, seed, trouble):
    """Two pools, one of gangs; so many troubles in a thousand attempts; hosts that come, go and are slow."""
    chance = random.Random(seed)

    def fate(run_id, attempt, slot):
        roll = random.Random(f"{seed} {run_id} {attempt}")
        if roll.random() * 1000 >= trouble:
            return None
        kind = roll.choice(
            ["lost", "lost", "lost", "error", "memory", "held", "stopped", "stuck", "deaf", "input", "unfit"]
        )
        after = roll.uniform(0.0, 200.0)
        if kind == "input" and roll.random() < 0.8:
            return None
        if kind == "stuck":
            return fake.Fate(stuck=after)
        return fake.Fate(deaf=True) if kind == "deaf" else fake.Fate(kind, after)

    pools = {"small": fake.pool(chance.randint(1, 6)), "big": fake.pool(chance.randint(1, 3), hosts=2)}
    hosts = [f"small-h{i}" for i in range(pools["small"].slots)] + [f"big-h{i}" for i in range(2 * pools["big"].slots)]
    speeds = {host: chance.choice([1.0, 1.0, 1.0, 0.7, 0.2]) for host in hosts}
    setup = chance.choice([0.0, 5.0])
    world = fake.World(pools, speeds=speeds, fates=fate, setup=setup, saving=chance.choice([0.5, 5.0]), seed=seed)
    for _ in range(trouble // 25):
        when, host = chance.uniform(0, 3000), chance.choice(hosts)
        if chance.random() < 0.5:
            world.at(when, world.drop, host, when + chance.uniform(1, 300))
        else:
            world.at(when, world.drain, host, 30.0, when + 30.0 + chance.uniform(1, 300))
    return world


def jobs_of(fake, seed, n):
    """Of many lengths; some for either pool, some for one; some trunks with branches."""
    chance, jobs = random.Random(seed + 1), []
    for i in range(n):
        seconds = chance.choice([5.0, 30.0, 100.0, 400.0]) * chance.uniform(0.7, 1.4)
        small, big = Seat("small", "", seconds, 3.0, 1), Seat("big", "", seconds / 3, 11.0, 4)
        seats = chance.choice([(small,), (big,), (big, small), (small, big)])
        start = None
        if i % 7 == 6:  # the one before is its trunk
            jobs[-1] = fake.job(jobs[-1].run_id, jobs[-1].flops, seats=jobs[-1].seats, shape="t", pinned=(600,))
            start = (jobs[-1].run_id, 600)
        jobs.append(fake.job(f"r{i}", 1e4 * seconds + i, seats=seats, shape=str(i % 5), tokens=1000, start=start))
    return jobs


def live(fake, world, jobs, caps, deaths, path):
    """Controllers one after another, until one of them comes to its end."""
    reports, chance = [], random.Random(str(deaths))
    for lasts in [*deaths, None]:
        accounts = Accounts(path, clock=lambda: world.time)
        most = caps.model_dump(exclude_none=True)

        def check(world, accounts=accounts, most=most):
            usd, device, flops = world.truly()
            used = accounts.used
            if "max_usd" in most:
                assert max(usd, float(used.usd)) <= most["max_usd"] + ROUNDING
            if "max_device_hours" in most:
                assert max(device / 3600, used.device_hours) <= most["max_device_hours"] + ROUNDING
            if "max_flops" in most:
                assert max(flops, used.flops) <= most["max_flops"]
            if "max_wall" in most and world.working:
                assert world.time - world.first_start <= most["max_wall"] * 3600 + ROUNDING

        world.die_at = None if lasts is None else world.time + lasts
        try:
            reports.append(
                run_all(
                    jobs,
                    fake.FakeBackend(world, check),
                    runs=fake.FakeRuns(world),
                    accounts=accounts,
                    caps=caps,
                    limits=LIMITS,
                    order=chance.choice(["longest", "cheapest"]),
                )
            )
        except fake.ControllerDied:
            world.controller_dies()
            world.skip(chance.choice([0.0, 1.0, 50.0]))
            continue
        finally:
            accounts.close()
        break
    return reports[-1], accounts


def sound(world, jobs, report, accounts, *, restarted):
    names = {job.run_id for job in jobs}
    assert len(report.finished) == len(set(report.finished))
    assert set(report.finished).isdisjoint(report.failed)
    assert set(report.finished) | set(report.failed) | set(report.left) == names
    assert bool(report.left) == (report.stopped_by is not None)
    assert all(reason and "\n" not in reason for reason in report.failed.values())
    for name in names:
        assert world.run(name).done == (name in report.finished)
        assert world.run(name).finishes <= 1
    totals = accounts.totals()
    assert accounts.pending == Amount()
    assert totals["open"] == 0
    booked = totals["flops_kept"] + totals["flops_lost"]
    rounding = Fraction(totals["attempts"], 10**6)
    if restarted:  # never less; a little more, for what was at work when a controller died
        assert world.billed <= Fraction(totals["usd"])
    else:
        assert world.billed <= Fraction(totals["usd"]) <= world.billed + rounding
        assert booked == world.flops
    assert booked >= world.flops
    for job in jobs:
        if job.run_id in report.finished:
            rows = [r for r in accounts.rows if r["kind"] == "settled" and r["run_id"] == job.run_id]
            assert sum(row["flops_kept"] for row in rows) == int(job.flops)


def caps_for(jobs, name, share):
    """A cap at a share of what the plan takes."""
    hours = sum(job.seats[0].seconds for job in jobs) / 3600
    return {
        "none": Caps(),
        "max_flops": Caps(max_flops=share * sum(job.flops for job in jobs)),
        "max_usd": Caps(max_usd=share * 4 * hours),
        "max_device_hours": Caps(max_device_hours=share * 2 * hours),
        "max_wall": Caps(max_wall=share * hours / 2),
    }[name]


schedules = {
    "seed": st.integers(0, 10**6),
    "trouble": st.sampled_from([0, 50, 200, 500]),
    "cap": st.sampled_from(["none", "max_flops", "max_usd", "max_device_hours", "max_wall"]),
    "share": st.floats(0.1, 1.5),
    "deaths": st.lists(st.floats(0.0, 1500.0), max_size=4),
}


def check_schedule(fake, path, n, seed, trouble, cap, share, deaths):
    path.unlink(missing_ok=True)
    jobs, world = jobs_of(fake, seed, n), world_of(fake, seed, trouble)
    report, accounts = live(fake, world, jobs, caps_for(jobs, cap, share), deaths, path)
    sound(world, jobs, report, accounts, restarted=bool(deaths))


# What is left has made all of its steps, and only its record is not written: it needs no FLOPs at all.
@example(n=1, seed=3, trouble=200, cap="max_device_hours", share=1.5, deaths=[0.0])
@given(n=st.integers(1, 40), **schedules)
@settings(deadline=None, max_examples=60)
def test_whatever_happens(fake, tmp_path_factory, n, **schedule):
    check_schedule(fake, tmp_path_factory.getbasetemp() / "schedule.jsonl", n, **schedule)


@pytest.mark.slow
@pytest.mark.soak
@given(n=st.integers(1, 60), **schedules)
@settings(deadline=None, max_examples=2000)
def test_whatever_happens_many_times(fake, tmp_path_factory, n, **schedule):
    check_schedule(fake, tmp_path_factory.getbasetemp() / "schedules.jsonl", n, **schedule)


@pytest.mark.slow
@pytest.mark.soak
@given(**schedules)
@settings(deadline=None, max_examples=15)
def test_whatever_happens_to_a_thousand_runs(fake, tmp_path_factory, **schedule):
    check_schedule(fake, tmp_path_factory.getbasetemp() / "thousand.jsonl", 1000, **schedule)
