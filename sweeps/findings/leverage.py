"""What experts are worth in compute over one MLP: a joint law of size, tokens and experts, and efficiency leverage.

The law is that of Ludziejewski et al. 2025 (arXiv 2502.05172), N the active parameters. Efficiency leverage is the
compute of the dense model / that of the mixture for one loss (Tian et al. 2025, arXiv 2507.17702, sec. 2.2), which is
the multiplier of a comparison of two recipes (`nextscale.fit.trust.compare`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit import plot
from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.trust.compare import Comparison, compare
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import count, interval, loss, percent, text, three_digits
from nextscale.sweeps.show.summary_tables import law_table
from nextscale.sweeps.show.tables import Table, table_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec

LAW = "moe-joint"


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """The law by all runs; what it foretold of the largest budget by those below; and the leverage of each number of
    experts over one."""
    table, options = fitted_runs(runs), spec.forecast
    numbers = sorted(table["experts"].dropna().unique())
    if numbers[:1] != [1] or len(numbers) < 2:
        raise InputError("needs runs of 1 expert, and of more; give model.experts as an axis of a grid")
    how = options.model_dump(include={"level", "resamples", "bootstrap", "delta"})

    def ready(part: pd.DataFrame) -> Runs:
        variables, where = ("N", "D", "experts"), f"sweep {spec.name}"
        return as_runs(part, convention=options.params, variables=variables, as_is=True, where=where)

    whole = fit(ready(table), LAW, **how)
    tables, told = [law_table(whole.to_dict())], foretold(table, ready, how, spec)
    if told:
        tables.append(_foretold_table(told, options.level))
    dense = ready(table[table["experts"] == 1])
    compared = {
        int(number): compare(
            dense, ready(table[table["experts"] == number]), level=options.level, resamples=options.resamples
        )
        for number in numbers[1:]
    }
    tables.append(_leverage_table(compared, options.level))
    result = {
        "law": whole.to_dict(),
        "foretold": told,
        "leverage": {number: comparison.to_dict() for number, comparison in compared.items()},
    }
    notes = [f"{n} experts: {text}" for n, comparison in compared.items() for text in comparison.warnings]
    panels = (lambda ax: _draw(ax, table, whole), lambda ax: _draw_leverage(ax, compared))
    return Finding(tables, result, panels, tuple(notes))


def foretold(table: pd.DataFrame, ready: Any, how: dict[str, Any], spec: SweepSpec) -> list[dict[str, Any]]:
    """What the law of the runs below the largest budget says of each run at it; nothing where they are too few."""
    largest = table["budget"] == table["budget"].max()
    try:
        below: Fit = fit(ready(table[~largest]), LAW, **how)
    except InputError:
        return []
    rows = table[largest].to_dict("records")
    at: dict[str, Any] = {name: [row[column] for row in rows] for name, column in _columns(spec).items()}
    predicted, (low, high) = below.predict(**at), below.predict_interval(**at)
    return [
        {name: row[column] for name, column in _columns(spec).items()}
        | {"predicted": float(predicted[i]), "interval": [float(low[i]), float(high[i])], "measured": row["loss"]}
        | {"error": float(predicted[i]) / row["loss"] - 1, "within": bool(low[i] <= row["loss"] <= high[i])}
        for i, row in enumerate(rows)
    ]


def _columns(spec: SweepSpec) -> dict[str, str]:
    return {"params": CONVENTIONS[spec.forecast.params], "tokens": "tokens", "flops": "flops", "experts": "experts"}


def _foretold_table(rows: list[dict[str, Any]], level: float) -> Table:
    within = sum(row["within"] for row in rows)
    return table_of(
        f"What the law of the smaller budgets says of the largest: {within} of {len(rows)} within their interval",
        rows,
        ("experts", "experts", three_digits),
        ("active params", "params", count),
        ("predicted", "predicted", loss),
        (f"{level:.0%} interval", "interval", interval),
        ("measured", "measured", loss),
        ("error", "error", percent),
    )


def _leverage_table(compared: dict[int, Comparison], level: float) -> Table:
    rows = [
        {"experts": number, "flops": each.flops, "leverage": each.multiplier, "interval": each.interval}
        | {"grows": "-" if each.growth is None else f"x {each.growth.per_decade:.3g}", "verdict": each.verdict}
        for number, each in compared.items()
    ]
    return table_of(
        "Efficiency leverage: compute of one MLP / that of a mixture of the same active size, for one loss",
        rows,
        ("experts", "experts", three_digits),
        ("at FLOPs", "flops", three_digits),
        ("leverage", "leverage", three_digits),
        (f"{level:.0%} interval", "interval", lambda ends: interval(ends, three_digits)),
        ("per decade of FLOPs", "grows", text),
        ("", "verdict", text),
    )


def _draw(ax: Axes, table: pd.DataFrame, whole: Fit) -> None:
    """The loss of each run against its compute, and the lowest that the law has there."""
    numbers = np.unique(table["experts"].to_numpy(float))
    sizes = np.geomspace(whole.runs.table["params"].min(), whole.runs.table["params"].max(), 60)
    cost = float(np.median(table["flops"] / table["tokens"] / whole.runs.table["params"].to_numpy()))
    flops = np.geomspace(table["flops"].min(), table["flops"].max(), 60)
    for number, colour in zip(numbers, plot.shades(len(numbers)), strict=True):
        rows = table[table["experts"] == number]
        ax.plot(rows["flops"], rows["loss"], "o", color=colour, markersize=3, alpha=0.5)
        experts = np.full_like(sizes, number)
        lowest = [whole.predict(sizes, C / (cost * sizes), experts=experts).min() for C in flops]
        ax.plot(flops, lowest, color=colour, linewidth=1, label=f"{number:g}")
    title = f"loss by {whole.law.name}, the best size of each"
    ax.set(xscale="log", xlabel="compute C (FLOPs)", ylabel="loss (nats/token)", title=title)
    ax.legend(title="experts", fontsize="x-small")


def _draw_leverage(ax: Axes, compared: dict[int, Comparison]) -> None:
    ax.axhline(1, color="grey", linewidth=1)
    for (number, each), colour in zip(compared.items(), plot.shades(len(compared)), strict=True):
        table = each.table[each.table["inside"]].replace(np.inf, np.nan)
        ax.fill_between(
            table["flops"], table["multiplier_low"], table["multiplier_high"], color=colour, alpha=0.15, linewidth=0
        )
        ax.plot(table["flops"], table["multiplier"], color=colour, label=f"{number} experts")
    ax.set(xscale="log", yscale="log", xlabel="compute of the dense model (FLOPs)", ylabel="efficiency leverage")
    ax.legend(fontsize="x-small")
