"""Attempts: one at work in a slot, the budget that reserves its cost, and its settlement once it has ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from nextscale.cluster.controller.accounts import Accounts, Reservation
from nextscale.cluster.controller.backend import Slot
from nextscale.cluster.controller.caps import Amount, Caps, cap_text, flops_until, needs, share_left, smallest_cap
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.failures import Limits, Watch
from nextscale.cluster.controller.job import Job, Outcome
from nextscale.cluster.controller.queue import LostAttempt, Queue, Run
from nextscale.cluster.controller.run_directories import Runs
from nextscale.cluster.hardware.seat import Seat
from nextscale.model.config.external import ExternalRun

_MORE = 1.1
"""What is reserved, over what is expected."""
_LEAST = 0.02
"""Of its time, for what a run does beside training: at least so much is expected to be left."""


_TELLING = 0.05
"""Of a run: less than that, with all that comes before the first step, does not tell how long the rest takes."""


@dataclasses.dataclass(eq=False)
class Attempt:
    """What runs in a slot.

    Attributes:
        started: by the backend's clock.
        expected_end: when it is expected to be done.
        stop_at: when it needs a longer reservation or is asked to stop, if time is capped.
        stop_reason: why it was asked to stop; a cap's name, `draining`, or None.
        kill_reason: why it was killed, or None.
    """

    run: Run
    slot: Slot
    seat: Seat
    reservation: Reservation
    started: float
    expected_end: float
    stop_at: float
    watch: Watch
    stop_reason: str | None = None
    kill_reason: str | None = None

    @property
    def reserved_until(self) -> float:
        """When its reservation ends."""
        return self.started + self.reservation.seconds


class Budget:
    """Caps, held against accounts: what is spent and what is reserved never exceed them together."""

    def __init__(self, caps: Caps, accounts: Accounts, limits: Limits):
        self.caps, self.accounts, self._limits = caps, accounts, limits

    def expected_seconds(self, run: Run, seat: Seat, saved: int) -> float:
        """Expected of the rest of a run; 0 where nobody knows."""
        return seat.seconds * max(share_left(run.job, saved), _LEAST) * run.slowdown

    def stop_seconds(self, job: Job, expected: float) -> float:
        """Seconds of a reservation in which the run is to save itself and end."""
        usual = self._limits.stop_seconds(_MORE * (expected or self._limits.unknown_seconds))
        return max(usual, job.stop_seconds and job.stop_seconds + self._limits.slack)

    def reserve(self, run: Run, slot: Slot, seat: Seat, accelerator: str, saved: int) -> Reservation:
        """Sets aside what the rest of a run takes."""
        seconds = self._reserved_seconds(run.job, self.expected_seconds(run, seat, saved))
        flops = int(run.job.flops) - flops_until(run.job, saved)
        return self.accounts.reserve(run.job.run_id, slot.name, seat, accelerator, saved, seconds, flops)

    def _reserved_seconds(self, job: Job, expected: float) -> float:
        return _MORE * (expected or self._limits.unknown_seconds) + self.stop_seconds(job, expected)

    def room(self) -> dict[str, float]:
        return self.caps.room(self.accounts.used, self.accounts.wall_seconds)

    def needs(self, run: Run, seat: Seat, saved: int) -> dict[str, float]:
        """What the rest of a run takes of each cap."""
        seconds = self._reserved_seconds(run.job, self.expected_seconds(run, seat, saved))
        return needs(Amount.of(seat, seconds, int(run.job.flops) - flops_until(run.job, saved)), seconds)

    def crossed_cap(self, needed: dict[str, float]) -> str | None:
        """The cap that this would cross."""
        return next((cap for cap, left in self.room().items() if needed[cap] > left), None)

    def extend(self, attempt: Attempt, runs: Runs, now: float) -> str | None:
        """Reserves what an attempt needs to be done, or returns the cap that has no room for it."""
        elapsed = now - attempt.started
        expected = max(self._still_needed(attempt, runs, elapsed), _LEAST * elapsed, 1.0)
        seconds = elapsed + self._reserved_seconds(attempt.run.job, expected)
        more = Amount.of(attempt.seat, seconds) - Amount.of(attempt.seat, attempt.reservation.seconds)
        needed = needs(dataclasses.replace(more, flops=0), seconds - elapsed)
        if cap := self.crossed_cap(needed):
            return cap
        attempt.reservation = self.accounts.extend(attempt.reservation, seconds)
        attempt.expected_end, attempt.stop_at = (
            now + expected,
            attempt.reserved_until - self.stop_seconds(attempt.run.job, expected),
        )
        return None

    def stop_message(self, queue: Queue, left: list[Run], after: list[Run], unchosen: float) -> str:
        """Which cap stopped a sweep, and what it would take to come to its end.

        Args:
            after, unchosen: see `nextscale.cluster.controller.controller.run_all`.
        """
        known = sum(int(run.job.flops) - flops_until(run.job, run.saved or 0) for run in (*left, *after))
        more = 1 + unchosen / known if known else 1.0  # of runs that need but their record nothing can be said
        rest = {cap: need * more for cap, need in self._rest((*left, *after)).items()}
        spent, room = needs(self.accounts.used, self.accounts.wall_seconds), self.room()
        runs = f"the {len(left)} runs left"
        runs += f", the {len(after)} that come after them" if after else ""
        runs += ", those still to be chosen" if unchosen else ""
        runs = " and ".join(runs.rsplit(", ", 1))
        parts = []
        for cap in dict.fromkeys(cap for run in queue for cap, _ in run.parked.values()):
            limit = f"{cap} {getattr(self.caps, cap):g}: {cap_text(cap, spent[cap])} are spent"
            how = "one after another" if cap == "max_wall" else "in all"
            parts.append(f"{limit}, and {runs} would take {cap_text(cap, rest[cap])} {how}")
        # The wall's hours go on while nobody is at work, and how many run side by side then is not known.
        short = [cap for cap in room if cap != "max_wall" and rest[cap] > room[cap]]
        enough = [f"{cap} {smallest_cap(cap, spent[cap] + rest[cap])}" for cap in short]
        raised = f"{' and '.join(enough)} or more" if enough else "a higher cap"
        if enough and "max_wall" in room and room["max_wall"] < rest["max_wall"]:
            raised += ", and a higher max_wall,"
        return "; ".join([*parts, f"with {raised} the same command goes on from here"])

    def _rest(self, runs: Iterable[Run]) -> dict[str, float]:
        """What so many runs take of each cap, each on its first seat."""
        needed = [self.needs(run, next(iter(run.seats.values())), run.saved or 0) for run in runs]
        return {cap: sum(one[cap] for one in needed) for cap in needs(Amount(), 0.0)}

    def _still_needed(self, attempt: Attempt, runs: Runs, elapsed: float) -> float:
        """Seconds, by how far it has come."""
        job, begun = attempt.run.job, attempt.reservation.position
        tokens = _reached(attempt.reservation, runs, job)
        made = flops_until(job, tokens) - flops_until(job, begun)
        if made <= (_TELLING * int(job.flops) if attempt.seat.seconds else 0):
            return self.expected_seconds(attempt.run, attempt.seat, begun)
        return elapsed * (int(job.flops) - flops_until(job, tokens)) / made


def flops_of(job: Job, reservation: Reservation, runs: Runs, *, done: bool) -> tuple[int, int, int]:
    """What an attempt made: FLOPs kept, FLOPs lost, and the tokens that are now saved.

    By the curve: what it made after its newest row is not known to anybody.
    """
    before = flops_until(job, reservation.position)
    if done:
        return int(job.flops) - before, 0, job.config.tokens
    saved, reached = runs.saved(job), _reached(reservation, runs, job)
    kept = max(flops_until(job, saved) - before, 0)
    return kept, max(flops_until(job, reached) - before - kept, 0), saved


def _reached(reservation: Reservation, runs: Runs, job: Job) -> int:
    """Where an attempt has come to, in tokens. What it found in the curve is none of its work until it has begun."""
    life = runs.life(job, reservation.attempt)
    return runs.progress(job).tokens if life is not None and life.begun else reservation.position


def settle(
    attempt: Attempt, outcome: Outcome, runs: Runs, accounts: Accounts, now: float, peak: Callable[[str], float | None]
) -> bool:
    """Books an attempt that has ended; returns whether it saved something new."""
    run, reservation = attempt.run, attempt.reservation
    held = outcome.status == "held"  # whatever was written meanwhile was another's
    kept, lost, saved = (
        (0, 0, reservation.position)
        if held
        else flops_of(run.job, reservation, runs, done=outcome.status == "finished")
    )
    seconds = now - attempt.started
    accounts.settle(
        reservation,
        seconds,
        kept=kept,
        lost=lost,
        outcome=outcome.status,
        reason=outcome.message,
        peak=peak(reservation.accelerator),
    )
    run.lost_attempt = LostAttempt(reservation, seconds, kept) if outcome.status == "lost" else None
    run.saved = None if held else saved
    further = not held and isinstance(run.job.config, ExternalRun) and _further(run, reservation, runs)
    share = (flops_until(run.job, saved) - flops_until(run.job, reservation.position) + lost) / int(run.job.flops)
    if attempt.seat.seconds and share > _TELLING and outcome.status != "finished":
        run.slowdown = max(1.0, seconds / (attempt.seat.seconds * share))
    return saved > reservation.position or further


def _further(run: Run, reservation: Reservation, runs: Runs) -> bool:
    """Whether a run whose states nobody here sees has come further than ever: it went on from one, or soon would."""
    before, run.furthest = run.furthest, max(run.furthest, _reached(reservation, runs, run.job))
    return run.furthest > before


def settle_late(run: Run, runs: Runs, accounts: Accounts) -> None:
    """Books the rest of a run that has finished after all: news of its worker's death came before its end.

    What was booked as lost then stays so, and is kept here: the sum is rather too large than too small.
    """
    loss, job = run.lost_attempt, run.job
    if loss is None:
        return
    run.lost_attempt, was = None, loss.reservation
    made = int(job.flops) - flops_until(job, was.position) - loss.kept
    life = runs.life(job, was.attempt)
    longer = 0.0 if life is None else max(min(life.at_most, was.seconds) - loss.seconds, 0.0)
    late = accounts.reserve(job.run_id, was.slot, was.seat, was.accelerator, was.position, longer, made)
    reason = f"attempt {was.attempt} was not lost: it has finished, and this is the rest of it"
    accounts.settle(late, longer, kept=made, outcome="finished", reason=reason)


def settle_orphan(reservation: Reservation, job: Job | None, runs: Runs, accounts: Accounts) -> Event:
    """Books an attempt whose controller died, so that what is spent is never understated; returns the event.

    Its time is what its worker told last, and never more than was reserved; where it told nothing, all of that.
    """
    life = None if job is None else runs.life(job, reservation.attempt)
    if life is None:
        seconds, reason = reservation.seconds, "it left no sign of life, so all that was reserved counts"
    else:
        seconds, reason = min(life.at_most, reservation.seconds), "by its newest sign of life"
    kept, lost = (0, 0) if job is None else flops_of(job, reservation, runs, done=runs.done(job))[:2]
    if job is None:
        lost = reservation.amount.flops
    accounts.settle(
        reservation, seconds, kept=kept, lost=lost, outcome="lost", reason=f"its controller died; its time is {reason}"
    )
    of = "" if job is not None else f" at {reservation.run_id}"
    made = f"{kept:.3g} FLOPs kept, {lost:.3g} lost"
    text = f"attempt {reservation.attempt}{of} ended with its controller: {seconds:.0f} s, {reason}; {made}"
    return Event("settled", job, text)
