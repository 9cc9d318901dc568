"""A trace of some steps of a run by JAX's profiler, for TensorBoard, XProf or Perfetto."""

from __future__ import annotations

import logging
from typing import Any

import jax
from etils import epath

from nextscale.model.config.run import RunConfig

_log = logging.getLogger(__name__)


class Trace:
    """A run's `training.profile`: the steps from the one after the first that it names, to the last.

    Of several runs side by side in one process, one at a time is traced: what JAX records is of the whole process.

    Args:
        folder: where it goes.
    """

    def __init__(self, config: RunConfig, folder: epath.Path):
        self._folder, self._at_work = folder, False
        profile, training = config.training.profile, config.training
        steps = () if profile is None else (profile.steps[0], min(profile.steps[1], training.steps))
        self.positions = tuple(config.start + step * training.batch_tokens for step in steps if step < training.steps)
        """In tokens, at which a call has to end for it."""
        self._first = config.start + steps[0] * training.batch_tokens if steps else None
        self._last = config.start + steps[1] * training.batch_tokens if steps else None

    def before(self, position: int, state: Any) -> None:
        """To be told before the steps from a position on."""
        if position != self._first:
            return
        jax.block_until_ready(state)
        try:
            jax.profiler.start_trace(str(self._folder))
        except RuntimeError as error:  # there is one at work
            _log.warning("no trace is made from token %d on: %s", position, error)
        else:
            self._at_work = True

    def after(self, position: int, state: Any) -> None:
        """To be told after the steps up to a position."""
        if self._at_work and position == self._last:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes what there is."""
        if self._at_work:
            self._at_work = False
            jax.profiler.stop_trace()
            _log.warning("a trace is in %s", self._folder)
