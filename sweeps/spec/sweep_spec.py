"""`SweepSpec`: everything that a spec may say, with its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, ModelWrapValidatorHandler, Tag, ValidationError, model_validator
from pydantic.json_schema import SkipJsonSchema

from nextscale.cluster.controller.caps import Caps
from nextscale.cluster.controller.queue import Order
from nextscale.cluster.hardware.gates import Gates
from nextscale.cluster.hardware.pool import Pool
from nextscale.model.config.code import Code, is_target
from nextscale.model.config.data import DataConfig
from nextscale.model.config.evaluation import EvaluationConfig
from nextscale.model.config.external import (
    AnyModel,
    AnyRun,
    ExternalModel,
    ExternalRun,
    ExternalSteps,
    Trainer,
)
from nextscale.model.config.free_keys import FreeKeys
from nextscale.model.config.identity import Aside, Config
from nextscale.model.config.module import Counts, ModuleModel
from nextscale.model.config.parametrization import SCORES, Parametrization
from nextscale.model.config.run import ModelConfig, RunConfig
from nextscale.model.config.training import WEIGHT_DECAY, OptimizerConfig, TrainingConfig
from nextscale.model.errors import InputError
from nextscale.model.network.counts import counted
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.designs import Design, GridDesign, Holdout, values_of
from nextscale.sweeps.spec.external import (
    ExternalDesign,
    ExternalHoldout,
    ExternalModels,
    SizeName,
    SweepExternalTraining,
)
from nextscale.sweeps.spec.findings import FindingName, ModuleFindingName
from nextscale.sweeps.spec.loggers import LoggerChoice
from nextscale.sweeps.spec.module import ModuleDesign, ModuleHoldout, SweepModule
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
    keep_trunk: Aside = Field(
        False, description="keep the state of each wsd trunk before its own cooldown: longer runs go on from there"
    )

    def batch(self, model: ModelConfig | ModuleModel, tokens: float) -> int:
        """The batch, in tokens, of a run of about so many tokens."""
        return self.batch_tokens(model, tokens) if isinstance(self.batch_tokens, BatchRule) else self.batch_tokens

    def at(
        self, model: ModelConfig | ModuleModel, steps: int, batch_tokens: int, head_width: int | None = None
    ) -> TrainingConfig:
        """How a model is trained for so many steps.

        Args:
            head_width: that models of every width have, where it is one.
        """
        shared = {name: getattr(self, name) for name in OptimizerConfig.model_fields}
        # Only where it changes a number: other runs keep their names.
        own_width = isinstance(model, ModelConfig) and model.head_width
        if self.base_head_width is None and (SCORES[self.parametrization] or (self._scaled and own_width)):
            shared["base_head_width"] = head_width
        scale = model, steps, batch_tokens
        lr = self.lr if isinstance(self.lr, float) else self.lr(*scale)
        decay = self.weight_decay if isinstance(self.weight_decay, float) else self.weight_decay(*scale)
        return TrainingConfig(**shared, steps=steps, batch_tokens=batch_tokens, lr=lr, weight_decay=decay)

    @property
    def _scaled(self) -> bool:
        return self.parametrization != "standard"

    @model_validator(mode="after")
    def _has_a_trunk(self) -> SweepTraining:
        if self.keep_trunk and self.schedule != "wsd":
            raise ValueError(f"keep_trunk is of schedule wsd, not {self.schedule}; leave it out")
        return self

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
    params: Literal["total", "non_embedding", "active"] = "total"
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


AnyTraining = TrainingConfig | ExternalSteps
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
    """A scaling study: the runs to train, the law to fit, the next scale to forecast.

    What names a trainer of its own becomes an `ExternalSpec`, from wherever it is read.
    """

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
    order: Order = Field(
        "longest",
        description="which run is next, no part of what runs mean: the longest, so that all are done soonest, or the "
        "cheapest, so that a forecast is there early",
    )
    priority: int = Field(
        0,
        ge=-1000,
        le=1000,
        description="among sweeps that share a Ray cluster, no part of what runs mean: those of a higher one get slots "
        "first, equal ones as many each",
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
    code: Code | None = Field(
        None, description="where modules, losses and optimisers of one's own are; beside the spec if open"
    )

    def __init__(self, /, **given: Any):
        """What `load_spec` reads from a file, by keyword: as mappings, or as the classes of these fields.

        Raises:
            SpecError: one line, `key: what, and how to mend it`.
        """
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise spec_error_of(error, given, type(self), "spec") from None

    def __new__(cls, /, **given: Any) -> Any:
        return super().__new__(_kind_of(given) if cls is SweepSpec else cls)

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_kind(cls, given: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        kind = _kind_of(given) if cls is SweepSpec else cls
        return handler(given) if kind is cls else kind.model_validate(given)

    def names(self, chosen: Sequence[SizeName] | None) -> list[SizeName]:
        """What sizes are called that a design chooses: widths."""
        assert chosen is not None
        return [*chosen]

    def model_at(self, name: SizeName) -> AnyModel:
        """The model of a size.

        Raises:
            ValueError: there is none.
        """
        assert isinstance(name, int)
        return self.model.at(name, self.data.vocab)

    def batch(self, model: AnyModel, tokens: float) -> int:
        """The batch, in tokens, of a run of about so many tokens."""
        assert isinstance(model, ModelConfig | ModuleModel)
        return self.training.batch(model, tokens)

    def training_at(self, model: AnyModel, steps: int, batch_tokens: int) -> AnyTraining:
        """How a model is trained for so many steps.

        Raises:
            ValidationError: it cannot be.
        """
        assert isinstance(model, ModelConfig)
        return self.training.at(model, steps, batch_tokens, self.model.one_head_width)

    def run_of(self, model: AnyModel, training: AnyTraining, seed: int) -> AnyRun:
        """The run of a model that is trained so.

        Raises:
            ValidationError: the parts do not fit together.
        """
        assert isinstance(model, ModelConfig | ModuleModel)
        assert isinstance(training, TrainingConfig)
        run = RunConfig(data=self.data, model=model, training=training, evaluation=self.evaluation, seed=seed)
        return run.model_copy(update={"code": (self.code or Code()).of(run.targets)}) if run.targets else run

    @property
    def targets(self) -> list[str]:
        """The code of one's own that its runs are made of, by name."""
        axes = self.design.axes if isinstance(self.design, GridDesign) else {}
        named: list[Any] = []
        for part, names in (("model", ("target", "mlp", "position")), ("training", ("optimizer", "loss"))):
            for name in names:
                named += [getattr(getattr(self, part), name, None), *values_of(axes.get(f"{part}.{name}", []))]
        return sorted({name for name in named if is_target(name)})


class ExternalSpec(SweepSpec):
    """A scaling study whose runs an external trainer trains."""

    data: FreeKeys = Field(FreeKeys(), description="keys of the trainer's, passed on")  # type: ignore[assignment]
    model: ExternalModels  # type: ignore[assignment]
    trainer: Trainer
    training: SweepExternalTraining  # type: ignore[assignment]
    design: ExternalDesign  # type: ignore[assignment]
    holdout: ExternalHoldout | None = None  # type: ignore[assignment]
    evaluation: FreeKeys = Field(FreeKeys(), description="keys of the trainer's, passed on")  # type: ignore[assignment]
    findings: list[Literal["approaches", "horizons", "over-training"]] = Field(  # type: ignore[assignment]
        default_factory=list, description="what is told of the runs at the end, beside the law"
    )

    def names(self, chosen: Sequence[SizeName] | None) -> list[SizeName]:
        return [size.written for size in self.model.sizes] if chosen is None else [*chosen]

    def model_at(self, name: SizeName) -> ExternalModel:
        return self.model.named(name)

    def batch(self, model: AnyModel, tokens: float) -> int:
        return self.training.batch_tokens

    def training_at(self, model: AnyModel, steps: int, batch_tokens: int) -> ExternalSteps:
        return self.training.at(steps, batch_tokens)

    def run_of(self, model: AnyModel, training: AnyTraining, seed: int) -> ExternalRun:
        assert isinstance(model, ExternalModel)
        assert isinstance(training, ExternalSteps)
        parts = {"trainer": self.trainer, "data": self.data, "evaluation": self.evaluation}
        return ExternalRun(model=model, training=training, seed=seed, **parts)

    @model_validator(mode="after")
    def _sizes_are_counted(self) -> Self:
        if self.forecast.params == "non_embedding":
            for i, size in enumerate(self.model.sizes):
                if size.params_non_embedding is None:
                    raise ValueError(
                        f"model.sizes.{i}.params_non_embedding: is missing, and forecast.params is non_embedding"
                    )
        return self


class SweepModuleTraining(SweepTraining):
    """How every run of a module is trained."""

    parametrization: Parametrization = Field(
        "standard", description="another than standard goes by the groups that its weights name"
    )

    @model_validator(mode="after")
    def _rules_know_its_size(self) -> Self:
        for name, rule in (("lr", self.lr), ("batch_tokens", self.batch_tokens)):
            known = getattr(rule, "rule", None)
            if known == "deepseek" or (known == "steplaw" and name == "lr"):
                raise ValueError(
                    f"{name}.rule {known}: is by the shape of a Transformer; take a number or another rule"
                )
        return self


class ModuleSpec(SweepSpec):
    """A scaling study of a `flax.nnx` module of one's own."""

    model: SweepModule  # type: ignore[assignment]
    training: SweepModuleTraining
    design: ModuleDesign  # type: ignore[assignment]
    holdout: ModuleHoldout | None = None  # type: ignore[assignment]
    findings: list[ModuleFindingName] = Field(  # type: ignore[assignment]
        default_factory=list, description="what is told of the runs at the end, beside the law"
    )
    counts: SkipJsonSchema[dict[str, Counts]] = Field(
        default_factory=dict, description="of each size what is counted of it; found, not written"
    )

    def model_at(self, name: SizeName) -> ModuleModel:
        model = self.model.at(name, self.data.vocab)
        known = self.counts.get(model.key)
        try:
            model = counted(model, self.code) if known is None else model.model_copy(update={"counts": known})
        except InputError as error:
            text = str(error).removeprefix("code: ").removeprefix("model.target: ")
            raise SpecError(f"model.target: {text}", ("model", "target")) from None
        if self.forecast.params == "non_embedding" and model.counted.params_non_embedding is None:
            raise ValueError(
                f"forecast.params is non_embedding, and weights of {model.target} name no group; give the embedding's "
                "and the head's nnx.Param their group, and all others one"
            )
        return model

    def training_at(self, model: AnyModel, steps: int, batch_tokens: int) -> TrainingConfig:
        assert isinstance(model, ModuleModel)
        return self.training.at(model, steps, batch_tokens)


def _kind_of(given: Any) -> type[SweepSpec]:
    """Which spec is to become of what is given: of our own model, of a module, or of an external trainer."""
    if not isinstance(given, dict):
        return type(given) if isinstance(given, SweepSpec) else SweepSpec
    model = given.get("model")
    kind = model.get("kind") if isinstance(model, dict) else getattr(model, "kind", None)
    external = "trainer" in given or kind is not None or (isinstance(model, dict) and "kind" in model)
    if kind == "module" and "trainer" not in given:
        return ModuleSpec
    return ExternalSpec if external else SweepSpec
