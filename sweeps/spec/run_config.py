"""The config of one run of a spec: its model, length and training; or an error that names the key at fault."""

from __future__ import annotations

from pydantic import ValidationError

from nextscale.model.accounting import flops_per_token
from nextscale.model.config.run import ModelConfig, RunConfig, TrainingConfig
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.documents import Key, dotted
from nextscale.sweeps.spec.sweep_spec import SweepSpec

FEWEST_STEPS, MOST_STEPS = 20, 2**31 - 1
"""Below the first a run says nothing but how its warm-up went; beyond the second steps are no 32-bit number."""


def model_of(spec: SweepSpec, width: int, key: Key) -> ModelConfig:
    """The model of a width.

    Raises:
        SpecError: there is none; `key` is what asks for it.
    """
    try:
        return spec.model.at(width, spec.data.vocab)
    except ValueError as error:
        raise SpecError(f"{dotted(key)}: {error_text(error)}", key) from None


def training_of(spec: SweepSpec, model: ModelConfig, budget: float, key: Key) -> TrainingConfig:
    """How a model is trained for so many FLOPs, as nearly as whole steps come to them.

    Raises:
        SpecError: it cannot be; `key` is what asks for so many.
    """
    batch_tokens = spec.training.batch(model, budget / flops_per_token(model))
    steps = steps_of(model, budget, batch_tokens, key)
    try:
        return spec.training.at(model, steps, batch_tokens, spec.model.one_head_width)
    except ValidationError as error:
        raise SpecError(f"training.{error_text(error)}", ("training",)) from None


def steps_of(model: ModelConfig, budget: float, batch_tokens: int, key: Key) -> int:
    """The whole number of steps nearest to a budget.

    Raises:
        SpecError: too few or too many.
    """
    step_flops = flops_per_token(model) * batch_tokens
    steps = round(budget / step_flops)
    if steps < FEWEST_STEPS:
        raise SpecError(
            f"{dotted(key)}: {budget:.3g} FLOPs train width {model.width} for only {steps} steps; raise it to "
            f"{FEWEST_STEPS * step_flops:.2g} or more, or take smaller widths or training.batch_tokens",
            key,
        )
    if steps > MOST_STEPS:
        raise SpecError(
            f"{dotted(key)}: {budget:.3g} FLOPs train width {model.width} for {steps:.3g} steps, more than "
            f"{MOST_STEPS}; lower it, or take larger widths or training.batch_tokens",
            key,
        )
    return steps


def config_of(spec: SweepSpec, model: ModelConfig, training: TrainingConfig, seed: int) -> RunConfig:
    """
    Raises:
        SpecError: the parts do not fit together.
    """
    try:
        return RunConfig(data=spec.data, model=model, training=training, evaluation=spec.evaluation, seed=seed)
    except ValidationError as error:
        raise SpecError(error_text(error), ("training", "batch_tokens")) from None


def error_text(error: ValueError) -> str:
    """What is wrong, in words; and of which field, where it is of one."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    text = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return text
    return f"{dotted(first['loc'])} {text.replace('Input should', 'should')}, not {first['input']!r}"
