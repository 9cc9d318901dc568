"""Supervision of attempts: whether they move and keep to their reservation, and what follows when one has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from nextscale.cluster.controller.attempt import Attempt, settle
from nextscale.cluster.controller.backend import Ended, Slot
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.failures import hosts_of
from nextscale.cluster.controller.job import Outcome
from nextscale.cluster.controller.lifecycle import Context, Lifecycle
from nextscale.cluster.controller.queue import Run

_TRUNK_LOOKS = 100, 1.0, 30.0
"""How often in the rest of its time a trunk is looked at for its branches' sake, and seconds between two looks."""


class Supervisor:
    """Looks after attempts at work, and decides what follows when they have ended.

    Args:
        peak: FLOP/s of a chip of an accelerator, for the utilisation in the accounts.
    """

    def __init__(self, context: Context, lifecycle: Lifecycle, peak: Callable[[str], float | None]):
        self._context, self._lifecycle, self._peak = context, lifecycle, peak
        self.mendable = False
        """Whether a run failed for a reason that a person must mend first."""

    def watch(self, attempt: Attempt, now: float) -> None:
        """Looks at an attempt from now on until it ends."""
        self._context.timers.at(self._next_check(attempt, now), lambda now: self._check(attempt, now))

    def request_stop(self, attempt: Attempt, reason: str) -> None:
        """Asks an attempt to save itself and end, unless it was asked already."""
        if attempt.stop_reason is None and attempt.kill_reason is None:
            attempt.stop_reason = reason
            self._context.backend.stop(attempt.slot.name)

    def kill(self, attempt: Attempt, reason: str) -> None:
        """Ends an attempt that does not by itself."""
        if attempt.kill_reason is None:
            attempt.kill_reason = reason
            self._context.backend.kill(attempt.slot.name)

    def on_ended(self, ended: Ended) -> None:
        """Books an attempt that has ended; its run finishes, fails or is tried again."""
        context = self._context
        attempt = context.running.get(ended.slot)
        if attempt is None or attempt.run.job.run_id != ended.job.run_id:
            return
        del context.running[ended.slot]
        run, slot, now = attempt.run, attempt.slot, context.backend.now()
        outcome = self._true_outcome(attempt, ended.outcome)
        progressed = settle(attempt, outcome, context.runs, context.accounts, now, self._peak)
        if outcome.status == "finished":
            if ended.outcome.status == "finished":
                context.quarantine.clear(slot)
            self._lifecycle.finish(run)
        elif outcome.status == "held":
            if outcome.heartbeat is not None:
                run.history.silent_for(outcome.heartbeat, now)
            self._lifecycle.report_held(run, outcome.message, now)
            self._lifecycle.try_again(run, context.limits.held_retry)
        elif attempt.stop_reason is not None and outcome.status in ("stopped", "lost"):
            why = "its host is about to be taken away" if attempt.stop_reason == "draining" else attempt.stop_reason
            context.emit(Event("stopped", run.job, f"{why}: {outcome.message or 'it has saved itself'}"))
            self._renew(attempt, outcome)
            self._lifecycle.try_again(run, 0.0)
            self._lifecycle.release(run.job.run_id)
        else:
            self._renew(attempt, outcome)
            self._on_failure(run, slot, outcome, progressed, now)

    def _true_outcome(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """How an attempt has ended, by the run's own state too."""
        run, slot = attempt.run, attempt.slot
        if attempt.kill_reason is not None and outcome.status not in ("finished", "held", "input"):
            outcome = Outcome("lost", attempt.kill_reason, hosts=outcome.hosts)
        if outcome.status == "finished" and not self._context.runs.done(run.job):
            host = ", ".join(slot.hosts) or slot.name
            text = f"it says that it is done, but {run.job.directory} has no record: does {host} share that folder?"
            return Outcome("error", text, hosts=slot.hosts)
        if outcome.status in ("stopped", "lost", "error") and self._context.runs.done(run.job):  # it was just done
            self._renew(attempt, outcome)
            return Outcome("finished", outcome.message)
        return outcome

    def _on_failure(self, run: Run, slot: Slot, outcome: Outcome, progressed: bool, now: float) -> None:
        """Tries a run again, elsewhere if need be, or fails it for good."""
        context, lifecycle = self._context, self._lifecycle
        others = tuple(seat for seat in run.seats.values() if seat.pool != slot.pool)
        if outcome.status == "unfit" and others:
            run.job = dataclasses.replace(run.job, seats=others)
            context.emit(Event("retried", run.job, f"{outcome.message}; another pool is next"))
            lifecycle.try_again(run, 0.0)
            return
        if outcome.status == "uprooted":
            run.job = run.job.whole
            context.emit(Event("retried", run.job, outcome.message))
            lifecycle.try_again(run, 0.0)
            return
        if outcome.status == "input" and not run.history.refused and self._may_be_its_host(run, slot):
            context.emit(Event("retried", run.job, f"{outcome.message}; another host is asked"))
            lifecycle.try_again(run, 0.0)
            return
        if outcome.status == "error" or (outcome.status == "lost" and not progressed):
            for notice in context.quarantine.count_failure(slot, outcome, now):
                context.emit(Event("notice", message=notice))
        pause = run.history.pause_after(outcome, slot.name, progressed, context.limits)
        if pause is None:
            self.mendable |= outcome.status in ("input", "unfit")
            lifecycle.fail(run, outcome.message)
        else:
            context.emit(Event("retried", run.job, outcome.message))
            lifecycle.try_again(run, pause)
            lifecycle.release(run.job.run_id)

    def _next_check(self, attempt: Attempt, now: float) -> float:
        limits, budget = self._context.limits, self._context.budget
        when = now + limits.stall_seconds / 10
        if attempt.run.job.run_id in self._lifecycle.blocked:
            times, shortest, longest = _TRUNK_LOOKS
            when = now + min(max((attempt.expected_end - now) / times, shortest), longest)
        capped = budget.caps.timed and attempt.stop_reason is None
        return min(when, attempt.stop_at if capped else attempt.reserved_until - limits.slack)

    def _check(self, attempt: Attempt, now: float) -> None:
        """Looks after what runs: that it moves, that its reservation holds, and whom it has brought far enough."""
        context, run = self._context, attempt.run
        if context.running.get(attempt.slot.name) is not attempt or attempt.kill_reason is not None:
            return
        self._lifecycle.release(run.job.run_id)
        timed, limits = context.budget.caps.timed, context.limits
        spent = now >= attempt.reserved_until - limits.slack
        still = attempt.watch.stuck_for(context.runs.progress(run.job).pulse, now, limits)
        if still is not None:
            self.kill(attempt, f"its curve has not moved for {still / 60:.0f} minutes: taken for stuck, and killed")
            return
        if timed and spent:
            attempt.stop_reason = attempt.stop_reason or "caps"
            self.kill(attempt, "it did not stop before what was reserved for it was spent, and was killed")
            return
        # Where time is not capped it is reserved all the same: should we die, no more than that is booked.
        if spent or (timed and now >= attempt.stop_at and attempt.stop_reason is None):
            cap = context.budget.extend(attempt, context.runs, now)
            if cap is not None:
                self.request_stop(attempt, cap)
        self.watch(attempt, now)

    def _may_be_its_host(self, run: Run, slot: Slot) -> bool:
        """Whether a run that was refused has another host to be tried on; if so it avoids the slots of this one."""
        slots = self._context.backend.slots()
        here = {other.name for other in slots if not set(hosts_of(slot)).isdisjoint(hosts_of(other))}
        run.history.refused = any(
            other.pool in run.seats and other.name not in here and not other.draining for other in slots
        )
        if run.history.refused:
            run.history.failed_slots |= here
        return run.history.refused

    def _renew(self, attempt: Attempt, outcome: Outcome) -> None:
        """A fresh worker where one failed, if its slot is still there."""
        if outcome.status in ("stopped", "input", "uprooted"):
            return
        self._context.shapes.pop(attempt.slot.name, None)
        backend = self._context.backend
        if attempt.kill_reason is None and any(slot.name == attempt.slot.name for slot in backend.slots()):
            backend.renew(attempt.slot.name)
