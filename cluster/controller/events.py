"""Events that the controller emits while it works, and its report at the end."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nextscale.cluster.controller.job import Job


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a run; or, with no `job`, a `notice` for a person to read or a `tick` of the loop.

    `stopped`: it has saved itself, and goes on later or elsewhere. `settled`: an attempt that another controller left
    open was booked as ended.
    """

    kind: Literal["started", "finished", "failed", "retried", "stopped", "held", "settled", "tick", "notice"]
    job: Job | None = None
    message: str = ""


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
