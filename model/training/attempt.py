"""One attempt at training a run: from its newest checkpoint to its end, many steps a dispatch."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TextIO

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from nextscale.model.accounting import flops_per_token
from nextscale.model.config.run import Parent, RunConfig
from nextscale.model.data.sources import Source, check_unchanged
from nextscale.model.errors import Stopped
from nextscale.model.meter.profile import Trace
from nextscale.model.meter.speed import SpeedMeter
from nextscale.model.network.processes import barrier, poll_processes
from nextscale.model.network.sharding import place_local_batches
from nextscale.model.record import Row, RunDirectory
from nextscale.model.training import tally
from nextscale.model.training.branch import trunk_state
from nextscale.model.training.checkpoint import CheckpointPolicy, Checkpoints
from nextscale.model.training.curve import Curve
from nextscale.model.training.dispatch import Dispatch, dispatches
from nextscale.model.training.evaluate import Evaluation, evaluate_all, evaluation_points
from nextscale.model.training.optimizer import unit_schedule
from nextscale.model.training.step import (
    Call,
    CallResult,
    MemorySaving,
    Program,
    initial_state,
    numbers_of,
    program_of,
    state_shapes,
    stretches_per_call,
    zero_sums,
)

PyTree = Any

_PROGRESS_SECONDS = 1.0


class Diverged(Exception):
    """The run cannot go on: a loss is not a number, or worse than chance. The message says which, and where."""


Ask = Callable[[PyTree, Callable[[], None]], Sequence[str]]
"""What else is asked of a trained model: of its weights, and what is to be called again and again meanwhile; notes in
words of what was not answered."""


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What every attempt at a run has in common (see `train.training`)."""

    config: RunConfig
    directory: RunDirectory
    source: Source
    sets: dict[str, Source]
    mesh: Mesh | None
    policy: CheckpointPolicy
    trunk: Parent | None
    on_progress: Callable[[int], None]
    stop: Callable[[], bool]
    ask: Ask | None = None

    def check_data(self) -> None:
        """To be asked before what was read is vouched for, by a checkpoint or a record.

        Raises:
            InputError: the data was written to since it was opened.
        """
        check_unchanged([self.source, *self.sets.values()])

    def beat(self) -> None:
        """To be called while the trained model is looked at.

        Raises:
            Stopped: the run was asked to stop; it goes on from its last checkpoint.
        """
        self.on_progress(self.config.tokens)
        if self.stop():
            raise Stopped(f"run {self.config.run_id} was stopped at its end, before all was asked of its model")

    def evaluate(self, params: PyTree, micro_batches: int) -> Callable[[], Evaluation]:
        return evaluate_all(self.config, params, self.source, self.sets, micro_batches=micro_batches)


def attempt(
    context: RunContext, saving: MemorySaving
) -> Generator[Call, CallResult, tuple[Evaluation | None, str | None]]:
    """Trains a run to its end; returns its evaluation or, when it diverged, the reason."""
    config, program = context.config, program_of(context.config, context.mesh, saving)
    checkpoints = Checkpoints(context.directory.checkpoints, context.policy)
    evaluation = reason = None
    try:
        position, state, curves = _start(context, program, checkpoints)
        context.on_progress(position)
        if jax.process_index() == 0:
            context.directory.cut_curves(position, curves)
        barrier("the curves are cut")
        try:
            state = yield from _steps(context, program, state, position, checkpoints)
            evaluation = _last_evaluation(context, state["params"], saving.micro_batches)
        except Diverged as diverged:
            reason = str(diverged)
        context.on_progress(config.tokens)
        context.check_data()
        if evaluation is not None:
            if config.evaluation.points and jax.process_index() == 0:
                context.directory.add_evaluation(_evaluation_row(config, config.tokens, evaluation))
            if context.policy.final:
                checkpoints.save(config.tokens, state)
            if context.ask is not None:
                evaluation = dataclasses.replace(evaluation, notes=tuple(context.ask(state["params"], context.beat)))
    finally:
        checkpoints.close()
    return evaluation, reason


def _start(context: RunContext, program: Program, checkpoints: Checkpoints) -> tuple[int, PyTree, RunDirectory | None]:
    """(position, state, the run whose curves up to there are this one's, if it is another) of where a run begins or
    goes on."""
    config, shapes = context.config, state_shapes(program)
    position, curves = 0, None
    if (restored := checkpoints.restore(shapes)) is not None:
        position, state = restored
    elif (start := config.parent or context.trunk) is not None and (
        found := trunk_state(config, context.directory, start, shapes)
    ):
        position, state, curves = found
    else:
        state = initial_state(program)(jax.random.key(config.seed), numbers_of(config))
    if position == config.start:  # a curve of its own begins here, also where its parent's breaks off
        state |= {"sums": zero_sums(program)}
    return position, state, curves


def _steps(
    context: RunContext, program: Program, state: PyTree, position: int, checkpoints: Checkpoints
) -> Generator[Call, CallResult, PyTree]:
    """Trains to the end; returns the state.

    Raises:
        Diverged: there is no going on.
        Stopped: it was asked to stop, and has saved itself.
    """
    config, mesh, pinned, numbers = context.config, context.mesh, context.policy.pinned, numbers_of(context.config)
    points, trace = evaluation_points(config), Trace(config, context.directory.profile)
    stops = {*pinned, *points, *trace.positions}
    rows = [row for row in context.directory.metrics() if row["tokens"] <= position]
    with _Outputs.opened(context, rows, checkpoints, program) as outputs, contextlib.closing(trace):
        found = dispatches(config, context.source, position, stops, mesh, stretches_per_call(config))
        for dispatch in outputs.speed.reading(found):
            tokens = dispatch.tokens_done[-1]
            late_or_stopped = poll_processes(mesh, outputs.late_or_stopped)
            batches = place_local_batches(mesh, dispatch.inputs.batches, config.batch_sequences)
            trace.before(position, state)
            state, sums = yield Call(program, state, dispatch.inputs._replace(batches=batches), numbers)
            trace.after(position := tokens, state)
            # While the devices work on this dispatch, what is left of the one before is read.
            outputs.read_metrics()
            outputs.read_evaluation()
            outputs.expect_metrics(dispatch, sums)
            if tokens in points:
                outputs.start_evaluation(tokens, state["params"])
            if tokens in stops:  # the sums of a row that is not complete go into the next call, and are gone then
                outputs.read_metrics()
            late, stopped = late_or_stopped()
            if (tokens in pinned or late or stopped) and tokens < config.tokens:
                outputs.save_checkpoint(tokens, state)
                if stopped:
                    raise Stopped(f"run {config.run_id} stopped at token {tokens} of {config.tokens}, and is saved")
            else:
                outputs.report_progress(tokens)
        outputs.read_metrics()
    return state


class _Outputs:
    """What a run gives beside its steps: the curve, evaluations on the way, progress and checkpoints.

    Devices are never idle for it: metrics of a dispatch, and an evaluation made after it, are read when the next
    dispatch is on its way. Before a checkpoint all is read, since whoever goes on from there takes it over.
    """

    def __init__(self, context: RunContext, curve: Curve, speed: TextIO, checkpoints: Checkpoints, program: Program):
        config, mesh = context.config, program.mesh
        self._context, self._curve, self._checkpoints = context, curve, checkpoints
        self._micro_batches = program.memory_saving.micro_batches
        devices = 1 if mesh is None else mesh.size
        self.speed = SpeedMeter(speed, flops_per_token(config.model), devices, config.tokens, self._idle)
        self._metrics: tuple[Dispatch, tally.Tally] | None = None
        self._evaluation: tuple[int, Callable[[], Evaluation]] | None = None
        self._saved_at = self._reported_at = time.monotonic()
        self._saving, self._save_seconds = False, 0.0

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, context: RunContext, rows: list[Row], checkpoints: Checkpoints, program: Program
    ) -> Iterator[_Outputs]:
        """Of a run whose curve so far is `rows`."""
        directory, writes = context.directory, jax.process_index() == 0
        files = (directory.metrics_file, directory.speed_file) if writes else [epath.Path(os.devnull)] * 2
        with files[0].open("a") as metrics, files[1].open("a") as speed:
            yield cls(context, Curve(context.config, metrics, rows), speed, checkpoints, program)

    def _idle(self) -> bool:
        """Whether the devices have done all that they were given."""
        return self._metrics is None or all(sum_.is_ready() for sum_ in self._metrics[1].values())  # type: ignore[attr-defined]

    def late_or_stopped(self) -> tuple[bool, bool]:
        """Whether a checkpoint is overdue, and whether the run is to stop."""
        passed = time.monotonic() - self._saved_at
        if self._saving:  # it took, or has taken, so long until now
            self._saving, self._save_seconds = self._checkpoints.saving, passed
        return passed > self._context.policy.interval(self._save_seconds), self._context.stop()

    def expect_metrics(self, dispatch: Dispatch, sums: tally.Tally) -> None:
        self._metrics = dispatch, sums

    def read_metrics(self) -> None:
        """Adds the metrics that are not read yet to the curve; waits for the devices.

        Raises:
            Diverged: a training loss is not a number, or worse than chance.
        """
        if self._metrics is None:
            return
        (dispatch, sums), self._metrics = self._metrics, None
        if reason := self._curve.add(dispatch.tokens_done, dispatch.row_steps, sums):
            raise Diverged(reason)
        self.speed.reached(dispatch.tokens_done[-1])

    def start_evaluation(self, tokens: int, params: PyTree) -> None:
        self._evaluation = tokens, self._context.evaluate(params, self._micro_batches)

    def read_evaluation(self) -> None:
        """Writes down the evaluation that is not read yet; waits for the devices.

        Raises:
            Diverged: a loss of it is not a number.
        """
        if self._evaluation is None:
            return
        (tokens, read), self._evaluation = self._evaluation, None
        if (evaluation := read()).unusable:
            raise Diverged(f"{evaluation.unusable} was not a number at token {tokens}")
        self._context.on_progress(tokens)
        if jax.process_index() == 0:
            self._context.directory.add_evaluation(_evaluation_row(self._context.config, tokens, evaluation))

    def report_progress(self, tokens: int, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._reported_at > _PROGRESS_SECONDS:
            self._context.on_progress(tokens)
            self._reported_at = now

    def save_checkpoint(self, tokens: int, state: PyTree) -> None:
        self.read_evaluation()
        self.report_progress(tokens, at_once=True)
        self.read_metrics()
        self._saved_at, self._saving = time.monotonic(), True
        with self.speed.saving():
            self._context.check_data()
            self._checkpoints.save(tokens, state)


def _last_evaluation(context: RunContext, params: PyTree, micro_batches: int) -> Evaluation:
    evaluation = context.evaluate(params, micro_batches)()
    if evaluation.unusable:
        raise Diverged(f"{evaluation.unusable} is not a number")
    return evaluation


def _evaluation_row(config: RunConfig, tokens: int, evaluation: Evaluation) -> Row:
    """A position, the learning rate of the step before it, the held-out losses, and the in-context-learning score."""
    last = (tokens - config.start) // config.training.batch_tokens - 1
    lr = config.training.lr * float(unit_schedule(config.training, np.array([last]))[0])
    score = {"in_context_learning": evaluation.in_context_learning}
    return {"tokens": tokens, "lr": lr} | evaluation.columns | score
