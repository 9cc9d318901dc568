"""The loggers that a spec may name, and their options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError

from nextscale.model.config.identity import Config
from nextscale.sweeps.errors import SpecError

LoggerKind = Literal["tensorboard", "wandb", "mlflow"]


class TensorBoard(Config):
    """Event files in `OUT/tensorboard`."""

    kind: Literal["tensorboard"] = "tensorboard"


class WeightsAndBiases(Config):
    """A project of Weights & Biases: a run is a run there, of the same id, and the sweep is its group."""

    kind: Literal["wandb"] = "wandb"
    project: str = Field("nextscale", min_length=1, description="that runs go to")
    entity: str | None = Field(None, min_length=1, description="user or team of the project; your own if open")
    mode: Literal["online", "offline"] | None = Field(
        None, description="offline writes to OUT/wandb, for `wandb sync`; what WANDB_MODE says if open, else online"
    )


class MlFlow(Config):
    """An MLflow tracking server, or store: the sweep is an experiment, and a run has its id as the tag
    `nextscale.run_id`."""

    kind: Literal["mlflow"] = "mlflow"
    uri: str | None = Field(
        None, min_length=1, description="such as http://host:5000; what MLFLOW_TRACKING_URI says if open"
    )
    experiment: str | None = Field(None, min_length=1, description="the name of the sweep if open")


def _form(logger: Any) -> str:
    return "options" if isinstance(logger, dict | Config) else "name"


LoggerConfig = Annotated[TensorBoard | WeightsAndBiases | MlFlow, Field(discriminator="kind")]
LoggerChoice = Annotated[
    Annotated[LoggerKind, Tag("name")] | Annotated[LoggerConfig, Tag("options")],
    Discriminator(_form),
]
"""A logger by its name, or with options."""

_BY_NAME: dict[str, type[TensorBoard | WeightsAndBiases | MlFlow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MlFlow,
}


def logger_config(choice: LoggerChoice) -> LoggerConfig:
    return _BY_NAME[choice]() if isinstance(choice, str) else choice


def parse_logger(kind: str, options: Sequence[str]) -> LoggerConfig:
    """A logger as a command names it, with options as KEY=VALUE.

    Raises:
        SpecError: there is none of that name, or it has no such option.
    """
    given: dict[str, Any] = {"kind": kind}
    for option in options:
        key, equals, value = option.partition("=")
        if not (key and equals and value):
            raise SpecError(f"--set {option}: write it as KEY=VALUE")
        given[key] = value
    if kind not in _BY_NAME:
        raise SpecError(f"--to {kind}: is none of {', '.join(_BY_NAME)}")
    try:
        return TypeAdapter(LoggerConfig).validate_python(given)
    except ValidationError as error:
        wrong = str(error.errors()[0]["loc"][-1])
        known = ", ".join(name for name in _BY_NAME[kind].model_fields if name != "kind") or "none"
        raise SpecError(f"--set {wrong}={given.get(wrong)}: cannot be used; options of {kind}: {known}") from None
