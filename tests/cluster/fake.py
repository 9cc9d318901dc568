"""A cluster and its disk in virtual time: deterministic, scripted or at random, with accounts of its own.

`World` is what lasts: the clock, the hosts, what is on disk, what was truly spent. `FakeBackend` and `FakeRuns` are
its faces that a controller sees; one that dies leaves the world as it is, and the next gets faces of its own.
"""

import dataclasses
import heapq
import itertools
import math
import random
from fractions import Fraction
from types import SimpleNamespace

from nextscale.cluster.controller.backend import Ended, Slot
from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.controller.lease import Life
from nextscale.cluster.controller.run_directories import Progress
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat

BEAT = 4.0
"""Seconds between two signs of life."""


class ControllerDied(BaseException):
    """Raised out of `wait` where the script wants the controller dead."""


def job(name, flops=1000.0, *, shape="s", steps=1, tokens=1000, seats=None, start=None, pinned=(), every=30.0):
    """Takes as many seconds as `seats` say; without them one per 1000 FLOPs."""
    seats = (Seat("p", seconds=flops / 1000),) if seats is None else seats
    return Job(
        run_id=name,
        config=SimpleNamespace(tokens=tokens),
        directory=name,
        flops=flops,
        steps=steps,
        shape=shape,
        seats=seats,
        start=None if start is None else SimpleNamespace(run_id=start[0], tokens=start[1]),
        pinned=pinned,
        every_seconds=every,
    )


@dataclasses.dataclass
class Fate:
    """How an attempt goes, unless the cluster decides otherwise.

    Attributes:
        status: how it ends; `finished` at the end of the work, anything else after `after` seconds.
        stuck: seconds after which its curve stops moving, and it never ends.
        deaf: whether it does not stop when asked to.
        lingers: of one that is `lost`: whether it works on to its end, though it is taken for dead.
    """

    status: str = "finished"
    after: float = 0.0
    stuck: float = math.inf
    deaf: bool = False
    lingers: bool = False
    message: str = ""
    hosts: tuple = ()


@dataclasses.dataclass
class OnDisk:
    """A run's directory."""

    saved: int = 0
    pins: set = dataclasses.field(default_factory=set)
    progress: Progress = dataclasses.field(default_factory=Progress)
    done: bool = False
    generation: int = 0
    released: bool = True
    beat: float = 0.0
    attempt: int = 0
    taken: float = 0.0
    """Of the newest lease: for which attempt, and when."""
    flops: int = 0
    """Truly made, over all attempts."""
    attempts: int = 0
    finishes: int = 0


@dataclasses.dataclass(eq=False)
class Working:
    """An attempt at work, or a zombie of a controller that died."""

    job: Job
    seat: Seat
    slot: str
    fate: Fate
    started: float
    position: int
    rate: float
    setup: float
    zombie: bool = False
    ended: bool = False
    holds: bool = True


class World:
    """
    Args:
        pools: by name.
        per_host: slots of each host.
        speeds: of hosts `POOL-hN`, 1 where left out; .5 takes twice as long.
        fates: `(run_id, attempt number, slot) -> Fate | None`.
        setup: seconds before an attempt makes its first step; its steps are worth `seat.seconds` in all.
        saving: seconds that a run takes to save itself when it is asked to stop.
    """

    def __init__(self, pools, *, per_host=1, speeds=None, fates=lambda *given: None, setup=0.0, saving=1.0, seed=0):
        self.pools, self.fates, self.setup, self.saving = pools, fates, setup, saving
        self.speeds = speeds or {}
        self.random = random.Random(seed)
        self.time, self.count, self.events = 0.0, itertools.count(), []
        self.slots, self.host_of = {}, {}
        for name, pool in pools.items():
            for i in range(pool.slots):
                slot = f"{name}-{i}"
                hosts = tuple(f"{name}-h{i * pool.hosts + k}" for k in range(pool.hosts))
                self.slots[slot] = Slot(slot, name, hosts if pool.hosts > 1 else (f"{name}-h{i // per_host}",))
        self.up = dict.fromkeys(self.slots, True)
        self.idle_since = dict.fromkeys(self.slots, 0.0)
        self.draining = set()
        self.working = {}  # by slot
        self.disk = {}
        self.bills = []
        self.billed, self.flops = Fraction(0), 0
        self.billed_device = Fraction(0)
        self.starts, self.renewed, self.killed, self.stopped = [], [], [], []
        self.first_start = None
        self.ended = []
        self.changed = False
        self.die_at = None
        self.busy = 0.0

    # What the script does

    def at(self, when, act, *arguments):
        heapq.heappush(self.events, (when, next(self.count), act, arguments))

    def drop(self, host, back=None):
        """Takes a host away, and what runs there with it; `back` is when it is there again."""
        self.changed = True
        for slot in self._on(host):
            if slot in self.working:
                self._end(self.working[slot], "lost", f"{host} went away")
            self.up[slot] = False
            self.draining.discard(slot)
            if back is not None:
                self.at(back, self._return, slot)

    def drain(self, host, gone_after=60.0, back=None):
        """Announces that a host will go away."""
        self.changed = True
        self.draining.update(slot for slot in self._on(host) if self.up[slot])
        self.at(self.time + gone_after, self.drop, host, back)

    def _return(self, slot):
        self.up[slot], self.changed = True, True
        self.idle_since[slot] = self.time

    def _on(self, host):
        return [name for name, slot in self.slots.items() if host in slot.hosts]

    # What happens

    def run(self, run_id):
        return self.disk.setdefault(run_id, OnDisk())

    def start(self, slot, job, seat):
        run = self.run(job.run_id)
        assert self.up[slot] and slot not in self.draining, "nothing is started on a slot that is gone or draining"
        assert slot not in self.working, "a slot has one run at a time"
        assert seat.pool == self.slots[slot].pool
        assert not run.done, "what is done is not started"
        run.attempts += 1
        self.starts.append((self.time, slot, job))
        self.first_start = self.time if self.first_start is None else self.first_start
        fate = self.fates(job.run_id, run.attempts, slot) or Fate()
        sign = (f"{run.generation:06d}", int(run.beat / BEAT))
        writers = [w for w in self.working.values() if w.job.run_id == job.run_id and w.holds]
        assert all(writer.zombie for writer in writers), "a run has one worker at a time"
        if (not run.released and job.silent != sign) or fate.status == "held":
            work = Working(job, seat, slot, fate, self.time, run.saved, 0.0, 0.0, holds=False)
            self.working[slot] = work
            # Whoever finds a run held says so at once.
            self.at(self.time + min(fate.after, 1.0), self._finish_held, work, None if run.released else sign)
            return
        assert not writers, "a zombie that beats is not silent"
        run.generation, run.released, run.beat = run.generation + 1, False, self.time
        run.attempt, run.taken = job.attempt, self.time
        speed = min(self.speeds.get(host, 1.0) for host in self.slots[slot].hosts)
        begun = 0 if job.start is None else job.start.tokens
        if job.start is not None and run.saved == 0:
            assert job.start.tokens in self.run(job.start.run_id).pins, "a branch begins where its trunk has been"
        position = max(run.saved, begun)
        run.progress = dataclasses.replace(run.progress, tokens=position)  # the curve is cut
        rate = (job.config.tokens - begun) / max(seat.seconds, 1e-9) * speed
        work = Working(job, seat, slot, fate, self.time, position, rate, self.setup)
        self.working[slot] = work
        if fate.stuck < math.inf:
            return
        if fate.status == "finished":
            self.at(self.time + self.setup + (job.config.tokens - position) / rate, self._end, work, "finished")
        elif fate.lingers:
            self.at(self.time + fate.after, self._taken_for_lost, work)
        else:
            self.at(self.time + fate.after, self._end, work, fate.status, fate.message, fate.hosts)

    def _taken_for_lost(self, work):
        work.zombie = self.changed = True
        self.ended.append(Ended(work.slot, work.job, Outcome("lost", work.fate.message)))
        self.at(self.time + (work.job.config.tokens - self.position(work)) / work.rate, self._end, work, "finished")

    def _finish_held(self, work, sign):
        if not work.ended:
            self._bill(work, 0)
            self.ended.append(Ended(work.slot, work.job, Outcome("held", "held", sign)))

    def position(self, work, when=None):
        """Tokens that an attempt has done."""
        when = min(self.time if when is None else when, work.started + work.fate.stuck)
        made = max(when - work.started - work.setup, 0.0) * work.rate
        return min(work.position + int(made + 1e-6), work.job.config.tokens)

    def _end(self, work, status, message="", hosts=()):
        if work.ended:
            return
        run, job = self.run(work.job.run_id), work.job
        if not work.holds:  # it only asked whether it may
            self._bill(work, 0)
            if not work.zombie:
                self.ended.append(Ended(work.slot, job, Outcome("lost", message)))
            return
        position = self.position(work)
        self.save(work, everything=status in ("finished", "stopped"))
        made = flops_at(job, position) - flops_at(job, work.position)
        if position > work.position:
            run.progress = self.progress(work)
        run.flops += made
        self._bill(work, made)
        run.beat = max(run.beat, self._last_beat(work))
        if status in ("finished", "stopped", "error", "memory", "unfit", "input"):
            run.released, run.beat = True, self.time
        if status == "finished":
            run.done, run.finishes = True, run.finishes + 1
        if not work.zombie:
            self.ended.append(Ended(work.slot, job, Outcome(status, message or status, hosts=hosts)))

    def save(self, work, everything=False):
        """Brings what is on disk up to date with what an attempt has saved so far."""
        run, position = self.run(work.job.run_id), self.position(work)
        training = max(self.time - work.started - work.setup, 0.0)
        if everything:
            run.saved = max(run.saved, position)
        elif training >= work.job.every_seconds:
            newest = training // work.job.every_seconds * work.job.every_seconds
            run.saved = max(run.saved, self.position(work, work.started + work.setup + newest))
        for pin in work.job.pinned:
            if pin <= position:
                run.pins.add(pin)
                run.saved = max(run.saved, pin)

    def progress(self, work):
        position = self.position(work)
        return Progress(position, f"{work.job.run_id}.{self.run(work.job.run_id).generation}.{position}")

    def _last_beat(self, work):
        return work.started + (self.time - work.started) // BEAT * BEAT

    def _bill(self, work, flops):
        work.ended = True
        if self.working.get(work.slot) is work:
            del self.working[work.slot]
        self.changed = True
        self.idle_since[work.slot] = self.time
        seconds = Fraction(self.time) - Fraction(work.started)
        self.busy += float(seconds)
        usd = seconds * Fraction(str(work.seat.usd_per_hour)) / 3600
        self.bills.append((work.job.run_id, seconds, usd, flops))
        self.billed += usd
        self.billed_device += seconds * Fraction(str(work.seat.chips))
        self.flops += flops

    def truly(self):
        """What has been spent up to this moment, what runs included: dollars, device-seconds, FLOPs."""
        usd, device, flops = float(self.billed), float(self.billed_device), self.flops
        for work in self.working.values():
            seconds = self.time - work.started
            usd += seconds * work.seat.usd_per_hour / 3600
            device += seconds * work.seat.chips
            if work.holds:
                flops += flops_at(work.job, self.position(work)) - flops_at(work.job, work.position)
        return usd, device, flops

    def advance(self, until):
        """Lets events happen until something is to be told, or that moment has come."""
        while self.events and self.events[0][0] <= until and not self.ended and not self.changed:
            when, _, act, arguments = heapq.heappop(self.events)
            self.time = max(self.time, when)
            act(*arguments)
        if not self.ended and not self.changed:
            assert until < math.inf, "nothing will ever happen again"
            self.time = max(self.time, until)

    def skip(self, seconds):
        """Lets time pass with no controller there."""
        until = self.time + seconds
        while self.time < until or (self.events and self.events[0][0] <= until):
            self.ended.clear()
            self.changed = False
            self.advance(until)
        self.ended.clear()

    def controller_dies(self):
        """Workers of a controller that died end now, or a little later."""
        self.ended.clear()
        for work in list(self.working.values()):
            work.zombie = True
            self.at(self.time + self.random.choice([0.0, self.random.uniform(0, 5)]), self._end, work, "lost")


class FakeBackend:
    """A controller's face of the world.

    Args:
        check: called with the world whenever time has passed.
    """

    def __init__(self, world, check=lambda world: None):
        self.world, self.check = world, check
        self.slots_now = None

    def pools(self):
        return self.world.pools

    def slots(self):
        world = self.world
        if self.slots_now is None:
            there = [
                dataclasses.replace(slot, draining=True) if name in world.draining else slot
                for name, slot in world.slots.items()
                if world.up[name] and not (name in world.working and world.working[name].zombie)
            ]
            self.slots_now = sorted(there, key=lambda slot: world.idle_since[slot.name])
        return self.slots_now

    def start(self, slot, job, seat):
        self.world.start(slot, job, seat)

    def stop(self, slot):
        world = self.world
        world.stopped.append(slot)
        work = world.working[slot]
        if not work.fate.deaf and work.fate.stuck == math.inf:
            world.at(world.time + world.saving, world._end, work, "stopped")

    def kill(self, slot):
        self.world.killed.append(slot)
        self.world._end(self.world.working[slot], "lost", "killed")

    def renew(self, slot):
        assert self.world.up[slot] and slot not in self.world.working
        self.world.renewed.append(slot)

    def wait(self, timeout):
        world = self.world
        world.advance(world.time + timeout)
        if world.changed:
            self.slots_now, world.changed = None, False
        self.check(world)
        if world.die_at is not None and world.time >= world.die_at:
            world.die_at = None
            raise ControllerDied
        ended, world.ended = world.ended, []
        return ended

    def now(self):
        return self.world.time

    def waiting(self, runs):
        pass

    def notices(self):
        return []

    def close(self):
        pass


class FakeRuns:
    """A controller's face of the disk."""

    def __init__(self, world):
        self.world = world

    def _sync(self, run_id):
        for work in self.world.working.values():
            if work.job.run_id == run_id and work.holds:
                self.world.save(work)
                return work
        return None

    def done(self, job):
        return self.world.run(job.run_id).done

    def saved(self, job):
        self._sync(job.run_id)
        return self.world.run(job.run_id).saved

    def progress(self, job):
        work = self._sync(job.run_id)
        if work is not None and self.world.position(work) > work.position:
            return self.world.progress(work)
        return self.world.run(job.run_id).progress

    def ready(self, job):
        self._sync(job.start.run_id)
        return job.start.tokens in self.world.run(job.start.run_id).pins or self.saved(job) > 0

    def holder(self, job):
        run, work = self.world.run(job.run_id), self._sync(job.run_id)
        if work is not None:
            run.beat = max(run.beat, self.world._last_beat(work))
        return None if run.released else (f"{run.generation:06d}", int(run.beat / BEAT))

    def life(self, job, attempt):
        self.holder(job)
        run = self.world.run(job.run_id)
        if run.attempt != attempt:
            return None
        return Life(attempt=attempt, seconds=run.beat - run.taken, begun=True, released=run.released)


def flops_at(job, tokens):
    begun = 0 if job.start is None else job.start.tokens
    return int(job.flops) * (tokens - begun) // (job.config.tokens - begun)


def pool(slots=1, *, hosts=1, chips=1, accelerator="h100"):
    """So many slots, each a slice of so many hosts."""
    return Pool(accelerator=accelerator, hosts=hosts, chips=chips, slices=slots, chips_per_run=chips)
