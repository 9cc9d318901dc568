"""Designs and holdouts that a spec may ask for: which runs to fit, and which to forecast."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from nextscale.model.config.data import DataConfig
from nextscale.model.config.identity import Config
from nextscale.sweeps.spec.sweep_model import WIDEST

Flops = Annotated[float, Field(gt=0, le=1e40)]
Tokens = Annotated[float, Field(gt=0, le=1e20)]
TokensPerParam = Annotated[float, Field(gt=0, le=1e9)]
Params = Annotated[float, Field(ge=1, le=1e15)]
Width = Annotated[int, Field(ge=1, le=WIDEST)]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]

SPAN = 3.0
TOKENS_PER_PARAM = 20.0
"""What is taken for the compute-optimum where nothing is known, in round figures: Hoffmann et al. 2022, table 3."""

_SIZES = ("model.width", "params")
LENGTHS = ("tokens", "tokens_per_param", "flops")
_SECTIONS = ("model", "training", "data")


class Range(Config):
    """Values evenly spaced in log."""

    from_: float = Field(alias="from", gt=0, le=1e40)
    to: float = Field(gt=0, le=1e40)
    count: int = Field(ge=2, le=1000)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.to <= self.from_:
            raise ValueError(f"to {self.to:g} must lie above from {self.from_:g}")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, float]:
        return {"from": self.from_, "to": self.to, "count": self.count}

    @property
    def values(self) -> list[float]:
        """To six digits, so that they are the same on every machine."""
        ratio = self.to / self.from_
        inner = (self.from_ * ratio ** (i / (self.count - 1)) for i in range(1, self.count - 1))
        return [self.from_, *(float(f"{value:.6g}") for value in inner), self.to]


def _form(value: Any) -> str:
    return "a range" if isinstance(value, dict | Range) else "a list"


_A_RANGE = Annotated[Range, Tag("a range")]


def rising(values: Any) -> Any:
    if isinstance(values, list) and any(b <= a for a, b in itertools.pairwise(values)):
        raise ValueError("must rise from one to the next")
    return values


Budgets = Annotated[
    Annotated[list[Flops], Field(min_length=1), Tag("a list")] | _A_RANGE, Discriminator(_form), AfterValidator(rising)
]
Ratios = Annotated[
    Annotated[list[TokensPerParam], Field(min_length=1), Tag("a list")] | _A_RANGE,
    Discriminator(_form),
    AfterValidator(rising),
]
SizeTargets = Annotated[
    Annotated[list[Params], Field(min_length=1), Tag("a list")] | _A_RANGE,
    Discriminator(_form),
    AfterValidator(rising),
]
Axis = Annotated[Annotated[list[JsonValue], Field(min_length=1), Tag("a list")] | _A_RANGE, Discriminator(_form)]


def values_of(several: Sequence[Any] | Range) -> list[Any]:
    return several.values if isinstance(several, Range) else list(several)


def exactly_one(model: Config, *names: str) -> str:
    """The one of these fields that is given.

    Raises:
        ValueError: none is, or several are.
    """
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        raise ValueError(f"needs one of {', '.join(names)}, and has {' and '.join(given) or 'none'}")
    return given[0]


class Centre(Config):
    """Where the compute-optimal size is expected at a budget: by tokens per parameter, by a law fitted before, or by
    a power of compute."""

    tokens_per_param: TokensPerParam | None = None
    law: str | None = Field(None, min_length=1, description="a fit card, as `nextscale fit --card FILE` writes it")
    params: Params | None = Field(None, description="the optimum at `flops`, from where it goes as flops^exponent")
    flops: Flops | None = None
    exponent: float = Field(0.5, gt=0, lt=2)

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        form = exactly_one(self, "tokens_per_param", "law", "params")
        if (self.flops is None) == (form == "params"):
            raise ValueError("params and flops belong together: the optimal size, and at which budget it is that")
        return self


class IsoFlop(Config):
    """Several sizes at each of several compute budgets, however sizes are named."""

    expanded_in: ClassVar = "isoflop"

    kind: Literal["isoflop"]
    flops: Budgets = Field(description="training FLOPs of each budget")
    seeds: Seeds = Field([0], description="every run once per seed")

    @property
    def budgets(self) -> list[float]:
        return values_of(self.flops)

    def check_lists(self, what: str) -> None:
        """Raises a ValueError where there are lists of sizes, so named, and not one for each budget."""
        lists = getattr(self, what)
        if lists is not None and len(lists) != len(self.budgets):
            raise ValueError(f"has {len(self.budgets)} budgets and {len(lists)} lists of {what}; give one list each")


class IsoFlopDesign(IsoFlop):
    """Several model sizes at each of several compute budgets: by width, or so many about the optimum expected."""

    widths: list[Annotated[list[Width], Field(min_length=1)]] | None = Field(
        None, min_length=1, description="model widths at each budget"
    )
    sizes: Annotated[int, Field(ge=1, le=100)] | None = Field(None, description="how many sizes at each budget")
    span: Annotated[float, Field(gt=1, le=1000)] | None = Field(
        None, description=f"how many times the largest is the centre, and the centre the smallest; {SPAN:g} if open"
    )
    centre: Centre | None = Field(
        None, description=f"of the sizes at each budget; {TOKENS_PER_PARAM:g} tokens per parameter if open"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if exactly_one(self, "widths", "sizes") == "widths":
            self.check_lists("widths")
            for name in ("span", "centre"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is for sizes that are to be found; leave it out, or give sizes for widths"
                    )
        return self


class LadderDesign(Config):
    """Several model sizes, each trained for several multiples of itself."""

    expanded_in: ClassVar = "ladder"

    kind: Literal["ladder"]
    widths: list[Width] | None = Field(None, min_length=1, description="model widths")
    params: SizeTargets | None = Field(None, description="parameters; of each the nearest width is taken")
    tokens_per_param: Ratios = Field(description="lengths of the runs of each size")
    seeds: Seeds = Field([0], description="every run once per seed")

    @model_validator(mode="after")
    def _has_sizes(self) -> Self:
        exactly_one(self, "widths", "params")
        return self


class WsdDesign(Config):
    """Several model sizes, each at several lengths: one trunk per size, and a cooldown from it per length.

    What depends on a length, a rule for the learning rate say, is that of the longest run on all of its trunk.
    """

    expanded_in: ClassVar = "wsd"

    kind: Literal["wsd"]
    widths: list[Width] = Field(min_length=1, description="model widths")
    tokens: Annotated[list[Tokens], Field(min_length=1), AfterValidator(rising)] = Field(
        description="lengths of the runs of each width"
    )
    seeds: Seeds = Field([0], description="every run once per seed")


def _axis(name: str) -> str:
    if name in (*_SIZES, *LENGTHS, "seed") or name.partition(".")[0] in _SECTIONS:
        return name
    raise ValueError(
        f"is no axis; one is {', '.join((*_SIZES, *LENGTHS))}, seed, or a key below {', '.join(_SECTIONS)}, such as "
        "training.lr"
    )


AxisName = Annotated[str, AfterValidator(_axis)]


class GridDesign(Config):
    """Every combination of values of the axes, each a key of the spec by its name."""

    expanded_in: ClassVar = "grid"

    kind: Literal["grid"]
    axes: dict[AxisName, Axis] = Field(
        min_length=1,
        description="values of each: of one that says how large (model.width or params), of one that says how long "
        "(tokens, tokens_per_param or flops), and of any others below model, training and data",
    )
    zip: list[list[str]] = Field(
        default_factory=list, description="axes that go along together instead of being crossed"
    )
    exclude: list[dict[str, JsonValue]] = Field(
        default_factory=list, description="combinations to leave out: each by the values of some axes"
    )
    seeds: Seeds = Field([0], description="every run once per seed")
    datasets: SkipJsonSchema[dict[str, DataConfig]] = Field(
        default_factory=dict, description="of each choice of the axes below data what it is; found, not written"
    )

    @field_validator("axes")
    @classmethod
    def _says_size_and_length(cls, axes: dict[str, Any]) -> dict[str, Any]:
        for what, names in (("large", _SIZES), ("long", LENGTHS)):
            given = [name for name in names if name in axes]
            if len(given) != 1:
                raise ValueError(
                    f"one says how {what} the runs are, {' or '.join(names)}; here {' and '.join(given) or 'none'} does"
                )
        return axes

    @property
    def size_axis(self) -> str:
        return next(name for name in _SIZES if name in self.axes)

    @property
    def length_axis(self) -> str:
        return next(name for name in LENGTHS if name in self.axes)

    @property
    def is_isoflop(self) -> bool:
        """Whether runs of one budget differ in size and seed alone."""
        return self.length_axis == "flops" and set(self.axes) <= {self.size_axis, "flops", "seed"}


class SequentialDesign(Config):
    """A budget and a target: after a small start, each run is the one that narrows the forecast most per FLOP; however
    sizes are named."""

    expanded_in: ClassVar = "sequential_start"

    kind: Literal["sequential"]
    flops: Flops = Field(description="training FLOPs of all runs together, those of the start too")
    start: IsoFlop = Field(description="the runs to begin with, more than the law has parameters")
    until: float = Field(0.005, gt=0, lt=1, description="half the interval at the target / the loss: enough")
    target: Flops | None = Field(None, description="FLOPs that are to be forecast; those of holdout if open")
    largest: Flops | None = Field(None, description="FLOPs of one run at most; a quarter of the target if open")
    at_once: int = Field(1, ge=1, le=10_000, description="runs that are chosen, and trained, together")

    @property
    def seeds(self) -> list[int]:
        return self.start.seeds


class SequenceOfWidths(SequentialDesign):
    """A budget and a target: after a small start, each run is the one that narrows the forecast most per FLOP."""

    start: IsoFlopDesign = Field(description="the runs to begin with, more than the law has parameters")
    widths: list[Width] = Field(min_length=1, description="model widths to choose from")


Design = Annotated[
    IsoFlopDesign | LadderDesign | GridDesign | WsdDesign | SequenceOfWidths,
    Field(discriminator="kind"),
]


class OverSizes(Config):
    """A design over `sizes`, where one of nextscale's own model has widths."""

    sizes_are: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _has_no_widths(cls, given: Any) -> Any:
        for name in ("widths", "centre", "span"):
            if isinstance(given, dict) and name in given:
                raise ValueError(f"{name}: is of nextscale's own model; {cls.sizes_are}")
        return given


class HeldOut(Config):
    """The next scale: forecast first, trained after, then compared; however its sizes are named."""

    flops: Flops | None = Field(None, description="training FLOPs of each run")
    tokens_per_param: TokensPerParam | None = Field(None, description="or how long each is, by its size")

    @model_validator(mode="after")
    def _says_how_long(self) -> Self:
        exactly_one(self, "flops", "tokens_per_param")
        return self


class Holdout(HeldOut):
    """The next scale: forecast first, trained after, then compared."""

    widths: list[Width] = Field(min_length=1)
