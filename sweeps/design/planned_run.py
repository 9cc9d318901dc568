"""What designs are expanded into: the runs of a sweep, each with its config and its role."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from nextscale.model.accounting import active_parameters, flops_per_token, non_embedding_parameters, parameters
from nextscale.model.config.external import AnyModel, AnyRun
from nextscale.model.config.run import Parent, RunConfig

if TYPE_CHECKING:
    from nextscale.sweeps.spec.sweep_spec import SweepSpec

Role = Literal["fit", "holdout"]

COUNTS: dict[str, Callable[[AnyModel], int | None]] = {
    "total": parameters,
    "non_embedding": non_embedding_parameters,
    "active": active_parameters,
}
"""How a model's N is counted, by those of `nextscale.fit.conventions.CONVENTIONS` that a sweep may be fitted by."""


def count_parameters(model: AnyModel, convention: str) -> int:
    """The parameters of a model, under one of `COUNTS`."""
    count = COUNTS[convention](model)
    assert count is not None  # a spec that fits by what its sizes do not state is refused
    return count


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run and what it is for.

    Attributes:
        budget: the FLOPs asked for; `flops` are those that whole steps make of it.
        trunk: the run that it is a branch of.
        isoflop: whether it is one of several sizes at its budget, which together show the best.
    """

    config: AnyRun
    role: Role
    budget: float
    trunk: RunConfig | None = None
    isoflop: bool = False

    @functools.cached_property
    def run_id(self) -> str:
        """Of its config, which takes longer to hash than all else here."""
        return self.config.run_id

    @property
    def params(self) -> int:
        return parameters(self.config.model)

    def size(self, convention: str) -> int:
        """N as the fit counts it."""
        return count_parameters(self.config.model, convention)

    @property
    def tokens(self) -> int:
        return self.config.tokens

    @property
    def flops(self) -> float:
        return flops_per_token(self.config.model) * self.tokens

    @property
    def branches_at(self) -> int:
        """The position, in tokens, of its first step that its trunk does not take too."""
        if self.trunk is None:
            return 0
        assert isinstance(self.config, RunConfig)
        return min(self.config.stable_tokens, self.trunk.stable_tokens)

    @property
    def is_longer(self) -> bool:
        """Whether it goes on where its trunk cools down, and trains more than a cooldown."""
        return isinstance(self.config, RunConfig) and 0 < self.branches_at < self.config.stable_tokens

    @property
    def own_flops(self) -> float:
        """What is trained for it, when its trunk is trained too."""
        return flops_per_token(self.config.model) * (self.tokens - self.branches_at)

    @property
    def start(self) -> Parent | None:
        """The state to begin from."""
        return None if self.trunk is None else Parent(run_id=self.trunk.run_id, tokens=self.branches_at)


@dataclasses.dataclass(frozen=True)
class Expansion:
    """How designs of one kind become runs.

    Attributes:
        runs: to fit, of a spec and its design.
        count: how many, without making any.
        resolved: the design with what it leaves open, once the data of the spec is resolved.
    """

    runs: Callable[[SweepSpec, Any], Iterator[PlannedRun]]
    count: Callable[[Any], int]
    resolved: Callable[[SweepSpec, Any], Any] = lambda spec, design: design
