"""The exponent of N*(C), one correction after the other (Porian et al. 2024, arXiv 2406.19146, figure 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from nextscale.fit import plot
from nextscale.fit.errors import InputError
from nextscale.fit.optimum.approaches import Minima, parabola
from nextscale.fit.table.recount import at_equal_flops
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.sweeps.design.expand import planned_runs
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted
from nextscale.sweeps.show.tables import Table, count, interval, three
from nextscale.sweeps.spec.designs import Design, GridDesign, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec

_KAPLAN, _CHINCHILLA = 0.88, 0.50
"""What Porian et al. begin and end with."""


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """The first recipe as Kaplan et al. count parameters and FLOPs, then as we do; then each recipe, as the spec has
    them."""
    table = fitted(runs)
    steps: list[tuple[str, Runs]] = []
    for i, (label, ids) in enumerate(recipes(spec)):
        part = table[table["run_id"].isin(ids)]
        if part.empty:
            raise InputError(f"corrections: no run of the recipe {label} has come to a loss")
        if i == 0:
            as_kaplan = at_equal_flops(
                part, params="params_non_embedding", flops="flops_kaplan", convention="non_embedding"
            )
            steps.append((f"{label}; embedding and head not counted", as_kaplan))
            label = "embedding and head counted"
        steps.append((label, as_runs(part, where=f"sweep {spec.name}")))
    minima = [(label, runs_here, parabola(runs_here)) for label, runs_here in steps]
    level = spec.forecast.level
    rows, told, notes = [], [], []
    for i, (label, runs_here, found) in enumerate(minima):
        exponent = None if found.law is None else found.law.exponent
        bounds = None if found.law is None else found.exponent_interval(level)
        largest = None if not len(found.params) else float(found.params[-1])
        ratio = None if largest is None else float(found.tokens[-1] / largest)
        used = f"{len(found.flops)} of {len(runs_here.budgets)}"
        label = label if i == 0 else f"+ {label}"
        rows.append([label, three(exponent), interval(bounds, three), used, count(largest), three(ratio)])
        told.append(
            {"step": label, "exponent": exponent, "interval": bounds, "params": found.params, "flops": found.flops}
        )
        if found.problem:
            notes.append(f"{label}: {found.problem}")
    head = ["", "a of N* ∝ C^a", f"{level:.0%} interval", "budgets", "last N*", "tokens/param there"]
    title = f"The exponent, step by step (Kaplan et al. {_KAPLAN:.2f}, Hoffmann et al. {_CHINCHILLA:.2f})"
    return Finding([Table(title, head, rows)], {"steps": told}, (lambda ax: _draw(ax, minima),), tuple(notes))


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
            {run.config.run_id for run in planned_runs(spec.model_copy(update={"design": alone})) if run.role == "fit"},
        )
        before = now


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"by {value.get('rule')}"
    return "by default" if value is None else str(value)


def _draw(ax: Axes, minima: list[tuple[str, Runs, Minima]]) -> None:
    for (label, _, found), colour in zip(minima, plot.shades(len(minima)), strict=True):
        if found.law is None:
            continue
        told = f"{label}: $C^{{{found.law.exponent:.2f}}}$"
        ax.plot(found.flops, found.params, "*", color=colour, markersize=9)
        ax.plot(found.flops, found.law(found.flops), color=colour, linewidth=1, label=told)
    ax.set(xscale="log", yscale="log", xlabel="compute C (FLOPs)", ylabel="optimal parameters N*", title="optimal size")
    ax.legend(fontsize="x-small")
