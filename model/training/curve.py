"""The training curve: writes its rows, and judges by them whether the run has diverged."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Sequence
from typing import TextIO

import jax
import numpy as np

from nextscale.model.config.run import RunConfig
from nextscale.model.record import Row
from nextscale.model.training import tally

_WORSE_THAN_CHANCE, _JUDGED_STEPS = 1.0, 128
"""A loss this many nats above that of the uniform distribution, on average over so many steps after warm-up, has
diverged. One spike has not."""


class Curve:
    """Writes the curve, and judges by its newest steps whether the run has diverged.

    Args:
        rows: the curve so far; a resumed run is judged as one that was never cut.
    """

    def __init__(self, config: RunConfig, file: TextIO, rows: list[Row]):
        self._config, self._file = config, file
        self._done = config.start
        self._newest: collections.deque[tuple[int, float]] = collections.deque()
        self._skipped = 0
        for row in rows:
            self._judge(row)

    def add(self, tokens_done: Sequence[int], row_steps: Sequence[int], sums: tally.Tally) -> str | None:
        """Appends the rows that a dispatch completed; returns what is wrong when the run has diverged.

        Args:
            tokens_done, row_steps: of each stretch of it (see `dispatch.py`).
            sums: after each, still on the device.
        """
        found = {name: np.atleast_1d(values) for name, values in jax.device_get(sums).items()}
        for i, (tokens, steps) in enumerate(zip(tokens_done, row_steps, strict=True)):
            if not steps:
                continue
            row = {"tokens": tokens} | tally.row_of({name: values[i] for name, values in found.items()}, steps)
            if row["loss"] is None and row.get("skipped", 0) < steps:
                return f"the training loss was not a number by token {tokens}"
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            if trouble := self._judge(row):
                return trouble
        return None

    def _judge(self, row: Row) -> str | None:
        training, tokens = self._config.training, row["tokens"]
        steps, self._done = (tokens - self._done) // training.batch_tokens, tokens
        taken = steps - row.get("skipped", 0)
        self._skipped = 0 if taken else self._skipped + steps
        if self._skipped >= _JUDGED_STEPS:
            return f"none of the last {self._skipped} steps could be taken by token {tokens}"
        if not taken:
            return None
        if tokens <= self._config.start + training.warmup_steps * training.batch_tokens:
            return None
        self._newest.append((taken, row["loss"]))
        while sum(steps for steps, _ in self._newest) - self._newest[0][0] >= _JUDGED_STEPS:
            self._newest.popleft()
        judged = sum(steps for steps, _ in self._newest)
        loss = sum(steps * loss for steps, loss in self._newest) / judged
        enough = judged >= _JUDGED_STEPS or tokens == self._config.tokens
        if enough and loss > math.log(self._config.model.vocab) + _WORSE_THAN_CHANCE:
            return f"the training loss was {loss:.3f}, worse than chance, by token {tokens}"
        return None
