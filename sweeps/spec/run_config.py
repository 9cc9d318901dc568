"""The config of one run of a spec: its model, length and training; or an error that names the key at fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from nextscale.model.accounting import flops_per_token
from nextscale.model.config.external import AnyModel, AnyRun, ExternalModel
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.documents import Key, dotted
from nextscale.sweeps.spec.external import SizeName
from nextscale.sweeps.spec.sweep_spec import AnyTraining, SweepSpec

FEWEST_STEPS, MOST_STEPS = 20, 2**31 - 1
"""Below the first a run of ours says nothing but how its warm-up went; beyond the second steps are no 32-bit number."""


def models_of(spec: SweepSpec, names: Sequence[SizeName] | None, key: Key) -> Iterator[AnyModel]:
    """The models of sizes, of all that there are where none is named.

    Raises:
        SpecError: there is none of a size; `key` is that of the names.
    """
    return (model_of(spec, name, (*key, i)) for i, name in enumerate(spec.names(names)))


def model_of(spec: SweepSpec, name: SizeName, key: Key) -> AnyModel:
    """The model of a size.

    Raises:
        SpecError: there is none; `key` is what asks for it.
    """
    try:
        return spec.model_at(name)
    except SpecError:  # of another key
        raise
    except ValueError as error:
        raise SpecError(f"{dotted(key)}: {error_text(error)}", key) from None


def training_of(spec: SweepSpec, model: AnyModel, budget: float, key: Key) -> AnyTraining:
    """How a model is trained for so many FLOPs, as nearly as whole steps come to them.

    Raises:
        SpecError: it cannot be; `key` is what asks for so many.
    """
    batch_tokens = spec.batch(model, budget / flops_per_token(model))
    steps = steps_of(model, budget, batch_tokens, key)
    try:
        return spec.training_at(model, steps, batch_tokens)
    except ValidationError as error:
        raise SpecError(f"training.{error_text(error)}", ("training",)) from None


def steps_of(model: AnyModel, budget: float, batch_tokens: int, key: Key) -> int:
    """The whole number of steps nearest to a budget.

    Raises:
        SpecError: too few or too many.
    """
    step_flops = flops_per_token(model) * batch_tokens
    steps = round(budget / step_flops)
    fewest = 1 if isinstance(model, ExternalModel) else FEWEST_STEPS
    if steps < fewest:
        raise SpecError(
            f"{dotted(key)}: {budget:.3g} FLOPs train {model.label} for only {steps} steps; raise it to "
            f"{fewest * step_flops:.2g} or more, or take smaller {model.named_by} or training.batch_tokens",
            key,
        )
    if steps > MOST_STEPS:
        raise SpecError(
            f"{dotted(key)}: {budget:.3g} FLOPs train {model.label} for {steps:.3g} steps, more than "
            f"{MOST_STEPS}; lower it, or take larger {model.named_by} or training.batch_tokens",
            key,
        )
    return steps


def config_of(spec: SweepSpec, model: AnyModel, training: AnyTraining, seed: int) -> AnyRun:
    """
    Raises:
        SpecError: the parts do not fit together.
    """
    try:
        return spec.run_of(model, training, seed)
    except ValidationError as error:
        text = error_text(error)
        named: Key = tuple(text.partition(":")[0].split("."))
        raise SpecError(text, named if named[0] in ("data", "evaluation") else ("training", "batch_tokens")) from None


def error_text(error: ValueError) -> str:
    """What is wrong, in words; and of which field, where it is of one."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    text = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return text
    return f"{dotted(first['loc'])} {text.replace('Input should', 'should')}, not {first['input']!r}"
