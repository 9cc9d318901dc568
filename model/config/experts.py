"""What of a model routes each token to a few of many MLPs: a mixture of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from nextscale.model.config.identity import Config

if TYPE_CHECKING:
    from nextscale.model.config.run import ModelConfig

Router = Literal["renormalised", "softmax", "sigmoid"]


class Mixture(Config):
    """The experts of a block, in place of its MLP. Of one expert there is no routing: it is the MLP."""

    experts: int = Field(1, ge=1, le=65_536, description="MLPs in place of each one, of which a token passes a few")
    experts_per_token: int = Field(2, ge=1, le=65_536, description="experts that a token is sent to")
    expert_ratio: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="hidden width of an expert / width; if open, all that a token passes are as wide as mlp_ratio",
    )
    shared_experts: int = Field(0, ge=0, le=65_536, description="further experts that every token passes")
    dense_layers: int = Field(0, ge=0, le=10_000, description="first blocks that have one MLP, of mlp_ratio")
    router: Router = Field(
        "renormalised",
        description="weights of a token's experts: softmax over these, softmax over all, or sigmoids over their sum",
    )
    routed_scale: float = Field(1.0, gt=0, le=1e6, description="of what the routed experts give together")
    balance_loss: float = Field(0.01, ge=0, le=1e6, description="weight of the loss that evens the experts' load")
    balance_rate: float = Field(
        0.0, ge=0, le=1, description="step of the bias by which the router evens the experts' load without a loss"
    )
    router_z_loss: float = Field(0.0, ge=0, le=1e6, description="weight of the router's squared log-partition")

    @model_validator(mode="after")
    def _routes(self) -> Self:
        if self.experts == 1:
            return self
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token {self.experts_per_token} is more than there are experts, {self.experts}; lower it"
            )
        if self.router == "renormalised" and self.experts_per_token == 1:
            raise ValueError(
                "router renormalised weighs the one expert of a token by 1, whichever it is, and would never learn; "
                "take router softmax for experts_per_token 1"
            )
        return self


def without_routing(fields: Any) -> Any:
    """The fields of a model without those that say nothing of it, where it has one expert: what is the same model is
    written the same."""
    if isinstance(fields, dict) and fields.get("experts", 1) == 1:
        return {name: value for name, value in fields.items() if name not in Mixture.model_fields}
    return fields


def expert_width(model: ModelConfig) -> int:
    """Width of the hidden layer of one expert."""
    if model.expert_ratio is not None:
        return round(model.width * model.expert_ratio)
    return round(model.hidden_width / (model.experts_per_token + model.shared_experts))


def mixture_blocks(model: ModelConfig) -> int:
    """Blocks that have experts; the last ones."""
    return 0 if model.experts == 1 else model.depth - model.dense_layers


def check_experts(model: ModelConfig) -> None:
    """
    Raises:
        ValueError: the experts of a model do not fit the rest of it.
    """
    if model.experts == 1:
        return
    if model.mlp == "none":
        raise ValueError("experts are MLPs, and mlp is none; take another mlp, or 1 expert")
    if model.dense_layers >= model.depth:
        raise ValueError(
            f"dense_layers {model.dense_layers} leave none of {model.depth} blocks for experts; lower them, or take 1 "
            "expert"
        )
    if expert_width(model) < 1:
        raise ValueError(f"experts of a model of width {model.width} have no hidden layer; raise expert_ratio")
