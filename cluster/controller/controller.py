"""The loop that gets every run done: longest first, equal shapes together, failures tried again, within the caps."""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import itertools
from collections.abc import Callable, Sequence

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.attempt import Attempt, Budget, settle, settle_late, settle_orphan
from nextscale.cluster.controller.backend import Backend, Ended, Slot
from nextscale.cluster.controller.caps import Caps
from nextscale.cluster.controller.dispatch import pick
from nextscale.cluster.controller.events import Event, Report
from nextscale.cluster.controller.failures import Limits, Quarantine, Watch, hosts_of
from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.controller.queue import Key, Run, Waiting, as_runs
from nextscale.cluster.controller.run_directories import RunDirectories, Runs
from nextscale.cluster.hardware.pool import Pool
from nextscale.cluster.hardware.seat import Seat

_NOBODY = "there is no worker{}: what the cluster had is gone, or busy for another driver; waiting until some is free"
_TOLD_AGAIN = 300.0
"""Seconds after which it is said again that a run is held by somebody else."""
_TRUNK_LOOKS = 100, 1.0, 30.0
"""How often in the rest of its time a trunk is looked at for its branches' sake, and seconds between two looks."""


def run_all(
    jobs: Sequence[Job],
    backend: Backend,
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    caps: Caps | None = None,
    accounts: Accounts | None = None,
    runs: Runs | None = None,
    limits: Limits | None = None,
    peak: Callable[[str], float | None] = lambda accelerator: None,
    price: Callable[[Pool], float | None] = lambda pool: pool.usd_per_chip_hour,
    known: Callable[[str], Job | None] = lambda run_id: None,
    stop: Callable[[], bool] = lambda: False,
    after: Callable[[], Sequence[Job]] = tuple,
    unchosen: float = 0.0,
) -> Report:
    """Does every job once; returns when each has finished or failed for good, or a cap leaves no room for the rest.

    Nothing that lasts is kept here: begun anew after it died, it goes on from the runs' directories and the accounts.

    A run that failed is tried again, after a pause that grows, from its newest checkpoint and on a fresh worker, as
    often as `limits` allow for what befell it. A run held by another process waits until that one is done with it, or
    silent. A branch waits until its trunk has come to where it begins, and fails with a trunk that does not. A slot
    that is draining gets nothing, and what runs there is asked to save itself and goes on elsewhere.

    Args:
        caps: what is spent and what is reserved never exceed them together. A run whose time nears its reservation
            gets more if there is room, and else is asked to stop, and killed before the reservation ends.
        accounts: of the sweep; one controller at a time may have them (see `accounts_of`).
        runs: where the runs live.
        peak: FLOP/s of a chip of an accelerator, for the utilisation in the accounts.
        price: dollars per chip-hour of a pool, for runs that name no seats.
        known: other jobs of these accounts, by their run_id: an attempt at one may have been left open.
        stop: once it says yes, nothing is started any more, and all that runs is asked to save itself.
        after: jobs that are to come once these are done, and `unchosen`, FLOPs of others that nobody has chosen yet:
            where a cap stops these, what it would take to come to the end counts them too.
    """
    accounts = Accounts(clock=backend.now) if accounts is None else accounts
    runs = RunDirectories() if runs is None else runs
    return _Controller(
        jobs,
        backend,
        on_event,
        caps or Caps(),
        accounts,
        runs,
        limits or Limits(),
        peak,
        price,
        known,
        stop,
        after,
        unchosen,
    ).run()


class _Controller:
    def __init__(
        self,
        jobs: Sequence[Job],
        backend: Backend,
        on_event: Callable[[Event], None],
        caps: Caps,
        accounts: Accounts,
        runs: Runs,
        limits: Limits,
        peak: Callable[[str], float | None],
        price: Callable[[Pool], float | None],
        known: Callable[[str], Job | None],
        stop: Callable[[], bool],
        after: Callable[[], Sequence[Job]],
        unchosen: float,
    ):
        self.stop, self.stopping = stop, False
        self.after, self.unchosen = after, unchosen
        self.backend, self.say, self.accounts, self.runs = backend, on_event, accounts, runs
        self.limits, self.peak, self.price, self.known = limits, peak, price, known
        self.budget = Budget(caps, accounts, limits)
        self.pools = dict(backend.pools())
        self.jobs = {run.job.run_id: run for run in as_runs(list(jobs), self._seats)}
        self.waiting, self.quarantine = Waiting(), Quarantine(limits)
        self.running: dict[str, Attempt] = {}
        self.blocked: dict[str, list[tuple[int, Key, Run]]] = {}  # by trunk, the branch that begins first in front
        self.shapes: dict[str, str] = {}  # that slots have compiled
        self.finished: dict[str, None] = {}
        self.failed: dict[str, str] = {}
        self.mendable = False
        self.timers: list[tuple[float, int, Callable[[float], None]]] = []
        self.count = itertools.count()
        self.later = 0  # runs that wait for a time, not for a slot
        self.seen_up = dict.fromkeys(self.pools, backend.now())
        self.missed: set[str] = set()  # pools of which it was said that nothing is up
        self.walled = False
        self.orphans = {reservation.run_id: reservation for reservation in accounts.open.values()}

    def run(self) -> Report:
        self._rescan()
        while len(self.finished) + len(self.failed) < len(self.jobs):
            now = self.backend.now()
            while self.timers and self.timers[0][0] <= now:
                heapq.heappop(self.timers)[2](now)
            if not self.stopping and self.stop():
                self._stop_all()
            if not self.stopping:
                self._dispatch(now)
            if self._no_room() or (self.stopping and not self.running):
                break
            for ended in self.backend.wait(self._timeout()):
                self._ended(ended)
            for notice in self.backend.notices():
                self.say(Event("notice", message=notice))
            self.say(Event("tick"))
        left = tuple(name for name in self.jobs if name not in self.failed and name not in self.finished)
        stopped_by = None
        if left and self.stopping:
            stopped_by = f"stopped as asked, with {len(left)} runs left; the same command goes on from here"
        elif left:
            after = as_runs(list(self.after()), self._seats)
            stopped_by = self.budget.in_words(self.waiting, [self.jobs[name] for name in left], after, self.unchosen)
        return Report(tuple(self.finished), self.failed, self.mendable, stopped_by, left)

    def _stop_all(self) -> None:
        self.stopping = True
        for attempt in self.running.values():
            if attempt.asked is None and attempt.killed is None:
                attempt.asked = "stopped as asked"
                self.backend.stop(attempt.slot.name)

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self.timers, (when, next(self.count), act))

    def _timeout(self) -> float:
        now = self.backend.now()
        times = [now + self.limits.poll, now + self.limits.patience]
        if self.timers:
            times.append(self.timers[0][0])
        if self.waiting and (release := self.quarantine.next_release(now)) is not None:
            times.append(release)
        return max(min(times) - now, 0.0)

    def _no_room(self) -> bool:
        """Whether nothing happens any more because caps keep all that waits from starting."""
        if self.running or self.later or not self.waiting.all_parked:
            return False
        return not self.waiting.any_fits(self.budget.room())

    # What waits

    def _rescan(self) -> None:
        """Takes up every run from where it stands."""
        now = self.backend.now()
        for reservation in list(self.accounts.open.values()):
            if reservation.run_id not in self.jobs or reservation is not self.orphans[reservation.run_id]:
                job = self.known(reservation.run_id)
                self.say(settle_orphan(reservation, job, self.runs, self.accounts, 0.0))
        for run in self.jobs.values():
            start = run.job.start
            if start is None or start.run_id not in self.jobs or self.runs.done(run.job) or self.runs.ready(run.job):
                self._take_up(run, now)
            else:
                bisect.insort(self.blocked.setdefault(start.run_id, []), (start.tokens, run.key, run))
        for trunk in list(self.blocked):
            self._release(trunk)
        if self.budget.caps.max_wall is not None:
            self._wall(now)

    def _wall(self, now: float) -> None:
        """Keeps all that waits from starting once the time is over; it begins with the first attempt."""
        left = self.budget.room()["max_wall"]
        self.walled = left <= 0
        if not self.walled:
            self._at(now + left, self._wall)
        for run in self.waiting if self.walled else ():
            self.waiting.park_for_good(run, "max_wall")

    def _take_up(self, run: Run, now: float) -> None:
        """Lets a run wait for a slot; one that an earlier controller left at work is first looked at."""
        if run.job.run_id in self.orphans:
            self.later += 1
            self._look(run, now)
        elif self.runs.done(run.job):
            self._finish(run)
        else:
            self._enqueue(run)

    def _whole(self, job: Job) -> Job:
        """A branch as it is where the state that it should begin from is gone: from its first token on."""
        start = job.start
        if start is None:
            return job
        saved = self.runs.saved(job)
        if saved >= start.tokens or (not saved and self.runs.ready(job)):
            return job
        flops = job.whole_flops or job.flops
        seats = tuple(dataclasses.replace(seat, seconds=seat.seconds * flops / job.flops) for seat in job.seats)
        return dataclasses.replace(job, start=None, flops=flops, seats=seats)

    def _enqueue(self, run: Run) -> None:
        run.job = self._whole(run.job)
        run.seats = self._seats(run.job)
        self.waiting.add(run)
        if self.walled:
            self.waiting.park_for_good(run, "max_wall")

    def _again(self, run: Run, pause: float) -> None:
        self.later += 1
        self._at(self.backend.now() + pause, lambda now: self._look(run, now))

    def _look(self, run: Run, now: float) -> None:
        """Lets a run wait for a slot if nobody is at work on it, or whoever was has long been silent."""
        job = run.job
        done, sign = self.runs.done(job), self.runs.holder(job)
        if not done and sign is not None and run.history.silent(sign, now) < self.limits.silence:
            if now - run.told >= _TOLD_AGAIN:
                self.say(Event("held", job, "another process gives signs of working on it; waiting until it is done"))
                run.told = now
            self._at(now + self.limits.held_again, lambda now: self._look(run, now))
            return
        self.later -= 1
        if (orphan := self.orphans.pop(job.run_id, None)) is not None:
            self.say(settle_orphan(orphan, job, self.runs, self.accounts, self.limits.silence / 5))
        if done:
            settle_late(run, self.runs, self.accounts)
            self._finish(run)
        else:
            run.job, run.saved = dataclasses.replace(job, silent=sign), None
            self._enqueue(run)

    def _release(self, trunk: str) -> None:
        """Lets the branches go whose state is there, and fails them with a trunk that will not bring it."""
        branches = self.blocked.get(trunk, [])
        while branches:
            run = branches[0][2]
            if trunk in self.finished or self.runs.ready(run.job):
                branches.pop(0)
                self._take_up(run, self.backend.now())
            elif trunk in self.failed:
                branches.pop(0)
                self._fail(run, f"its trunk {trunk} failed: {self.failed[trunk]}")
            else:
                return
        self.blocked.pop(trunk, None)

    def _finish(self, run: Run) -> None:
        self.finished[run.job.run_id] = None
        self.say(Event("finished", run.job))
        self._release(run.job.run_id)

    def _fail(self, run: Run, reason: str) -> None:
        self.failed[run.job.run_id] = reason
        self.say(Event("failed", run.job, reason))
        self._release(run.job.run_id)

    def _seats(self, job: Job) -> dict[str, Seat]:
        """By pool; a job that names none that there is may go anywhere."""
        seats = tuple(seat for seat in job.seats if seat.pool in self.pools) or tuple(
            Seat(name, usd_per_hour=(self.price(pool) or 0.0) * pool.chips_per_slot, chips=pool.chips_per_slot)
            for name, pool in self.pools.items()
        )
        return {seat.pool: seat for seat in seats}

    # What runs

    def _dispatch(self, now: float) -> None:
        """Gives idle slots what they are to do, and asks those that are draining to stop."""
        slots = self.backend.slots()
        up = [slot for slot in slots if not slot.draining]
        for slot in slots if len(up) < len(slots) else ():
            attempt = self.running.get(slot.name)
            if slot.draining and attempt is not None and attempt.asked is None and attempt.killed is None:
                attempt.asked = "draining"
                self.backend.stop(slot.name)
        self._miss(up, now)
        idle = [slot for slot in up if slot.name not in self.running] if self.waiting else []
        if not idle:
            return
        if any(slot.pool not in self.pools for slot in idle):
            self._pools_changed()
        barred = {slot.name for slot in up if self.quarantine.bars(slot, now)}
        healthy = {slot.pool for slot in up if slot.name not in barred}
        for patient in (True, False):  # while nothing runs there is nothing to wait for
            for slot in sorted(idle, key=lambda slot: slot.name in barred):
                run = None
                if slot.name not in self.running and (patient or not self.running):
                    run = self._next(slot, up, barred, healthy, now, patient=patient)
                if run is not None:
                    self._start(run, slot, now)

    def _miss(self, up: list[Slot], now: float) -> None:
        """Says, once, that nothing is up of the pools that runs wait for, those left out that a cap closes to them."""
        self.seen_up |= dict.fromkeys([slot.pool for slot in up], now)
        self.missed.difference_update(slot.pool for slot in up)
        if self.running and not up:  # those whose host is gone are about to end
            return
        gone = {name for name, seen in self.seen_up.items() if now - seen >= self.limits.patience}
        if gone <= self.missed:
            return
        waiting = [run for run in self.waiting if run.seats.keys() - run.parked.keys() <= gone]
        if waiting:
            self.missed |= gone
            where = "" if not up else f" of pool {', '.join(sorted(gone))}, and {len(waiting)} runs need one"
            self.say(Event("notice", message=_NOBODY.format(where)))

    def _next(
        self, slot: Slot, up: list[Slot], barred: set[str], healthy: set[str], now: float, *, patient: bool
    ) -> Run | None:
        """The run that an idle slot gets, those left out for which a cap has no room.

        Args:
            patient: whether a run may wait for a seat that it prefers.
        """

        def allowed(run: Run) -> bool:
            # A sick GPU fails fast, so it is nearly always the one that is idle: it would use up all attempts.
            if slot.name in barred and not healthy.isdisjoint(run.seats.keys() - run.parked.keys()):
                return False
            unlucky = run.history.unlucky
            return slot.name not in unlucky or not any(
                other.pool in run.seats
                and other.pool not in run.parked
                and other.name not in unlucky
                and other.name not in barred
                for other in up
            )

        free: dict[str, list[float]] = {}
        if patient and len(self.pools) > 1:
            for other in up:
                if other.name not in barred:
                    free.setdefault(other.pool, []).append(self._busy_for(other, now))
        while True:
            self.waiting.readmit(slot.pool, self.budget.room())
            run = pick(self.waiting, slot.pool, self.shapes.get(slot.name), allowed, free)
            if run is None:
                return None
            wanted = self.budget.wanted(run, run.seats[slot.pool], self._saved(run))
            cap = self.budget.refuses(wanted)
            if cap is None:
                return run
            self.waiting.park(run, slot.pool, cap, wanted[cap])

    def _busy_for(self, slot: Slot, now: float) -> float:
        attempt = self.running.get(slot.name)
        if attempt is None:
            return 0.0
        # Whatever is overdue takes, for all that is known, a tenth of its time more.
        return max(attempt.ends - now, 0.1 * (now - attempt.started))

    def _saved(self, run: Run) -> int:
        if run.saved is None:
            run.saved = self.runs.saved(run.job)
        return run.saved

    def _start(self, run: Run, slot: Slot, now: float) -> None:
        job, seat, saved = run.job, run.seats[slot.pool], self._saved(run)
        self.waiting.remove(run)
        expected = self.budget.seconds(run, seat, saved)
        seen, pool = self.runs.seen(job), self.pools.get(slot.pool)
        reservation = self.budget.reserve(run, slot, seat, pool.accelerator if pool else "", saved, seen.mark)
        stop_at = now + reservation.seconds - self.budget.stopping(expected)
        watch = Watch(seen.pulse, now)
        attempt = Attempt(run, slot, seat, reservation, now, now + expected, stop_at, watch)
        self.running[slot.name], self.shapes[slot.name] = attempt, job.shape
        self.backend.start(slot.name, job, seat)
        self.say(Event("started", job))
        self._at(self._next_check(attempt, now), lambda now: self._check(attempt, now))

    def _next_check(self, attempt: Attempt, now: float) -> float:
        when = now + self.limits.still / 10
        if attempt.run.job.run_id in self.blocked:
            times, least, most = _TRUNK_LOOKS
            when = now + min(max((attempt.ends - now) / times, least), most)
        if self.budget.caps.timed:
            when = min(when, attempt.stop_at if attempt.asked is None else attempt.until - self.limits.slack)
        return when

    def _check(self, attempt: Attempt, now: float) -> None:
        """Looks after what runs: that it moves, that its reservation holds, and whom it has brought far enough."""
        run, slot = attempt.run, attempt.slot.name
        if self.running.get(slot) is not attempt or attempt.killed is not None:
            return
        self._release(run.job.run_id)
        still = attempt.watch.stuck_for(self.runs.seen(run.job).pulse, now, self.limits)
        if still is not None:
            attempt.killed = f"its curve has not moved for {still / 60:.0f} minutes: taken for stuck, and killed"
        elif self.budget.caps.timed and now >= attempt.until - self.limits.slack:
            attempt.killed = "it did not stop before what was reserved for it was spent, and was killed"
            attempt.asked = attempt.asked or "caps"
        if attempt.killed is not None:
            self.backend.kill(slot)
            return
        if self.budget.caps.timed and now >= attempt.stop_at and attempt.asked is None:
            attempt.asked = self.budget.extend(attempt, self.runs, now)
            if attempt.asked is not None:
                self.backend.stop(slot)
        self._at(self._next_check(attempt, now), lambda now: self._check(attempt, now))

    def _ended(self, ended: Ended) -> None:
        attempt = self.running.get(ended.slot)
        if attempt is None or attempt.run.job.run_id != ended.job.run_id:
            return
        del self.running[ended.slot]
        run, slot, outcome, now = attempt.run, attempt.slot, ended.outcome, self.backend.now()
        if attempt.killed is not None and outcome.status not in ("finished", "held", "input"):
            outcome = Outcome("lost", attempt.killed, hosts=outcome.hosts)
        if outcome.status == "finished" and not self.runs.done(run.job):
            host = ", ".join(slot.hosts) or slot.name
            text = f"it says that it is done, but {run.job.directory} has no record: does {host} share that folder?"
            outcome = Outcome("error", text, hosts=slot.hosts)
        elif outcome.status in ("stopped", "lost", "error") and self.runs.done(run.job):  # it was just done
            self._renew(attempt, outcome)
            outcome = Outcome("finished", outcome.message)
        further = settle(attempt, outcome, self.runs, self.accounts, now, self.peak)
        if outcome.status == "finished":
            if ended.outcome.status == "finished":
                self.quarantine.well(slot)
            self._finish(run)
            return
        if outcome.status == "held":
            if outcome.sign is not None:
                run.history.silent(outcome.sign, now)
            self.say(Event("held", run.job, outcome.message))
            run.told = now
            self._again(run, self.limits.held_again)
            return
        if attempt.asked is not None and outcome.status in ("stopped", "lost"):
            why = "its host is about to be taken away" if attempt.asked == "draining" else attempt.asked
            self.say(Event("stopped", run.job, f"{why}: {outcome.message or 'it has saved itself'}"))
            self._renew(attempt, outcome)
            self._again(run, 0.0)
            self._release(run.job.run_id)
            return
        self._renew(attempt, outcome)
        others = tuple(seat for seat in run.seats.values() if seat.pool != slot.pool)
        if outcome.status == "unfit" and others:
            run.job = dataclasses.replace(run.job, seats=others)
            self.say(Event("retried", run.job, f"{outcome.message}; another pool is next"))
            self._again(run, 0.0)
            return
        if outcome.status == "input" and not run.history.refused and self._may_be_its_host(run, slot):
            self.say(Event("retried", run.job, f"{outcome.message}; another host is asked"))
            self._again(run, 0.0)
            return
        if outcome.status == "error" or (outcome.status == "lost" and not further):
            for notice in self.quarantine.failed(slot, outcome, now):
                self.say(Event("notice", message=notice))
        pause = run.history.pause_after(outcome, slot.name, further, self.limits)
        if pause is None:
            self.mendable |= outcome.status in ("input", "unfit")
            self._fail(run, outcome.message)
        else:
            self.say(Event("retried", run.job, outcome.message))
            self._again(run, pause)
            self._release(run.job.run_id)

    def _may_be_its_host(self, run: Run, slot: Slot) -> bool:
        """Whether a run that was refused has another host to be tried on; if so it avoids the slots of this one."""
        slots = self.backend.slots()
        here = {other.name for other in slots if not set(hosts_of(slot)).isdisjoint(hosts_of(other))}
        run.history.refused = any(
            other.pool in run.seats and other.name not in here and not other.draining for other in slots
        )
        if run.history.refused:
            run.history.unlucky |= here
        return run.history.refused

    def _renew(self, attempt: Attempt, outcome: Outcome) -> None:
        """A fresh worker where one failed, if its slot is still there."""
        if outcome.status in ("stopped", "input"):
            return
        self.shapes.pop(attempt.slot.name, None)
        if attempt.killed is None and any(slot.name == attempt.slot.name for slot in self.backend.slots()):
            self.backend.renew(attempt.slot.name)

    def _pools_changed(self) -> None:
        """Those that may go anywhere may go to a new pool too, as may those whose pools are gone."""
        self.pools = dict(self.backend.pools())
        for run in self.waiting:
            seats = self._seats(run.job)
            if seats.keys() != run.seats.keys():
                self.waiting.remove(run)
                run.seats = seats
                self.waiting.add(run)
