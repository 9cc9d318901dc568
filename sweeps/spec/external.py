"""What a spec may say where an external trainer trains: sizes by whatever keys it wants, and designs over these."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from nextscale.model.config.external import ExternalModel, ExternalSteps, ExternalTraining
from nextscale.model.config.identity import Config
from nextscale.sweeps.spec.designs import (
    GridDesign,
    HeldOut,
    IsoFlop,
    OverSizes,
    Ratios,
    Seeds,
    SequentialDesign,
)

_FOLLOWS = ("steps", "tokens", "seed", "flops")


class ExternalModels(Config):
    """The sizes that an external trainer can train: designs choose among them."""

    kind: Literal["external"]
    sizes: list[ExternalModel] = Field(min_length=1)

    @model_validator(mode="after")
    def _are_told_apart(self) -> Self:
        seen: dict[str, int] = {}
        for i, size in enumerate(self.sizes):
            keys = json.dumps(size.semantic(), sort_keys=True)
            if keys in seen:
                raise ValueError(f"sizes.{i}: has the same keys as sizes.{seen[keys]}; leave one out")
            seen[keys] = i
        return self

    def named(self, name: float | dict[str, Any]) -> ExternalModel:
        """The size of so many parameters, or with these keys.

        Raises:
            ValueError: there is none, or more than one.
        """
        wanted = name if isinstance(name, dict) else {"params": name}
        if exact := [size for size in self.sizes if size.written == wanted]:
            return exact[0]
        found = [size for size in self.sizes if all(size.written.get(key) == value for key, value in wanted.items())]
        if len(found) == 1:
            return found[0]
        shown = ", ".join(
            f"{key} {value:.6g}" if key == "params" else f"{key} {value}" for key, value in wanted.items()
        )
        if not found:
            known = ", ".join(f"{size.params:.6g}" for size in self.sizes)
            raise ValueError(f"no size of model.sizes has {shown}; name one by its params, {known}")
        raise ValueError(f"{len(found)} sizes of model.sizes have {shown}; name one by a key that tells them apart")


SizeName = Annotated[float, Field(ge=1)] | Annotated[dict[str, JsonValue], Field(min_length=1)]
"""A size of `model.sizes`: by its parameters, or by keys that tell it apart."""
Sizes = Annotated[list[SizeName], Field(min_length=1)]
_AMONG = "by params, or by keys that tell one apart; all of model.sizes if open"


class SweepExternalTraining(ExternalTraining):
    """How an external trainer trains every run: the batch, and its own keys."""

    def at(self, steps: int, batch_tokens: int) -> ExternalSteps:
        return ExternalSteps(**self.written | {"steps": steps, "batch_tokens": batch_tokens})

    @model_validator(mode="after")
    def _leaves_lengths_out(self) -> Self:
        for name in _FOLLOWS:
            if name in (self.__pydantic_extra__ or {}):
                raise ValueError(f"{name}: follows from the design, run by run; leave it out")
        return self


class _OverSizes(OverSizes):
    sizes_are: ClassVar = "`sizes` names those of model.sizes, by params"


class ExternalIsoFlop(_OverSizes, IsoFlop):
    """Several sizes at each of several compute budgets."""

    sizes: list[Sizes] | None = Field(None, description=f"at each budget: {_AMONG}")

    @model_validator(mode="after")
    def _has_sizes_at_each_budget(self) -> Self:
        self.check_lists("sizes")
        return self


class ExternalLadder(_OverSizes):
    """Several sizes, each trained for several multiples of its parameters."""

    expanded_in: ClassVar = "ladder"

    kind: Literal["ladder"]
    sizes: Sizes | None = Field(None, description=_AMONG)
    tokens_per_param: Ratios = Field(description="lengths of the runs of each size")
    seeds: Seeds = Field([0], description="every run once per seed")


class ExternalGrid(GridDesign):
    """Every combination of values of the axes: params, which names sizes, a length, and keys of training and data."""

    @field_validator("axes")
    @classmethod
    def _names_sizes(cls, axes: dict[str, Any]) -> dict[str, Any]:
        for name in axes:
            if name.startswith("model."):
                raise ValueError(f"{name}: what a model is made of stands in model.sizes; the axis of sizes is params")
        return axes


class ExternalSequential(_OverSizes, SequentialDesign):
    """A budget and a target: after a small start, each run is the one that narrows the forecast most per FLOP."""

    start: ExternalIsoFlop = Field(description="the runs to begin with, more than the law has parameters")
    sizes: Sizes | None = Field(None, description=f"to choose from: {_AMONG}")


ExternalDesign = Annotated[
    ExternalIsoFlop | ExternalLadder | ExternalGrid | ExternalSequential, Field(discriminator="kind")
]


class ExternalHoldout(_OverSizes, HeldOut):
    """The next scale: forecast first, trained after, then compared."""

    sizes: Sizes | None = Field(None, description=_AMONG)
