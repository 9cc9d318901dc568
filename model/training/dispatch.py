"""Dispatches: the batches, steps and schedule that each compiled call of a run is given."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from nextscale.model.accounting import steps_per_row
from nextscale.model.config.run import RunConfig
from nextscale.model.data.sources import Source
from nextscale.model.network.sharding import local_rows
from nextscale.model.training.optimizer import unit_schedule
from nextscale.model.training.step import Inputs


class Dispatch(NamedTuple):
    """One compiled call: up to M stretches of up to K steps, each within one row of the curve.

    Attributes:
        tokens_done: after each stretch.
        row_steps: of each stretch, the steps of the row that it completes; 0 where it ends before the row does.
        inputs: of the steps, in arrays for M stretches of K steps, whose filling is never read. Of the
            sequences of a batch, those that this process needs.
    """

    tokens_done: tuple[int, ...]
    row_steps: tuple[int, ...]
    inputs: Inputs


def dispatches(
    config: RunConfig,
    source: Source,
    position: int,
    stops: Collection[int],
    mesh: Mesh | None = None,
    stretches: int = 1,
) -> Iterator[Dispatch]:
    """Each dispatch from `position` on. None goes on beyond one of the positions `stops`.

    Args:
        stretches: M.
    """
    K, B, T = steps_per_row(config), config.batch_sequences, config.model.context
    start, batch_tokens = config.start, config.training.batch_tokens
    first, end_row = local_rows(mesh, B)
    own = end_row - first
    for group in _groups(_stretches(config, position, stops), stretches):
        batches = np.zeros((stretches * K, own, T + 1), np.int32)
        steps, schedule = np.zeros(stretches, np.int32), np.zeros((stretches, K), np.float32)
        for i, (done, end, _, _) in enumerate(group):
            steps[i] = end - done
            schedule[i] = unit_schedule(config.training, done + np.arange(K))
            # Of whole batches, those of all steps are one piece.
            piece = end - done if own == B else 1
            for step in range(0, end - done, piece):
                sequences = source.sequences(start // T + (done + step) * B + first, piece * own)
                batches[i * K + step : i * K + step + piece] = sequences.reshape(-1, own, T + 1)
        row_steps = tuple(row_steps for _, _, row_steps, _ in group)
        completes_row = np.array([*map(bool, row_steps), *[False] * (stretches - len(group))])
        yield Dispatch(
            tuple(start + end * batch_tokens for _, end, _, _ in group),
            row_steps,
            Inputs(batches, schedule.reshape(-1), steps, completes_row),
        )


_Stretch = tuple[int, int, int, bool]
"""First step, end, steps of the row that it completes or 0, and whether a dispatch ends with it."""


def _stretches(config: RunConfig, position: int, stops: Collection[int]) -> Iterator[_Stretch]:
    K, start, batch_tokens = steps_per_row(config), config.start, config.training.batch_tokens
    total, done = config.training.steps, (position - start) // batch_tokens
    cuts = sorted((stop - start) // batch_tokens for stop in stops)
    while done < total:
        row = done // K * K
        row_end = min(row + K, total)
        end = next((cut for cut in cuts if done < cut < row_end), row_end)
        yield done, end, row_end - row if end == row_end else 0, end in cuts
        done = end


def _groups(stretches: Iterator[_Stretch], most: int) -> Iterator[list[_Stretch]]:
    group: list[_Stretch] = []
    for stretch in stretches:
        group.append(stretch)
        if len(group) == most or stretch[-1]:
            yield group
            group = []
    if group:
        yield group
