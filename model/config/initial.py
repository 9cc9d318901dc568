"""Initial scales of weights that a recipe states, in place of those of `parametrization.initial_std`.

GPT-2's are `{embedding: 0.02, hidden: 0.02, output: {rule: depth, std: 0.02}, head: 0.02}`: 0.02 everywhere, and what
writes to the residual stream over the root of the number of its layers, two a block (Radford et al. 2019, sec. 2.3).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from nextscale.model.config.identity import Config
from nextscale.model.config.parametrization import Group


class FanIn(Config):
    """`scale` / sqrt(fan-in)."""

    rule: Literal["fan_in"]
    scale: float = Field(1.0, ge=0, le=1e3)


class OverDepth(Config):
    """`std` / sqrt(2 depth): so that a residual stream of twice the depth is no wider."""

    rule: Literal["depth"]
    std: float = Field(0.02, ge=0, le=1e3)


def _form(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("rule"))
    return value.rule if isinstance(value, FanIn | OverDepth) else "a number"


Std = Annotated[
    Annotated[float, Field(ge=0, le=1e3), Tag("a number")]
    | Annotated[FanIn, Tag("fan_in")]
    | Annotated[OverDepth, Tag("depth")],
    Discriminator(_form),
]


class Initial(Config):
    """Of each group that is named the standard deviation of its initial weights, which are normal; the others have
    that of `initial_std`."""

    embedding: Std | None = None
    hidden: Std | None = Field(None, description="matrices that read the residual stream")
    output: Std | None = Field(
        None, description="matrices that write it; those of attention too, unless `mixed` is given"
    )
    mixed: Std | None = Field(None, description="of attention, the matrix that writes it")
    head: Std | None = None

    def of(self, group: Group) -> float | FanIn | OverDepth | None:
        """What is said of a group."""
        if group == "mixed" and self.mixed is None:
            return self.output
        return getattr(self, group, None)

    def std(self, group: Group, fan_in: int, depth: int | None) -> float | None:
        """The standard deviation of a matrix; None where nothing is said of it.

        Raises:
            ValueError: it follows from a depth, and there is none.
        """
        found = self.of(group)
        if isinstance(found, FanIn):
            return found.scale / math.sqrt(fan_in)
        if isinstance(found, OverDepth):
            if depth is None:
                raise ValueError(
                    f"training.init.{group}: is by depth, and the model has no argument depth; give its std"
                )
            return found.std / math.sqrt(2 * depth)
        return found

    @property
    def by_number(self) -> list[str]:
        """The groups inside the blocks, and the head, whose scale does not follow from their width."""
        groups: tuple[Group, ...] = ("hidden", "output", "mixed", "head")
        return [name for name in groups if getattr(self, name) is not None and not isinstance(self.of(name), FanIn)]
