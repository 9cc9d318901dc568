"""The models of a sweep: how depth and heads follow from width."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from nextscale.model.config.architecture import Architecture, Depth, Heads
from nextscale.model.config.identity import Config
from nextscale.model.config.run import ModelConfig
from nextscale.sweeps.spec.rules import number_or_mapping

WIDEST = 2**20
_FINEST = 32
"""Widths are rounded to this share of themselves or less: what is large is a multiple of a large power of two."""


class AspectRule(Config):
    """Depth by width: `round(width / ratio)`, 1 at least."""

    rule: Literal["aspect"]
    ratio: float = Field(gt=0, le=WIDEST, description="width / depth")

    def __call__(self, width: int) -> int:
        return max(round(width / self.ratio), 1)


class HeadWidthRule(Config):
    """Heads by width: as many equal ones as come nearest to `width` each."""

    rule: Literal["head_width"]
    width: int = Field(ge=1, le=2**20, description="of each head, as nearly as divisors of the model's width allow")

    def __call__(self, family: Architecture, width: int) -> int:
        """
        Raises:
            ValueError: no number of heads divides the width.
        """
        share, even = family.kv_heads or 1, 2 if family.position == "rope" else 1
        fits = [heads for heads in _divisors(width) if heads % share == 0 and width // heads % even == 0]
        if not fits:
            raise ValueError(
                f"width {width} cannot be cut into heads of about {self.width}; use a multiple of {share * self.width}"
            )
        return min(fits, key=lambda heads: (abs(math.log(width / heads / self.width)), -heads))


class SweepModel(Architecture):
    """The models of a sweep but for their widths."""

    depth: Annotated[
        Annotated[Depth, Tag("a number")] | Annotated[AspectRule, Tag("a rule")], Discriminator(number_or_mapping)
    ] = Field(2, description="Transformer blocks, or a rule for them")
    heads: Annotated[
        Annotated[Heads, Tag("a number")] | Annotated[HeadWidthRule, Tag("a rule")], Discriminator(number_or_mapping)
    ] = Field(4, description="attention heads, or a rule for them")

    @model_validator(mode="after")
    def _heads_fit_together(self) -> Self:
        if isinstance(self.heads, int):
            self.check_heads(self.heads)
            return self
        if self.head_width is not None:
            raise ValueError("head_width and heads.rule head_width both say how wide a head is; leave head_width out")
        if self.position == "rope" and self.heads.width % 2:
            raise ValueError(
                f"position rope turns pairs of features, and heads.width {self.heads.width} is odd; make it even, or "
                "take position alibi"
            )
        return self

    def at(self, width: int, vocab: int) -> ModelConfig:
        """The model of a width.

        Raises:
            ValueError: there is none.
        """
        depth = self.depth if isinstance(self.depth, int) else self.depth(width)
        heads = self.heads if isinstance(self.heads, int) else self.heads(self, width)
        shared = {name: getattr(self, name) for name in Architecture.model_fields}
        return ModelConfig(**shared, depth=depth, heads=heads, width=width, vocab=vocab)

    @property
    def one_head_width(self) -> int | None:
        """The width of a head at every width of the model, where there is one."""
        return self.head_width if isinstance(self.heads, int) else self.heads.width

    def friendly_widths(self) -> list[int]:
        """Widths to choose from, by rising size: those that heads divide, and coarser the wider they are."""
        unit, widths = self._unit, []
        width, grain = unit, unit
        while width <= WIDEST:
            widths.append(width)
            while 2 * grain * _FINEST <= width:
                grain *= 2
            width = (width // grain + 1) * grain
        return widths

    @property
    def _unit(self) -> int:
        """What every friendly width is a multiple of."""
        if not isinstance(self.heads, int):
            return self.heads.width * (self.kv_heads or 1)
        if self.head_width is not None:
            return 1
        return self.heads * (2 if self.position == "rope" else 1)


def _divisors(number: int) -> list[int]:
    small = [i for i in range(1, math.isqrt(number) + 1) if number % i == 0]
    return [*small, *(number // i for i in reversed(small) if i * i != number)]
