"""Configuration of one training run: data, model, training, evaluation and seed.

A `RunConfig` holds everything that can change a run's numbers, and its `run_id` is a hash of that meaning: the same
question asked twice is the same run.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Self

from pydantic import Discriminator, Field, Tag, model_validator

from nextscale.model.config.architecture import Architecture, Depth, Heads
from nextscale.model.config.code import Code, Function, is_target
from nextscale.model.config.data import DataConfig, TextData, is_resolved, packs, single_sources
from nextscale.model.config.evaluation import EvaluationConfig
from nextscale.model.config.experts import check_experts, without_routing
from nextscale.model.config.identity import SCHEMA_VERSION, Config
from nextscale.model.config.module import ModuleModel, ModuleNetwork, check_training
from nextscale.model.config.parametrization import RESIDUAL, SCORES
from nextscale.model.config.training import TrainingConfig


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
    document_end: int | None = None
    """The token that ends a document, where documents are kept apart (see `Pack`)."""
    functions: tuple[Function, ...] = ()

    def function(self, target: str) -> Function:
        """What its files hold."""
        return next(function for function in self.functions if function.target == target)


class Parent(Config):
    """A state of training: that of a run when it had seen so many tokens."""

    run_id: str = Field(pattern="^[0-9a-f]{12}$")
    tokens: int = Field(ge=1)


_COURSE = ("steps", "schedule", "warmup", "warmup_tokens", "cooldown", "cooldown_shape", "final_lr", "profile")
"""What acts on a step through the schedule alone, or not at all."""


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
        self._check_packs()
        if self.evaluation.tasks and isinstance(self.model, ModuleModel):
            raise ValueError("evaluation.tasks: are asked of our own Transformer alone; leave them out for a module")
        if self.evaluation.tasks and not all(isinstance(one, TextData) for one in single_sources(self.data).values()):
            raise ValueError("evaluation.tasks: are text, and what is trained on is not; train on data.source: text")
        return self

    def _check_packs(self) -> None:
        ends = {pack.end if pack is not None and pack.mask else None for pack in packs(self.data)}
        masks = [pack is not None and pack.mask is not None for pack in packs(self.data)]
        if len(ends) > 1 or len({*masks}) > 1:
            raise ValueError("data.sources: pack: documents are kept apart in all sources, by one end, or in none")
        if any(masks) and isinstance(self.model, ModuleModel):
            raise ValueError("data.pack: a module is called with tokens alone, and sees no documents; leave it out")
        for name, data in self.evaluation.sets.items():
            if any(packs(data)):
                raise ValueError(f"evaluation.sets.{name}: pack: is that of the data; leave it out")

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
            document_end=self.document_end,
            functions=tuple(map(self.function, self.model.targets)),
        )

    @property
    def document_end(self) -> int | None:
        """The token that ends a document, where documents are kept apart."""
        pack = packs(self.data)[0]
        return None if pack is None or pack.mask is None else pack.end

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
