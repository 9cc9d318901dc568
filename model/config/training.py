"""Configuration of training: the optimiser, its schedule, and what is told of the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from nextscale.model.config.code import Target, is_target
from nextscale.model.config.identity import NOT_SEMANTIC, Config
from nextscale.model.config.initial import Initial
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.parametrization import Parametrization, Size

if TYPE_CHECKING:
    from nextscale.model.config.run import ModelConfig

OptimizerName = Literal["adamw", "muon", "sgd"]
WEIGHT_DECAY = "of every weight, per step, times schedule / peak; independent of the learning rate"


class Profile(Config):
    """Which steps of a run are traced by JAX's profiler, into the run's folder."""

    steps: tuple[Annotated[int, Field(ge=0)], int] = Field(description="from after the first to after the last")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.steps[0] >= self.steps[1]:
            raise ValueError(f"steps {list(self.steps)}: name the step to begin after, then a later one to end after")
        return self


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
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the matrix products")
    param_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="in which weights are kept, matrices alone; moments and updates are float32"
    )
    profile: Annotated[Profile | None, NOT_SEMANTIC] = Field(
        None, description="which steps of each run are traced by JAX's profiler; no part of what a run means"
    )

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
