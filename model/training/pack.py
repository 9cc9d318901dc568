"""Trains several runs side by side in one program, where that is faster: of one shape, each with data of its own.

A small model leaves a large device idle. What one compiled call does for one run, `jax.vmap` of it does for several.
Whether that pays is found out on the way, by timing real steps of the runs: on a CPU core it hardly ever does.

A run's numbers are the same beside others as alone, but for the order of their sums.
"""

from __future__ import annotations

import functools
import logging
import operator
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nextscale.model.record import Row
from nextscale.model.training.step import Call, CallResult, Program, execute, train_packed
from nextscale.model.training.train import Training

PyTree = Any

_log = logging.getLogger(__name__)

_WORTHWHILE = 1.1
"""How many times faster twice as many runs at once must be to be worth another program."""
_TIMED = 2
"""Calls whose shortest counts; the first of all, which compiles, does not."""


def train_together(
    runs: Sequence[Training], *, max_together: int = 8, clock: Callable[[], float] = time.perf_counter
) -> list[Row | BaseException]:
    """Trains runs (see `train.training`) to their ends, so many side by side as is fastest on this device.

    They need not be alike: those whose next calls are of one program are put together, and the others take turns.

    Args:
        max_together: side by side.
        clock: seconds.

    Returns:
        of each run its record, or what it raised. One that fails leaves the others alone.
    """
    results: dict[int, Row | BaseException] = {}
    calls: dict[int, Call] = {}
    paces: dict[Any, _Pace] = {}

    def advance(number: int, step: Callable[[], Call]) -> None:
        try:
            calls[number] = step()
        except StopIteration as end:
            results[number] = end.value
        except Exception as error:
            results[number] = error

    for number, run in enumerate(runs):
        advance(number, functools.partial(next, run))
    while calls:
        # Those of the program whose first run comes first; of them, the ones that stand at the same call.
        kind = _kind(next(iter(calls.values())))
        alike = [number for number, call in calls.items() if _kind(call) == kind]
        # A run that is spread over devices leaves none of them idle.
        pace = paces.setdefault(kind[0], _Pace(max_together if kind[0].mesh is None else 1))
        size = pace.size(len(alike))
        for group in (alike[i : i + size] for i in range(0, len(alike), size)):
            group_calls = [calls.pop(number) for number in group]
            began = clock()
            try:
                after = execute_together(group_calls, wait=not pace.settled)
            except Exception as error:  # of several, also that this program cannot be mapped over runs
                if len(group) > 1:
                    _log.info("%d runs side by side: %s", len(group), error)
                    pace.give_up(len(group))
                    calls.update(zip(group, group_calls, strict=True))
                elif isinstance(error, jax.errors.JaxRuntimeError):
                    advance(group[0], functools.partial(runs[group[0]].throw, error))
                else:
                    raise
                continue
            pace.took(len(group), clock() - began)
            for number, state in zip(group, after, strict=True):
                advance(number, functools.partial(runs[number].send, state))
    return [results[number] for number in range(len(runs))]


def _kind(call: Call) -> tuple[Program, tuple[int, ...], bytes]:
    """Calls of one kind can be made as one."""
    return call.program, call.inputs.batches.shape, call.inputs.steps.tobytes() + call.inputs.completes_row.tobytes()


def execute_together(calls: list[Call], *, wait: bool) -> list[CallResult]:
    """What `step.execute` makes of calls of one kind; but where there are several, the states before them are kept."""
    if len(calls) == 1:
        after = [execute(calls[0])]
    else:
        inputs = calls[0].inputs
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(call.state for call in calls))
        numbers = jax.tree.map(lambda *leaves: np.stack(leaves), *(call.numbers for call in calls))
        batches = np.stack([np.asarray(call.inputs.batches) for call in calls])
        schedule = np.stack([call.inputs.schedule for call in calls])
        inputs = inputs._replace(batches=batches, schedule=schedule)
        found = train_packed(calls[0].program)(state, inputs, numbers)
        after = [jax.tree.map(operator.itemgetter(i), found) for i in range(len(calls))]
    return jax.block_until_ready(after) if wait else after


class _Pace:
    """Which number of runs side by side is fastest: 1, then twice as many as long as that pays."""

    def __init__(self, most: int):
        self._most, self._best, self._tried = most, 1, 1
        self._seconds: dict[int, list[float]] = {}
        self.settled = most == 1

    def size(self, there: int) -> int:
        """How many to put together of so many that are there."""
        if not self.settled and self._tried > there:
            return self._best  # for now: more may come
        return min(self._best if self.settled else self._tried, there)

    def took(self, size: int, seconds: float) -> None:
        """Takes note of a call's duration."""
        if self.settled or size != self._tried:
            return
        found = self._seconds.setdefault(size, [])
        found.append(seconds / size)
        if len(found) <= _TIMED:
            return
        fastest = {size: min(each[1:]) for size, each in self._seconds.items()}
        if size > 1 and fastest[self._best] < _WORTHWHILE * fastest[size]:
            self._settle()
            return
        self._best = size
        if 2 * size > self._most:
            self._settle()
        else:
            self._tried = 2 * size

    def give_up(self, size: int) -> None:
        """Never so many again."""
        self._best = min(self._best, max(size // 2, 1))
        self._settle()

    def _settle(self) -> None:
        self.settled = True
        _log.info("%d run(s) side by side", self._best)
