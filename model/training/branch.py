"""Branches: runs that begin at a checkpoint of another run, their trunk.

A warm-up and a constant rate are the same for every length. So of wsd runs that differ in length alone, the longest is
the trunk of all: each of the others is, up to its cooldown, the trunk to the bit, and trains nothing but its cooldown.
A still longer one is that trunk up to where the trunk cools down, and goes on from there if that state was kept.
It is the run that it would have been without a trunk, with the same name, and in its record nothing tells the two
apart. A state that is gone costs time, never a result.

A run with a `parent` in its config changes something on the way, such as its batch. No run without a parent is the
same, so the parent is part of its meaning, and it cannot do without that state.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from nextscale.model.config.run import Parent, RunConfig
from nextscale.model.errors import InputError
from nextscale.model.network.processes import of_first_process
from nextscale.model.record import RunDirectory
from nextscale.model.training.checkpoint import read_checkpoint
from nextscale.model.training.optimizer import unit_schedule

PyTree = Any

_log = logging.getLogger(__name__)


def trunk_state(
    config: RunConfig, directory: RunDirectory, trunk: Parent, state: PyTree
) -> tuple[int, PyTree, RunDirectory | None] | None:
    """The state of a trunk, to begin from.

    Args:
        trunk: a run in a directory beside this one, and the position of its checkpoint.
        state: arrays or shapes of a state of this run.

    Returns:
        position, state, and the run whose curves up to there are this run's too, if they are; None where the trunk's
        state is gone and this run can do without it.

    Raises:
        InputError: the trunk is not what this run begins as, or its state is gone and cannot be done without.
        UnreadableCheckpoint: the state is there, and cannot be read now.
    """
    source = directory.sibling(trunk.run_id)
    if not any(of_first_process([source.started])):
        found = None
    else:
        begun = source.config()
        assert isinstance(begun, RunConfig)  # what a trunk of ours names
        _check(config, begun, trunk)
        found = read_checkpoint(source.checkpoint(trunk.tokens), state)
    if found is None and config.parent is None:
        _log.warning("run %s: %s is gone; it begins at its first token", config.run_id, source.checkpoint(trunk.tokens))
        return None
    if found is None:
        raise InputError(
            f"parent: there is no whole checkpoint {source.checkpoint(trunk.tokens)}; delete {source.path} and train "
            f"that run again with token {trunk.tokens} pinned"
        )
    return trunk.tokens, found, source if config.parent is None else None


def same_until(a: RunConfig, b: RunConfig, tokens: int) -> bool:
    """Whether two runs are one up to a position: all that acts before it is the same, the schedule step by step, and
    so is all that is measured on the way."""

    def course(config: RunConfig) -> bytes:
        steps = np.arange((tokens - config.start) // config.training.batch_tokens)
        return unit_schedule(config.training, steps).tobytes()

    return a.but_for_its_course() == b.but_for_its_course() and course(a) == course(b)


def _check(config: RunConfig, trunk: RunConfig, start: Parent) -> None:
    if trunk.run_id != start.run_id:
        raise InputError(f"parent: the folder of run {start.run_id} holds run {trunk.run_id}; restore it or delete it")
    if config.parent is None and not same_until(config, trunk, start.tokens):
        raise InputError(
            f"run {trunk.run_id} is no trunk of run {config.run_id}: they part before token {start.tokens}"
        )
    if config.model != trunk.model or config.training.optimizer != trunk.training.optimizer:
        raise InputError(
            f"parent: run {trunk.run_id} is of another model or optimiser; what goes on from it must be of the same"
        )
    if (config.training.skip_spikes is None) != (trunk.training.skip_spikes is None):
        raise InputError(
            f"parent: of this run and run {trunk.run_id} only one has training.skip_spikes; give it to both or neither"
        )
