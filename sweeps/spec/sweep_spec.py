"""`SweepSpec`: everything that a spec may say, with its defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from nextscale.cluster.controller.caps import Caps
from nextscale.cluster.hardware.gates import Gates
from nextscale.cluster.hardware.pool import Pool
from nextscale.model.config.data import DataConfig
from nextscale.model.config.identity import Config
from nextscale.model.config.parametrization import SCORES
from nextscale.model.config.run import WEIGHT_DECAY, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig
from nextscale.sweeps.spec.designs import Design, Holdout
from nextscale.sweeps.spec.findings import FindingName
from nextscale.sweeps.spec.loggers import LoggerChoice
from nextscale.sweeps.spec.rules import (
    Batch,
    BatchRule,
    DeepSeekRate,
    LearningRate,
    PositiveFloat,
    StepLawRate,
    WeightDecay,
)
from nextscale.sweeps.spec.sweep_model import SweepModel
from nextscale.sweeps.spec.validation_errors import spec_error_of


class SweepTraining(OptimizerConfig):
    """How every run is trained."""

    batch_tokens: Batch = Field(description="tokens per optimiser step, or a rule for them")
    lr: LearningRate = Field(description="peak learning rate at base_width, or a rule for it")
    weight_decay: WeightDecay = Field(0.0, description=f"{WEIGHT_DECAY}; or a rule for it")

    def batch(self, model: ModelConfig, tokens: float) -> int:
        """The batch, in tokens, of a run of about so many tokens."""
        return self.batch_tokens(model, tokens) if isinstance(self.batch_tokens, BatchRule) else self.batch_tokens

    def at(self, model: ModelConfig, steps: int, batch_tokens: int, head_width: int | None = None) -> TrainingConfig:
        """How a model is trained for so many steps.

        Args:
            head_width: that models of every width have, where it is one.
        """
        shared = {name: getattr(self, name) for name in OptimizerConfig.model_fields}
        # Only where it changes a number: other runs keep their names.
        if self.base_head_width is None and (SCORES[self.parametrization] or (self._scaled and model.head_width)):
            shared["base_head_width"] = head_width
        scale = model, steps, batch_tokens
        lr = self.lr if isinstance(self.lr, float) else self.lr(*scale)
        decay = self.weight_decay if isinstance(self.weight_decay, float) else self.weight_decay(*scale)
        return TrainingConfig(**shared, steps=steps, batch_tokens=batch_tokens, lr=lr, weight_decay=decay)

    @property
    def _scaled(self) -> bool:
        return self.parametrization != "standard"

    @model_validator(mode="after")
    def _rule_fits(self) -> SweepTraining:
        if isinstance(self.lr, StepLawRate | DeepSeekRate):
            if self._scaled:
                raise ValueError(
                    f"lr.rule {self.lr.rule} gives the rate of the model at hand, and parametrization "
                    f"{self.parametrization} would scale it again; use parametrization standard"
                )
            if self.optimizer == "sgd":
                raise ValueError(f"lr.rule {self.lr.rule} is for adamw or muon; give sgd a number")
        return self


class ForecastConfig(Config):
    """How runs become a law. What is left open, a backtest within the fitted budgets decides."""

    law: Literal["consensus", "auto", "chinchilla", "chinchilla-tied", "size-data", "data-size", "none"] = Field(
        "consensus",
        description="consensus, of laws weighed by what each missed in backtests; one law; auto, the one that a "
        "backtest chooses; none where runs differ in more than size and length: `findings` say what they show",
    )
    params: Literal["total", "non_embedding"] = "total"
    level: float = Field(0.9, gt=0, lt=1, description="of the intervals")
    resamples: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples")
    bootstrap: Literal["case", "stratified", "residual", "normal"] | None = Field(
        None,
        description="what is drawn again: runs, runs within budgets, their residuals, or the law from the normal "
        "distribution of its parameters; of few runs normal unless given, of more case",
    )
    delta: PositiveFloat = Field(1e-3, description="where Huber's loss turns from squared to absolute, in log loss")
    drift: float = Field(
        0.0,
        ge=0,
        lt=0.1,
        description="what the law is taken to be off by per e-fold of compute beyond the runs, at least / the loss",
    )

    @property
    def one_law(self) -> str:
        """The law in N and D for what needs one: Chinchilla's, where none is named."""
        return "chinchilla" if self.law in ("consensus", "auto", "none") else self.law


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
    model: SweepModel = SweepModel()
    training: SweepTraining
    design: Design
    holdout: Holdout | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    forecast: ForecastConfig = ForecastConfig()
    findings: list[FindingName] = Field(
        default_factory=list, description="what is told of the runs at the end, beside the law"
    )
    checkpoint: CheckpointConfig = CheckpointConfig()
    pools: Pools = Field(
        "auto",
        description="where runs are trained, no part of what they mean: pools by name, names of pools in the site "
        "file, or auto, what the running Ray cluster has",
    )
    caps: Caps = Field(Caps(), description="what the sweep may cost; no part of what its runs mean")
    gates: Gates = Field(
        Gates(), description="what it may come to before somebody approves; no part of what its runs mean"
    )
    loggers: list[LoggerChoice] = Field(
        ["tensorboard"],
        description="where runs are shown while they are trained, no part of what they mean: tensorboard, wandb, "
        "mlflow, by name or as {kind: ..., options}; [] for none",
    )

    def __init__(self, /, **given: Any):
        """What `load_spec` reads from a file, by keyword: as mappings, or as the classes of these fields.

        Raises:
            SpecError: one line, `key: what, and how to mend it`.
        """
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise spec_error_of(error, given, SweepSpec, "spec") from None
