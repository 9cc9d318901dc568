"""How fast a run goes: tokens and FLOPs a second, memory, and time spent waiting for data and in checkpoints.

Rows of their own beside the curve: times are never twice the same, and a curve is the same to the bit however often its
run was cut. Devices wait for none of it; the clock is read where the run waits for them anyway.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO, TypeVar

import jax

T = TypeVar("T")

_EVERY = 10.0
"""Seconds between two rows, at the least."""


class SpeedMeter:
    """Writes a row about every ten seconds, and one at the end; none of the first call, which compiles.

    Args:
        file: that rows are added to.
        flops_per_token: of the model.
        devices: that the run is spread over, of which each has the memory of this process's fullest.
        end: the position, in tokens, of the last step.
        idle: whether the devices have done all that they were given.
    """

    def __init__(
        self,
        file: TextIO,
        flops_per_token: float,
        devices: int,
        end: int,
        idle: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._file, self._flops_per_token, self._devices = file, flops_per_token, devices
        self._end, self._idle, self._clock = end, idle, clock
        self._since: tuple[float, int] | None = None
        self._spent = {"data": 0.0, "checkpoint": 0.0}

    def reading(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches. What they take counts where the devices had nothing left to do when they were there: of
        that time it is the most that they may have waited."""
        while True:
            began = self._clock()
            batch = next(batches, None)
            if batch is None:
                return
            if self._idle():
                self._spent["data"] += self._clock() - began
            yield batch

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around what devices wait for while a checkpoint is begun."""
        began = self._clock()
        yield
        self._spent["checkpoint"] += self._clock() - began

    def reached(self, tokens: int) -> None:
        """To be told when the devices have done so many tokens of the run."""
        now = self._clock()
        if self._since is not None:
            seconds, done = now - self._since[0], tokens - self._since[1]
            if (seconds < _EVERY and tokens < self._end) or seconds <= 0 or done <= 0:
                return
            row = {
                "tokens": tokens,
                "seconds": seconds,
                "tokens_per_second": done / seconds,
                "flops_per_second": self._flops_per_token * done / seconds,
                "memory_bytes": memory_high_water(),
                **{f"{what}_seconds": spent for what, spent in self._spent.items()},
                "devices": self._devices,
                "device": jax.devices()[0].device_kind,
            }
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        self._since, self._spent = (now, tokens), dict.fromkeys(self._spent, 0.0)


def memory_high_water() -> int:
    """The most bytes of a device of this process that were ever taken; of a CPU, which does not tell, the most of the
    host's memory that this process had."""
    told = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [int(peak) for peak in told if peak is not None]
    # In units of 1024 bytes, but on macOS (getrusage(2)).
    return (
        max(known)
        if known
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    )
