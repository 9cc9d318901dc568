"""What the loss of a run is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, model_validator

from nextscale.model.config.data import DataConfig, SetName, SingleData, single_sources
from nextscale.model.config.identity import NOT_SEMANTIC, Config


class EvaluationConfig(Config):
    """What the loss of a run is measured on, and when."""

    tokens: int = Field(65536, ge=1, description="held-out tokens, of each set; rounded up to whole batches")
    sets: dict[SetName, SingleData] = Field(
        default_factory=dict, description="further validation sets by name, of the vocabulary that is trained on"
    )
    points: int = Field(
        0, ge=0, le=1000, description="evaluations per decade of tokens on the way to the end, evenly spaced in log"
    )

    tasks: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], NOT_SEMANTIC] = Field(
        (),
        description="what trained models are scored on by lm-eval at the end of a run: names that it knows, or YAML "
        "files of tasks; `nextscale model evaluate` asks the models of finished runs",
    )
    few_shot: Annotated[int | None, Field(ge=0), NOT_SEMANTIC] = Field(
        None, description="examples that each question of the tasks begins with; as many as a task has it if open"
    )

    @model_validator(mode="after")
    def _columns_are_free(self) -> Self:
        if "by_position" in self.sets:
            raise ValueError("sets: a set by_position would write over the loss by position; name it otherwise")
        return self

    def misfits(self, data: DataConfig) -> Iterator[tuple[str, str]]:
        """(name, what is wrong) of each set that says nothing of a model trained on `data`."""
        trained_on = single_sources(data)
        contents = {getattr(part, "fingerprint", None) for part in trained_on.values()} - {None}
        for name, other in self.sets.items():
            if other.vocab != data.vocab:
                yield name, f"vocab {other.vocab} is not that of the data trained on, {data.vocab}"
            elif other in trained_on.values() or getattr(other, "fingerprint", None) in contents:
                yield name, "is the data trained on, whose held-out part is measured anyway; leave it out"
            elif name in trained_on:
                yield name, f"is the name of data.sources.{name} too, whose loss is measured anyway; rename it"
