"""Worker: trains one run at a time in its process, or has it trained, under a lease, and records each attempt."""

from __future__ import annotations

import contextlib
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from etils import epath

from nextscale.cluster.controller.job import Job, Outcome, Status
from nextscale.cluster.controller.lease import Lease, LeaseHeld, LeaseLost
from nextscale.cluster.hardware.seat import Seat
from nextscale.cluster.ray.workplace import workplace
from nextscale.model.config.external import ExternalRun
from nextscale.model.config.run import RunConfig
from nextscale.model.errors import InputError, Stopped, TooLarge, describe_error
from nextscale.model.external.train import ALONE, Place, TrainerFailed, TrainerLost, help_train, train_external
from nextscale.model.record import Row, RunDirectory

_NOWHERE = Seat("")


class Worker:
    """Trains runs one after another in a warm process: what is compiled for one serves the next of its shape.

    Other threads may call `stop` while `run` is at work.

    Args:
        uses_jax: False where it has runs trained by others alone: the devices are theirs, and JAX must not take them.
    """

    def __init__(self, uses_jax: bool = True) -> None:
        self._stopped: set[int] = set()
        self._uses_jax = uses_jax
        if not uses_jax:
            return
        from nextscale.model.training.train import enable_compilation_cache

        with contextlib.suppress(OSError):  # without a cache it compiles more, and trains the same
            enable_compilation_cache()

    def platform(self) -> str:
        """The platform that JAX trains on here, empty where it does not; an answer at all means that it is up."""
        if not self._uses_jax:
            return ""
        import jax

        return jax.default_backend()

    def run(self, job: Job, seat: Seat = _NOWHERE, number: int = 0) -> Outcome:
        """Trains a run to its end, or says why not.

        Args:
            number: of the attempt, for `stop`.
        """
        lease = take_lease(job)
        if isinstance(lease, Outcome):
            return lease
        try:
            with lease, workplace(job, lease) as here:
                return self._attempt(here, seat, lease, lambda: number in self._stopped)
        except LeaseLost as lost:  # so what was done last is in no bucket
            return Outcome("held", str(lost))
        except (OSError, InputError) as error:
            return _failure(error, job)

    def _attempt(self, job: Job, seat: Seat, lease: Lease, stop: Callable[[], bool]) -> Outcome:
        note_fallen(job, lease)
        row = attempt_row(job, seat)
        if isinstance(job.config, ExternalRun):
            outcome = external_attempt(job, lease, stop, row, ALONE)
        else:
            outcome = train_attempt(job, seat, lease, stop, row)
        if "status" in row:
            add_attempt(job, row)
        return outcome

    def stop(self, number: int) -> None:
        """Asks an attempt, begun or not, to save itself and end."""
        self._stopped.add(number)


def take_lease(job: Job, lived: float = 0.0) -> Lease | Outcome:
    """The right to train a run, or why there is none to be had.

    Args:
        lived: seconds that the attempt took to come up.
    """
    try:
        return Lease(job.place, silent=job.silent, attempt=job.attempt, lived=lived)
    except LeaseHeld as held:
        return Outcome("held", str(held), held.heartbeat)
    except InputError as error:  # there is no such bucket
        return Outcome("input", str(error))
    except OSError as error:
        if job.bucket:
            return _failure(error, job)
        return Outcome("input", f"{job.directory}: {error.strerror}; make room or name another --out")


def note_fallen(job: Job, lease: Lease) -> None:
    """Writes down how the attempt of a predecessor ended that died at work."""
    if lease.replaced is not None and not Path(job.directory, "record.json").exists():
        add_attempt(job, lease.replaced | {"status": "lost", "message": "the process died or fell silent"})


def attempt_row(job: Job, seat: Seat) -> Row:
    """Where an attempt is made, and on what."""
    row: Row = {"host": socket.gethostname(), "started": time.time()}
    if isinstance(job.config, ExternalRun):
        return row | ({"pool": seat.pool} if seat.pool else {})
    import jax

    row |= {"device": jax.devices()[0].device_kind}
    return row | ({"pool": seat.pool, "layout": seat.layout, "processes": jax.process_count()} if seat.pool else {})


def train_attempt(job: Job, seat: Seat, lease: Lease | None, stop: Callable[[], bool], row: Row) -> Outcome:
    """Trains a run, alone or as one process of many.

    Args:
        lease: of the process that writes; the others have none.
        row: of the attempt; how it ended is added, unless there is nothing to be written down.
    """
    from nextscale.model.network.sharding import Layout
    from nextscale.model.trained.at_end import asked_at_end
    from nextscale.model.training.checkpoint import CheckpointPolicy
    from nextscale.model.training.step import MemorySaving
    from nextscale.model.training.train import train

    config = job.config
    assert isinstance(config, RunConfig)
    row["start"] = None if job.start is None else job.start.model_dump()
    return _attempt(
        job,
        lease,
        row,
        lambda directory: train(
            config,
            directory,
            checkpoint=CheckpointPolicy(job.every_seconds, job.keep, job.final, job.pinned),
            trunk=job.start,
            layout=Layout.parse(seat.layout),
            memory_saving=MemorySaving(seat.micro_batches, seat.recompute),
            on_progress=lambda tokens: _go_on(job, lease, tokens),
            stop=stop,
            ask=asked_at_end(config, directory),
        ),
    )


def external_attempt(job: Job, lease: Lease | None, stop: Callable[[], bool], row: Row, place: Place) -> Outcome:
    """Has a run trained by its trainer, alone or as one process of many; see `train_attempt`.

    Args:
        place: of this process among these.
    """
    config = job.config
    assert isinstance(config, ExternalRun)

    def train(directory: RunDirectory) -> None:
        if lease is None:
            help_train(config, directory, place, stop=stop)
        else:
            train_external(config, directory, place=place, on_progress=lambda tokens: _hold(lease), stop=stop)

    outcome = _attempt(job, lease, row, train)
    if outcome.status == "stopped":
        row["saved"] = max((one["tokens"] for one in _directory(job).metrics()), default=0)
    return outcome


def _attempt(job: Job, lease: Lease | None, row: Row, train: Callable[[RunDirectory], object]) -> Outcome:
    directory = _directory(job)
    try:
        if lease is not None and directory.record() is not None:
            return Outcome("finished")  # by whoever held it before
        train(directory)
        outcome = Outcome("finished")
    except LeaseLost as lost:
        return Outcome("held", str(lost))  # the run is not ours to write to: the heir has noted our end
    except Exception as error:  # a run that fails must not take its worker, or the sweep, with it
        outcome = _failure(error, job)
        if outcome.status in ("memory", "error") and not isinstance(error, OSError | TrainerFailed):
            row["traceback"] = traceback.format_exc()
    row |= {"seconds": time.time() - row["started"], "status": outcome.status, "message": outcome.message}
    return outcome


def _failure(error: Exception, job: Job) -> Outcome:
    """How an attempt ended that raised."""
    known: dict[type[Exception], Status] = {
        Stopped: "stopped",
        Uprooted: "uprooted",
        TooLarge: "unfit",
        InputError: "input",
        TrainerLost: "lost",
        TrainerFailed: "error",
    }
    for kind, status in known.items():
        if isinstance(error, kind):
            return Outcome(status, str(error))
    if isinstance(error, OSError):
        return Outcome("error", f"{error.filename or job.directory}: {error.strerror or error}")
    return Outcome("memory" if _is_out_of_memory(error) else "error", describe_error(error))


def _is_out_of_memory(error: Exception) -> bool:
    from nextscale.model.training.memory import is_out_of_memory  # imports jax

    return is_out_of_memory(error)


def _hold(lease: Lease) -> None:
    lease.check()
    lease.begin()


class Uprooted(Exception):
    """The state that a run was to begin from is gone or damaged, and no more was reserved than what comes after it."""


def _go_on(job: Job, lease: Lease | None, tokens: int) -> None:
    """Asked at the start of a run, and again and again."""
    if job.start is not None and tokens < job.start.tokens:
        where = f"the state of run {job.start.run_id} at token {job.start.tokens}"
        raise Uprooted(f"{where} is gone or damaged: this run is trained from its first token")
    if lease is not None:
        _hold(lease)


def add_attempt(job: Job, row: Row) -> None:
    """Adds to the attempts of a run."""
    with contextlib.suppress(OSError):  # a full disk must not hide how the attempt ended
        _directory(job).add_attempt(row)


def _directory(job: Job) -> RunDirectory:
    return RunDirectory(epath.Path(job.directory))
