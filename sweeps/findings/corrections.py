"""The exponent of N*(C), one correction after the other (Porian et al. 2024, arXiv 2406.19146, figure 1)."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pandas as pd

from nextscale.fit import plot
from nextscale.fit.errors import InputError
from nextscale.fit.optimum.approaches import Minima, parabola
from nextscale.fit.table.recount import at_equal_flops
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.sweeps.design.grid import recipes
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import count, interval, three_digits
from nextscale.sweeps.show.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec

_KAPLAN, _CHINCHILLA = 0.88, 0.50
"""What Porian et al. begin and end with."""
_LETTERS = 44
"""Of a line of the legend."""


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """The first recipe as Kaplan et al. count parameters and FLOPs, then as we do; then each recipe, as the spec has
    them."""
    table = fitted_runs(runs)
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
        steps.append((label, as_runs(part, as_is=True, where=f"sweep {spec.name}")))
    minima = [(label, runs_here, parabola(runs_here)) for label, runs_here in steps]
    level = spec.forecast.level
    rows, results, notes = [], [], []
    for i, (label, runs_here, optima) in enumerate(minima):
        exponent = None if optima.law is None else optima.law.exponent
        bounds = None if optima.law is None else optima.exponent_interval(level)
        largest = None if not len(optima.params) else float(optima.params[-1])
        ratio = None if largest is None else float(optima.tokens[-1] / largest)
        used = f"{len(optima.flops)} of {len(runs_here.budgets)}"
        label = label if i == 0 else f"+ {label}"
        rows.append(
            [label, three_digits(exponent), interval(bounds, three_digits), used, count(largest), three_digits(ratio)]
        )
        results.append(
            {"step": label, "exponent": exponent, "interval": bounds, "params": optima.params, "flops": optima.flops}
        )
        if optima.problem:
            notes.append(f"{label}: {optima.problem}")
    head = ["", "a of N* ∝ C^a", f"{level:.0%} interval", "budgets", "last N*", "tokens/param there"]
    title = f"The exponent, step by step (Kaplan et al. {_KAPLAN:.2f}, Hoffmann et al. {_CHINCHILLA:.2f})"
    return Finding([Table(title, head, rows)], {"steps": results}, (lambda ax: _draw(ax, minima),), tuple(notes))


def _draw(ax: Axes, minima: list[tuple[str, Runs, Minima]]) -> None:
    for (label, _, optima), colour in zip(minima, plot.shades(len(minima)), strict=True):
        if optima.law is None:
            continue
        legend = textwrap.fill(f"{label}: $C^{{{optima.law.exponent:.2f}}}$", _LETTERS)
        ax.plot(optima.flops, optima.params, "*", color=colour, markersize=9)
        ax.plot(optima.flops, optima.law(optima.flops), color=colour, linewidth=1, label=legend)
    ax.set(xscale="log", yscale="log", xlabel="compute C (FLOPs)", ylabel="optimal parameters N*", title="optimal size")
    ax.legend(fontsize="x-small")
