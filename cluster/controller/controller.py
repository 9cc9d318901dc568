"""The controller's loop: runs are started in order, equal shapes together, and tried again when they fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.attempt import Budget
from nextscale.cluster.controller.backend import Backend
from nextscale.cluster.controller.caps import Caps
from nextscale.cluster.controller.dispatch import Dispatcher
from nextscale.cluster.controller.events import Event, Report
from nextscale.cluster.controller.failures import Limits, Quarantine
from nextscale.cluster.controller.job import Job
from nextscale.cluster.controller.lifecycle import Context, Lifecycle
from nextscale.cluster.controller.queue import Order
from nextscale.cluster.controller.run_directories import RunDirectories, Runs
from nextscale.cluster.controller.supervision import Supervisor
from nextscale.cluster.hardware.pool import Pool

STOPPED = "stopped as asked"


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
    stop: Callable[[], float | None] = lambda: None,
    after: Callable[[], Sequence[Job]] = tuple,
    unchosen: float = 0.0,
    order: Order = "longest",
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
        accounts: of the sweep; one controller at a time may have them (see `open_accounts`).
        runs: where the runs live.
        peak: FLOP/s of a chip of an accelerator, for the utilisation in the accounts.
        price: dollars per chip-hour of a pool, for runs that name no seats.
        known: other jobs of these accounts, by their run_id: an attempt at one may have been left open.
        stop: once it gives a number, nothing is started any more, and all that runs is asked to save itself; whatever
            has not after so many seconds is killed. It is asked again and again: it may give a smaller one later.
        after: jobs that are to come once these are done, and `unchosen`, FLOPs of others that nobody has chosen yet:
            where a cap stops these, what it would take to come to the end counts them too.
        order: which of the runs that wait is next.
    """
    limits = limits or Limits()
    budget = Budget(caps or Caps(), Accounts(clock=backend.now) if accounts is None else accounts, limits)
    context = Context(backend, runs or RunDirectories(), budget, limits, on_event, Quarantine(limits))
    lifecycle = Lifecycle(context, jobs, price, known, order)
    supervisor = Supervisor(context, lifecycle, peak)
    dispatcher = Dispatcher(context, lifecycle, supervisor)
    deadline, stopping = math.inf, False
    lifecycle.take_up_all()
    while not lifecycle.all_done:
        now = backend.now()
        context.timers.run_due(now)
        if (within := stop()) is not None:
            deadline, stopping = min(deadline, now + within), True
            for attempt in context.running.values():
                supervisor.request_stop(attempt, STOPPED)
                if now >= deadline:
                    supervisor.kill(attempt, "it had not saved itself when the time for that was over, and was killed")
        if not stopping:
            dispatcher.dispatch(now)
        backend.waiting(0 if stopping else len(lifecycle.queue))
        if _no_room(context, lifecycle) or (stopping and not context.running):
            break
        for ended in backend.wait(_timeout(context, lifecycle, deadline)):
            supervisor.on_ended(ended)
        for notice in backend.notices():
            on_event(Event("notice", message=notice))
        on_event(Event("tick"))
    left = tuple(name for name in lifecycle.jobs if name not in lifecycle.failed and name not in lifecycle.finished)
    stopped_by = None
    if left and stopping:
        stopped_by = stopped_text(len(left))
    elif left:
        runs_left, runs_after = [lifecycle.jobs[name] for name in left], lifecycle.as_runs(after())
        stopped_by = budget.stop_message(lifecycle.queue, runs_left, runs_after, unchosen)
    return Report(tuple(lifecycle.finished), lifecycle.failed, supervisor.mendable, stopped_by, left)


def stopped_text(left: int) -> str:
    """Why there is no going on for now."""
    return f"{STOPPED}, with {left} runs left; the same command goes on from here"


def _timeout(context: Context, lifecycle: Lifecycle, deadline: float) -> float:
    """Seconds to wait for attempts to end, until something else is due."""
    now = context.backend.now()
    times = [now + context.limits.poll, now + context.limits.no_slot_notice]
    if deadline > now:
        times.append(deadline)
    if context.timers.next is not None:
        times.append(context.timers.next)
    if lifecycle.queue and (release := context.quarantine.next_release(now)) is not None:
        times.append(release)
    return max(min(times) - now, 0.0)


def _no_room(context: Context, lifecycle: Lifecycle) -> bool:
    """Whether nothing happens any more because caps keep all that waits from starting."""
    if context.running or lifecycle.delayed or not lifecycle.queue.all_parked:
        return False
    return not lifecycle.queue.any_fits(context.budget.room())
