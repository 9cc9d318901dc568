"""Interfaces of loggers: `Logger`, a service or folder that runs are shown in, and `Sink`, one run there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nextscale.model.config.external import AnyRun
from nextscale.model.record import Row, RunDirectory
from nextscale.sweeps.loggers.curve import Point, numbers


@dataclasses.dataclass(frozen=True)
class LoggedRun:
    """A run of a sweep, and where it leaves its files."""

    sweep: str
    run_id: str
    directory: RunDirectory

    def config(self) -> AnyRun:
        return self.directory.config()


class Sink(Protocol):
    """One run in one service. What goes wrong is raised: it is tried again later, with a sink of its own."""

    @property
    def last(self) -> int | None:
        """Tokens of the last point that it holds, -1 if it holds none; None where it cannot be asked."""

    @property
    def ended(self) -> bool:
        """Whether it has the result."""

    def rewind(self, tokens: int) -> bool:
        """Takes back all points beyond, which turned out otherwise; tells whether it can."""

    def write(self, points: Sequence[Point]) -> None:
        """Adds points, each beyond the last one."""

    def end(self, record: Row) -> None:
        """Adds the result."""

    def close(self) -> None:
        """Lets go of it; all that was written is there, or on its way."""


class Logger(Protocol):
    """A service, or a folder, that runs are shown in.

    Attributes:
        kind: its name in a spec.
        place: which one of its kind it is; empty if there is one alone. What was exported is remembered for each.
        folder: where; who deletes it has everything exported anew.
    """

    kind: str
    place: str
    folder: Path

    def open(self, run: LoggedRun) -> Sink:
        """A run in it, made or found again."""


def hparams(config: AnyRun) -> dict[str, Any]:
    """What a run was asked to be, flat: `training.lr` and so on; what is open is left out."""
    return _flat(config.model_dump(mode="json"), "")


def results(record: Row) -> dict[str, float]:
    """The numbers of a record."""
    return numbers(record, "result") | {"result/tokens": record["tokens"]}


def _flat(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        dot = "." if name else ""
        return {key: leaf for part, inner in value.items() for key, leaf in _flat(inner, f"{name}{dot}{part}").items()}
    if value is None:
        return {}
    return {name: str(value) if isinstance(value, list) else value}
