"""The loop that gets every run done: longest first, equal shapes together, failures tried again."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Literal

from nextscale.cluster.backend import Backend
from nextscale.cluster.worker import Job

RETRIES = 3
"""How often a run that failed is tried again."""
_POLL = 0.25
_HELD_AGAIN = 2.0
"""Seconds before asking again for a run that another process holds."""
_WARM_SHARE = 0.5
"""A worker keeps to the shape it has compiled while it finds one of at least this share of the longest run left."""


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a run."""

    kind: Literal["started", "finished", "failed", "retried", "held", "tick"]
    job: Job | None = None
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """How the runs ended: ids of those done, and why the others are not."""

    finished: tuple[str, ...]
    failed: dict[str, str]
    mendable: bool
    """Whether one failed for a reason that a person must mend first."""


def run_all(jobs: Sequence[Job], backend: Backend, on_event: Callable[[Event], None] = lambda event: None) -> Report:
    """Does every job once; returns when each has finished or failed for good.

    A run whose worker died or that raised is tried again three times, each time from its newest checkpoint and on a
    fresh worker. A run held by another process is asked for again until that one is done with it.
    """
    waiting = sorted(jobs, key=_longest_first)
    held: list[tuple[float, Job]] = []
    failures: dict[str, int] = dict.fromkeys((job.run_id for job in jobs), 0)
    free = list(backend.workers)
    shape_of: dict[str, str] = {}
    finished: list[str] = []
    failed: dict[str, str] = {}
    mendable = False
    while len(finished) + len(failed) < len(jobs):
        while held and held[0][0] <= time.monotonic():
            waiting = sorted([*waiting, held.pop(0)[1]], key=_longest_first)
        while free and waiting:
            worker = free.pop()
            job = _next(waiting, shape_of.get(worker))
            waiting.remove(job)
            shape_of[worker] = job.shape
            backend.start(worker, job)
            on_event(Event("started", job))
        for done in backend.wait(_POLL):
            job, outcome = done.job, done.outcome
            free.append(done.worker)
            if outcome.status == "finished":
                finished.append(job.run_id)
                on_event(Event("finished", job))
                continue
            if outcome.status == "held":
                held.append((time.monotonic() + _HELD_AGAIN, job))
                on_event(Event("held", job, outcome.message))
                continue
            failures[job.run_id] += 1
            if outcome.status != "input":
                backend.replace(done.worker)
                shape_of.pop(done.worker, None)
                if failures[job.run_id] <= RETRIES:
                    waiting = sorted([*waiting, job], key=_longest_first)
                    on_event(Event("retried", job, outcome.message))
                    continue
            failed[job.run_id] = outcome.message
            mendable |= outcome.status == "input"
            on_event(Event("failed", job, outcome.message))
        on_event(Event("tick"))
    return Report(tuple(finished), failed, mendable)


def _longest_first(job: Job) -> tuple[float, int]:
    """Runs of a budget cost the same FLOPs to within a step; the one of most steps takes longest, its being small."""
    return -round(math.log10(job.flops), 1), -job.steps


def _next(waiting: list[Job], shape: str | None) -> Job:
    """The longest run left, or one nearly as long whose program the worker already has."""
    for job in waiting:
        if job.flops < _WARM_SHARE * waiting[0].flops:
            break
        if job.shape == shape:
            return job
    return waiting[0]
