"""One training run, from its config to its record: resumable to the bit, and with less memory where that runs out."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Generator
from typing import ParamSpec

import jax

from nextscale.model.config.run import Parent, RunConfig
from nextscale.model.data.sources import open_sets, open_source
from nextscale.model.errors import InputError
from nextscale.model.external import code
from nextscale.model.network.processes import barrier
from nextscale.model.network.sharding import Layout, mesh_of
from nextscale.model.record import Row, RunDirectory
from nextscale.model.storage.cache import cache_folder
from nextscale.model.training.attempt import Ask, RunContext, attempt
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.evaluate import Evaluation
from nextscale.model.training.memory import (
    first_saving,
    is_out_of_memory,
    next_saving,
    out_of_memory_note,
    saving_within,
    sequences_per_device,
)
from nextscale.model.training.result import record_of
from nextscale.model.training.step import NO_SAVING, Call, CallResult, MemorySaving, execute

P = ParamSpec("P")

_log = logging.getLogger(__name__)

Training = Generator[Call, CallResult, Row]
"""A run on its way: yields each compiled call that it wants made, is sent the call's result, and returns its record.

An error of the call is thrown into it.
"""


def training(
    config: RunConfig,
    directory: RunDirectory,
    *,
    checkpoint: CheckpointPolicy = CheckpointPolicy(),
    trunk: Parent | None = None,
    layout: Layout = Layout(),
    memory_limit: int | None = None,
    memory_saving: MemorySaving = NO_SAVING,
    on_progress: Callable[[int], None] = lambda tokens: None,
    stop: Callable[[], bool] = lambda: False,
    ask: Ask | None = None,
) -> Training:
    """Trains one run to its end, from its newest checkpoint if it has one, and writes its record.

    Where JAX is one of several processes, all call this alike, on a file system that they share. The first alone
    writes; each writes its part of a checkpoint.

    When memory runs out, the same batch is trained in smaller parts, from the newest checkpoint on, and in the end with
    blocks computed twice. What did not fit is noted among the attempts, and not tried again there. Of several
    processes the one that it happens to cannot tell the others, so there it notes it and fails: the next attempt has
    smaller parts.

    The compiled calls it leaves to others, so that those of several runs may be made as one (see `pack.py`); `train` is
    the same with all of them made.

    Args:
        directory: where the run lives; a finished run is returned as it is.
        trunk: a run in a directory beside it that is this one up to a position, and that position: with a checkpoint
            there, only the rest is trained.
        layout: the devices that it is trained on, together.
        memory_limit: bytes of each device that the steps should keep to; what does not is not tried.
        memory_saving: what is done from the start to need less memory, where a plan says that nothing less would do.
        on_progress: called with the tokens done so far, at the start, about once a second, and before a checkpoint
            or the record is written; what it raises stops the run.
        stop: asked between dispatches; where any process says yes, all save the run and leave it, after the same step.
        ask: what else the trained model is asked, before its record is there (see `nextscale.model.trained.at_end`).

    Returns:
        the record, one flat row (see `result.py`).

    Raises:
        InputError: the data, the layout or a pinned position cannot be used, no checkpoint can be read, the trunk is
            none, or one sequence per device does not fit into memory.
        Stopped: it was asked to stop, and has saved itself.
    """
    if (record := directory.record()) is not None:
        return record
    started = time.perf_counter()
    context = _prepare(config, directory, layout, checkpoint, trunk, on_progress, stop, ask)
    saving = _least_saving(config, directory, layout, memory_limit, memory_saving)
    evaluation, reason, saving = yield from _attempts(context, layout, saving)
    record = record_of(config, context.source, evaluation, reason, directory.metrics())
    on_progress(config.tokens)
    if jax.process_index() == 0:
        seconds = time.perf_counter() - started
        spent = {"micro_batches": saving.micro_batches, "recompute": saving.recompute, "seconds": seconds}
        directory.write_record(record | spent)
    barrier("the record is there")
    return directory.record() or record


def _prepare(
    config: RunConfig,
    directory: RunDirectory,
    layout: Layout,
    policy: CheckpointPolicy,
    trunk: Parent | None,
    on_progress: Callable[[int], None],
    stop: Callable[[], bool],
    ask: Ask | None,
) -> RunContext:
    """Writes the config and opens the data."""
    if jax.process_index() == 0:
        directory.write_config(config)
    if config.code is not None:
        code.check_unchanged(config.code)
    mesh, source = mesh_of(layout), open_source(config)
    for pin in policy.pinned:
        if (pin - config.start) % config.training.batch_tokens or not config.start < pin < config.tokens:
            raise InputError(f"token {pin} is not between two steps of run {config.run_id}; it cannot be pinned")
    barrier("the run's directory is there")
    sets = open_sets(config, source)
    return RunContext(config, directory, source, sets, mesh, policy, trunk, on_progress, stop, ask)


def _least_saving(
    config: RunConfig, directory: RunDirectory, layout: Layout, limit: int | None, planned: MemorySaving
) -> MemorySaving:
    """What to begin with: what is planned, or more where attempts ran out of memory or the limit takes it."""
    own = sequences_per_device(config, layout)
    if own % planned.micro_batches:
        raise InputError(f"{own} sequences per device are not {planned.micro_batches} equal micro-batches")
    saving = max(planned, first_saving(config, layout, directory.attempts()), key=lambda saving: saving.rank)
    return saving if limit is None else saving_within(config, layout, saving, limit)


def _attempts(
    context: RunContext, layout: Layout, saving: MemorySaving
) -> Generator[Call, CallResult, tuple[Evaluation | None, str | None, MemorySaving]]:
    """Trains a run to its end, with less memory each time that it runs out.

    Returns:
        evaluation, reason (see `attempt`), and what was done in the end to need less memory.
    """
    config = context.config
    while True:
        began = time.time()
        try:
            evaluation, reason = yield from attempt(context, saving)
            return evaluation, reason, saving
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            note = out_of_memory_note(config, layout, saving) | {"started": began, "seconds": time.time() - began}
            _log.warning("run %s: %s", config.run_id, note["message"])
            context.directory.add_attempt(note)
            if jax.process_count() > 1:
                raise
        saving = next_saving(config, layout, saving)


def _to_its_end(training: Callable[P, Training]) -> Callable[P, Row]:
    """A training whose calls are made as it asks for them."""

    @functools.wraps(training)
    def train(*arguments: P.args, **options: P.kwargs) -> Row:
        run = training(*arguments, **options)
        advance: Callable[[], Call] = functools.partial(next, run)
        while True:
            try:
                call = advance()
            except StopIteration as end:
                return end.value
            try:
                advance = functools.partial(run.send, execute(call))
            except jax.errors.JaxRuntimeError as error:
                advance = functools.partial(run.throw, error)

    return train


train = _to_its_end(training)


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, for this user alone, across processes; does without where it cannot."""
    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        _log.warning("compiled programs are not kept: %s: %s", folder, error.strerror)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
