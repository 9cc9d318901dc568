"""A model of one's own: a `flax.nnx` module, from tokens to logits, with what was counted of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from nextscale.model.config.code import Function, Target
from nextscale.model.config.free_keys import FreeKeys
from nextscale.model.config.identity import Config

if TYPE_CHECKING:
    from nextscale.model.config.training import TrainingConfig

NO_GROUP = "other"
"""The parametrization group of a weight that names none."""


class Counts(Config):
    """What is counted of a module without training it; see `nextscale.model.network.counting`."""

    params: int = Field(ge=1)
    groups: dict[str, int] = Field(description="parameters by parametrization group")
    flops_per_token: float = Field(gt=0, description="training FLOPs")
    flops_by: Literal["module", "xla"] = Field(description="who counted them: the module itself, or XLA")
    bytes_per_sequence: float = Field(ge=0, description="that the gradient of one sequence keeps, in float32")
    takes_dtype: bool = Field(description="whether it is told the dtype of its matrix products")

    @property
    def params_non_embedding(self) -> int | None:
        """None where the module does not say which of its parameters these are."""
        if NO_GROUP in self.groups:
            return None
        return self.params - sum(self.groups.get(name, 0) for name in ("embedding", "head"))


class ModuleModel(FreeKeys):
    """A `flax.nnx` module: its further keys are its arguments."""

    named_by: ClassVar = "sizes"

    kind: Literal["module"]
    target: Target = Field(description="package.module:name of the class, or of a function that returns a module")
    context: int = Field(64, ge=2, le=2**24, description="tokens of a sequence")
    vocab: int = Field(ge=2)
    counts: Counts | None = Field(None, description="what is counted of it; follows from all else")

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> str:
        """Its meaning as one word."""
        return json.dumps(self.semantic(), sort_keys=True)

    @property
    def targets(self) -> list[str]:
        """The code of one's own that it is made of, by name."""
        return [self.target]

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is made with, beside what every module is offered."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def counted(self) -> Counts:
        """
        Raises:
            ValueError: nobody has.
        """
        if self.counts is None:
            raise ValueError(f"{self.target} is not counted yet; nextscale.model.network.counts.counted does it")
        return self.counts

    def semantic(self) -> dict[str, Any]:
        return {name: value for name, value in super().semantic().items() if name != "counts"}

    @property
    def width(self) -> int | None:
        """Its argument of that name, where it is one."""
        return self._whole("width")

    @property
    def depth(self) -> int | None:
        return self._whole("depth")

    def _whole(self, name: str) -> int | None:
        value = self.arguments.get(name)
        return value if type(value) is int and value > 0 else None

    @property
    def label(self) -> str:
        """The size in words: its arguments, width and depth first."""
        told = sorted(self.arguments.items(), key=lambda item: item[0] not in ("width", "depth"))
        return ", ".join(f"{name} {value}" for name, value in told[:4]) or self.target.rpartition(":")[2]

    @property
    def name(self) -> dict[str, Any]:
        """By which a spec has it."""
        return self.arguments


class ModuleNetwork(NamedTuple):
    """A module as it is built: all that a compiled program depends on."""

    function: Function
    model: ModuleModel

    @property
    def vocab(self) -> int:
        return self.model.vocab

    @property
    def context(self) -> int:
        return self.model.context

    @property
    def depth(self) -> int | None:
        return self.model.depth

    @property
    def experts(self) -> int:
        """1: nothing is routed here, whatever a module does."""
        return 1


def check_training(model: ModuleModel, training: TrainingConfig) -> None:
    """
    Raises:
        ValueError: a module cannot be trained so, as far as what is counted of it tells.
    """
    if model.counts is None:
        return
    if training.dtype != "float32" and not model.counts.takes_dtype:
        raise ValueError(
            f"training.dtype {training.dtype}: {model.target} takes no dtype, and would not know; leave it out"
        )
    by_group = {
        f"optimizer {training.optimizer}": training.optimizer == "muon",
        f"parametrization {training.parametrization}": training.parametrization != "standard",
        "init": training.init is not None,
    }
    asked = next((name for name, needed in by_group.items() if needed), None)
    if asked is not None and NO_GROUP in model.counts.groups:
        raise ValueError(
            f"training.{asked}: goes by groups of weights, and of {model.target} {model.counts.groups[NO_GROUP]} "
            "parameters name none; give each nnx.Param a group, or leave it out"
        )
    if training.parametrization != "standard" and None in (model.width, model.depth):
        raise ValueError(
            f"training.parametrization {training.parametrization}: goes by width and depth, and {model.target} is not "
            "made with both; take parametrization standard"
        )
