"""Tables of what a study found: its forecast, its law and its findings."""

from __future__ import annotations

import math
from typing import Any

from nextscale.sweeps.show.formats import count, interval, loss, number, params_label, percent
from nextscale.sweeps.show.tables import Table

RATE = f"missed at {math.e:.2g} times its runs"
"""What a law of a consensus missed at an e-fold of reach."""


def summary_tables(summary: dict[str, Any]) -> list[Table]:
    """What a study found, as `summarise` tells it."""
    answers = [Table(**table) for finding in summary["findings"].values() for table in finding["tables"]]
    if summary["law"] is None:
        return answers
    return [*_holdout(summary), *_found(summary), law_table(summary["law"]), *answers]


def _holdout(summary: dict[str, Any]) -> list[Table]:
    rows = summary["holdout"]
    if not rows:
        return []
    forecast = summary["forecast"]
    level = f"{forecast['level']:.0%} interval"
    title = f"Forecast at {number(rows[0]['flops'], 3)} FLOPs, and what was measured after (nats/token)"
    if late := len(forecast["started_before"]):
        title = (
            f"Prediction at {number(rows[0]['flops'], 3)} FLOPs, made when {late} of its {len(rows)} runs had started: "
            "no forecast (nats/token)"
        )
    columns = [
        params_label(forecast["params_convention"]),
        "tokens",
        "tokens/param",
        "predicted",
        level,
        "measured",
        "error",
        "of reducible loss",
    ]
    return [
        Table(
            title,
            columns,
            [
                [
                    count(row["params"]),
                    count(row["tokens"]),
                    f"{row['tokens_per_param']:.1f}",
                    loss(row["predicted"]),
                    interval(row["interval"]),
                    loss(row["measured"]),
                    percent(row["error"]),
                    percent(row["reducible_error"]),
                ]
                for row in rows
            ],
        )
    ]


def _found(summary: dict[str, Any]) -> list[Table]:
    rows = []
    if optimal := summary["optimal_params"]:
        rows.append(
            [
                f"compute-optimal {params_label(optimal['params_convention'])}",
                count(optimal["predicted"]),
                interval(optimal["interval"], count),
                count(optimal["measured"]),
            ]
        )
        rows.append(
            ["  by the parametric law", count(optimal["by_law"]), interval(optimal["by_law_interval"], count), ""]
        )
        ratio, measured = optimal["tokens_per_param"], optimal["measured_tokens_per_param"]
        rows.append(["tokens per parameter there", number(ratio, 3), "", number(measured, 3)])
    if irreducible := summary["irreducible"]:
        bounds = interval(irreducible["interval"])
        rows.append(
            ["irreducible loss E (95% interval)", loss(irreducible["fitted"]), bounds, loss(irreducible["true"])]
        )
    if interior := summary["interior_minima"]:
        rows.append(["budgets with an interior minimum", f"{sum(interior)} of {len(interior)}", "", ""])
    columns = ["", "predicted", "interval", "true or measured"]
    if not any(cell for row in rows for cell in row[2:]):  # nothing was held out: there is a count alone
        columns, rows = ["", "found"], [row[:2] for row in rows]
    return [Table("What the sweep found", columns, rows)]


def law_table(law: dict[str, Any]) -> Table:
    """What `Fit.to_dict` tells of a fit."""
    if "members" in law:
        return _members_table(law)
    rows = [
        [name, number(value), interval(law["intervals"][name], number)] for name, value in law["parameters"].items()
    ]
    title = f"{law['formula']}, fitted to {law['n']} runs"
    if "fitted_flops" in law["diagnostics"]:
        title += f" from {number(law['diagnostics']['fitted_flops'][0], 3)} FLOPs on"
    return Table(title, ["parameter", "value", f"{law['level']:.0%} interval"], rows)


def _members_table(law: dict[str, Any]) -> Table:
    rows = [
        [
            one["law"],
            f"{one['weight']:.0%}",
            str(one["runs"]),
            number(one["first"], 3),
            "-" if one["rate"] is None else f"{one['rate']:.2%}",
            number(one["parameters"].get("E"), 3),
        ]
        for one in law["members"]
    ]
    title = f"The forecast is a mean of fits, weighed by what each missed in backtests among {law['n']} runs"
    columns = ["law", "weight", "fitted to", "from FLOPs", RATE, "no loss below"]
    return Table(title, columns, rows)
