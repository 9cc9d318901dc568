"""Runs of a grid: every combination of the values of its axes; and the recipes among them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from nextscale.fit.errors import InputError
from nextscale.model.accounting import flops_per_token, parameters
from nextscale.model.config.external import AnyModel
from nextscale.model.data.sources import resolve
from nextscale.sweeps.design.planned_run import Expansion, PlannedRun
from nextscale.sweeps.design.sizes import nearest_widths
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.designs import Design, GridDesign, Range, values_of
from nextscale.sweeps.spec.documents import Key, dotted
from nextscale.sweeps.spec.external import SizeName
from nextscale.sweeps.spec.run_config import config_of, model_of, training_of
from nextscale.sweeps.spec.sweep_spec import ExternalSpec, ModuleSpec, SweepSpec

_AXES: Key = ("design", "axes")


class AxisValue(NamedTuple):
    """A value of an axis, and the key where it stands."""

    value: Any
    key: Key


Cell = dict[str, AxisValue]


def grid_count(design: GridDesign) -> int:
    """Of combinations, those excluded too."""
    alone = set(design.axes) - {name for group in design.zip for name in group}
    lengths = [len(values_of(design.axes[name])) for name in alone]
    lengths += [max(len(values_of(design.axes.get(name, []))) for name in group) for group in design.zip if group]
    return math.prod(lengths) * len(design.seeds)


def grid_runs(spec: SweepSpec, design: GridDesign) -> Iterator[PlannedRun]:
    """
    Raises:
        SpecError: with the axis, and the value, at fault.
    """
    specs = _Specs(spec, design)
    names = _names(spec, design)
    left = False
    for cell in cells(design):
        left = True
        here = specs.at(cell)
        size, length = cell[design.size_axis], cell[design.length_axis]
        model = model_of(here, names[size.key], size.key)
        budget = _budget(model, design.length_axis, length)
        seeds = [_whole(cell["seed"], 0, 2**32 - 1)] if "seed" in cell else design.seeds
        try:
            training = training_of(here, model, budget, length.key)
            for seed in seeds:
                yield PlannedRun(config_of(here, model, training, seed), "fit", budget, isoflop=design.is_isoflop)
        except SpecError as error:
            raise _of_axis(error, cell) from None
    if not left:
        raise SpecError("design.exclude: leaves no run", ("design", "exclude"))


def grid_resolved(spec: SweepSpec, design: GridDesign) -> GridDesign:
    """The same design with the data of each choice of the axes below it, where there are such axes."""
    if isinstance(spec, ExternalSpec) or not any(_section(name) == "data" for name in design.axes):
        return design.model_copy(update={"datasets": {}})
    specs = _Specs(spec, design)
    choices = {_name(values): specs.at(cell).data for cell in cells(design) for values in [_assigned(cell, "data")]}
    datasets = {name: resolve(data) for name, data in choices.items()}
    return design.model_copy(update={"datasets": datasets})


def recipe_axes(design: Design) -> dict[str, list[Any]]:
    """The axes below `training` that go along together, each with its values: one of each makes a recipe.

    Raises:
        InputError: the design is no grid with such axes.
    """
    if not isinstance(design, GridDesign) or not any(name.startswith("training.") for name in design.axes):
        raise InputError("corrections: needs a grid with axes below training, which `zip` puts together to recipes")
    axes = {name: values_of(axis) for name, axis in design.axes.items() if name.startswith("training.")}
    if len({len(values) for values in axes.values()}) > 1 or (
        len(axes) > 1 and sorted(axes) not in map(sorted, design.zip)
    ):
        raise InputError(f"corrections: {', '.join(axes)} are to go along together; name them in design.zip")
    return axes


def recipes(spec: SweepSpec) -> Iterator[tuple[str, set[str]]]:
    """Each recipe: what it changes of the one before, and the runs of it.

    Raises:
        InputError: see `recipe_axes`.
    """
    design, axes = spec.design, recipe_axes(spec.design)
    assert isinstance(design, GridDesign)
    before: dict[str, Any] = {}
    for i in range(len(next(iter(axes.values())))):
        now = {name: values[i] for name, values in axes.items()}
        alone = design.model_copy(update={"axes": design.axes | {name: [value] for name, value in now.items()}})
        changed = {name: value for name, value in now.items() if before.get(name, "") != value}
        yield (
            ", ".join(f"{name.partition('.')[2]} {_shown(value)}" for name, value in changed.items()),
            {run.run_id for run in grid_runs(spec.model_copy(update={"design": alone}), alone)},
        )
        before = now


def cells(design: GridDesign) -> Iterator[Cell]:
    """What the axes come to, without what is excluded.

    Raises:
        SpecError: axes that go along together are not of one length, or what is excluded is not there.
    """
    if "seed" in design.axes and design.seeds != [0]:
        raise SpecError("design.seeds: is there, and an axis seed too; leave one out", ("design", "seeds"))
    axes = {
        name: [AxisValue(value, (*_AXES, name, i)) for i, value in enumerate(values_of(axis))]
        for name, axis in design.axes.items()
    }
    groups = [[name] for name in axes if not any(name in group for group in design.zip)]
    for i, group in enumerate(design.zip):
        _check_zip(design, i, group)
        groups.append(group)
    for i, pattern in enumerate(design.exclude):
        _check_exclude(design, i, pattern)
    steps = [
        [dict(zip(group, step, strict=True)) for step in zip(*map(axes.get, group), strict=True)] for group in groups
    ]
    for choice in itertools.product(*steps):
        cell = {name: chosen for step in choice for name, chosen in step.items()}
        if not any(all(cell[name].value == value for name, value in one.items()) for one in design.exclude):
            yield cell


def _check_zip(design: GridDesign, i: int, group: list[str]) -> None:
    key: Key = ("design", "zip", i)
    for name in group:
        if name not in design.axes:
            raise SpecError(f"{dotted(key)}: {name} is none of design.axes, {', '.join(design.axes)}", key)
        if sum(other.count(name) for other in design.zip) > 1:
            raise SpecError(f"{dotted(key)}: {name} is there twice; an axis goes along with one group", key)
    lengths = {name: len(values_of(design.axes[name])) for name in group}
    if len(set(lengths.values())) != 1:
        counts = " and ".join(f"{name} has {length}" for name, length in lengths.items()) or "it names no axis"
        raise SpecError(f"{dotted(key)}: needs axes of as many values each: {counts}", key)


def _check_exclude(design: GridDesign, i: int, pattern: Mapping[str, Any]) -> None:
    if not pattern:
        raise SpecError(f"design.exclude.{i}: names no axis, and would leave out all", ("design", "exclude", i))
    for name, value in pattern.items():
        key: Key = ("design", "exclude", i, name)
        if name not in design.axes:
            raise SpecError(f"{dotted(key)}: is none of design.axes, {', '.join(design.axes)}", key)
        if value not in values_of(design.axes[name]):
            raise SpecError(f"{dotted(key)}: {value!r} is no value of that axis", key)


class _Specs:
    """The spec of each cell: the same one with some keys of `model`, `training` and `data` set."""

    def __init__(self, spec: SweepSpec, design: GridDesign):
        self.spec, self.design = spec, design
        self.made: dict[tuple[str, str], Any] = {}

    def at(self, cell: Cell) -> SweepSpec:
        update = {}
        for section in ("model", "training", "data"):
            assigned = _assigned(cell, section)
            if assigned:
                update[section] = self._section(section, assigned)
        return self.spec.model_copy(update=update) if update else self.spec

    def _section(self, section: str, assigned: dict[str, AxisValue]) -> Any:
        name = _name(assigned)
        if section == "data" and name in self.design.datasets:
            return self.design.datasets[name]
        if (section, name) not in self.made:
            self.made[section, name] = self._build(section, assigned)
        return self.made[section, name]

    def _build(self, section: str, assigned: dict[str, AxisValue]) -> Any:
        content = {section: getattr(self.spec, section).model_dump(mode="json", exclude_unset=True)}
        if section == "data":
            content = _unresolved(content)
        for axis, chosen in assigned.items():
            *path, last = axis.split(".")
            here: Any = content
            for part in path:
                here = here.setdefault(part, {}) if isinstance(here, dict) else None
            if not isinstance(here, dict):
                raise SpecError(f"{dotted(chosen.key[:-1])}: {'.'.join(path)} holds no keys in this spec", chosen.key)
            here[last] = chosen.value
        names = ["data", "training", "design"]
        if isinstance(self.spec, ExternalSpec | ModuleSpec):  # what the rest is to be is told by it
            names += ["model", "trainer"] if isinstance(self.spec, ExternalSpec) else ["model"]
        whole = {"name": "x"} | {name: getattr(self.spec, name) for name in names}
        try:
            return getattr(SweepSpec(**whole | content), section)
        except SpecError as error:
            at = dotted(error.key)
            # Of a combination that does not fit together, the last axis that has a part in it.
            axis = next((a for a in assigned if at == a or at.startswith(f"{a}.")), list(assigned)[-1])
            what = str(error).removeprefix(f"{axis}: ")
            raise SpecError(f"{dotted(assigned[axis].key)}: {what}", assigned[axis].key) from None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"by {value.get('rule')}"
    return "by default" if value is None else str(value)


def _of_axis(error: SpecError, cell: Cell) -> SpecError:
    """What is wrong with a key of the spec, told of the axis that gives it, if one does."""
    at = dotted(error.key)
    chosen = [chosen for axis, chosen in cell.items() if axis == at or axis.startswith(f"{at}.")]
    return SpecError(f"{dotted(chosen[-1].key)}: {error}", chosen[-1].key) if chosen else error


def _unresolved(content: Any) -> Any:
    """What is read off the data is that of the data as the spec has it, not as an axis changes it."""
    if isinstance(content, dict):
        found = ("tokenizer_fingerprint", *(("fingerprint",) if content.get("source") != "dataset" else ()))
        return {key: _unresolved(value) for key, value in content.items() if key not in found}
    return content


def _section(axis: str) -> str:
    return "" if axis == "model.width" else axis.partition(".")[0]


def _assigned(cell: Cell, section: str) -> dict[str, AxisValue]:
    return {axis: chosen for axis, chosen in cell.items() if _section(axis) == section}


def _name(assigned: Mapping[str, AxisValue]) -> str:
    return json.dumps({axis: chosen.value for axis, chosen in assigned.items()}, sort_keys=True)


def _names(spec: SweepSpec, design: GridDesign) -> dict[Key, SizeName]:
    """What the size is called that each value of the axis of sizes stands for."""
    name = design.size_axis
    values = values_of(design.axes[name])
    keys: list[Key] = [(*_AXES, name, i) for i in range(len(values))]
    if isinstance(spec, ExternalSpec):
        return dict(zip(keys, values, strict=True))
    if isinstance(spec, ModuleSpec):
        return {key: {name.partition(".")[2]: value} for key, value in zip(keys, values, strict=True)}
    if name == "params":
        numbers = [_number(AxisValue(value, key)) for value, key in zip(values, keys, strict=True)]
        return dict(zip(keys, nearest_widths(spec, numbers, (*_AXES, name)), strict=True))
    if isinstance(design.axes[name], Range):
        raise SpecError(
            f"{dotted((*_AXES, name))}: a range is of no multiples of heads; list widths, or give a range of params",
            (*_AXES, name),
        )
    return {key: _whole(AxisValue(value, key), 1, 2**20) for value, key in zip(values, keys, strict=True)}


def _budget(model: AnyModel, axis: str, length: AxisValue) -> float:
    number = _number(length)
    if axis == "flops":
        return number
    tokens = number if axis == "tokens" else number * parameters(model)
    return flops_per_token(model) * tokens


def _number(chosen: AxisValue) -> float:
    value = chosen.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e40:
        raise SpecError(
            f"{dotted(chosen.key)}: should be a number above 0 and no more than 1e40, not {value!r}", chosen.key
        )
    return float(value)


def _whole(chosen: AxisValue, least: int, most: int) -> int:
    value = chosen.value
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise SpecError(
            f"{dotted(chosen.key)}: should be a whole number from {least} to {most}, not {value!r}", chosen.key
        )
    return value


EXPANSION = Expansion(grid_runs, grid_count, grid_resolved)
