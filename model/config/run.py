"""Configuration of one training run: model, optimiser, training, evaluation and seed.

A `RunConfig` holds everything that can change a run's numbers, and its `run_id` is a hash of that meaning: the same
question asked twice is the same run.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from nextscale.model.config.architecture import Architecture, Depth, Heads
from nextscale.model.config.code import Code, Function, Target, is_target
from nextscale.model.config.data import DataConfig, is_resolved, single_sources
from nextscale.model.config.evaluation import EvaluationConfig
from nextscale.model.config.experts import check_experts, without_routing
from nextscale.model.config.identity import SCHEMA_VERSION, Config
from nextscale.model.config.initial import Initial
from nextscale.model.config.module import ModuleModel, ModuleNetwork, check_training
from nextscale.model.config.parametrization import RESIDUAL, SCORES, Parametrization, Size

OptimizerName = Literal["adamw", "muon", "sgd"]


class ModelFamily(Architecture):
    """A decoder-only Transformer but for its width and vocabulary."""

    depth: Depth = Field(2, description="Transformer blocks")
    heads: Heads = Field(4, description="attention heads")

    @model_validator(mode="after")
    def _heads_fit_together(self) -> Self:
        self.check_heads(self.heads)
        return self

    def at(self, width: int, vocab: int) -> ModelConfig:
        """The member of this family with the given width."""
        return ModelConfig(**self.model_dump(), width=width, vocab=vocab)


class ModelConfig(ModelFamily):
    """One model: a family's member with its width and vocabulary."""

    named_by: ClassVar = "widths"

    width: int = Field(ge=1, le=2**20)
    vocab: int = Field(ge=2)

    @property
    def label(self) -> str:
        """The size in words."""
        return f"width {self.width}"

    @property
    def name(self) -> int:
        """By which a spec has it."""
        return self.width

    @property
    def query_width(self) -> int:
        """Width of all queries of a token: heads times the width of one."""
        return self.width if self.head_width is None else self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Width of all keys of a token, and of all values."""
        return self.query_width // self.heads * (self.kv_heads or self.heads)

    @property
    def hidden_width(self) -> int:
        """Width of the MLP's hidden layer; 0 without an MLP."""
        return 0 if self.mlp == "none" else round(self.width * self.mlp_ratio)

    @model_validator(mode="before")
    @classmethod
    def _one_expert_is_an_mlp(cls, fields: Any) -> Any:
        return without_routing(fields)

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        if self.query_width % self.heads:
            raise ValueError(
                f"width {self.width} cannot be cut into {self.heads} equal heads; use a multiple of {self.heads}"
            )
        if self.position == "rope" and self.query_width // self.heads % 2:
            raise ValueError(
                f"position rope turns pairs of features, and width {self.width} over {self.heads} heads is "
                f"{self.query_width // self.heads} each; use a multiple of {2 * self.heads}, or position alibi"
            )
        if self.mlp != "none" and self.hidden_width < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves the MLP of width {self.width} empty; raise it")
        check_experts(self)
        return self


def _kind(model: Any) -> str:
    is_module = isinstance(model, ModuleModel) or (isinstance(model, dict) and "kind" in model)
    return "module" if is_module else "transformer"


BuiltModel = Annotated[
    Annotated[ModelConfig, Tag("transformer")] | Annotated[ModuleModel, Tag("module")],
    Discriminator(_kind),
]
"""A model that is trained here: our own Transformer, or any module."""


class Network(ModelConfig):
    """A model with what its parametrization puts into the forward pass: all that a compiled program depends on.

    See `parametrization.py` for what the multipliers are.
    """

    scores_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    functions: tuple[Function, ...] = ()

    def function(self, target: str) -> Function:
        """What its files hold."""
        return next(function for function in self.functions if function.target == target)


WEIGHT_DECAY = "of every weight, per step, times schedule / peak; independent of the learning rate"


class OptimizerConfig(Config):
    """An optimiser and its schedule, but for what may follow from the size of a run: rate, decay, batch and length."""

    optimizer: OptimizerName | Target = Field(
        "adamw", description="muon: of the matrices inside the blocks; adamw of the rest; or package.module:function"
    )
    loss: Target | None = Field(None, description="package.module:function that training lowers; cross-entropy if open")
    init: Initial | None = Field(None, description="standard deviations of initial weights, by group")
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "cosine"
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps spent warming up")
    warmup_tokens: int | None = Field(
        None, ge=0, description="tokens spent warming up, instead of a share: the same for runs of every length"
    )
    cooldown: float = Field(0.2, gt=0, le=1, description="share of the steps of a wsd schedule's cooldown")
    cooldown_shape: Literal["linear", "1-sqrt"] = Field("linear", description="of a wsd schedule")
    final_lr: float = Field(0.0, ge=0, le=1, description="last learning rate / peak")
    beta1: float = Field(0.9, ge=0, lt=1, description="of adamw")
    beta2: float = Field(0.98, ge=0, lt=1, description="of adamw")
    eps: float = Field(1e-8, gt=0, description="of adamw")
    momentum: float = Field(0.95, ge=0, lt=1, description="of muon and sgd")
    clip: float = Field(1.0, gt=0, description="largest global gradient norm")
    skip_spikes: float | None = Field(
        None,
        gt=1,
        le=1e6,
        description="leave out a step whose loss or gradient is no number, or its norm so many times the usual",
    )
    parametrization: Parametrization = "mup"
    base_width: int = Field(32, ge=1, le=2**20, description="the width at which all parametrizations agree")
    base_depth: int = Field(2, ge=1, le=10_000, description="the depth at which all parametrizations agree")
    base_head_width: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="the head width at which all parametrizations agree; if open, heads grow with the width",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the matrix products; weights stay float32")

    @model_validator(mode="after")
    def _fits_together(self) -> OptimizerConfig:
        if self.schedule == "wsd" and self.warmup_tokens is None and self.warmup + self.cooldown > 1 + 1e-9:
            raise ValueError(
                f"warmup {self.warmup} and cooldown {self.cooldown} are shares of one run and overlap; "
                "make them 1 or less together"
            )
        if self.parametrization == "standard":
            return self
        if self.optimizer == "sgd" or is_target(self.optimizer):
            raise ValueError(
                f"parametrization {self.parametrization} scales the rates of adamw and muon; {self.optimizer} trains "
                "with parametrization standard"
            )
        if self.init is not None and self.init.by_number:
            raise ValueError(
                f"parametrization {self.parametrization} holds where init.{self.init.by_number[0]} follows the width; "
                "make it {rule: fan_in}, or take parametrization standard"
            )
        return self

    def size_of(self, model: ModelConfig | ModuleModel) -> Size:
        """The base size / that of a model. A module has a width and a depth if it is made with them."""
        if isinstance(model, ModuleModel):
            wide = self.base_width / (model.width or self.base_width)
            return Size(wide, self.base_depth / (model.depth or self.base_depth), wide, wide)
        width, depth = self.base_width / model.width, self.base_depth / model.depth
        if self.base_head_width is None:
            return Size(width, depth, width, width)
        heads = self.base_head_width / (model.query_width // model.heads)
        # Heads of a width of their own are as many at every width; else all together are as wide as the model.
        return Size(width, depth, heads, width if model.head_width is None else heads)


class TrainingConfig(OptimizerConfig):
    """How one model is trained. `lr` is the peak learning rate at `base_width` and `base_depth`."""

    batch_tokens: int = Field(ge=1, le=2**40)
    steps: int = Field(ge=1)
    lr: float = Field(gt=0, le=1e6)
    weight_decay: float = Field(0.0, ge=0, description=WEIGHT_DECAY)

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_tokens

    @property
    def warmup_steps(self) -> int:
        if self.warmup_tokens is not None:
            return round(self.warmup_tokens / self.batch_tokens)
        return round(self.warmup * self.steps)

    @property
    def cooldown_steps(self) -> int:
        """Of a wsd schedule."""
        return max(round(self.cooldown * self.steps), 1)

    @model_validator(mode="after")
    def _warms_up_before_it_cools_down(self) -> TrainingConfig:
        cooled = self.cooldown_steps if self.schedule == "wsd" else 0
        if self.warmup_tokens is not None and self.warmup_steps + cooled > self.steps:
            raise ValueError(
                f"warmup_tokens {self.warmup_tokens} leave no room in a run of {self.tokens} tokens"
                + (
                    f" that cools down over {self.cooldown:.0%} of them; lower one of them"
                    if cooled
                    else "; lower them"
                )
            )
        return self


class Parent(Config):
    """A state of training: that of a run when it had seen so many tokens."""

    run_id: str = Field(pattern="^[0-9a-f]{12}$")
    tokens: int = Field(ge=1)


_COURSE = ("steps", "schedule", "warmup", "warmup_tokens", "cooldown", "cooldown_shape", "final_lr")
"""What acts on a step through the schedule alone."""


class RunConfig(Config):
    """One training run: data, model, training, evaluation and seed.

    With a `parent` it goes on from that state: weights, moments of the optimiser and position in the data. Its
    `training` then says what is done from there, in steps and a schedule of its own.

    Only what cannot be said without is said with a parent. The cooldown of a constant rate is the wsd run of that
    length: it has that run's name, and where it took its first steps from (see `branch.py`) is no part of its meaning.
    """

    data: DataConfig
    model: BuiltModel
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = Field(0, ge=0, lt=2**32, description="of the initial weights and the order of the data")
    parent: Parent | None = Field(None, description="the state to go on from, where that changes what a run is")
    code: Code | None = Field(None, description="where the targets among all this are, and what their files hold")

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if self.training.batch_tokens % self.model.context:
            raise ValueError(
                f"training.batch_tokens {self.training.batch_tokens} is not a whole number of sequences of "
                f"model.context {self.model.context}"
            )
        if self.model.vocab != self.data.vocab:
            raise ValueError(f"model.vocab {self.model.vocab} is not data.vocab {self.data.vocab}")
        for name, problem in self.evaluation.misfits(self.data):
            raise ValueError(f"evaluation.sets.{name}: {problem}")
        if self.start % self.model.context:
            raise ValueError(
                f"parent.tokens {self.start} is not a whole number of sequences of model.context {self.model.context}"
            )
        if isinstance(self.model, ModuleModel):
            check_training(self.model, self.training)
        return self

    @property
    def targets(self) -> list[str]:
        """The code of one's own that it is made of, by name."""
        own = {name for name in (self.training.optimizer, self.training.loss) if name is not None and is_target(name)}
        return sorted({*own, *self.model.targets})

    def function(self, target: str) -> Function:
        """
        Raises:
            ValueError: what its files hold is not known.
        """
        return (self.code or Code()).function(target)

    @property
    def network(self) -> Network | ModuleNetwork:
        """The model as it is built, with the multipliers of the parametrization it is trained under."""
        if isinstance(self.model, ModuleModel):
            return ModuleNetwork(self.function(self.model.target), self.model)
        size, parametrization = self.training.size_of(self.model), self.training.parametrization
        return Network(
            **self.model.model_dump(),
            scores_multiplier=size.head_width ** SCORES[parametrization],
            residual_multiplier=size(RESIDUAL[parametrization]),
            functions=tuple(map(self.function, self.model.targets)),
        )

    @property
    def set_names(self) -> list[str]:
        """The further validation sets: those asked for, and the held-out part of each source of a mixture."""
        return [*self.evaluation.sets, *(name for name in single_sources(self.data) if name)]

    @property
    def start(self) -> int:
        """The position, in tokens, of the first step that is this run's own."""
        return 0 if self.parent is None else self.parent.tokens

    @property
    def tokens(self) -> int:
        """All that the model has seen in the end: its parent's tokens too."""
        return self.start + self.training.tokens

    @property
    def batch_sequences(self) -> int:
        return self.training.batch_tokens // self.model.context

    @property
    def stable_tokens(self) -> int:
        """Of a wsd run the position, in tokens, of its state just before it cools down; 0 of any other."""
        training = self.training
        if training.schedule != "wsd":
            return 0
        return self.start + (training.steps - training.cooldown_steps) * training.batch_tokens

    @property
    def stable_phase(self) -> str | None:
        """Names what a wsd run is until it cools down: runs of the same are one, to the bit, up to where the first of
        them does. None of any other run."""
        if self.training.schedule != "wsd":
            return None
        return json.dumps(self.but_for_its_course() | {"warmup": self.training.warmup_steps}, sort_keys=True)

    def but_for_its_course(self) -> dict[str, Any]:
        """All that acts before a position, or is measured on the way there, but for the rate of each step."""
        return {
            "data": self.data.semantic(),
            "model": self.model.model_dump(),
            "training": {key: value for key, value in self.training.model_dump().items() if key not in _COURSE},
            "seed": self.seed,
            "parent": None if self.parent is None else self.parent.model_dump(),
            "measured": self.evaluation.semantic() if self.evaluation.points else None,
            "code": None if self.code is None else self.code.semantic(),
        }

    @property
    def run_id(self) -> str:
        """12 hex digits that name this run by its meaning, on any machine."""
        if not all(map(is_resolved, (self.data, *self.evaluation.sets.values()))):
            raise ValueError("the data has no fingerprint yet; nextscale.model.data.sources.resolve reads it")
        for target in self.targets:
            self.function(target)
        text = json.dumps({"schema": SCHEMA_VERSION, **self.semantic()}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]
