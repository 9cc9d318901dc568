"""Gates: limits on a sweep's FLOPs, cost and loss that are crossed with a stated approval alone."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field, PrivateAttr

from nextscale.model.config.identity import Config


class Gates(Config):
    """Limits that are crossed with `--approve REASON` alone; no part of what runs mean."""

    max_flops_without_approval: float | None = Field(
        None, gt=0, description="training FLOPs of the whole sweep, its held-out runs too"
    )
    max_run_flops_without_approval: float | None = Field(None, gt=0, description="training FLOPs of one run")
    max_usd_without_approval: float | None = Field(
        None, gt=0, description="dollars of the whole sweep, as planned, by the prices of the pools"
    )
    loss_below: float | None = Field(
        None,
        gt=0,
        description="nats per token: held against the low end of the interval that the held-out runs are forecast with",
    )

    _places: dict[str, str] = PrivateAttr(default_factory=dict)

    def with_places(self, place: Callable[[str], str]) -> Gates:
        """The same, knowing where each limit is written."""
        located = self.model_copy()
        located._places = {name: place(name) for name in self.limits}
        return located

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set."""
        return self.model_dump(exclude_none=True)

    def place(self, name: str) -> str | None:
        """Where a limit is written, `file:line`; None where it was given in Python."""
        return self._places.get(name)
