"""From a spec to the runs that answer it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pydantic import ValidationError

from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.config import RunConfig, TrainingConfig
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec import SweepSpec

FEWEST_STEPS, MOST_STEPS = 20, 2**31 - 1
"""Below the first a run says nothing but how its warm-up went; beyond the second steps are no 32-bit number."""

Role = Literal["fit", "holdout"]
Key = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run and what it is for.

    Attributes:
        budget: the FLOPs asked for; `flops` are those that whole steps make of it.
    """

    config: RunConfig
    role: Role
    budget: float

    @property
    def params(self) -> int:
        return parameters(self.config.model)

    @property
    def tokens(self) -> int:
        return self.config.training.tokens

    @property
    def flops(self) -> float:
        return flops_per_token(self.config.model) * self.tokens


def planned_runs(spec: SweepSpec) -> list[PlannedRun]:
    """Every run of a sweep, by role, budget and size; each config once.

    Raises:
        SpecError: a model cannot be built, or a budget is too small for a size; with the key at fault.
    """
    runs: list[PlannedRun] = []
    for i, (budget, widths) in enumerate(zip(spec.design.flops, spec.design.widths, strict=True)):
        for j, width in enumerate(widths):
            for seed in spec.design.seeds:
                keys = ("design", "widths", i, j), ("design", "flops", i)
                runs.append(_planned(spec, "fit", budget, width, seed, *keys))
    if spec.holdout is not None:
        budget, budget_key = spec.holdout.flops, ("holdout", "flops")
        if budget <= spec.design.flops[-1]:
            what = "must lie above every budget of design.flops: it is the next scale"
            raise SpecError(f"{_dotted(budget_key)}: {what}", budget_key)
        for j, width in enumerate(spec.holdout.widths):
            width_key = ("holdout", "widths", j)
            runs.append(_planned(spec, "holdout", budget, width, spec.design.seeds[0], width_key, budget_key))
    seen = {run.config.model_dump_json(): run for run in runs}
    return sorted(seen.values(), key=lambda run: (run.role, run.budget, run.params))


def _planned(
    spec: SweepSpec,
    role: Role,
    budget: float,
    width: int,
    seed: int,
    width_key: Key,
    budget_key: Key,
) -> PlannedRun:
    try:
        model = spec.model.at(width, spec.data.vocab)
    except ValidationError as error:
        raise SpecError(f"{_dotted(width_key)}: {_message(error)}", width_key) from None
    steps = round(budget / (flops_per_token(model) * spec.training.batch_tokens))
    if steps < FEWEST_STEPS:
        least = FEWEST_STEPS * flops_per_token(model) * spec.training.batch_tokens
        raise SpecError(
            f"{_dotted(budget_key)}: {budget:.3g} FLOPs train width {width} for only {steps} steps; raise it to "
            f"{least:.2g} or more, or take smaller widths or training.batch_tokens",
            budget_key,
        )
    if steps > MOST_STEPS:
        raise SpecError(
            f"{_dotted(budget_key)}: {budget:.3g} FLOPs train width {width} for {steps:.3g} steps, more than "
            f"{MOST_STEPS}; lower it, or take larger widths or training.batch_tokens",
            budget_key,
        )
    shared = {name: getattr(spec.training, name) for name in TrainingConfig.model_fields if name not in ("steps", "lr")}
    training = TrainingConfig(**shared, steps=steps, lr=spec.training.peak_lr(steps))
    try:
        config = RunConfig(data=spec.data, model=model, training=training, evaluation=spec.evaluation, seed=seed)
    except ValidationError as error:
        raise SpecError(f"{_message(error)}", ("training", "batch_tokens")) from None
    return PlannedRun(config, role, budget)


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))


def _message(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
