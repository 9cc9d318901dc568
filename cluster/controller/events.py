"""Events that the controller emits while it works, and its report at the end."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nextscale.cluster.controller.job import Job
from nextscale.model.record import Row, is_number

_YEAR_3000 = 3.25e10
"""Seconds since the epoch: no clock is that far ahead, and few calendars."""


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a run; or, with no `job`, a `notice` for a person to read or a `tick` of the loop.

    `stopped`: it has saved itself, and goes on later or elsewhere. `settled`: an attempt that another controller left
    open was booked as ended.
    """

    kind: Literal["started", "finished", "failed", "retried", "stopped", "held", "settled", "tick", "notice"]
    job: Job | None = None
    message: str = ""


def event_problem(row: Row) -> str | None:
    """What keeps a row of a journal from being that of an event; None where nothing does."""
    if not (is_number(row.get("time")) and 0 <= row["time"] < _YEAR_3000):
        return f"its time is {row.get('time')!s:.40}, no time"
    texts = ("event", "text") if row.get("run_id") is None else ("event", "text", "run_id")
    name = next((name for name in texts if not isinstance(row.get(name), str)), None)
    return None if name is None else f"its {name} is {row.get(name)!s:.40}, no text"


@dataclasses.dataclass(frozen=True)
class Report:
    """How the runs ended: ids of those done, and why the others are not.

    Attributes:
        mendable: whether one failed for a reason that a person must mend first.
        stopped_by: the cap that kept the rest from starting, and what that would take; None where nothing is left.
        left: ids of that rest.
    """

    finished: tuple[str, ...]
    failed: dict[str, str]
    mendable: bool
    stopped_by: str | None = None
    left: tuple[str, ...] = ()
