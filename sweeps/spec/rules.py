"""Rules for learning rate, batch and weight decay, which a spec may give in place of a number.

Rules that others published are in `nextscale.model.rules`, with their sources.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from nextscale.model import rules
from nextscale.model.accounting import non_embedding_parameters, parameters
from nextscale.model.config.identity import Config
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import ModelConfig

PositiveFloat = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1e6)]
BatchTokens = Annotated[int, Field(ge=1, le=2**40)]


class HorizonRule(Config):
    """Peak learning rate by length: `max(floor, base · (reference_steps / steps)^exponent)`.

    Shorter runs want higher rates; a fixed one costs the short (large-N) runs of an isoFLOP curve 1 to 2 % of
    loss and so fakes its curvature.
    """

    rule: Literal["horizon"]
    base: Rate
    reference_steps: PositiveFloat = 500.0
    exponent: float = Field(0.25, ge=0, le=2)
    floor: float = Field(0.0, ge=0, le=1e6)

    def __call__(self, model: ModelConfig | ModuleModel, steps: int, batch_tokens: int) -> float:
        return max(self.floor, self.base * (self.reference_steps / steps) ** self.exponent)


class SquareRootRule(Config):
    """Peak learning rate by batch: `base · sqrt(batch_tokens / reference_batch_tokens)` (see `square_root_lr`)."""

    rule: Literal["square_root"]
    base: Rate
    reference_batch_tokens: BatchTokens

    def __call__(self, model: ModelConfig | ModuleModel, steps: int, batch_tokens: int) -> float:
        return rules.square_root_lr(self.base, batch_tokens, self.reference_batch_tokens)


class StepLawRate(Config):
    """Peak learning rate by size and tokens (see `steplaw_lr`)."""

    rule: Literal["steplaw"]

    def __call__(self, model: ModelConfig | ModuleModel, steps: int, batch_tokens: int) -> float:
        params = non_embedding_parameters(model)
        assert params is not None  # of a module it is refused
        return rules.steplaw_lr(params, steps * batch_tokens)


class DeepSeekRate(Config):
    """Peak learning rate by compute (see `deepseek_lr`)."""

    rule: Literal["deepseek"]

    def __call__(self, model: ModelConfig | ModuleModel, steps: int, batch_tokens: int) -> float:
        assert isinstance(model, ModelConfig)
        return rules.deepseek_lr(rules.deepseek_compute(model, steps * batch_tokens))


class BatchRule(Config):
    """Batch by tokens or compute (see `steplaw_batch`, `deepseek_batch`, `power_lines_batch`)."""

    rule: Literal["steplaw", "deepseek", "power_lines"]

    def __call__(self, model: ModelConfig | ModuleModel, tokens: float) -> int:
        """Tokens in a batch, to the nearest whole number of sequences, and one at least."""
        if self.rule == "deepseek":
            assert isinstance(model, ModelConfig)
            best = rules.deepseek_batch(rules.deepseek_compute(model, tokens))
        else:
            best = rules.steplaw_batch(tokens) if self.rule == "steplaw" else rules.power_lines_batch(tokens)
        return max(round(best / model.context), 1) * model.context


class WeightDecayRule(Config):
    """Weight decay by size, tokens and batch (see `power_lines_weight_decay`)."""

    rule: Literal["power_lines"]

    def __call__(self, model: ModelConfig | ModuleModel, steps: int, batch_tokens: int) -> float:
        return rules.power_lines_weight_decay(parameters(model), steps * batch_tokens, batch_tokens)


def _number_or_rule(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("rule"))
    return value.rule if isinstance(value, Config) and hasattr(value, "rule") else "a number"


LearningRate = Annotated[
    Annotated[Rate, Tag("a number")]
    | Annotated[HorizonRule, Tag("horizon")]
    | Annotated[SquareRootRule, Tag("square_root")]
    | Annotated[StepLawRate, Tag("steplaw")]
    | Annotated[DeepSeekRate, Tag("deepseek")],
    Discriminator(_number_or_rule),
]
"""A number is the peak at `base_width`; a rule is called with model, steps and batch."""


def number_or_mapping(value: Any) -> str:
    return "a rule" if isinstance(value, dict | Config) else "a number"


Batch = Annotated[
    Annotated[BatchTokens, Tag("a number")] | Annotated[BatchRule, Tag("a rule")], Discriminator(number_or_mapping)
]
WeightDecay = Annotated[
    Annotated[float, Field(ge=0), Tag("a number")] | Annotated[WeightDecayRule, Tag("a rule")],
    Discriminator(number_or_mapping),
]
