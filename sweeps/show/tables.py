"""The tables that people read: one form, for the terminal and for the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text; its first `left` columns are set left, the others right. All but the first may wrap, or none."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    left: int = 1
    wraps: bool = False

    def rich(self) -> Group:
        # As text, for a column's name may look like markup. Above it, for rich breaks a table's own title at its width.
        drawn = RichTable()
        for i, column in enumerate(self.columns):
            fixed = i == 0 or not self.wraps
            drawn.add_column(Text(column), justify="left" if i < self.left else "right", no_wrap=fixed)
        for row in self.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        return Group(Text(self.title, style="bold"), drawn)


def table_of(title: str, rows: Iterable[Mapping[Any, Any]], *columns: tuple[str, str, Callable[[Any], str]]) -> Table:
    """A table of records: of each column its heading, the key that it shows, and how that is written."""
    return Table(
        title, [heading for heading, _, _ in columns], [[form(row[k]) for _, k, form in columns] for row in rows]
    )


def tables(summary: dict[str, Any]) -> list[Table]:
    """What a study found, as `summarise` tells it."""
    answers = [Table(**table) for finding in summary["findings"].values() for table in finding["tables"]]
    if summary["law"] is None:
        return answers
    return [*_holdout(summary), *_found(summary), law_table(summary["law"]), *answers]


def number(value: float | None, digits: int = 4) -> str:
    """A number as people write it: 2.188, 0.0098, 1.56e+10; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def count(value: float | None) -> str:
    """Parameters or tokens, to three digits: 28.7k, 3.53M, 70B, 1.4T; a dash for none."""
    if value is None:
        return "-"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{float(f'{value / size:.3g}'):g}{letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people write them: 42 s, 7.5 min, 3.2 h, 12 d."""
    for size, unit, least in ((86400, "d", 2 * 86400), (3600, "h", 2 * 3600), (60, "min", 120)):
        if seconds >= least:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2%}"


def interval(bounds: Any, form: Any = loss) -> str:
    """A dash for none; an end that is None is open."""
    if bounds is None:
        return "-"
    ends = ["open" if end is None else form(end) for end in bounds]
    return f"[{ends[0]}, {ends[1]}]"


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
        sizes(forecast["params_convention"]),
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


def sizes(convention: str) -> str:
    """What a column of N counts, in words."""
    return "parameters" if convention == "total" else f"{convention.replace('_', '-')} parameters"


def _found(summary: dict[str, Any]) -> list[Table]:
    rows = []
    if optimal := summary["optimal_params"]:
        rows.append(
            [
                f"compute-optimal {sizes(optimal['params_convention'])}",
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
    return [Table("What the sweep found", ["", "predicted", "interval", "true or measured"], rows)]


def law_table(law: dict[str, Any]) -> Table:
    """What `Fit.to_dict` tells of a fit."""
    rows = [
        [name, number(value), interval(law["intervals"][name], number)] for name, value in law["parameters"].items()
    ]
    title = f"{law['formula']}, fitted to {law['n']} runs"
    if "fitted_flops" in law["diagnostics"]:
        title += f" from {number(law['diagnostics']['fitted_flops'][0], 3)} FLOPs on"
    return Table(title, ["parameter", "value", f"{law['level']:.0%} interval"], rows)


def three(value: float | None) -> str:
    return number(value, 3)


def text(value: Any) -> str:
    return "" if value is None else str(value)
