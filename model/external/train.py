"""One attempt of an external trainer at a run: told, watched, stopped, and its result written down."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nextscale.model.config.external import ExternalRun
from nextscale.model.errors import InputError, Stopped
from nextscale.model.external.curve import TrainerCurve
from nextscale.model.external.process import Exit, TrainerProcess
from nextscale.model.external.result import RESULT, record_of
from nextscale.model.external.source import check_unchanged
from nextscale.model.record import Row, RunDirectory, write_atomically

SAVED = 75
"""Exit code of a trainer that has saved itself and is to be started again: EX_TEMPFAIL of sysexits.h."""
TOLD = "trainer.json"
_LOOK, _PROGRESS = 0.1, 0.5
_SHOWN = 3
"""Lines of stderr in a reason."""


class Place(NamedTuple):
    """Of a host among those that train a run together.

    Attributes:
        coordinator: where the first of them may listen for the others, as host:port; found if empty.
    """

    hosts: int = 1
    rank: int = 0
    coordinator: str = ""

    def environment(self) -> dict[str, str]:
        """As torchrun and `jax.distributed` are told of it. How many devices a host has, its pool says (see
        `nextscale.cluster.ray.hub.environment_of`)."""
        address, _, port = self.coordinator.rpartition(":")
        if not port:
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                address, port = "127.0.0.1", str(listener.getsockname()[1])
        devices = os.environ.get("NPROC_PER_NODE", "1")
        where = {"MASTER_ADDR": address, "MASTER_PORT": port, "NPROC_PER_NODE": devices}
        return {"NNODES": str(self.hosts), "NODE_RANK": str(self.rank)} | where


ALONE = Place()


class TrainerFailed(Exception):
    """The trainer ended, and neither with a result nor saved."""


class TrainerLost(Exception):
    """The trainer was ended from outside, or did not save itself in time."""


def train_external(
    config: ExternalRun,
    directory: RunDirectory,
    *,
    place: Place = ALONE,
    on_progress: Callable[[int], None] = lambda tokens: None,
    stop: Callable[[], bool] = lambda: False,
) -> Row:
    """Has a run trained to its end, from wherever the trainer goes on, and writes its record.

    Args:
        directory: where the run lives; a finished run is returned as it is.
        place: of this host among those that train the run, the first.
        on_progress: called at the start, twice a second, and before the result is written; what it raises ends the
            trainer.
        stop: whether the trainer is to save itself: it gets SIGTERM, and so many seconds as it asks for.

    Returns:
        the record, one flat row (see `result.py`).

    Raises:
        InputError: the trainer is not there or has changed, or exits with 0 without a result that can be used.
        Stopped: it has saved itself.
        TrainerFailed: it failed; the message has the last lines of its stderr.
        TrainerLost: it was killed, or did not save itself when it was to stop.
    """
    if (record := directory.record()) is not None:
        return record
    started = time.perf_counter()
    check_unchanged(config.trainer)
    prepare(config, directory)
    with start_trainer(config, directory, place) as process:
        curve = TrainerCurve(directory, config.training.batch_tokens)
        ended = _watch(process, config, curve, on_progress, stop)
    on_progress(curve.position)
    curve.look(ended=True)
    check_exit(config, ended, curve.position, asked=stop())
    record = record_of(config, Path(directory.trainer) / RESULT) | {"seconds": time.perf_counter() - started}
    on_progress(curve.position)
    directory.write_record(record)
    return record


def help_train(
    config: ExternalRun,
    directory: RunDirectory,
    place: Place,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """The part of another host of a gang: how the run ended is for the first host to say, unless this one failed.

    Raises:
        InputError, TrainerFailed, TrainerLost: see `train_external`.
    """
    check_unchanged(config.trainer)
    while not (directory.path / TOLD).exists():  # the first host writes it
        time.sleep(_LOOK)
    with start_trainer(config, directory, place) as process:
        ended = _watch(process, config, None, lambda tokens: None, stop)
    with contextlib.suppress(Stopped):
        check_exit(config, ended, 0, asked=stop())


def prepare(config: ExternalRun, directory: RunDirectory) -> None:
    """Writes down what the trainer is told, and takes its earlier result away."""
    directory.write_config(config)
    write_atomically(directory.path / TOLD, json.dumps(config.told(), indent=1) + "\n")
    own = Path(directory.trainer)
    own.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # of an attempt that did not end well, or of one whose record is gone
        (own / RESULT).replace(own / f"earlier-{RESULT}")


def start_trainer(config: ExternalRun, directory: RunDirectory, place: Place = ALONE) -> TrainerProcess:
    """
    Raises:
        InputError: it cannot be started.
    """
    output = Path(directory.output_file)
    output = output.with_stem(f"{output.stem}-{place.rank}") if place.rank else output
    with contextlib.suppress(OSError), output.open("a") as file:
        file.write(f"--- on {socket.gethostname()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    command = []
    for word in config.trainer.command:
        for name, path in {"{config}": directory.path / TOLD, "{dir}": directory.trainer}.items():
            word = word.replace(name, str(path))
        command.append(word)
    there = {"NEXTSCALE_RUN_ID": config.run_id} | place.environment()
    assert config.trainer.folder is not None
    try:
        return TrainerProcess(command, config.trainer.folder, Path(directory.trainer), output, there, place.rank)
    except OSError as error:
        raise InputError(f"trainer.command: {error.strerror or error}") from None


def _watch(
    process: TrainerProcess,
    config: ExternalRun,
    curve: TrainerCurve | None,
    on_progress: Callable[[int], None],
    stop: Callable[[], bool],
) -> Exit:
    """Waits until a trainer has ended.

    Raises:
        TrainerLost: it did not save itself in time.
    """
    deadline, looked = None, -1.0
    while (ended := process.wait(_LOOK)) is None:
        if time.monotonic() - looked >= _PROGRESS:
            on_progress(0 if curve is None else curve.position)
            if curve is not None:
                curve.look()
            looked = time.monotonic()
        if stop() and deadline is None:
            process.terminate()
            deadline = time.monotonic() + config.trainer.stop_seconds
        if deadline is not None and time.monotonic() > deadline:
            seconds = config.trainer.stop_seconds
            raise TrainerLost(f"it did not exit within {seconds:g} s of SIGTERM (trainer.stop_seconds), and was killed")
    return ended


def check_exit(config: ExternalRun, ended: Exit, position: int, *, asked: bool) -> None:
    """What an exit code says, but for 0.

    Raises:
        Stopped, TrainerFailed, TrainerLost: see `train_external`.
    """
    if ended.code == 0:
        return
    if ended.code == SAVED:
        raise Stopped(f"run {config.run_id} stopped at token {position} of {config.tokens}: its trainer has saved it")
    if ended.killed or asked:
        raise TrainerLost(f"{ended} where {SAVED} would say that it is saved" if asked else f"{ended}")
    said = " | ".join(line.strip() for line in ended.stderr[-_SHOWN:])
    raise TrainerFailed(f"{ended}: {said}" if said else f"{ended}, and its stderr is empty")
