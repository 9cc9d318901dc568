"""What each compiled call of a run is given."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from nextscale.model.config import RunConfig
from nextscale.model.data import Source
from nextscale.model.optimizer import unit_schedule
from nextscale.model.sharding import own_rows
from nextscale.model.step import steps_per_dispatch


class Dispatch(NamedTuple):
    """One compiled call.

    Attributes:
        tokens_done: after it.
        steps: that it makes, at most K.
        row_steps: steps of the row of the curve that it completes; 0 where it completes none.
        batches_KxBxT1: of the sequences of a batch, B, those that this process needs.
        schedule_K: learning rate / peak.
    """

    tokens_done: int
    steps: int
    row_steps: int
    batches_KxBxT1: np.ndarray
    schedule_K: np.ndarray


def dispatches(
    config: RunConfig, source: Source, position: int, stops: Collection[int], mesh: Mesh | None = None
) -> Iterator[Dispatch]:
    """Each dispatch from `position` on. Of a batch only the sequences that this process needs are read.

    A row is K steps of the run; a dispatch that ends before, at one of the positions `stops`, completes none.
    """
    K, B, T = steps_per_dispatch(config), config.batch_sequences, config.model.context
    start, batch_tokens, total = config.start, config.training.batch_tokens, config.training.steps
    done = (position - start) // batch_tokens
    cuts = sorted((stop - start) // batch_tokens for stop in stops)
    first, end_row = own_rows(mesh, B)
    own = end_row - first
    while done < total:
        row = done // K * K
        row_end = min(row + K, total)
        end = next((cut for cut in cuts if done < cut < row_end), row_end)
        # A short dispatch is filled up to the compiled shape; the loop never reads the filling.
        batches = np.zeros((K, own, T + 1), np.int32)
        # Of whole batches, those of all steps are one stretch.
        stretch = end - done if own == B else 1
        for step in range(0, end - done, stretch):
            sequences = source.sequences(start // T + (done + step) * B + first, stretch * own)
            batches[step : step + stretch] = sequences.reshape(-1, own, T + 1)
        schedule = unit_schedule(config.training, done + np.arange(K))
        row_steps = row_end - row if end == row_end else 0
        yield Dispatch(start + end * batch_tokens, end - done, row_steps, batches, schedule)
        done = end
