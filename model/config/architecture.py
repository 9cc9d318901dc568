"""What our own Transformer is made of, but for how much of it there is."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nextscale.model.config.code import Target, is_target
from nextscale.model.config.experts import Mixture

Depth = Annotated[int, Field(ge=1, le=10_000)]
Heads = Annotated[int, Field(ge=1, le=10_000)]


class Architecture(Mixture):
    """What a decoder-only Transformer is made of, but for how much of it there is."""

    kv_heads: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="heads of keys and values, each shared by heads / kv_heads queries; all if open",
    )
    head_width: int | None = Field(None, ge=1, le=2**20, description="of each head; width / heads if open")
    context: int = Field(64, ge=2, le=2**24, description="tokens a prediction can look back on")
    position: Literal["rope", "alibi", "none"] | Target = Field(
        "rope", description="rope, alibi, none; or package.module:function that turns queries and keys"
    )
    mlp: Literal["gelu", "relu2", "swiglu", "none"] | Target = Field(
        "gelu", description="gelu, relu2, swiglu, none; or package.module:function, the activation of the hidden layer"
    )
    mlp_gated: bool = Field(False, description="whether a function that mlp names takes a gate too, as swiglu does")
    mlp_ratio: float = Field(4.0, gt=0, le=1000, description="MLP hidden width / width")
    tied: bool = Field(False, description="the head is the embedding, transposed")
    norm_scale: bool = Field(False, description="RMSNorm with a learned scale")
    qk_norm: bool = Field(False, description="RMSNorm of every query and key")
    logit_cap: float | None = Field(None, gt=0, le=1e6, description="logits pass through cap·tanh(logit / cap)")
    z_loss: float = Field(0.0, ge=0, le=1e6, description="weight of the squared log-partition in the training loss")

    @property
    def targets(self) -> list[str]:
        """The code of one's own that it is made of, by name."""
        return [name for name in (self.mlp, self.position) if is_target(name)]

    @property
    def into_hidden(self) -> int:
        """Matrices that lead into the hidden layer of an MLP."""
        return 0 if self.mlp == "none" else 2 if self.mlp == "swiglu" or self.mlp_gated else 1

    @model_validator(mode="after")
    def _only_own_functions_say_whether_they_are_gated(self) -> Self:
        if self.mlp_gated and not is_target(self.mlp):
            raise ValueError(f"mlp_gated is said of a function of one's own, and mlp is {self.mlp}; leave it out")
        return self

    @model_validator(mode="after")
    def _heads_can_be_turned(self) -> Self:
        if self.position == "rope" and self.head_width is not None and self.head_width % 2:
            raise ValueError(
                f"position rope turns pairs of features, and head_width {self.head_width} is odd; "
                "make it even, or take position alibi"
            )
        return self

    def check_heads(self, heads: int) -> None:
        """Raises a ValueError where so many heads cannot share those of keys and values."""
        if self.kv_heads is not None and heads % self.kv_heads:
            raise ValueError(f"heads {heads} cannot share {self.kv_heads} kv_heads equally; take a divisor of {heads}")
