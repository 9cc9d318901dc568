"""From a spec to the runs that answer it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pydantic import ValidationError

from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.config.run import TrainingConfig
from nextscale.model.data.sources import resolve, resolve_sets
from nextscale.sweeps.design.grid import cell_count, data_choices, grid_runs
from nextscale.sweeps.design.planned_run import PlannedRun, Role, count
from nextscale.sweeps.design.sizes import nearest_widths, window_widths
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.designs import (
    GridDesign,
    IsoFlopDesign,
    LadderDesign,
    SequentialDesign,
    WsdDesign,
    values_of,
)
from nextscale.sweeps.spec.documents import Key, dotted
from nextscale.sweeps.spec.run_config import config_of, message, model_of, steps_of, training_of
from nextscale.sweeps.spec.sweep_spec import SweepSpec

__all__ = ["MOST_RUNS", "PlannedRun", "Role", "count", "planned_runs", "resolved"]

MOST_RUNS = 100_000
"""More are a slip of the pen."""


def resolved(spec: SweepSpec) -> SweepSpec:
    """The same spec with its data and validation sets resolved, so that its runs can be named, and with the sizes that
    its design leaves open: what it was centred on may change.

    Raises:
        InputError: data is missing, or a file of it is broken.
        SpecError: see `planned_runs`.
    """
    _check_count(spec)
    spec = spec.model_copy(update={"data": resolve(spec.data), "evaluation": resolve_sets(spec.evaluation)})
    design = spec.design
    if isinstance(design, IsoFlopDesign):
        design = _sized(spec, design)
    elif isinstance(design, SequentialDesign):
        design = design.model_copy(update={"start": _sized(spec, design.start)})
    elif isinstance(design, GridDesign):
        datasets = {name: resolve(data) for name, data in data_choices(spec, design).items()}
        design = design.model_copy(update={"datasets": datasets})
    return spec.model_copy(update={"design": design})


def _sized(spec: SweepSpec, design: IsoFlopDesign) -> IsoFlopDesign:
    if design.sizes is None:
        return design
    return IsoFlopDesign(kind="isoflop", seeds=design.seeds, flops=design.budgets, widths=window_widths(spec, design))


def planned_runs(spec: SweepSpec) -> list[PlannedRun]:
    """Every run of a sweep, by role, budget and size; each config once.

    Raises:
        SpecError: a model cannot be built, or a budget is too small for a size; with the key at fault.
    """
    for name, problem in spec.evaluation.misfits(spec.data):
        raise SpecError(f"evaluation.sets.{name}: {problem}", ("evaluation", "sets", name))
    _check_count(spec)
    runs = list(_fitted(spec))
    if isinstance(spec.design, SequentialDesign):
        _check_sequential(spec, spec.design, runs)
    if spec.holdout is not None:
        runs += list(_held_out(spec, runs))
    seen = {run.config.model_dump_json(): run for run in runs}
    return sorted(seen.values(), key=lambda run: (run.role, run.budget, run.params))


def _fitted(spec: SweepSpec) -> Iterator[PlannedRun]:
    match spec.design:
        case IsoFlopDesign() as design:
            return _isoflop(spec, design, ("design",))
        case SequentialDesign() as design:
            start = _isoflop(spec, design.start, ("design", "start"))
            return (dataclasses.replace(run, isoflop=False) for run in start)  # they are to have no minimum
        case LadderDesign() as design:
            return _ladder(spec, design)
        case GridDesign() as design:
            return grid_runs(spec, design)
        case WsdDesign() as design:
            return _wsd(spec, design)


def run_of(spec: SweepSpec, width: int, budget: float, seed: int) -> PlannedRun:
    """One run to fit, of a width at a budget.

    Raises:
        SpecError: the model cannot be built, or the budget is too small or too large for it.
    """
    model = model_of(spec, width, ("design", "widths"))
    training = training_of(spec, model, budget, ("design", "flops"))
    return PlannedRun(config_of(spec, model, training, seed), "fit", budget)


def _check_sequential(spec: SweepSpec, design: SequentialDesign, start: list[PlannedRun]) -> None:
    target = design.target or (spec.holdout.flops if spec.holdout else None)
    if target is None:
        raise SpecError(
            "design.target: is missing; say what compute is to be forecast, or give holdout.flops", ("design",)
        )
    for name, largest in (("start.flops", max(run.budget for run in start)), ("largest", design.largest or 0)):
        if largest >= target:
            what = f"{largest:.3g} FLOPs of one run reach the target, {target:.3g}: nothing would be forecast; lower it"
            raise SpecError(f"design.{name}: {what}", ("design", *name.split(".")))
    if (spent := sum(run.own_flops for run in start)) > design.flops:
        raise SpecError(
            f"design.flops: {design.flops:.3g} do not pay for the runs of design.start, {spent:.3g}; raise it",
            ("design", "flops"),
        )


def _check_count(spec: SweepSpec) -> None:
    """Refuses more runs than anybody trains, before any is made."""
    total = _count(spec) + (0 if spec.holdout is None else len(spec.holdout.widths))
    if total > MOST_RUNS:
        told = f"{min(total, 10**300):.3g}"  # a whole number may be too large for a float
        raise SpecError(f"design: is of {told} runs, more than {MOST_RUNS}; take fewer values", ("design",))


def _count(spec: SweepSpec) -> int:
    match design := spec.design:
        case IsoFlopDesign() | SequentialDesign():
            design = design.start if isinstance(design, SequentialDesign) else design
            sizes = design.sizes and design.sizes * len(design.budgets)
            runs = sizes or sum(map(len, design.widths or ()))
        case LadderDesign():
            runs = len(design.widths or values_of(design.params or [])) * len(values_of(design.tokens_per_param))
        case GridDesign():
            return cell_count(design)
        case WsdDesign():
            runs = len(design.widths) * len(design.tokens)
    return runs * len(design.seeds)


def _isoflop(spec: SweepSpec, design: IsoFlopDesign, key: Key) -> Iterator[PlannedRun]:
    for i, (budget, widths) in enumerate(
        zip(design.budgets, design.widths or window_widths(spec, design), strict=True)
    ):
        for j, width in enumerate(widths):
            model = model_of(spec, width, (*key, "widths", i, j))
            training = training_of(spec, model, budget, (*key, "flops", i))
            for seed in design.seeds:
                yield PlannedRun(config_of(spec, model, training, seed), "fit", budget, isoflop=True)


def _ladder(spec: SweepSpec, design: LadderDesign) -> Iterator[PlannedRun]:
    widths = design.widths or nearest_widths(spec, values_of(design.params or []), ("design", "params"))
    for j, width in enumerate(widths):
        model = model_of(spec, width, ("design", "widths", j))
        for i, ratio in enumerate(values_of(design.tokens_per_param)):
            budget = flops_per_token(model) * ratio * parameters(model)
            training = training_of(spec, model, budget, ("design", "tokens_per_param", i))
            for seed in design.seeds:
                yield PlannedRun(config_of(spec, model, training, seed), "fit", budget)


def _wsd(spec: SweepSpec, design: WsdDesign) -> Iterator[PlannedRun]:
    """The longest run of a width is the trunk of the others: each is the trunk up to its own cooldown."""
    if spec.training.schedule != "wsd":
        raise SpecError("training.schedule: is wsd where design.kind is; set it", ("training", "schedule"))
    if spec.training.warmup_tokens is None:
        least = round(spec.training.warmup * design.tokens[0])
        raise SpecError(
            "training.warmup_tokens: is missing; runs of all lengths share their warm-up where design.kind is wsd, "
            f"{least} tokens, say",
            ("training",),
        )
    for j, width in enumerate(design.widths):
        model = model_of(spec, width, ("design", "widths", j))
        budgets = [flops_per_token(model) * tokens for tokens in design.tokens]
        longest = training_of(spec, model, budgets[-1], ("design", "tokens", len(budgets) - 1))
        for i, budget in enumerate(budgets):
            steps = steps_of(model, budget, longest.batch_tokens, ("design", "tokens", i))
            try:
                training = TrainingConfig(**longest.model_dump() | {"steps": steps})
            except ValidationError as error:
                raise SpecError(f"training.{message(error)}", ("training", "warmup_tokens")) from None
            for seed in design.seeds:
                config, trunk = (config_of(spec, model, how, seed) for how in (training, longest))
                run = PlannedRun(config, "fit", budget, trunk)
                alone = config == trunk or run.branches_at == 0
                yield dataclasses.replace(run, trunk=None) if alone else run


def _held_out(spec: SweepSpec, fitted: list[PlannedRun]) -> Iterator[PlannedRun]:
    """
    Raises:
        SpecError: they are no next scale: none is beyond what is fitted.
    """
    holdout = spec.holdout
    assert holdout is not None
    largest, most = max(run.params for run in fitted), max(run.budget for run in fitted)
    for j, width in enumerate(holdout.widths):
        model = model_of(spec, width, ("holdout", "widths", j))
        key: Key = ("holdout", "flops")
        if holdout.tokens_per_param is not None:
            key = ("holdout", "tokens_per_param")
            budget = flops_per_token(model) * holdout.tokens_per_param * parameters(model)
            if budget <= most and parameters(model) <= largest:
                raise SpecError(
                    f"{dotted(key)}: width {width} is within what is fitted, by size and by FLOPs; raise it, or take "
                    "larger holdout.widths",
                    key,
                )
        else:
            assert holdout.flops is not None
            budget = holdout.flops
            if budget <= most:
                what = "must lie above every budget of design.flops: it is the next scale"
                if not fitted[0].isoflop:
                    what = f"must lie above every run of design, the largest of {most:.3g} FLOPs"
                raise SpecError(f"{dotted(key)}: {what}", key)
        training = training_of(spec, model, budget, key)
        yield PlannedRun(config_of(spec, model, training, fitted[0].config.seed), "holdout", budget)
