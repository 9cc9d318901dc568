"""What a spec may say where a module of one's own is trained: its arguments, and designs over sizes, some of these."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from nextscale.model.config.code import Target
from nextscale.model.config.free_keys import FreeKeys
from nextscale.model.config.module import ModuleModel
from nextscale.sweeps.spec.designs import (
    LENGTHS,
    GridDesign,
    HeldOut,
    IsoFlop,
    OverSizes,
    Ratios,
    Seeds,
    SequentialDesign,
    Tokens,
    Width,
    rising,
)

ModuleSize = Width | Annotated[dict[str, JsonValue], Field(min_length=1)]
"""A width, or arguments by name."""
ModuleSizes = Annotated[list[ModuleSize], Field(min_length=1)]
_SIZES = "each a width, or arguments of the module by name"
_FIXED = ("kind", "target", "context", "vocab", "counts")


class SweepModule(FreeKeys):
    """A `flax.nnx` module, tokens → logits, but for its size: its further keys are its arguments."""

    kind: Literal["module"]
    target: Target = Field(description="package.module:name of the class, or of a function that returns a module")
    context: int = Field(64, ge=2, le=2**24, description="tokens of a sequence")

    @model_validator(mode="after")
    def _leaves_the_rest_open(self) -> Self:
        for name in ("vocab", "counts"):
            if name in (self.__pydantic_extra__ or {}):
                raise ValueError(f"{name}: follows from the data and the module; leave it out")
        return self

    def at(self, name: float | dict[str, Any], vocab: int) -> ModuleModel:
        """The module of a size.

        Raises:
            ValueError: it is said by something that is no argument.
        """
        size = name if isinstance(name, dict) else {"width": name}
        if wrong := [key for key in size if key in _FIXED]:
            raise ValueError(f"{wrong[0]} is no argument of a module, but of `model`; name arguments alone")
        return ModuleModel(**self.written | size | {"vocab": vocab})


class _OverArguments(OverSizes):
    sizes_are: ClassVar = f"name `sizes`, {_SIZES}"


class ModuleIsoFlop(_OverArguments, IsoFlop):
    """Several sizes at each of several compute budgets."""

    sizes: list[ModuleSizes] = Field(min_length=1, description=f"at each budget: {_SIZES}")

    @model_validator(mode="after")
    def _has_sizes_at_each_budget(self) -> Self:
        self.check_lists("sizes")
        return self


class ModuleLadder(_OverArguments):
    """Several sizes, each trained for several multiples of its parameters."""

    expanded_in: ClassVar = "ladder"

    kind: Literal["ladder"]
    sizes: ModuleSizes = Field(description=_SIZES)
    tokens_per_param: Ratios = Field(description="lengths of the runs of each size")
    seeds: Seeds = Field([0], description="every run once per seed")


class ModuleWsd(_OverArguments):
    """Several sizes, each at several lengths: one trunk per size, and a cooldown from it per length."""

    expanded_in: ClassVar = "wsd"

    kind: Literal["wsd"]
    sizes: ModuleSizes = Field(description=_SIZES)
    tokens: Annotated[list[Tokens], Field(min_length=1), AfterValidator(rising)] = Field(
        description="lengths of the runs of each size"
    )
    seeds: Seeds = Field([0], description="every run once per seed")


class ModuleGrid(GridDesign):
    """Every combination of values of the axes: a length, arguments of the module below model, and keys of training and
    data."""

    @field_validator("axes")
    @classmethod
    def _says_size_and_length(cls, axes: dict[str, Any]) -> dict[str, Any]:
        if "params" in axes:
            raise ValueError("params: a module is sized by its arguments; take axes such as model.width")
        if not any(cls._is_argument(name) for name in axes):
            raise ValueError("one says how large the runs are, an argument of the module such as model.width")
        given = [name for name in LENGTHS if name in axes]
        if len(given) != 1:
            raise ValueError(
                f"one says how long the runs are, {' or '.join(LENGTHS)}; here {' and '.join(given) or 'none'} does"
            )
        return axes

    @staticmethod
    def _is_argument(axis: str) -> bool:
        section, _, name = axis.partition(".")
        return section == "model" and "." not in name and name not in _FIXED

    @property
    def size_axis(self) -> str:
        return "model.width" if "model.width" in self.axes else next(filter(self._is_argument, self.axes))


class ModuleSequential(_OverArguments, SequentialDesign):
    """A budget and a target: after a small start, each run is the one that narrows the forecast most per FLOP."""

    start: ModuleIsoFlop = Field(description="the runs to begin with, more than the law has parameters")
    sizes: ModuleSizes = Field(description=f"to choose from: {_SIZES}")


ModuleDesign = Annotated[
    ModuleIsoFlop | ModuleLadder | ModuleGrid | ModuleWsd | ModuleSequential, Field(discriminator="kind")
]


class ModuleHoldout(_OverArguments, HeldOut):
    """The next scale: forecast first, trained after, then compared."""

    sizes: ModuleSizes = Field(description=_SIZES)
