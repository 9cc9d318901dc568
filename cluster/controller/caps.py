"""Caps on the cost of a sweep, and amounts of FLOPs, money and device time in whole units, so that sums are exact."""

from __future__ import annotations

import dataclasses
import functools
import math
from decimal import Decimal
from fractions import Fraction

from pydantic import Field

from nextscale.cluster.controller.job import Job
from nextscale.cluster.hardware.seat import Seat
from nextscale.model.config.identity import Config

_MICRO = 10**6


@dataclasses.dataclass(frozen=True)
class Amount:
    """FLOPs, micro-dollars and device-microseconds."""

    flops: int = 0
    micro_usd: int = 0
    device_us: int = 0

    @staticmethod
    def of(seat: Seat, seconds: float, flops: int = 0) -> Amount:
        """What a slot costs for so long, rounded up."""
        time = Fraction(seconds) * _MICRO
        usd = math.ceil(time * _as_written(seat.usd_per_hour) / 3600)
        return Amount(flops, usd, math.ceil(time * _as_written(seat.chips)))

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.flops + other.flops, self.micro_usd + other.micro_usd, self.device_us + other.device_us)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.flops - other.flops, self.micro_usd - other.micro_usd, self.device_us - other.device_us)

    @property
    def usd(self) -> Decimal:
        return Decimal(self.micro_usd) / _MICRO

    @property
    def device_hours(self) -> float:
        return self.device_us / _MICRO / 3600


@functools.lru_cache
def _as_written(value: float) -> Fraction:
    """A price of 3.6 is that, and not the float next to it."""
    return Fraction(str(value))


class Caps(Config):
    """What a sweep may cost, over all its attempts and restarts: a run that would cross a cap is not started."""

    max_flops: float | None = Field(None, gt=0, description="training FLOPs, those that were lost and redone too")
    max_usd: float | None = Field(None, gt=0, description="by the prices of the pools")
    max_device_hours: float | None = Field(None, gt=0, description="chips × hours; on a cpu pool, core hours")
    max_wall: float | None = Field(None, gt=0, description="hours from the first start on, restarts included")

    @property
    def timed(self) -> bool:
        """Whether an attempt costs more the longer it takes."""
        return any(cap is not None for cap in (self.max_usd, self.max_device_hours, self.max_wall))

    def room(self, used: Amount, wall: float) -> dict[str, float]:
        """What is left under each cap that is set: FLOPs, micro-dollars, device-microseconds, seconds.

        Args:
            used: spent or reserved.
            wall: seconds since the first start.
        """
        room: dict[str, float] = {}
        if self.max_flops is not None:
            room["max_flops"] = int(self.max_flops) - used.flops
        if self.max_usd is not None:
            room["max_usd"] = int(Decimal(str(self.max_usd)) * _MICRO) - used.micro_usd
        if self.max_device_hours is not None:
            room["max_device_hours"] = int(Decimal(str(self.max_device_hours)) * 3600 * _MICRO) - used.device_us
        if self.max_wall is not None:
            room["max_wall"] = self.max_wall * 3600 - wall
        return room


def needs(amount: Amount, seconds: float) -> dict[str, float]:
    """What an attempt takes, in the units of `Caps.room`."""
    return {
        "max_flops": amount.flops,
        "max_usd": amount.micro_usd,
        "max_device_hours": amount.device_us,
        "max_wall": seconds,
    }


def cap_text(cap: str, value: float) -> str:
    """A value of `Caps.room` as people read it."""
    if cap == "max_flops":
        return f"{value:.4g} FLOPs"
    if cap == "max_usd":
        return f"${Decimal(int(value)) / _MICRO:.2f}" if value >= 10_000 or not value else f"${value / _MICRO:.6f}"
    hours = value / 3600 / (_MICRO if cap == "max_device_hours" else 1)
    return f"{hours:.4g} {'device-hours' if cap == 'max_device_hours' else 'hours'}"


def smallest_cap(cap: str, value: float) -> str:
    """The least cap, to three figures, that has room for a value of `Caps.room`, as a spec states it."""
    value /= {"max_flops": 1, "max_usd": _MICRO, "max_device_hours": 3600 * _MICRO, "max_wall": 3600}[cap]
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{(math.floor(value / step) + 1) * step:.4g}"


def flops_until(job: Job, tokens: int) -> int:
    """FLOPs of a run up to a position, counted from where it begins; at its end all of `job.flops`."""
    begun = 0 if job.start is None else job.start.tokens
    return int(job.flops) * min(max(tokens - begun, 0), job.config.tokens - begun) // (job.config.tokens - begun)


def share_left(job: Job, tokens: int) -> float:
    """Of the run, from a position on."""
    begun = 0 if job.start is None else job.start.tokens
    return min(max(job.config.tokens - tokens, 0) / (job.config.tokens - begun), 1.0)
