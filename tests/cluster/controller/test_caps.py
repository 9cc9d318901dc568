"""Caps and accounts: nothing crosses a cap, and the rows add up to what was truly spent, to the cent and the FLOP."""

import dataclasses
import json
import math
import re
from fractions import Fraction

import pytest
from pydantic import ValidationError

from nextscale.cluster.controller import accounts as accounts_module
from nextscale.cluster.controller.accounts import Accounts, open_accounts
from nextscale.cluster.controller.caps import Amount, Caps
from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.controller.failures import Limits
from nextscale.cluster.controller.lease import LeaseLost
from nextscale.cluster.hardware.seat import Seat

LIMITS = Limits(poll=math.inf)
SLACK = 1e-6
"""Of rounding, in the units of the caps."""


def holds(caps, accounts):
    """A check that neither what is booked nor what is truly spent ever crosses a cap."""

    def check(world):
        usd, device, flops = world.truly()
        wall = 0.0 if world.first_start is None else world.time - world.first_start
        used = accounts.used
        if caps.max_usd is not None:
            assert max(usd, float(used.usd)) <= caps.max_usd + SLACK
        if caps.max_device_hours is not None:
            assert max(device / 3600, used.device_hours) <= caps.max_device_hours + SLACK
        if caps.max_flops is not None:
            assert max(flops, used.flops) <= caps.max_flops
        if caps.max_wall is not None and world.working:
            assert wall <= caps.max_wall * 3600 + SLACK

    return check


def go(fake, world, jobs, caps, path=None, **options):
    accounts = Accounts(path, clock=lambda: world.time)
    backend = fake.FakeBackend(world, holds(caps, accounts))
    report = run_all(
        jobs, backend, caps=caps, accounts=accounts, runs=fake.FakeRuns(world), **{"limits": LIMITS} | options
    )
    adds_up(world, accounts)
    accounts.close()
    return report, accounts


def adds_up(world, accounts, *, exact=True):
    """Against the world's own bookkeeping; without `exact` the accounts may say more, never less."""
    totals, rows = accounts.totals(), accounts.frame()
    assert totals["open"] == 0
    assert accounts.pending == Amount()
    spent = Fraction(totals["usd"])
    assert world.billed <= spent
    assert totals["flops_kept"] + totals["flops_lost"] >= world.flops
    assert sum(Fraction(round(usd * 10**6), 10**6) for usd in rows.get("usd", ())) == spent
    if exact:
        assert spent - world.billed < Fraction(len(world.bills) + 1, 10**6)
        assert totals["flops_kept"] + totals["flops_lost"] == world.flops
        assert totals["attempts"] == len(world.bills) == len(rows)


def priced(fake, n, seconds=1000.0, usd_per_hour=3.6, **options):
    """Jobs of 1e6 FLOPs and, at a tenth of a cent a second, of so many seconds."""
    seat = Seat("p", seconds=seconds, usd_per_hour=usd_per_hour, chips=2)
    return [fake.job(str(i), 1e6 + i, seats=(seat,), shape=str(i), **options) for i in range(n)]


def test_without_caps_everything_is_booked(fake, tmp_path):
    world = fake.World({"p": fake.pool(3)})
    report, accounts = go(fake, world, priced(fake, 10), Caps(), tmp_path / "accounts.jsonl")
    assert report.stopped_by is None
    assert len(report.finished) == 10
    assert accounts.totals()["usd"] == 10
    assert accounts.totals()["device_hours"] == pytest.approx(10 * 1000 * 2 / 3600)
    again = Accounts(tmp_path / "accounts.jsonl")
    assert again.totals() == accounts.totals()
    assert again.first_start == 0.0
    row = again.frame().iloc[0]
    assert (row.run_id, row.pool, row.accelerator, row.slot, row.chips) == ("0", "p", "h100", "p-0", 2)
    assert (row.outcome, row.seconds, row.usd, row.flops_kept, row.flops_lost) == ("finished", 1000, 1, 10**6, 0)


@pytest.mark.parametrize(
    ("caps", "most"),
    [
        (Caps(max_usd=5.5), 5),
        (Caps(max_flops=4.5e6), 4),
        (Caps(max_device_hours=3.5 * 2000 / 3600), 3),
        (Caps(max_wall=2.5 * 1000 / 3600), 4),
    ],
)
def test_a_cap_below_the_plan_stops_where_it_says(fake, caps, most):
    world = fake.World({"p": fake.pool(2)})
    report, _ = go(fake, world, priced(fake, 10), caps)
    name = next(iter(caps.model_dump(exclude_none=True)))
    assert len(report.finished) == most
    assert len(report.left) == 10 - most
    assert report.failed == {}
    assert report.stopped_by.startswith(f"{name} ")
    assert "\n" not in report.stopped_by


def test_a_larger_cap_goes_on_with_the_same_accounts(fake, tmp_path):
    world, jobs = fake.World({"p": fake.pool(2)}), priced(fake, 10)
    go(fake, world, jobs, Caps(max_usd=5.5), tmp_path / "accounts.jsonl")
    report, accounts = go(fake, world, jobs, Caps(max_usd=11), tmp_path / "accounts.jsonl")
    assert len(report.finished) == 10
    assert accounts.totals()["usd"] == 10


@pytest.mark.parametrize(
    "caps", [Caps(max_usd=5.5), Caps(max_flops=4.5e6), Caps(max_device_hours=1.9), Caps(max_usd=5.5, max_flops=9e6)]
)
def test_the_cap_that_is_named_as_enough_lets_the_runs_left_and_those_after_them_be_done(fake, tmp_path, caps):
    world, first, second = (
        fake.World({"p": fake.pool(2)}),
        *(priced(fake, 14)[part] for part in (slice(10), slice(10, 14))),
    )
    path = tmp_path / "accounts.jsonl"
    report, _ = go(fake, world, first, caps, path, after=lambda: second)
    assert f"the {len(report.left)} runs left and the 4 that come after them would take" in report.stopped_by
    assert report.stopped_by.endswith("or more the same command goes on from here")
    enough = {
        name: float(value) for name, value in re.findall(r"(max_\w+) (\S+)(?= and max| or more)", report.stopped_by)
    }
    assert enough.keys() == caps.model_dump(exclude_none=True).keys()
    raised = Caps(**enough)
    for jobs, left in ((first, 10), (second, 4)):
        report, _ = go(fake, world, jobs, raised, path, after=lambda: second)
        assert (report.stopped_by, len(report.finished)) == (None, left)


def test_what_is_still_to_be_chosen_counts_as_the_runs_that_are_known_do(fake):
    said = []
    for unchosen in (0.0, 14e6):
        world = fake.World({"p": fake.pool(2)})
        report, _ = go(fake, world, priced(fake, 10), Caps(max_usd=1e-3), unchosen=unchosen)
        assert not report.finished
        said.append(float(re.search(r"\$(\S+) in all", report.stopped_by)[1]))
    assert "and those still to be chosen would take" in report.stopped_by
    assert said[1] == pytest.approx(said[0] * (1 + 14 / 10), rel=1e-2)


def test_smaller_runs_that_still_fit_go_on(fake):
    jobs = [
        fake.job(str(n), 1e3 * n, seats=(Seat("p", seconds=n, usd_per_hour=3.6),), shape=str(n))
        for n in (100, 2000, 3000, 500, 400)
    ]
    world = fake.World({"p": fake.pool()})
    report, _ = go(fake, world, jobs, Caps(max_usd=1.4))
    assert report.finished == ("500", "400", "100")
    assert set(report.left) == {"2000", "3000"}


def test_what_is_lost_and_redone_counts(fake):
    fates = lambda run, attempt, slot: fake.Fate("lost", 600.0) if attempt == 1 else None  # noqa: E731
    world = fake.World({"p": fake.pool()}, fates=fates)
    report, accounts = go(fake, world, priced(fake, 4, every=1e9), Caps(max_flops=4.1e6))
    totals = accounts.totals()
    assert (totals["flops_kept"], len(report.finished)) == (2 * 10**6 + 1, 2)
    assert totals["flops_lost"] == 2 * 600_000
    assert report.stopped_by.startswith("max_flops")


@pytest.mark.parametrize("slow", [0.9, 0.5, 0.1])
def test_runs_slower_than_expected_are_stopped_and_saved_not_overspent(fake, slow):
    world = fake.World({"p": fake.pool(2)}, speeds={"p-h0": slow, "p-h1": slow})
    report, accounts = go(fake, world, priced(fake, 6, every=1e9), Caps(max_usd=5))
    assert accounts.totals()["flops_lost"] == 0, "what was stopped had saved itself"
    assert len(report.finished) >= (5 if slow == 0.9 else 2 if slow == 0.5 else 0) - 1
    assert 3.5 <= accounts.totals()["usd"] <= 5


def test_one_that_does_not_stop_is_killed_before_its_reservation_ends(fake):
    world = fake.World({"p": fake.pool()}, speeds={"p-h0": 0.1}, fates=lambda run, attempt, slot: fake.Fate(deaf=True))
    report, accounts = go(fake, world, priced(fake, 1), Caps(max_usd=2))
    assert world.killed
    assert report.failed == {}
    assert report.stopped_by is not None
    assert accounts.totals()["usd"] <= 2


def test_runs_of_unknown_length_are_stopped_in_time_too(fake):
    world = fake.World({"p": fake.pool(2)})
    jobs = [dataclasses.replace(job, seats=(Seat("p", usd_per_hour=3.6),)) for job in priced(fake, 6)]
    world_start = world.start
    world.start = lambda slot, job, seat: world_start(slot, job, dataclasses.replace(seat, seconds=1000.0))
    report, _ = go(fake, world, jobs, Caps(max_usd=4))
    assert 2 <= len(report.finished) <= 4


def test_utilisation_is_booked_where_the_peak_is_known(fake):
    world = fake.World({"p": fake.pool()})
    _, accounts = go(fake, world, priced(fake, 1), Caps(), peak={"h100": 1e3}.get)
    assert accounts.frame().utilisation[0] == pytest.approx(1e6 / (1000 * 2 * 1e3))


class TestRestart:
    def died(self, fake, world, jobs, path, at):
        world.die_at = at
        accounts = Accounts(path, clock=lambda: world.time)
        with pytest.raises(fake.ControllerDied):
            run_all(jobs, fake.FakeBackend(world), accounts=accounts, runs=fake.FakeRuns(world), limits=LIMITS)
        accounts.close()
        world.controller_dies()

    def test_what_a_dead_controller_left_open_counts_until_its_last_sign_of_life(self, fake, tmp_path):
        world, jobs = fake.World({"p": fake.pool(2)}), priced(fake, 2, every=50.0)
        world.at(333.0, lambda: setattr(world, "changed", True))
        self.died(fake, world, jobs, tmp_path / "a.jsonl", 333.0)
        assert len(Accounts(tmp_path / "a.jsonl").open) == 2
        accounts = Accounts(tmp_path / "a.jsonl", clock=lambda: world.time)
        report = run_all(
            jobs, fake.FakeBackend(world), accounts=accounts, runs=fake.FakeRuns(world), limits=LIMITS, caps=Caps()
        )
        assert len(report.finished) == 2
        accounts.close()
        adds_up(world, accounts, exact=False)
        assert float(accounts.totals()["usd"]) - float(world.billed) <= 2 * 0.001 * 8
        assert accounts.totals()["flops_kept"] + accounts.totals()["flops_lost"] == world.flops

    def test_one_without_a_sign_of_life_counts_in_full(self, fake, tmp_path):
        world, jobs = fake.World({"p": fake.pool()}), priced(fake, 1)
        accounts = Accounts(tmp_path / "a.jsonl", clock=lambda: world.time)
        accounts.reserve("0", "p-0", jobs[0].seats[0], "h100", 0, 700.0, 10**6)
        accounts.close()
        accounts = Accounts(tmp_path / "a.jsonl", clock=lambda: world.time)
        assert accounts.used == Amount(10**6, 700_000, 1_400_000_000)
        said = []
        run_all([], fake.FakeBackend(world), said.append, accounts=accounts, runs=fake.FakeRuns(world), limits=LIMITS)
        assert accounts.spent == Amount(10**6, 700_000, 1_400_000_000)
        (settled,) = (event for event in said if event.kind == "settled")
        assert settled.message.startswith("attempt 1 at 0 ended with its controller: 700 s, it left no sign of life")
        accounts.close()

    def test_wall_time_goes_on_over_restarts(self, fake, tmp_path):
        world, jobs = fake.World({"p": fake.pool()}), priced(fake, 5)
        self.died(fake, world, jobs, tmp_path / "a.jsonl", 1500.0)
        world.skip(1100.0)
        accounts = Accounts(tmp_path / "a.jsonl", clock=lambda: world.time)
        caps = Caps(max_wall=1.0)
        report = run_all(
            jobs,
            fake.FakeBackend(world, holds(caps, accounts)),
            accounts=accounts,
            runs=fake.FakeRuns(world),
            limits=LIMITS,
            caps=caps,
        )
        accounts.close()
        assert len(report.finished) == 2  # one before, one or less of 1000 s until 3600
        assert report.stopped_by.startswith("max_wall")


class TestAccounts:
    def test_a_line_cut_short_is_no_row_and_spoils_no_other(self, tmp_path):
        path, seat = tmp_path / "a.jsonl", Seat("p", usd_per_hour=1.0)
        first = Accounts(path)
        reservation = first.reserve("r", "s", seat, "h100", 0, 10.0, 5)
        first.settle(reservation, 3.0, kept=5, outcome="finished")
        first.close()
        with path.open("a") as file:
            file.write('{"kind": "rese')
        second = Accounts(path)
        second.reserve("q", "s", seat, "h100", 0, 10.0, 5)
        second.close()
        assert Accounts(path).used == second.used
        assert Accounts(path).open[2].run_id == "q"

    def test_flops_beyond_floats_are_whole(self, tmp_path):
        path, seat = tmp_path / "a.jsonl", Seat("p")
        accounts = Accounts(path)
        flops = [10**25 + 1, 10**25 + 2]
        for n in flops:
            accounts.settle(accounts.reserve("r", "s", seat, "h100", 0, 10.0, n), 1.0, kept=n, outcome="finished")
        accounts.close()
        assert Accounts(path).totals()["flops_kept"] == sum(flops)
        assert sum(json.loads(line).get("flops_kept", 0) for line in path.read_text().splitlines()) == sum(flops)

    def test_two_controllers_take_turns_and_a_zombie_cannot_write(self, tmp_path, monkeypatch):
        seat, told = Seat("p"), []
        with open_accounts(tmp_path) as first:
            first.reserve("r", "s", seat, "h100", 0, 10.0, 5)
            monkeypatch.setattr(accounts_module, "TIME_TO_LIVE", 0.0)  # it is taken for dead
            with open_accounts(tmp_path, on_wait=told.append) as second:
                assert list(second.open) == [1]
                with pytest.raises(LeaseLost):
                    first.reserve("q", "s", seat, "h100", 0, 10.0, 5)
        assert len(told) == 1


@pytest.mark.parametrize("name", list(Caps.model_fields))
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_a_cap_is_more_than_nothing(name, value):
    with pytest.raises(ValidationError):
        Caps(**{name: value})
