"""Pool: equal slices of one kind of accelerator that runs are trained on."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from nextscale.model.config.identity import Config


class Pool(Config):
    """Equal slices: of each so many hosts, of each so many chips.

    A pool of one host per slice serves a warm lane: each slice is shared out among workers of `chips_per_run`, which
    train one run after another in one process. One of several hosts, or with `lane: gang`, serves a gang lane: every
    run has a whole slice to itself, and a fresh process on each host.
    """

    accelerator: str = Field(description="a name of the catalogue, such as h100 or tpu-v5e; see `nextscale hardware`")
    hosts: int = Field(1, ge=1, le=10_000, description="of each slice")
    chips: int = Field(1, ge=1, le=10_000, description="of each host; on a cpu pool, cores")
    slices: int = Field(1, ge=1, le=100_000)
    slices_per_run: int = Field(1, ge=1, le=1000, description="of a gang lane: that train one run together")
    chips_per_run: float = Field(
        1.0, gt=0, description="of the warm lane: a whole number, or a fraction of one GPU that several runs share"
    )
    lane: Literal["warm", "gang"] | None = Field(None, description="warm where slices have one host, if open")
    topology: str | None = Field(None, description="of a TPU slice, such as 4x4; from hosts and chips if open")
    spot: bool = Field(False, description="may be taken away at any time")
    usd_per_chip_hour: float | None = Field(None, ge=0, description="the catalogue's list price if open")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.lane == "warm" and self.hosts > 1:
            raise ValueError("a warm lane is of slices of one host; leave out lane, or take lane gang")
        if self.chips_per_run > self.chips:
            raise ValueError(f"chips_per_run {self.chips_per_run} is more than the {self.chips} chips of a host")
        if self.chips_per_run > 1 and self.chips_per_run != int(self.chips_per_run):
            raise ValueError(f"chips_per_run {self.chips_per_run} is neither a whole number nor a fraction of one")
        if self.slices_per_run > (self.slices if self.gang else 1):
            raise ValueError(f"slices_per_run {self.slices_per_run} is for a gang lane of that many slices, or more")
        return self

    @property
    def gang(self) -> bool:
        return self.hosts > 1 or self.lane == "gang"

    @property
    def slots(self) -> int:
        """How many runs can be trained at once."""
        return (
            self.slices // self.slices_per_run
            if self.gang
            else self.slices * int(self.chips / self.chips_per_run + 1e-9)
        )

    @property
    def chips_per_slot(self) -> float:
        """What a run pays for."""
        return self.slices_per_run * self.hosts * self.chips if self.gang else self.chips_per_run
