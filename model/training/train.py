"""One training run, from its config to its record: jitted, donated, many steps a dispatch, resumable to the bit."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, ParamSpec

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from nextscale.model import accounting
from nextscale.model.config.run import Parent, RunConfig
from nextscale.model.data.sources import MixtureSource, Source, open_sets, open_source
from nextscale.model.data.text import cache_folder
from nextscale.model.errors import InputError, Stopped
from nextscale.model.network.sharding import Layout, barrier, mesh_of, placed, polled
from nextscale.model.record import Row, RunDirectory
from nextscale.model.training import tally
from nextscale.model.training.branch import inherited
from nextscale.model.training.checkpoint import CheckpointPolicy, Checkpoints
from nextscale.model.training.curve import Curve
from nextscale.model.training.dispatch import dispatches
from nextscale.model.training.evaluate import Evaluation, evaluate_all, evaluation_points
from nextscale.model.training.memory import first_saving, out_of_memory, ran_out, saving_within, sequences, thriftier
from nextscale.model.training.optimizer import unit_schedule
from nextscale.model.training.step import (
    NONE_SAVED,
    Call,
    Program,
    Saving,
    initial_state,
    made,
    no_sums,
    numbers_of,
    program_of,
    state_shapes,
    stretches_per_call,
)

PyTree = Any
P = ParamSpec("P")

_log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 1.0

Made = tuple[PyTree, tally.Tally]
Training = Generator[Call, Made, Row]
"""A run on its way: yields each compiled call that it wants made, is sent what `step.made` makes of it, and returns its
record.

An error of that call is thrown into it.
"""


def training(
    config: RunConfig,
    directory: RunDirectory,
    *,
    checkpoint: CheckpointPolicy = CheckpointPolicy(),
    trunk: Parent | None = None,
    layout: Layout = Layout(),
    memory: int | None = None,
    least: Saving = NONE_SAVED,
    on_progress: Callable[[int], None] = lambda tokens: None,
    stop: Callable[[], bool] = lambda: False,
) -> Training:
    """Trains one run to its end, from its newest checkpoint if it has one, and writes its record.

    Where JAX is one of several processes, all call this alike, on a file system that they share. The first alone
    writes; each writes its part of a checkpoint.

    When memory runs out, the same batch is trained in smaller parts, from the newest checkpoint on, and in the end with
    each block computed twice. What did not fit is noted among the attempts, and not tried again there. Of several
    processes the one that it happens to cannot tell the others, so there it notes it and fails: the next attempt has
    smaller parts.

    The compiled calls it leaves to others, so that those of several runs may be made as one (see `pack.py`); `train` is
    the same with all of them made.

    Args:
        directory: where the run lives; a finished run is returned as it is.
        trunk: a run in a directory beside it that is this one up to a position, and that position: with a checkpoint
            there, only the rest is trained.
        layout: the devices that it is trained on, together.
        memory: bytes of each device that the steps should keep to; what does not is not tried.
        least: what is done from the start to need less memory, where a plan says that nothing less would do.
        on_progress: called with the tokens done so far, at the start, about once a second, and before a checkpoint
            or the record is written; what it raises stops the run.
        stop: asked between dispatches; where any process says yes, all save the run and leave it, after the same step.

    Returns:
        the record, one flat row (see `record_of`).

    Raises:
        InputError: the data, the layout or a pinned position cannot be used, no checkpoint can be read, the trunk is
            none, or one sequence per device does not fit into memory.
        Stopped: it was asked to stop, and has saved itself.
    """
    if (record := directory.record()) is not None:
        return record
    started, first = time.perf_counter(), jax.process_index() == 0
    if first:
        directory.write_config(config)
    mesh, source = mesh_of(layout), open_source(config)
    for pin in checkpoint.pinned:
        if (pin - config.start) % config.training.batch_tokens or not config.start < pin < config.tokens:
            raise InputError(f"token {pin} is not between two steps of run {config.run_id}; it cannot be pinned")
    barrier("the run's directory is there")
    work = _Work(config, directory, source, open_sets(config, source), mesh, checkpoint, trunk, on_progress, stop)
    if sequences(config, layout) % least.parts:
        raise InputError(f"{sequences(config, layout)} sequences per device are not {least.parts} equal micro-batches")
    saving = max(least, first_saving(config, layout, directory.attempts()))
    if memory is not None:
        saving = saving_within(config, layout, saving, memory)
    while True:
        began = time.time()
        try:
            evaluation, trouble = yield from _attempt(work, saving)
            break
        except jax.errors.JaxRuntimeError as error:
            if not ran_out(error):
                raise
            note = out_of_memory(config, layout, saving) | {"started": began, "seconds": time.time() - began}
            _log.warning("run %s: %s", config.run_id, note["message"])
            directory.add_attempt(note)
            if jax.process_count() > 1:
                raise
        saving = thriftier(config, layout, saving)
    record = record_of(config, source, evaluation, trouble, directory.metrics())
    on_progress(config.tokens)
    if first:
        spent = {"micro_batches": saving.parts, "recompute": saving.recompute, "seconds": time.perf_counter() - started}
        directory.write_record(record | spent)
    barrier("the record is there")
    return directory.record() or record


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
                advance = functools.partial(run.send, made(call))
            except jax.errors.JaxRuntimeError as error:
                advance = functools.partial(run.throw, error)

    return train


train = _to_its_end(training)


def record_of(
    config: RunConfig, source: Source, evaluation: Evaluation | None, trouble: str | None, curve: Sequence[Row]
) -> Row:
    """The result of a run as one flat row. Losses are null when the run diverged, and `reason` says how."""
    model, tokens = config.model, config.tokens
    unique = source.unique_tokens(tokens)
    sets = [f"{key}_{name}" for name in config.set_names for key in ("loss", "bits_per_byte")]
    return {
        "run_id": config.run_id,
        "status": "diverged" if trouble else "done",
        "reason": trouble,
        "params": accounting.parameters(model),
        "params_non_embedding": accounting.non_embedding_parameters(model),
        "params_active": accounting.active_parameters(model),
        "tokens": tokens,
        "unique_tokens": unique,
        "epochs": tokens / unique,
        **(source.epochs(tokens) if isinstance(source, MixtureSource) else {}),
        "flops": accounting.flops_per_token(model) * tokens,
        "loss": evaluation and evaluation.loss,
        "bits_per_byte": evaluation and evaluation.bits_per_byte,
        **{column: evaluation and evaluation.columns[column] for column in sets},
        "loss_by_position": evaluation and evaluation.loss_by_position,
        "in_context_learning": evaluation and evaluation.in_context_learning,
        "evaluation_tokens": evaluation and evaluation.tokens,
        "width": model.width,
        "depth": model.depth,
        "steps": config.training.steps,
        "batch_tokens": config.training.batch_tokens,
        "lr": config.training.lr,
        "skipped_steps": sum(row.get("skipped", 0) for row in curve),
        "seed": config.seed,
        "device": jax.devices()[0].device_kind,
        "versions": _versions(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("nextscale", "jax", "flax", "optax")}


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


@dataclasses.dataclass(frozen=True)
class _Work:
    """What every attempt at a run has in common (see `train`)."""

    config: RunConfig
    directory: RunDirectory
    source: Source
    sets: dict[str, Source]
    mesh: Mesh | None
    policy: CheckpointPolicy
    trunk: Parent | None
    on_progress: Callable[[int], None]
    stop: Callable[[], bool]

    def evaluated(self, params: PyTree, parts: int) -> Callable[[], Evaluation]:
        return evaluate_all(self.config, params, self.source, self.sets, parts=parts)


def _attempt(work: _Work, saving: Saving) -> Generator[Call, Made, tuple[Evaluation | None, str | None]]:
    """Trains a run to its end; returns what came of it, or what went wrong."""
    config, program = work.config, program_of(work.config, work.mesh, saving)
    checkpoints = Checkpoints(work.directory.checkpoints, work.policy)
    try:
        position, state, curves = _start(work, program, checkpoints)
        work.on_progress(position)
        if jax.process_index() == 0:
            work.directory.cut(position, curves)
        barrier("the curves are cut")
        state, trouble = yield from _steps(work, program, state, position, checkpoints)
        evaluation = None if trouble else work.evaluated(state["params"], saving.parts)()
        if evaluation is not None and evaluation.unusable:
            trouble = f"{evaluation.unusable} is not a number"
            evaluation = None
        work.on_progress(config.tokens)
        if evaluation is not None and config.evaluation.points and jax.process_index() == 0:
            work.directory.add_evaluation(_evaluation_row(config, config.tokens, evaluation))
        if work.policy.final and not trouble:
            checkpoints.save(config.tokens, state)
    finally:
        checkpoints.close()
    return evaluation, trouble


def _start(work: _Work, program: Program, checkpoints: Checkpoints) -> tuple[int, PyTree, RunDirectory | None]:
    """(position, state, the run whose curves up to there are this one's, if it is another) of where a run begins or
    goes on."""
    config, shapes = work.config, state_shapes(program)
    position, curves = 0, None
    if (restored := checkpoints.restore(shapes)) is not None:
        position, state = restored
    elif (start := config.parent or work.trunk) is not None and (
        found := inherited(config, work.directory, start, shapes)
    ):
        position, state, curves = found
    else:
        state = initial_state(program)(jax.random.key(config.seed), numbers_of(config))
    if position == config.start:  # a curve of its own begins here, also where its parent's breaks off
        state |= {"sums": no_sums(program)}
    return position, state, curves


def _steps(
    work: _Work, program: Program, state: PyTree, position: int, checkpoints: Checkpoints
) -> Generator[Call, Made, tuple[PyTree, str | None]]:
    """Trains to the end; returns the state and, when the run diverged, what happened."""
    config, policy, numbers = work.config, work.policy, numbers_of(work.config)
    points = evaluation_points(config)
    stops = {*policy.pinned, *points}
    saved_at = told_at = time.monotonic()
    unread: tuple[tuple[int, ...], tuple[int, ...], tally.Tally] | None = None

    evaluating: tuple[int, Callable[[], Evaluation]] | None = None

    def late_or_stopped() -> tuple[bool, bool]:
        return time.monotonic() - saved_at > policy.every_seconds, work.stop()

    def settled(tokens: int, told: Callable[[], Evaluation]) -> str | None:
        if (evaluation := told()).unusable:
            return f"{evaluation.unusable} was not a number at token {tokens}"
        work.on_progress(tokens)
        if jax.process_index() == 0:
            work.directory.add_evaluation(_evaluation_row(config, tokens, evaluation))
        return None

    rows = [row for row in work.directory.metrics() if row["tokens"] <= position]
    with (work.directory.metrics_file if jax.process_index() == 0 else epath.Path(os.devnull)).open("a") as file:
        curve = Curve(config, file, rows)
        for dispatch in dispatches(config, work.source, position, stops, work.mesh, stretches_per_call(config)):
            tokens_done = dispatch.tokens_done[-1]
            asked = polled(work.mesh, late_or_stopped)
            batches = placed(work.mesh, dispatch.given.batches, config.batch_sequences)
            state, sums = yield Call(program, state, dispatch.given._replace(batches=batches), numbers)
            # The metrics of the dispatch before are read while this one runs.
            if unread and (trouble := curve.add(*unread)):
                return state, trouble
            unread = dispatch.tokens_done, dispatch.row_steps, sums
            # So is an evaluation, which the devices make between the two.
            if evaluating and (trouble := settled(*evaluating)):
                return state, trouble
            evaluating = None
            if tokens_done in points:
                evaluating = tokens_done, work.evaluated(state["params"], program.saving.parts)
                if trouble := curve.add(*unread):
                    return state, trouble
                unread = None
            late, stopped = asked()
            saves = (tokens_done in policy.pinned or late or stopped) and tokens_done < config.tokens
            # Before what is saved here: who goes on from that takes this over.
            if saves and evaluating and (trouble := settled(*evaluating)):
                return state, trouble
            evaluating = None if saves else evaluating
            now = time.monotonic()
            if saves or now - told_at > _PROGRESS_SECONDS:
                work.on_progress(tokens_done)
                told_at = now
            if saves:
                if unread and (trouble := curve.add(*unread)):
                    return state, trouble
                unread = None
                checkpoints.save(tokens_done, state)
                saved_at = time.monotonic()
                if stopped:
                    raise Stopped(
                        f"run {config.run_id} stopped at token {tokens_done} of {config.tokens}, and is saved"
                    )
        return state, curve.add(*unread) if unread else None


def _evaluation_row(config: RunConfig, tokens: int, evaluation: Evaluation) -> Row:
    """A position, the learning rate of the step before it, the held-out losses, and the in-context-learning score."""
    last = (tokens - config.start) // config.training.batch_tokens - 1
    lr = config.training.lr * float(unit_schedule(config.training, np.array([last]))[0])
    score = {"in_context_learning": evaluation.in_context_learning}
    return {"tokens": tokens, "lr": lr} | evaluation.columns | score
