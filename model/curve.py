"""The curve of training, as it is written, and what it says of a run that goes wrong."""

from __future__ import annotations

import collections
import json
import math
from typing import TextIO

import jax

from nextscale.model import tally
from nextscale.model.config import RunConfig
from nextscale.model.record import Row

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

    def add(self, tokens_done: int, steps: int, sums: dict[str, jax.Array]) -> str | None:
        """Appends what a dispatch reported, still on the device; returns what is wrong when the run has diverged."""
        row = {"tokens": tokens_done} | tally.row_of(sums, steps)
        if row["loss"] is None and row.get("skipped", 0) < steps:
            return f"the training loss was not a number by token {tokens_done}"
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        return self._judge(row)

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
