"""The tables of a forecast, as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from nextscale.sweeps.show.tables import Table, count, interval, loss, percent, sizes, three

Form = Callable[[Any], str]
Column = tuple[str, str, Form]
"""Its heading, the key that it shows, and how that is written."""


def forecast_tables(told: Mapping[str, Any]) -> list[Table]:
    """What `nextscale.sweeps.budget.targets.answers` returns."""
    targets, level = told["targets"], f"{told['level']:.0%} intervals"
    sized = any(target["params"] is not None for target in targets)
    best: list[Column] = [("loss (nats/token)", "loss", loss)]
    if any(target["bits_per_byte"] is not None for target in targets):
        best += [("bits/byte", "bits_per_byte", loss)]
    if sized:
        best += [(sizes(told["params_convention"]), "params", count), ("tokens", "tokens", count)]
        best += [("tokens/param", "tokens_per_param", three)]
    title = "The best model at each budget" if sized else "The loss at each budget"
    if any("optimal" in target for target in targets):
        title = "What was asked"
    found = [_table(f"{title}, with {level}", targets, best)]
    if told["cluster"] is not None:
        cost: list[Column] = [("device-hours", "device_hours", count), ("days", "days", three)]
        cost += [("dollars", "usd", dollars), ("kWh", "kwh", count)]
        found.append(_table(f"What that takes on {told['cluster']['name']}", targets, cost))
    if any(target["reach"] is not None for target in targets):
        found.append(_reach(targets, sized))
    if any(target["data"] is not None for target in targets):
        found.append(_data(targets))
    return found


def dollars(value: float | None) -> str:
    return "-" if value is None else f"${count(value)}"


def asked(target: Mapping[str, Any]) -> str:
    """What was asked, in words."""
    said = target["asked"]
    forms: dict[str, Form] = {
        "flops": lambda value: f"{three(value)} FLOPs",
        "loss": lambda value: f"loss {value:g}",
        "usd": dollars,
        "device_hours": lambda value: f"{count(value)} device-hours",
        "days": lambda value: f"{value:g} days",
        "params": lambda value: f"{count(value)} parameters",
        "tokens": lambda value: f"{count(value)} tokens",
    }
    return " on ".join(forms[kind](value) for kind, value in said.items())


def _table(title: str, targets: list[dict[str, Any]], columns: list[Column]) -> Table:
    """A row of each target, headed by its compute, and by what was asked where that is another thing."""
    plain = all("flops" in target["asked"] for target in targets)
    heads = ["FLOPs"] if plain else ["asked", "FLOPs"]
    rows = [
        ([] if plain else [asked(target)])
        + [_cell(target, "flops", three)]
        + [_cell(target, key, form) for _, key, form in columns]
        for target in targets
    ]
    return Table(title, [*heads, *(heading for heading, _, _ in columns)], rows)


def _cell(target: Mapping[str, Any], key: str, form: Form) -> str:
    """A figure with its interval; without, where it was given or follows from what was."""
    value, ends = target[key], target.get(f"{key}_interval")
    if value is None:
        return "-" if ends is None or ends == [None, None] else interval(ends, form)
    given = ends is None or (key in target["asked"] and key != "loss") or ends == [value, value]
    return form(value) if given else f"{form(value)} {interval(ends, form)}"


def _reach(targets: list[dict[str, Any]], sized: bool) -> Table:
    runs = any("optimal" in target for target in targets)
    rows = []
    for target in targets:
        band, reach = target["backtest"], target["reach"]
        inside = reach is not None and reach <= 1
        missed = "inside the runs" if inside else "not tested"
        if band is not None:
            spread = f" ± {band['se']:.2%}" if math.isfinite(band["se"]) else ""
            missed = f"{band['error']:.2%}{spread} ({band['reach']} times; cuts: {band['cuts']})"
        row = [asked(target), "-" if reach is None else f"{three(reach)} times", missed]
        if sized:
            row.append(interval(target["near_optimal_params"], count))
        if runs:
            best = target.get("optimal")
            row.append("-" if best is None else percent(target["loss"] / best["loss"] - 1))
        rows.append(row)
    heads = ["asked", "largest run fitted", "backtests of such a reach missed by"]
    heads += [["sizes within 0.1% of the best loss"], []][not sized] + [["above the best of its compute"], []][not runs]
    return Table("How far that is, and how well such a reach is known", heads, rows)


def _data(targets: list[dict[str, Any]]) -> Table:
    rows = []
    for target in targets:
        data = target["data"]
        if data is None:
            continue
        best = data["best"]
        row = [asked(target), f"{count(data['needed'])} of {count(data['available'])}", three(data["epochs"])]
        if best is None:
            rows.append([*row, "-", "as above", "-", "-", "-"])
            continue
        row.append(f"{loss(data['repeats_cost'])} {interval(data['repeats_cost_interval'])}")
        row += [f"{form(best[key])} {interval(best[f'{key}_interval'], form)}" for key, form in (("params", count),)]
        row += [f"{count(best['tokens'])} {interval(best['tokens_interval'], count)}", three(best["epochs"])]
        rows.append([*row, f"{loss(best['loss'])} {interval(best['loss_interval'])}"])
    heads = ["asked", "tokens needed", "epochs", "repeats cost (nats/token)"]
    return Table(
        "Where the data is short: what repeating it costs, and the best model on what there is",
        [*heads, "best: parameters", "tokens", "epochs", "loss"],
        rows,
    )
