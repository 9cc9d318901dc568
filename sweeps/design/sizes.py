"""Chooses the widths that a design leaves open: about the expected optimum, or near a number of parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nextscale.fit.laws.catalogue import LAWS
from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.config.run import ModelConfig
from nextscale.sweeps.design.planned_run import COUNTS, count_parameters
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.designs import SPAN, TOKENS_PER_PARAM, Centre, IsoFlopDesign
from nextscale.sweeps.spec.documents import dotted
from nextscale.sweeps.spec.run_config import FEWEST_STEPS
from nextscale.sweeps.spec.sweep_spec import ExternalSpec, ModuleSpec, SweepSpec

MOST_OFF = 0.01
"""Of a budget, that whole steps may miss it by."""
_GRID = 4000
_CENTRE = ("design", "centre")


def window_widths(spec: SweepSpec, design: IsoFlopDesign) -> list[list[int]]:
    """The widths of an isoFLOP design that gives their number alone, at each budget.

    Evenly spaced in log about the optimum expected, as far as friendly widths allow, and none twice.

    Raises:
        SpecError: the widths there are do not suffice, or the law of the centre cannot be read.
    """
    assert design.sizes is not None
    models = friendly_models(spec)
    centre_at = _centre(design.centre or Centre(tokens_per_param=TOKENS_PER_PARAM), models)
    span = design.span or SPAN
    widths = []
    for budget in design.budgets:
        centre = centre_at(budget)
        within = _within(models, centre / span, centre * span)
        if len(within) < design.sizes:
            found = f", {', '.join(str(model.width) for model in within)}" if within else ""
            raise SpecError(
                f"design.sizes: about {centre:.3g} parameters, at {budget:.3g} FLOPs, there are only {len(within)} of "
                f"{design.sizes} widths{found}; raise the budget or design.span, or let model.heads allow more",
                ("design", "sizes"),
            )
        hitting = [model for model in within if _hits(spec, model, budget)]
        widths.append(_spread(hitting if len(hitting) >= design.sizes else within, centre, span, design.sizes))
    return widths


def nearest_widths(spec: SweepSpec, targets: Sequence[float], key: tuple[str | int, ...]) -> list[int]:
    """The friendly width nearest to each number of parameters.

    Raises:
        SpecError: two are of one width; or a model is none of these sizes by far.
    """
    models = friendly_models(spec)
    log_sizes = np.log([parameters(model) for model in models])
    found: dict[int, float] = {}
    for i, target in enumerate(targets):
        nearest = int(np.abs(log_sizes - np.log(target)).argmin())
        width, size = models[nearest].width, float(np.exp(log_sizes[nearest]))
        if not 0.5 < size / target < 2:
            raise SpecError(
                f"{dotted((*key, i))}: the model nearest to {target:.3g} parameters is of width {width} and has "
                f"{size:.3g}; take another target, or another model.depth or model.heads",
                (*key, i),
            )
        if width in found:
            raise SpecError(
                f"{dotted((*key, i))}: {target:.3g} parameters and {found[width]:.3g} are both of width {width}; "
                "leave one out",
                (*key, i),
            )
        found[width] = target
    return list(found)


def friendly_models(spec: SweepSpec) -> list[ModelConfig]:
    """The models of a spec that can be chosen from, by rising size.

    Raises:
        SpecError: there are not two, or what its sizes are is the trainer's own matter.
    """
    if isinstance(spec, ExternalSpec | ModuleSpec):
        raise SpecError(
            "model: is no Transformer of nextscale's own, of which alone other sizes can be found", ("model",)
        )
    models = []
    for width in spec.model.friendly_widths():
        try:
            models.append(spec.model.at(width, spec.data.vocab))
        except ValueError:
            if models:  # a rule makes it too deep from here on
                break
    if len(models) < 2:
        raise SpecError("model: can be built of no two widths that its heads divide", ("model",))
    return models


def _within(models: Sequence[ModelConfig], low: float, high: float) -> list[ModelConfig]:
    """The models from one size to another, and the one next to them on either side."""
    sizes = [parameters(model) for model in models]
    inside = [i for i, size in enumerate(sizes) if low <= size <= high]
    if not inside:
        return []
    return list(models[max(inside[0] - 1, 0) : inside[-1] + 2])


def _spread(models: Sequence[ModelConfig], centre: float, span: float, count: int) -> list[int]:
    targets = [centre] if count == 1 else centre * span ** np.linspace(-1, 1, count)
    left = {model.width: np.log(parameters(model)) for model in models}
    taken = []
    for target in targets:
        taken.append(min(left, key=lambda width: abs(left[width] - np.log(target))))
        del left[taken[-1]]
    return sorted(taken)


def _hits(spec: SweepSpec, model: ModelConfig, budget: float) -> bool:
    cost = flops_per_token(model)
    step = cost * spec.training.batch(model, budget / cost)
    steps = round(budget / step)
    return steps >= FEWEST_STEPS and abs(steps * step / budget - 1) <= MOST_OFF


def _centre(centre: Centre, models: Sequence[ModelConfig]) -> Callable[[float], float]:
    """The size expected to be best at a budget."""
    if centre.params is not None:
        at, flops, exponent = centre.params, centre.flops, centre.exponent
        assert flops is not None
        return lambda budget: at * float(budget / flops) ** exponent
    # Between the models, and a continuous size: places along their list, and what is linear in log between them.
    place, at_model = np.linspace(0, len(models) - 1, _GRID), np.arange(len(models))
    sizes, costs = (
        np.exp(np.interp(place, at_model, np.log([count(model) for model in models])))
        for count in (parameters, flops_per_token)
    )
    if centre.tokens_per_param is not None:
        budgets = np.log(costs * sizes * centre.tokens_per_param)
        return lambda budget: float(np.exp(np.interp(np.log(budget), budgets, np.log(sizes))))
    assert centre.law is not None
    loss, count = _law(centre.law)
    counted = np.exp(np.interp(place, at_model, np.log([count(model) for model in models])))
    return lambda budget: float(sizes[loss(counted, budget / costs).argmin()])


def _law(path: str) -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], Callable[[ModelConfig], int]]:
    """The log loss as a function of N and D, and what N counts, of a fit card."""
    key = (*_CENTRE, "law")

    def refuse(what: str) -> SpecError:
        return SpecError(f"{dotted(key)}: {path}: {what}; `nextscale fit RUNS --card FILE` writes a fit card", key)

    try:
        card = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        name, convention = card["law"]["name"], card["data"]["params_convention"]
        whole = {key: entry["value"] for key, entry in card["parameters"].items()}
        members = card["law"].get("members") or [{"law": name, "weight": 1.0, "parameters": whole}]
        parts = [
            (one["law"], float(one["weight"]), {key: float(value) for key, value in one["parameters"].items()})
            for one in members
        ]
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise refuse("is no fit card") from None
    for name, _, values in parts:
        law = LAWS.get(name)
        if law is None or set(law.variables) != {"N", "D"} or set(law.parameters) - set(values):
            raise refuse(f"its law is {name}, and an optimum needs one in N and D that is known here")
    if convention not in COUNTS:
        raise refuse(f"its N counts {convention} parameters; take one of {', '.join(COUNTS)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        laws = [(LAWS[name], weight, LAWS[name].theta(values)[None]) for name, weight, values in parts]
    if not all(np.isfinite(theta).all() for _, _, theta in laws):
        raise refuse("a parameter of its law is zero or no number")

    def log_loss(N: np.ndarray, D: np.ndarray) -> np.ndarray:
        return np.sum([weight * law.log_losses(theta, {"N": N, "D": D})[0] for law, weight, theta in laws], axis=0)

    return log_loss, lambda model: count_parameters(model, convention)
