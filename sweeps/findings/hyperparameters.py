"""The best learning rate and batch by size and length, and power laws through them (Li et al. 2025, eq. 1)."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit import plot
from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.errors import InputError
from nextscale.fit.tuning.hyperparameters import Rule, cell_optima, fit_rule
from nextscale.fit.tuning.transfer import best_rates
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import count, interval, loss, number, params_label, text, three_digits
from nextscale.sweeps.show.tables import Table, table_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec

_PUBLISHED = {
    "lr": {"scale": 1.79, "params": -0.713, "tokens": 0.307},
    "batch": {"scale": 0.58, "tokens": 0.571},
}
"""Of Li et al. 2025, 60M to 1B parameters without embeddings, 2B to 100B tokens."""
_HEADINGS = {"lr_at_batch": "best rate at a given batch", "lr": "best learning rate", "batch": "best batch"}
_SYMBOLS = {"params": "N", "tokens": "D", "batch_tokens": "the batch"}


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """The optimum of each cell (N, D), and lr = k N^a D^b and batch = k D^b through those inside what was tried.

    And lr = k N^a D^b batch^c, through the best rate at each batch.
    """
    size = CONVENTIONS[spec.forecast.params]
    table = fitted_runs(runs)
    best_settings = cell_optima(table, (size, "tokens")).rename(columns={size: "params"})
    lowest = table.loc[table.groupby([size, "tokens"])["loss"].idxmin()]
    # Cells come in one order from both.
    best_settings = best_settings.assign(
        lowest_lr=lowest["lr"].to_numpy(), lowest_batch=lowest["batch_tokens"].to_numpy()
    )
    best_settings = best_settings.astype(object).where(best_settings.notna(), None)
    tables = [
        table_of(
            "The best learning rate and batch of each size and length",
            best_settings.to_dict("records"),
            (params_label(spec.forecast.params), "params", count),
            ("tokens", "tokens", count),
            ("learning rate", "lr", three_digits),
            ("batch (tokens)", "batch", count),
            ("loss", "loss", loss),
            ("lowest run: rate", "lowest_lr", three_digits),
            ("batch", "lowest_batch", count),
            ("", "problem", text),
        )
    ]
    rules: dict[str, Rule] = {}
    notes = []
    # At a given batch the best rate is seen long before the best batch is: the valley that they lie in is flat.
    valley = best_rates(table, (size, "tokens", "batch_tokens")).rename(columns={size: "params"})
    for of, among, variables in (
        ("lr_at_batch", valley, ("params", "tokens", "batch_tokens")),
        ("lr", best_settings, ("params", "tokens")),
        ("batch", best_settings, ("tokens",)),
    ):
        try:
            quantity = "lr" if of == "lr_at_batch" else of
            rules[of] = fit_rule(among, quantity, variables, level=spec.forecast.level)
        except InputError as error:
            notes.append(f"{_HEADINGS[of]}: no power law: {error}")
    if rules:
        tables.append(_rules(rules))
    return Finding(
        tables,
        {
            "optima": best_settings.to_dict("records"),
            "rules": {of: dataclasses.asdict(one) for of, one in rules.items()},
        },
        tuple(
            functools.partial(_draw, table=table, best_settings=best_settings, of=of, size=size)
            for of in ("lr", "batch")
        ),
        tuple(notes),
    )


def _rules(rules: dict[str, Rule]) -> Table:
    rows = []
    for of, one in rules.items():
        for name in ("scale", *one.exponents):
            what = "factor" if name == "scale" else f"exponent of {_SYMBOLS[name]}"
            value = one.scale if name == "scale" else one.exponents[name]
            published = number(_PUBLISHED.get(of, {}).get(name), 3)
            rows.append(
                [
                    f"{_HEADINGS[of]}, {what}",
                    three_digits(value),
                    interval(one.intervals[name], three_digits),
                    published,
                ]
            )
    level = next(iter(rules.values())).level
    return Table("Their power laws", ["", "found", f"{level:.0%} interval", "Li et al. 2025"], rows)


def _draw(ax: Axes, table: pd.DataFrame, best_settings: pd.DataFrame, of: str, size: str) -> None:
    """The lowest loss at each value tried, in each cell, and the optimum."""
    column, label = {"lr": ("lr", "peak learning rate"), "batch": ("batch_tokens", "batch (tokens)")}[of]
    cells: list[tuple[Any, Any]] = list(table.groupby([size, "tokens"]))
    for (key, cell), colour in zip(cells, plot.shades(len(cells)), strict=True):
        lowest = cell.groupby(column)["loss"].min()
        name = f"N {count(key[0])}, D {count(key[1])}"
        ax.plot(lowest.index, lowest, "o-", color=colour, markersize=3, linewidth=1, label=name)
        best = best_settings[
            (best_settings["params"] == key[0]) & (best_settings["tokens"] == key[1]) & best_settings["problem"].isna()
        ]
        if len(best):
            ax.plot(np.array(best[of], float), np.array(best["loss"], float), "*", color=colour, markersize=11)
    ax.set(
        xscale="log",
        xlabel=label,
        ylabel="lowest loss (nats/token)",
        title=f"the best {label.removesuffix(' (tokens)')}",
    )
    ax.legend(fontsize="x-small")
