"""Tables of a forecast: losses, costs, reach and data, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nextscale.sweeps.show.formats import (
    Format,
    count,
    dollars,
    interval,
    loss,
    params_label,
    percent,
    reach_band,
    three_digits,
)
from nextscale.sweeps.show.tables import Column, Table

if TYPE_CHECKING:
    from nextscale.fit.tasks import TaskForecast


def forecast_tables(forecast: Mapping[str, Any]) -> list[Table]:
    """What `nextscale.sweeps.budget.targets.forecast_targets` returns."""
    targets, level = forecast["targets"], f"{forecast['level']:.0%} intervals"
    sized = any(target["params"] is not None for target in targets)
    unit = forecast["loss_unit"]
    best: list[Column] = [(f"loss ({unit})", "loss", loss)]
    if any(target["bits_per_byte"] is not None for target in targets):
        best += [("bits/byte", "bits_per_byte", loss)]
    if sized:
        best += [(params_label(forecast["params_convention"]), "params", count), ("tokens", "tokens", count)]
        best += [("tokens/param", "tokens_per_param", three_digits)]
    title = "The best model at each budget" if sized else "The loss at each budget"
    if any("optimal" in target for target in targets):
        title = "What was asked"
    found = [_table(f"{title}, with {level}", targets, best)]
    if forecast["cluster"] is not None:
        cost: list[Column] = [("device-hours", "device_hours", count), ("days", "days", three_digits)]
        cost += [("dollars", "usd", dollars), ("kWh", "kwh", count)]
        found.append(_table(f"What that takes on {forecast['cluster']['name']}", targets, cost))
    if any(target["reach"] is not None for target in targets):
        found.append(_reach(targets, sized))
    if any(target["data"] is not None for target in targets):
        found.append(_data(targets, unit))
    return found


def task_table(tasks: Sequence[TaskForecast]) -> Table:
    """A row of each forecast of a task."""
    ways = {"loss": "through the loss", "compute": "from compute"}
    sized = any("params" in each.at for each in tasks)
    rows = []
    for each in tasks:
        tested = [each.tested[way] for way in ("loss", "compute", "newest")]
        shape = [count(each.at["params"]), count(each.at["tokens"])] if sized else []
        score = f"{three_digits(each.value)} {interval(each.interval, three_digits)}"
        missed = [three_digits(found["error"]) if found["cuts"] else "-" for found in tested]
        rows.append([each.task, three_digits(each.at["flops"]), *shape, score, ways[each.by], *missed])
    heads = ["task", "FLOPs", *(["parameters", "tokens"] if sized else []), "score", "forecast"]
    heads += ["loss missed by", "compute missed by", "newest runs missed by"]
    return Table(f"Tasks, with {tasks[0].level:.0%} intervals, and what backtests of each way missed by", heads, rows)


def request_text(target: Mapping[str, Any]) -> str:
    """What was asked, in words."""
    request = target["asked"]
    forms: dict[str, Format] = {
        "flops": lambda value: f"{three_digits(value)} FLOPs",
        "loss": lambda value: f"loss {value:g}",
        "usd": dollars,
        "device_hours": lambda value: f"{count(value)} device-hours",
        "days": lambda value: f"{value:g} days",
        "params": lambda value: f"{count(value)} parameters",
        "tokens": lambda value: f"{count(value)} tokens",
    }
    return " on ".join(forms[kind](value) for kind, value in request.items())


def _table(title: str, targets: list[dict[str, Any]], columns: list[Column]) -> Table:
    """A row of each target, headed by its compute, and by what was asked where that is another thing."""
    plain = all("flops" in target["asked"] for target in targets)
    heads = ["FLOPs"] if plain else ["asked", "FLOPs"]
    rows = [
        ([] if plain else [request_text(target)])
        + [_cell(target, "flops", three_digits)]
        + [_cell(target, key, form) for _, key, form in columns]
        for target in targets
    ]
    return Table(title, [*heads, *(heading for heading, _, _ in columns)], rows)


def _cell(target: Mapping[str, Any], key: str, form: Format) -> str:
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
            beyond = reach_band(band["reach"], target["tested_reach"])
            missed = f"{band['error']:.2%}{spread} ({band['cuts']} of {beyond} times)"
        row = [request_text(target), "-" if reach is None else f"{three_digits(reach)} times", missed]
        if sized:
            row.append(interval(target["near_optimal_params"], count))
        if runs:
            best = target.get("optimal")
            row.append("-" if best is None else percent(target["loss"] / best["loss"] - 1))
        rows.append(row)
    heads = ["asked", "largest run fitted", "backtests of such a reach missed by"]
    heads += [["sizes within 0.1% of the best loss"], []][not sized] + [["above the best of its compute"], []][not runs]
    return Table("How far that is, and how well such a reach is known", heads, rows)


def _data(targets: list[dict[str, Any]], unit: str) -> Table:
    rows = []
    for target in targets:
        data = target["data"]
        if data is None:
            continue
        best = data["best"]
        row = [
            request_text(target),
            f"{count(data['needed'])} of {count(data['available'])}",
            three_digits(data["epochs"]),
        ]
        if best is None:
            rows.append([*row, "-", "as above", "-", "-", "-"])
            continue
        row.append(f"{loss(data['repeats_cost'])} {interval(data['repeats_cost_interval'])}")
        row += [f"{form(best[key])} {interval(best[f'{key}_interval'], form)}" for key, form in (("params", count),)]
        row += [f"{count(best['tokens'])} {interval(best['tokens_interval'], count)}", three_digits(best["epochs"])]
        rows.append([*row, f"{loss(best['loss'])} {interval(best['loss_interval'])}"])
    heads = ["asked", "tokens needed", "epochs", f"repeats cost ({unit})"]
    return Table(
        "Where the data is short: what repeating it costs, and the best model on what there is",
        [*heads, "best: parameters", "tokens", "epochs", "loss"],
        rows,
    )
