"""Exports the runs of a sweep to its loggers: while it runs, or those of a folder afterwards."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.lease import LeaseHeld
from nextscale.sweeps.design.chosen_runs import all_runs
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.loggers.base import LoggedRun, Logger
from nextscale.sweeps.loggers.exporter import Exporter
from nextscale.sweeps.spec.loggers import LoggerChoice, LoggerConfig, logger_config
from nextscale.sweeps.store.store import Store

_PATIENCE, _HASTE = 30.0, 5.0
"""Seconds that a sweep waits for its loggers at its end; and when it ends by an error, or is interrupted."""
NO_SWEEP = "runs"
"""What runs that belong to no sweep of a folder are put under."""


def logger_of(config: LoggerConfig, out: Path) -> Logger:
    """The logger of an output folder.

    Raises:
        SpecError: what it needs is not installed, or it is not said where it is.
    """
    kind: type[Any] = importlib.import_module(f"nextscale.sweeps.loggers.{config.kind}").LOGGER
    if kind.client is not None and importlib.util.find_spec(kind.client) is None:
        raise SpecError(
            f"{config.kind}: is not installed; pip install 'nextscale[{config.kind}]', or take it out of loggers",
            ("loggers",),
        )
    logger: Logger = kind(config, out)
    return logger


@contextlib.contextmanager
def exporting(
    choices: Sequence[LoggerChoice], sweep: str, store: Store, run_ids: Iterable[str], notify: Callable[[str], None]
) -> Iterator[Callable[[Event], None]]:
    """Shows the runs of a sweep in its loggers while they are trained.

    Args:
        run_ids: of runs that may have been trained before, or in part.
        notify: called with what goes wrong, in words, from other threads.

    Yields:
        what wants to hear of each event.

    Raises:
        SpecError: a logger cannot be used.
    """
    exporters = [Exporter(logger_of(logger_config(choice), store.root), store.root, notify) for choice in choices]

    def follow(run_id: str) -> None:
        for exporter in exporters:
            exporter.follow(LoggedRun(sweep, run_id, store.run(run_id)))

    for run_id in run_ids if exporters else ():
        if store.run(run_id).started:
            follow(run_id)
    for exporter in exporters:
        exporter.start()
    timeout = _HASTE
    try:
        yield lambda event: None if event.job is None else follow(event.job.run_id)
        timeout = _PATIENCE
    finally:
        for exporter in exporters:
            exporter.close(timeout)


def export_folder(store: Store, config: LoggerConfig) -> dict[str, int]:
    """Gives a logger what it has not yet of the runs in a folder.

    Returns:
        of the runs that have begun how many it now has to their end, `done`, and how many as far as they are, `begun`.

    Raises:
        SpecError: it cannot be used, another process exports to it, or it does not take them.
    """
    exporter = Exporter(logger_of(config, store.root), store.root, notify=lambda message: None)
    planned = [(spec.name, run.run_id) for spec in store.specs() for run in all_runs(store.root, spec)]
    of_sweeps = {run_id for _, run_id in planned}
    folders = sorted(folder.name for folder in (store.root / "runs").iterdir())
    alone = [(NO_SWEEP, run_id) for run_id in folders if run_id not in of_sweeps]
    started = [pair for pair in dict.fromkeys([*planned, *alone]) if store.run(pair[1]).started]
    for name, run_id in started:
        exporter.follow(LoggedRun(name, run_id, store.run(run_id)))
    try:
        done = exporter.export()
    except LeaseHeld as held:
        raise SpecError(f"{store.root}: a sweep that is at work here does this by itself ({held})") from None
    except SpecError:
        raise
    except Exception as error:  # of every kind: it is somebody else's code
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SpecError(f"{config.kind}: {reason}; mend that, and the same command goes on from here") from error
    return {"done": done, "begun": len(started) - done}
