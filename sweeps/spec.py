"""`SweepSpec`: what a user writes to say what they want to know."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from nextscale.cluster.caps import Caps
from nextscale.cluster.pool import Pool
from nextscale.model.config import (
    WEIGHT_DECAY,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    ModelFamily,
    OptimizerConfig,
    TrainingConfig,
)
from nextscale.sweeps.rules import (
    Batch,
    BatchRule,
    DeepSeekRate,
    LearningRate,
    PositiveFloat,
    StepLawRate,
    WeightDecay,
)

Flops = Annotated[float, Field(gt=0, le=1e40)]
Width = Annotated[int, Field(ge=1, le=2**20)]


class SweepTraining(OptimizerConfig):
    """How every run is trained."""

    batch_tokens: Batch = Field(description="tokens per optimiser step, or a rule for them")
    lr: LearningRate = Field(description="peak learning rate at base_width, or a rule for it")
    weight_decay: WeightDecay = Field(0.0, description=f"{WEIGHT_DECAY}; or a rule for it")

    def batch(self, model: ModelConfig, tokens: float) -> int:
        """The batch, in tokens, of a run of about so many tokens."""
        return self.batch_tokens(model, tokens) if isinstance(self.batch_tokens, BatchRule) else self.batch_tokens

    def at(self, model: ModelConfig, steps: int, batch_tokens: int) -> TrainingConfig:
        """How a model is trained for so many steps."""
        shared = {name: getattr(self, name) for name in OptimizerConfig.model_fields}
        scale = model, steps, batch_tokens
        lr = self.lr if isinstance(self.lr, float) else self.lr(*scale)
        decay = self.weight_decay if isinstance(self.weight_decay, float) else self.weight_decay(*scale)
        return TrainingConfig(**shared, steps=steps, batch_tokens=batch_tokens, lr=lr, weight_decay=decay)

    @model_validator(mode="after")
    def _rule_fits(self) -> SweepTraining:
        if isinstance(self.lr, StepLawRate | DeepSeekRate):
            if self.parametrization != "standard":
                raise ValueError(
                    f"lr.rule {self.lr.rule} gives the rate of the model at hand, and parametrization "
                    f"{self.parametrization} would scale it again; use parametrization standard"
                )
            if self.optimizer == "sgd":
                raise ValueError(f"lr.rule {self.lr.rule} is for adamw or muon; give sgd a number")
        return self


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


class WsdDesign(Config):
    """Several model sizes, each at several lengths: one trunk per size, and a cooldown from it per length.

    What depends on a length, a rule for the learning rate say, is that of the longest run on all of its trunk.
    """

    kind: Literal["wsd"]
    widths: list[Width] = Field(min_length=1, description="model widths")
    tokens: list[Annotated[float, Field(gt=0, le=1e20)]] = Field(
        min_length=1, description="lengths of the runs of each width"
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1, description="every run once per seed")

    @field_validator("tokens")
    @classmethod
    def _rising(cls, tokens: list[float]) -> list[float]:
        if any(b <= a for a, b in itertools.pairwise(tokens)):
            raise ValueError("must rise from one length to the next")
        return tokens


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


PoolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _form(pools: Any) -> str:
    """In which form pools are written: what is wrong with them is then told of that form alone."""
    return "named" if isinstance(pools, dict) else "listed" if isinstance(pools, list) else "auto"


Pools = Annotated[
    Annotated[Literal["auto"], Tag("auto")]
    | Annotated[dict[PoolName, Pool], Field(min_length=1), Tag("named")]
    | Annotated[list[PoolName], Field(min_length=1), Tag("listed")],
    Discriminator(_form),
]


class SweepSpec(Config):
    """A scaling study: the runs to train, the law to fit, the next scale to forecast."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits, dot, dash, underscore")
    data: DataConfig
    model: ModelFamily = ModelFamily()
    training: SweepTraining
    design: Annotated[IsoFlopDesign | WsdDesign, Field(discriminator="kind")]
    holdout: Holdout | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    forecast: ForecastConfig = ForecastConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    pools: Pools = Field(
        "auto",
        description="where runs are trained, no part of what they mean: pools by name, names of pools in the site "
        "file, or auto, what the running Ray cluster has",
    )
    caps: Caps = Field(Caps(), description="what the sweep may cost; no part of what its runs mean")
