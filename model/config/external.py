"""A run that somebody else's program trains: its size, what it is told, and the command with what its meaning rests on.

`AnyRun` is either kind of run, `AnyModel` either kind of model: what they have in common (a name, a length, a size, a
seed) is all that planning, placing, training, storing and showing of runs asks for.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from nextscale.model.config.free_keys import FreeKeys
from nextscale.model.config.identity import NOT_SEMANTIC, SCHEMA_VERSION, Config, OptionalPath
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import ModelConfig, RunConfig

STOP_SECONDS = 60.0


class ExternalModel(FreeKeys):
    """A size of an external trainer's model: its counts, and whatever keys the trainer wants to build it from."""

    named_by: ClassVar = "sizes"

    params: int = Field(ge=1, le=10**16, description="all parameters: N of most laws")
    params_active: int | None = Field(None, ge=1, description="that one token uses; all if open")
    params_non_embedding: int | None = Field(None, ge=1, description="without embedding and head, where that is known")
    flops_per_token: float = Field(
        gt=0, le=1e20, description="training FLOPs, forward and backward; 6 x params where you count C = 6ND"
    )

    @model_validator(mode="after")
    def _parts_are_no_larger(self) -> Self:
        for name in ("params_active", "params_non_embedding"):
            part = getattr(self, name)
            if part is not None and part > self.params:
                raise ValueError(f"{name} {part} is more than params {self.params}, of which it is a part")
        return self

    @property
    def label(self) -> str:
        """The size in words: the trainer's own keys, or else its parameters."""
        own = [f"{name} {value}" for name, value in (self.__pydantic_extra__ or {}).items()]
        return ", ".join(own[:4]) or f"params {self.params:.4g}"

    @property
    def name(self) -> dict[str, Any]:
        """By which a spec has it."""
        return self.written


class ExternalTraining(FreeKeys):
    """How an external trainer trains: the batch, by which lengths are counted in steps, and its own keys."""

    batch_tokens: int = Field(ge=1, le=2**40, description="tokens per optimiser step")


class ExternalSteps(ExternalTraining):
    """The same of one run, with its length."""

    steps: int = Field(ge=1)


class Trainer(Config):
    """A command that trains one run (docs/own-trainer.md has the contract).

    It is run in `folder`. A run means its command and the contents of `source`, not where these lie.
    """

    command: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1, description="program and arguments; {config} is a JSON file of the run, {dir} its folder"
    )
    source: Annotated[list[Annotated[str, Field(min_length=1)]], NOT_SEMANTIC] = Field(
        default_factory=list, description="files and folders that its meaning rests on, beside the spec: hashed"
    )
    stop_seconds: Annotated[float, Field(gt=0, le=3600), NOT_SEMANTIC] = Field(
        STOP_SECONDS, description="within which it saves itself and exits with 75 when it gets SIGTERM"
    )
    folder: OptionalPath = Field(None, description="where it is run; that of the spec if open")
    fingerprint: str | None = Field(None, description="sha256 of the contents of `source`; read off them")


class ExternalRun(Config):
    """One run of an external trainer: what it is told, and what it is."""

    trainer: Trainer
    model: ExternalModel
    training: ExternalSteps
    data: FreeKeys = FreeKeys()
    evaluation: FreeKeys = FreeKeys()
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def parent(self) -> None:
        """The state that it goes on from: what a trainer begins with is its own matter."""
        return None

    @property
    def set_names(self) -> list[str]:
        """Further validation sets: what a trainer measures beside its loss is not known before."""
        return []

    @property
    def start(self) -> int:
        return 0

    @property
    def tokens(self) -> int:
        return self.training.steps * self.training.batch_tokens

    @property
    def flops(self) -> float:
        return self.model.flops_per_token * self.tokens

    @property
    def run_id(self) -> str:
        """12 hex digits that name this run by its meaning, on any machine."""
        if self.trainer.fingerprint is None:
            raise ValueError("the trainer has no fingerprint yet; nextscale.model.external.source.resolve reads it")
        text = json.dumps({"schema": SCHEMA_VERSION, **self.semantic()}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def told(self) -> dict[str, Any]:
        """What the trainer finds in its {config}."""
        counts = {"run_id": self.run_id, "seed": self.seed, "tokens": self.tokens, "steps": self.training.steps}
        counts |= {"batch_tokens": self.training.batch_tokens}
        parts = {name: getattr(self, name).written for name in ("model", "training", "data", "evaluation")}
        return counts | {"flops": self.flops} | parts


AnyModel = ModelConfig | ModuleModel | ExternalModel
AnyRun = RunConfig | ExternalRun


def read_run(text: str) -> AnyRun:
    """A run of either kind, from its JSON.

    Raises:
        ValueError: it is none.
    """
    external = '"trainer"' in text and "trainer" in _top_of(text)
    return ExternalRun.model_validate_json(text) if external else RunConfig.model_validate_json(text)


def _top_of(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return ()


def number_in(written: dict[str, Any], name: str) -> float | None:
    """A number among free keys; None where there is no such, or something else."""
    value = written.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
