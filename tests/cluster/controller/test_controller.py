"""The controller in virtual time: every run done once, or failed with its reason; nobody works twice."""

import dataclasses
import math

import pytest

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.backend import Slot
from nextscale.cluster.controller.caps import Caps
from nextscale.cluster.controller.controller import run_all
from nextscale.cluster.controller.failures import History, Limits, Quarantine
from nextscale.cluster.controller.job import Outcome
from nextscale.cluster.hardware.seat import Seat

LIMITS = Limits(poll=math.inf)


def go(fake, world, jobs, **options):
    """Runs jobs to their end: the report and the events."""
    events = []
    backend, runs = fake.FakeBackend(world), fake.FakeRuns(world)
    report = run_all(jobs, backend, events.append, runs=runs, **{"limits": LIMITS} | options)
    for name in report.finished:
        assert world.run(name).done
        assert world.run(name).finishes == 1
    return report, events


def started(world):
    return [job.run_id for _, _, job in world.starts]


def script(fake, fates):
    """Fates by run, attempt by attempt: a status, or a Fate; those beyond the list end well."""

    def fate(run_id, attempt, slot):
        given = fates.get(run_id, [])
        if attempt > len(given):
            return None
        found = given[attempt - 1]
        return found if isinstance(found, fake.Fate) else fake.Fate(found, 0.1, message=f"{found} at attempt {attempt}")

    return fate


def test_longest_first(fake):
    world = fake.World({"p": fake.pool(2)})
    go(fake, world, [fake.job(str(i), 1000.0 * (i + 1), shape=str(i)) for i in range(6)])
    assert started(world) == ["5", "4", "3", "2", "1", "0"]


def test_cheapest_first_where_that_is_asked_and_a_shape_is_kept_for_what_is_as_long(fake):
    world = fake.World({"p": fake.pool()})
    lengths = [("a", 5e3), ("b", 1e3), ("a", 1.5e3), ("b", 9e3), ("a", 8e3)]
    go(fake, world, [fake.job(f"{s}{x:g}", x, shape=s) for s, x in lengths], order="cheapest")
    # After b1000 comes a1500; nothing of its shape is as cheap as b's next but a5000, which is next anyway.
    assert started(world) == ["b1000", "a1500", "a5000", "a8000", "b9000"]


def test_of_equal_cost_the_one_of_most_steps_goes_first_where_times_are_not_known(fake):
    world = fake.World({"p": fake.pool()})
    jobs = [fake.job(str(n), 100 + 0.1 * n, shape=str(n), steps=s, seats=()) for n, s in enumerate((5, 9, 7))]
    go(fake, world, jobs)
    assert started(world) == ["1", "2", "0"]


def test_equal_shapes_stay_on_a_worker_while_nearly_as_long(fake):
    world = fake.World({"p": fake.pool(2)})
    go(fake, world, [fake.job(f"{s}{i}", 1e3 * n, shape=s) for i, n in enumerate((10, 9, 8)) for s in "xy"])
    shapes = {slot: {job.shape for _, s, job in world.starts if s == slot} for slot in world.slots}
    assert sorted(map(sorted, shapes.values())) == [["x"], ["y"]]


def test_the_worker_idle_longest_is_next(fake):
    world = fake.World({"p": fake.pool(3)})
    go(fake, world, [fake.job("long", 9e3)] + [fake.job(f"s{i}", 1e3 + i, shape=str(i)) for i in range(4)])
    assert [slot for _, slot, _ in world.starts][:3] == ["p-0", "p-1", "p-2"]
    assert [slot for _, slot, _ in world.starts][3:] == ["p-2", "p-1"]


class TestFailures:
    def test_a_failing_run_is_tried_again_three_times_on_fresh_workers_and_the_rest_goes_on(self, fake):
        world = fake.World({"p": fake.pool()}, fates=script(fake, {"bad": ["error"] * 9}))
        report, events = go(fake, world, [fake.job("bad", 5e3), fake.job("good")])
        assert started(world).count("bad") == 1 + LIMITS.errors == 4
        assert len(world.renewed) == 4
        assert report.finished == ("good",)
        assert report.failed == {"bad": "error at attempt 4"}
        assert not report.mendable
        assert [e.kind for e in events if e.job and e.job.run_id == "bad"].count("retried") == 3

    def test_errors_count_also_when_the_run_gets_further(self, fake):
        fates = script(fake, {"bad": [fake.Fate("error", 40.0)] * 99})
        world = fake.World({"p": fake.pool()}, fates=fates)
        report, _ = go(fake, world, [fake.job("bad", 1e6)])
        assert set(report.failed) == {"bad"}
        assert len(world.starts) == 4

    def test_what_a_person_must_mend_is_not_tried_again(self, fake):
        world = fake.World({"p": fake.pool()}, fates=script(fake, {"bad": ["input"]}))
        report, _ = go(fake, world, [fake.job("bad")])
        assert started(world) == ["bad"]
        assert report.mendable

    def test_a_retry_waits_longer_each_time_and_others_need_not(self, fake):
        world = fake.World({"p": fake.pool()}, fates=script(fake, {"bad": ["error"] * 3}))
        report, _ = go(fake, world, [fake.job("bad", 5e3), fake.job("good")])
        assert set(report.finished) == {"bad", "good"}
        times = [when for when, _, job in world.starts if job.run_id == "bad"]
        assert all(after - before >= p for before, after, p in zip(times, times[1:], LIMITS.pauses, strict=False))
        assert started(world)[:2] == ["bad", "good"]

    def test_preemptions_do_not_count_while_the_run_gets_further(self, fake):
        world = fake.World({"p": fake.pool(2)}, fates=script(fake, {"r": [fake.Fate("lost", 31.0)] * 50}))
        report, _ = go(fake, world, [fake.job("r", 2e6)])
        assert report.finished == ("r",)
        assert len([1 for _, _, job in world.starts]) == 51

    def test_a_run_that_kills_its_workers_and_gets_nowhere_comes_to_an_end(self, fake):
        world = fake.World({"p": fake.pool(2)}, fates=script(fake, {"r": [fake.Fate("lost", 31.0)] + ["lost"] * 99}))
        report, _ = go(fake, world, [fake.job("r", 2e6)])
        assert set(report.failed) == {"r"}
        assert len(world.starts) == 1 + 1 + LIMITS.fruitless

    def test_out_of_memory_is_tried_again_with_less_but_not_for_ever(self, fake):
        world = fake.World({"p": fake.pool()}, fates=script(fake, {"a": ["memory"] * 7, "b": ["memory"] * 99}))
        report, _ = go(fake, world, [fake.job("a"), fake.job("b")])
        assert report.finished == ("a",)
        assert started(world).count("b") == 1 + LIMITS.memory

    def test_a_run_that_is_too_large_for_one_pool_goes_to_the_next_and_fails_after_the_last(self, fake):
        world = fake.World(
            {"small": fake.pool(), "large": fake.pool()},
            fates=lambda run, attempt, slot: (
                fake.Fate("unfit", 1.0, message="too large") if slot == "small-0" or run == "b" else None
            ),
        )
        jobs = [fake.job(name, 1e4, seats=(Seat("small", seconds=5.0), Seat("large", seconds=5.0))) for name in "ab"]
        report, _ = go(fake, world, jobs)
        assert report.finished == ("a",)
        assert report.failed == {"b": "too large"}
        assert report.mendable
        assert sorted(slot for _, slot, job in world.starts if job.run_id == "b") == ["large-0", "small-0"]

    def test_runs_whose_pool_is_gone_for_good_go_where_there_is_one(self, fake):
        """JAX may not be able to use what Ray offers: then only CPU cores are left."""
        world = fake.World({"gpu": fake.pool(), "cpu": fake.pool(accelerator="cpu")})
        gpu, cpu = world.pools["gpu"], world.pools["cpu"]
        world.up["cpu-0"] = False
        world.at(10.0, world.drop, "gpu-h0")
        world.at(20.0, world._return, "cpu-0")

        class Backend(fake.FakeBackend):
            def pools(self):
                return {"gpu": gpu} if world.time < 20.0 else {"cpu": cpu}

        jobs = [fake.job(name, seats=(Seat("gpu", seconds=1e3),)) for name in "ab"]
        report = run_all(jobs, Backend(world), runs=fake.FakeRuns(world), limits=LIMITS)
        assert set(report.finished) == {"a", "b"}

    @pytest.mark.parametrize("sick", ["error", "lost"])
    def test_a_sick_host_does_not_eat_the_sweep(self, fake, sick):
        """It fails at once, so it is the idle one whenever a run is to be tried again."""
        world = fake.World(
            {"p": fake.pool(3)}, fates=lambda run, attempt, slot: fake.Fate(sick, 0.1) if slot == "p-0" else None
        )
        jobs = [fake.job(str(i), 1e5 + i, shape=str(i)) for i in range(40)]
        report, events = go(fake, world, jobs)
        assert report.failed == {}
        assert max(started(world).count(job.run_id) for job in jobs) <= 2
        failures = [slot for _, slot, _ in world.starts].count("p-0")
        assert 2 <= failures <= 6
        assert ["p-h0" in e.message for e in events if e.kind == "notice"] == [True] * (failures - 1)

    def test_where_no_other_host_may_take_a_run_a_sick_one_does(self, fake):
        world = fake.World({"p": fake.pool()}, fates=script(fake, {"r": ["error"] * 3}))
        report, _ = go(fake, world, [fake.job("r")])
        assert report.finished == ("r",)
        assert world.time < 60

    def test_a_host_is_let_in_again_and_for_longer_left_out(self):
        quarantine, slot = Quarantine(LIMITS), Slot("s", "p", ("h",))
        assert quarantine.count_failure(slot, Outcome("error"), 0.0) == []
        assert not quarantine.bars(slot, 0.0)
        assert len(quarantine.count_failure(slot, Outcome("error"), 0.0)) == 1
        assert [quarantine.bars(slot, t) for t in (59.0, 61.0)] == [True, False]
        quarantine.count_failure(slot, Outcome("error"), 61.0)
        assert [quarantine.bars(slot, 61.0 + t) for t in (239.0, 241.0)] == [True, False]
        quarantine.clear(slot)
        assert quarantine.count_failure(slot, Outcome("error"), 0.0) == []

    def test_of_a_gang_the_hosts_that_failed_are_named_or_nobody_is(self):
        quarantine, slot = Quarantine(LIMITS), Slot("s", "p", ("g", "h"))
        for _ in range(3):
            quarantine.count_failure(slot, Outcome("lost"), 0.0)
        assert not quarantine.bars(slot, 0.0)
        for _ in range(2):
            quarantine.count_failure(slot, Outcome("lost", hosts=("h",)), 0.0)
        assert quarantine.bars(slot, 0.0)
        assert not quarantine.bars(Slot("t", "p", ("g",)), 0.0)

    def test_ten_thousand_preemptions_are_enough(self):
        history, limits = History(), Limits(losses=10_000)
        pauses = [history.pause_after(Outcome("lost"), "s", True, limits) for _ in range(10_001)]
        assert None not in pauses[:-1]
        assert pauses[-1] is None


class TestHeld:
    def test_a_run_held_by_another_process_is_asked_for_until_it_is_free(self, fake):
        world = fake.World({"p": fake.pool()}, fates=script(fake, {"r": ["held"] * 7}))
        report, events = go(fake, world, [fake.job("r")])
        assert report.finished == ("r",)
        assert len(world.starts) == 8
        assert [e.kind for e in events].count("held") == 7

    def test_a_holder_that_beats_is_waited_for_without_a_slot(self, fake):
        world = fake.World({"p": fake.pool()})
        on_disk = world.run("r")
        on_disk.generation, on_disk.released = 1, False
        for i in range(100):
            world.at(4.0 * i, lambda when: setattr(on_disk, "beat", when), 4.0 * i)
        report, _ = go(fake, world, [fake.job("r"), fake.job("other", 50.0)])
        assert report.finished == ("other", "r")
        assert len(world.starts) == 3, "it was asked for once, and then looked at"
        assert 396 + 20 <= world.starts[-1][0] <= 396 + 25
        assert world.starts[-1][2].silent == ("000001", 99)

    def test_one_that_another_process_finished_is_done(self, fake):
        world = fake.World({"p": fake.pool()})
        on_disk = world.run("r")
        on_disk.generation, on_disk.released = 1, False
        world.at(5.0, setattr, on_disk, "done", True)
        events = []
        report = run_all(
            [fake.job("r")], fake.FakeBackend(world), events.append, runs=fake.FakeRuns(world), limits=LIMITS
        )
        assert report.finished == ("r",)
        assert len(world.starts) == 1


class TestCluster:
    def test_without_a_worker_that_is_said_once_and_the_sweep_goes_on_when_one_comes(self, fake):
        world = fake.World({"p": fake.pool()})
        world.drop("p-h0", back=500.0)
        report, events = go(fake, world, [fake.job("r")])
        assert report.finished == ("r",)
        assert ["no worker" in e.message for e in events if e.kind == "notice"] == [True]

    def test_what_the_backend_has_to_say_is_passed_on(self, fake):
        class Talking(fake.FakeBackend):
            def notices(self):
                return ["a GPU is left out"]

        events, world = [], fake.World({"p": fake.pool()})
        run_all([fake.job("r")], Talking(world), events.append, runs=fake.FakeRuns(world), limits=LIMITS)
        assert "a GPU is left out" in [e.message for e in events if e.kind == "notice"]

    def test_what_runs_on_a_draining_host_is_saved_ahead_and_goes_on_elsewhere(self, fake):
        world = fake.World({"p": fake.pool(2)})
        world.at(100.0, world.drain, "p-h0")
        jobs = [fake.job("a", 3e5, every=1e9), fake.job("b", 2e5, every=1e9)]
        accounts = Accounts(clock=lambda: world.time)
        report, events = go(fake, world, jobs, accounts=accounts, limits=dataclasses.replace(LIMITS, fruitless=0))
        assert sorted(report.finished) == ["a", "b"]
        assert [e.kind for e in events if e.kind in ("stopped", "retried")] == ["stopped"]
        assert [(slot, job.run_id) for _, slot, job in world.starts] == [("p-0", "a"), ("p-1", "b"), ("p-1", "a")]
        assert accounts.totals()["flops_lost"] == 0
        assert world.flops == 5e5

    def test_a_run_that_does_not_move_is_killed_and_goes_on_from_what_it_saved(self, fake):
        fates = script(fake, {"a": [fake.Fate(stuck=100.0)]})
        world = fake.World({"p": fake.pool(2)}, fates=fates)
        report, events = go(fake, world, [fake.job("a", 4e5), fake.job("b", 4e5)])
        assert set(report.finished) == {"a", "b"}
        assert world.killed == ["p-0"]
        assert ["has not moved for" in e.message for e in events if e.kind == "retried"] == [True]
        again = world.starts[-1][0]
        assert 100 + 600 < again < 100 + 600 + 130 + 25
        assert world.flops < 8e5 + 2e4

    def test_one_that_is_slow_to_move_is_given_its_time(self, fake):
        """A row of its curve every 150 s: nothing moves between most looks, and that is usual."""
        world = fake.World({"p": fake.pool()})
        jobs = [fake.job("a", 3e6, tokens=20)]
        report, _ = go(fake, world, jobs, limits=dataclasses.replace(LIMITS, stall_seconds=100.0))
        assert report.finished == ("a",)
        assert world.killed == []

    def test_one_that_never_moves_has_time_to_compile(self, fake):
        world = fake.World({"p": fake.pool()}, setup=1500.0)
        report, _ = go(fake, world, [fake.job("a", 1e4)])
        assert report.finished == ("a",)
        assert world.killed == []

    def test_runs_that_are_done_are_not_begun(self, fake):
        world = fake.World({"p": fake.pool()})
        world.run("a").done = world.run("a").finishes = True
        report, _ = go(fake, world, [fake.job("a"), fake.job("b")])
        assert set(report.finished) == {"a", "b"}
        assert started(world) == ["b"]


class TestBranches:
    """Jobs that begin from the state of another: `trunk` at token 7 of its 10, which takes 5 s."""

    @pytest.fixture
    def jobs(self, fake):
        return [
            fake.job("branch", 9e3, start=("trunk", 7), tokens=20, every=1.0),
            fake.job("trunk", 5e3, tokens=10, pinned=(7,), every=1.0),
            fake.job("other", 1e3),
        ]

    def test_they_begin_while_it_is_at_work_once_it_is_far_enough(self, fake, jobs):
        world = fake.World({"p": fake.pool(2)})
        report, _ = go(fake, world, jobs)
        assert len(report.finished) == 3
        assert started(world) == ["trunk", "other", "branch"]
        when, slot, _ = world.starts[-1]
        assert 3.5 <= when < 5.0, "the trunk was still at work"
        assert slot == "p-1"

    def test_they_wait_for_their_trunk(self, fake, jobs):
        world = fake.World({"p": fake.pool()})
        go(fake, world, jobs)
        assert started(world) == ["trunk", "branch", "other"]

    def test_they_do_not_wait_for_a_trunk_that_is_done_before(self, fake, jobs):
        world = fake.World({"p": fake.pool()})
        world.run("trunk").pins.add(7)
        branch, _, other = jobs
        assert len(go(fake, world, [branch, other])[0].finished) == 2
        assert started(world) == ["branch", "other"]

    def test_they_wait_while_their_trunk_is_tried_again(self, fake, jobs):
        world = fake.World({"p": fake.pool(2)}, fates=script(fake, {"trunk": ["error", "lost", "held"]}))
        assert len(go(fake, world, jobs)[0].finished) == 3
        assert [name for name in started(world) if name != "other"] == ["trunk"] * (len(started(world)) - 2) + [
            "branch"
        ]

    @pytest.mark.parametrize("ends", ["input", "error"])
    def test_they_fail_with_their_trunk_in_one_line(self, fake, jobs, ends):
        world = fake.World({"p": fake.pool()}, fates=script(fake, {"trunk": [ends] * 9}))
        report, events = go(fake, world, jobs)
        assert report.finished == ("other",)
        assert "branch" not in started(world)
        assert report.failed["branch"] == f"its trunk trunk failed: {report.failed['trunk']}"
        assert [e.job.run_id for e in events if e.kind == "failed"] == ["trunk", "branch"]

    def test_they_go_on_when_their_trunk_fails_after_where_they_begin(self, fake, jobs):
        world = fake.World({"p": fake.pool()}, fates=script(fake, {"trunk": [fake.Fate("input", 4.0)]}))
        report, _ = go(fake, world, jobs)
        assert set(report.finished) == {"branch", "other"}
        assert set(report.failed) == {"trunk"}

    def test_one_that_had_begun_needs_no_trunk(self, fake, jobs):
        world = fake.World({"p": fake.pool()})
        world.run("branch").saved = 8
        go(fake, world, jobs)
        assert started(world) == ["branch", "trunk", "other"]


class TestMixedPools:
    def test_a_later_seat_is_taken_only_when_waiting_would_take_longer(self, fake):
        seats = (Seat("fast", seconds=10.0), Seat("slow", seconds=25.0))
        world = fake.World({"fast": fake.pool(), "slow": fake.pool()})
        go(fake, world, [fake.job(str(i), seats=seats) for i in range(3)])
        # Of three equal runs the third would be done by 30 on the fast slot, by 25 on the slow one.
        assert sorted(slot for _, slot, _ in world.starts) == ["fast-0", "fast-0", "slow-0"]
        assert world.time == 25.0
        world = fake.World({"fast": fake.pool(), "slow": fake.pool()})
        go(fake, world, [fake.job(str(i), seats=seats) for i in range(2)])
        assert [slot for _, slot, _ in world.starts] == ["fast-0", "fast-0"]

    def test_a_run_goes_only_where_it_has_a_seat(self, fake):
        world = fake.World({"big": fake.pool(1, hosts=4), "small": fake.pool(4)})
        large = [fake.job(f"l{i}", 5e4, seats=(Seat("big", seconds=50.0),)) for i in range(4)]
        small = [fake.job(f"s{i}", 1e4, seats=(Seat("small", seconds=10.0),)) for i in range(9)]
        go(fake, world, small + large)
        assert {slot for _, slot, job in world.starts if job.run_id[0] == "l"} == {"big-0"}

    def test_the_pools_are_kept_busy_to_the_end(self, fake):
        """60 runs of a sweep's spread of sizes: idle less than 15 % of what a perfect packing would take."""
        for seed in range(20):
            world = fake.World({"h100": fake.pool(4), "tpu": fake.pool(2, hosts=4), "a100": fake.pool(6)}, seed=seed)
            jobs, rate = [], {"h100": 1.0, "tpu": 5.0, "a100": 0.4}
            for i in range(60):
                seconds = 100 * 4 ** world.random.randrange(4) * world.random.uniform(0.7, 1.4)
                names = ["tpu", "h100", "a100"] if seconds > 1000 else ["h100", "a100"]
                seats = tuple(Seat(name, seconds=seconds / rate[name]) for name in names)
                jobs.append(fake.job(str(i), 1e3 * seconds, seats=seats))
            go(fake, world, jobs)
            assert perfect(jobs, world, rate) > 0.85 * world.time, seed


def perfect(jobs, world, rate):
    """A lower bound on the time of any schedule: all slots busy to the end, or the longest run where it is fastest."""
    slots = {name: sum(slot.pool == name for slot in world.slots.values()) for name in world.pools}
    work = [(job.flops / 1e3, {seat.pool for seat in job.seats}) for job in jobs]
    everywhere = sum(seconds for seconds, _ in work) / sum(rate[name] * n for name, n in slots.items())
    bounded = sum(s for s, names in work if "tpu" not in names) / sum(rate[n] * slots[n] for n in ("h100", "a100"))
    return max(everywhere, bounded, *(min(seat.seconds for seat in job.seats) for job in jobs))


class TestNobodyWaitsForNothing:
    """A run either goes on, or it is said what it waits for."""

    def test_a_host_that_refuses_every_run_does_not_eat_the_sweep(self, fake):
        world = fake.World(
            {"p": fake.pool(2)}, fates=lambda run, attempt, slot: fake.Fate("input", 0.1) if slot == "p-0" else None
        )
        report, _ = go(fake, world, [fake.job(str(i), 1e5 + i, shape=str(i)) for i in range(40)])
        assert report.failed == {}

    def test_what_every_host_refuses_fails_after_the_second(self, fake):
        world = fake.World({"p": fake.pool(3)}, fates=lambda run, attempt, slot: fake.Fate("input", 0.1, message="no"))
        report, _ = go(fake, world, [fake.job("a")])
        assert report.failed == {"a": "no"}
        assert report.mendable
        assert len({slot for _, slot, _ in world.starts}) == len(world.starts) == 2

    DEAR = (Seat("cheap", seconds=3e3, usd_per_hour=1.0), Seat("dear", seconds=3e3, usd_per_hour=10.0))

    def test_a_cap_that_has_room_in_a_cheaper_pool_waits_for_it(self, fake):
        world = fake.World({"cheap": fake.pool(), "dear": fake.pool()})
        world.up["cheap-0"] = False
        world.at(500.0, world._return, "cheap-0")
        report, events = go(fake, world, [fake.job("a", seats=self.DEAR)], caps=Caps(max_usd=5.0))
        assert report.finished == ("a",)
        assert any("of pool cheap" in event.message for event in events if event.kind == "notice")
        assert [slot for _, slot, _ in world.starts] == ["cheap-0"]

    def test_a_run_that_failed_where_it_is_cheap_is_tried_there_again_if_a_cap_bars_it_elsewhere(self, fake):
        world = fake.World({"cheap": fake.pool(), "dear": fake.pool()}, fates=script(fake, {"a": ["error"]}))
        report, _ = go(fake, world, [fake.job("a", seats=self.DEAR)], caps=Caps(max_usd=5.0))
        assert report.finished == ("a",)
        assert [slot for _, slot, _ in world.starts] == ["cheap-0", "cheap-0"]

    def test_it_is_said_which_pool_runs_wait_for_while_others_work(self, fake):
        world = fake.World({"a": fake.pool(), "b": fake.pool()})
        world.up["a-0"] = False
        world.at(4000.0, world._return, "a-0")
        jobs = [fake.job("x", seats=(Seat("a", seconds=5.0),))]
        jobs += [fake.job(f"y{i}", seats=(Seat("b", seconds=50.0),)) for i in range(9)]
        report, events = go(fake, world, jobs)
        assert report.failed == {}
        (notice,) = [event.message for event in events if event.kind == "notice"]
        assert notice.startswith("there is no worker of pool a, and 1 runs need one: ")

    def test_whoever_holds_a_run_of_an_earlier_controller_is_told_of(self, fake):
        world = fake.World({"p": fake.pool(2)})
        accounts = Accounts(clock=lambda: world.time)
        a = fake.job("a", 2e6)

        class Enough(Exception):
            pass

        def check(world):
            if world.time > 100.0:
                raise Enough

        with pytest.raises(Enough):
            run_all([a], fake.FakeBackend(world, check), runs=fake.FakeRuns(world), accounts=accounts, limits=LIMITS)
        (work,) = world.working.values()
        work.zombie = True  # on a host that the new controller cannot reach, where it goes on
        report, events = go(fake, world, [a], accounts=accounts)
        assert report.finished == ("a",)
        held = [event for event in events if event.kind == "held"]
        assert 1 <= len(held) <= 2000 / 300 + 1

    def test_what_is_done_without_a_record_is_not_believed(self, fake):
        world = fake.World({"p": fake.pool()})
        runs = fake.FakeRuns(world)
        runs.done = lambda job: False

        def elsewhere(event):
            world.run("a").done = False

        report = run_all([fake.job("a")], fake.FakeBackend(world), elsewhere, runs=runs, limits=LIMITS)
        assert report.finished == ()
        assert "has no record: does p-h0 share that folder?" in report.failed["a"]

    def test_a_branch_whose_trunk_kept_no_state_is_booked_from_its_first_token(self, fake):
        world = fake.World({"p": fake.pool()})
        accounts = Accounts(clock=lambda: world.time)
        branch = fake.job("b", 200, tokens=1000, start=("gone", 800), seats=(Seat("p", seconds=200.0),))
        branch = dataclasses.replace(branch, whole_flops=1000.0)
        report, _ = go(fake, world, [branch], accounts=accounts)
        assert report.finished == ("b",)
        assert accounts.totals()["flops_kept"] == 1000
        assert accounts.totals()["seconds"] == pytest.approx(1000.0)

    def test_the_wall_begins_with_the_first_run(self, fake):
        world = fake.World({"p": fake.pool()})
        world.up["p-0"] = False
        world.at(7200.0, world._return, "p-0")
        caps, jobs = Caps(max_wall=1.0), [fake.job(str(i), 1e6) for i in range(9)]
        report, _ = go(fake, world, jobs, caps=caps)
        assert len(report.finished) == 3
        assert report.stopped_by.startswith("max_wall 1: ")
        assert world.time <= 7200 + 3600

    def test_a_run_lost_at_its_first_steps_is_not_taken_for_a_slow_one(self, fake):
        seat = Seat("p", seconds=36_000.0, usd_per_hour=10.0)
        world = fake.World({"p": fake.pool()}, setup=300.0, fates=script(fake, {"a": [fake.Fate("lost", 331.0)]}))
        report, _ = go(fake, world, [fake.job("a", 1e9, seats=(seat,))], caps=Caps(max_usd=200.0))
        assert report.finished == ("a",)


def test_an_attempt_at_a_run_that_is_done_is_booked_for_what_it_was(fake):
    """Its controller died between the run's record and the accounts; the sweep no longer asks for that run."""
    world = fake.World({"p": fake.pool()})
    clock = {"clock": lambda: world.time}
    accounts, a, b = Accounts(**clock), fake.job("a", 1e6), fake.job("b", 1e6)
    seat = a.seats[0]
    accounts.reserve("a", "p-0", seat, "h100", 0, 1210.0, 1_000_000)
    world.starts.clear()
    run_all([a], fake.FakeBackend(world), runs=fake.FakeRuns(world), limits=LIMITS)
    go(fake, world, [b], accounts=accounts, known={"a": a}.get)
    totals = accounts.totals()
    assert totals["open"] == 0
    assert (totals["flops_kept"], totals["flops_lost"]) == (2_000_000, 0)
    assert totals["seconds"] == pytest.approx(2000.0, abs=10)


@pytest.mark.parametrize("news", ["before its end", "just after"])
def test_a_run_whose_worker_dies_as_it_ends_is_booked_as_done(fake, news):
    fate = fake.Fate("lost", 400.0, lingers=True)
    world = fake.World({"p": fake.pool()}, fates=script(fake, {"a": [fate]}))
    seat = Seat("p", seconds=1000.0, usd_per_hour=3.6)
    backend, accounts = fake.FakeBackend(world), Accounts(clock=lambda: world.time)
    if news == "just after":
        wait = backend.wait

        def late(timeout):
            ended = wait(timeout)
            if ended:
                world.skip(1000.0)
            return ended

        backend.wait = late
    jobs, runs = [fake.job("a", 1e6, seats=(seat,))], fake.FakeRuns(world)
    report = run_all(jobs, backend, runs=runs, accounts=accounts, limits=LIMITS)
    assert report.finished == ("a",)
    assert world.run("a").attempts == world.run("a").finishes == 1
    rows = accounts.frame()
    assert rows["outcome"].iloc[-1] == "finished"
    assert rows["flops_kept"].sum() == world.flops == 1_000_000
    assert accounts.totals()["seconds"] >= 990  # the last sign of life is at most ten seconds old
    assert accounts.totals()["usd"] >= 0.99


class TestStop:
    """Two runs of 1000 s at work; one of them does not hear."""

    def stopped(self, fake, stop, fates=None):
        fates = {"deaf": [fake.Fate(deaf=True)]} if fates is None else fates
        world = fake.World({"p": fake.pool(2)}, fates=script(fake, fates))
        world.at(100.0, lambda: setattr(world, "changed", True))
        accounts = Accounts(clock=lambda: world.time)
        jobs = [fake.job(name, 1e6, shape=name, every=1e9) for name in ("deaf", "hears")]
        report, events = go(fake, world, jobs, stop=lambda: stop(world.time), accounts=accounts)
        rows = {row["run_id"]: row for row in accounts.rows if row["kind"] == "settled"}
        return world, report, rows, events

    def test_it_waits_so_long_for_runs_that_do_not_save_themselves(self, fake):
        world, report, rows, _ = self.stopped(fake, lambda now: 60.0 if now >= 100 else None)
        assert (rows["hears"]["outcome"], rows["hears"]["seconds"]) == ("stopped", 101.0)
        assert (rows["deaf"]["outcome"], rows["deaf"]["seconds"], rows["deaf"]["flops_lost"]) == (
            "lost",
            160.0,
            160_000,
        )
        assert world.time == 160.0
        assert set(report.left) == {"deaf", "hears"} and report.failed == {}
        assert report.stopped_by.startswith("stopped as asked, with 2 runs left")

    def test_now_waits_for_nobody(self, fake):
        world, _, rows, _ = self.stopped(fake, lambda now: 0.0 if now >= 100 else None)
        assert world.time == 100.0
        assert {row["outcome"] for row in rows.values()} == {"lost"}

    @pytest.mark.parametrize(("again", "ends"), [(20.0, 140.0), (1000.0, 160.0)])
    def test_asked_again_it_may_take_less_time_and_no_more(self, fake, again, ends):
        def stop(now):
            return None if now < 100 else 60.0 if now < 120 else again

        fates = {"deaf": [fake.Fate(deaf=True)], "hears": [fake.Fate("error", 120.0)]}
        *_, rows, _ = self.stopped(fake, stop, fates)
        assert rows["deaf"]["seconds"] == ends

    def test_what_hangs_is_killed_too(self, fake):
        world, report, _, events = self.stopped(
            fake, lambda now: 60.0 if now >= 100 else None, {"deaf": [fake.Fate(stuck=50.0)]}
        )
        assert world.time == 160.0
        assert [e.message for e in events if e.kind == "stopped" and "killed" in e.message]
        assert not report.failed
