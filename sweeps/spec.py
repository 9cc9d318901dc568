"""`SweepSpec`: what a user writes to say what they want to know."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from nextscale.model.config import Config, DataConfig, EvaluationConfig, ModelFamily, OptimizerConfig

PositiveFloat = Annotated[float, Field(gt=0)]
Flops = Annotated[float, Field(gt=0, le=1e40)]
Rate = Annotated[float, Field(gt=0, le=1e6)]
Width = Annotated[int, Field(ge=1, le=2**20)]


class HorizonRule(Config):
    """Peak learning rate by length: `max(floor, base · (reference_steps / steps)^exponent)`.

    Shorter runs want higher rates; a fixed one costs the short (large-N) runs of an isoFLOP curve 1 to 2 % of
    loss and so fakes its curvature.
    """

    rule: Literal["horizon"]
    base: Rate
    reference_steps: PositiveFloat = 500
    exponent: float = Field(0.25, ge=0, le=2)
    floor: float = Field(0.0, ge=0, le=1e6)

    def __call__(self, steps: int) -> float:
        return max(self.floor, self.base * (self.reference_steps / steps) ** self.exponent)


def _number_or_rule(value: object) -> str:
    return "a rule" if isinstance(value, dict | HorizonRule) else "a number"


LearningRate = Annotated[
    Annotated[Rate, Tag("a number")] | Annotated[HorizonRule, Tag("a rule")], Discriminator(_number_or_rule)
]


class SweepTraining(OptimizerConfig):
    """How every run is trained."""

    batch_tokens: int = Field(ge=1, le=2**40, description="tokens per optimiser step")
    lr: LearningRate = Field(description="peak learning rate at base_width, or a rule for it")

    def peak_lr(self, steps: int) -> float:
        return self.lr(steps) if isinstance(self.lr, HorizonRule) else self.lr


class IsoFlopDesign(Config):
    """Several model sizes at each of several compute budgets."""

    kind: Literal["isoflop"]
    flops: list[Flops] = Field(min_length=1, description="training FLOPs of each budget")
    widths: list[Annotated[list[Width], Field(min_length=1)]] = Field(
        min_length=1, description="model widths at each budget"
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="every run once per seed")

    @model_validator(mode="after")
    def _fits_together(self) -> IsoFlopDesign:
        if len(self.widths) != len(self.flops):
            raise ValueError(
                f"has {len(self.flops)} budgets and {len(self.widths)} lists of widths; give one list each"
            )
        return self

    @field_validator("flops")
    @classmethod
    def _rising(cls, flops: list[float]) -> list[float]:
        if any(b <= a for a, b in itertools.pairwise(flops)):
            raise ValueError("must rise from one budget to the next")
        return flops


class Holdout(Config):
    """The next scale: forecast first, trained after, then compared."""

    flops: Flops
    widths: list[Width] = Field(min_length=1)


class ForecastConfig(Config):
    """How runs become a law. What is left open, a backtest within the fitted budgets decides."""

    law: Literal["auto", "chinchilla", "chinchilla-tied"] = "chinchilla"
    params: Literal["total", "non_embedding"] = "total"
    level: float = Field(0.9, gt=0, lt=1, description="of the intervals")
    resamples: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples")


class CheckpointConfig(Config):
    """When runs save themselves."""

    every_seconds: PositiveFloat = 30.0
    keep: int = Field(2, ge=1)
    final: bool = Field(True, description="keep the trained models")


class SweepSpec(Config):
    """A scaling study: the runs to train, the law to fit, the next scale to forecast."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits, dot, dash, underscore")
    data: DataConfig
    model: ModelFamily = ModelFamily()
    training: SweepTraining
    design: IsoFlopDesign
    holdout: Holdout | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    forecast: ForecastConfig = ForecastConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    pools: Literal["auto"] = Field("auto", description="auto: every GPU, else every CPU core, of the Ray cluster")
