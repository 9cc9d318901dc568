"""Tables of models for their lifetime, of overtrained models, and of model families."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nextscale.sweeps.show.formats import Format, count, dollars, interval, loss, params_label, three_digits
from nextscale.sweeps.show.tables import Column, Table


def lifetime_tables(
    rows: Sequence[Mapping[str, Any]], served: float, level: float, convention: str, unit: str, loss_unit: str
) -> list[Table]:
    """What `nextscale.fit.optimum.lifetime.lifetime` returns, a row of each target, with costs in `unit`."""
    money = dollars if unit == "dollars" else three_digits
    columns: list[Column] = [(f"loss ({loss_unit})", "loss", loss), (params_label(convention), "params", count)]
    columns += [("tokens", "tokens", count), ("tokens/param", "tokens_per_param", three_digits)]
    costs: list[Column] = [(f"loss ({loss_unit})", "loss", loss), ("training", "training", money)]
    costs += [("serving", "serving", money), ("both", "total", money)]
    optimal: list[Column] = [(f"loss ({loss_unit})", "loss", loss)]
    optimal += [(params_label(convention), "optimal_params", count), ("tokens", "optimal_tokens", count)]
    optimal += [("both", "optimal_total", money), ("saved against it", "saving", _share)]
    return [
        _table(f"Cheapest to train and to serve {count(served)} tokens{_sure(rows[0], level)}", rows, columns),
        _table(f"What that costs, in {unit}", rows, costs),
        _table(f"The compute-optimal model of that loss, in {unit}", rows, optimal),
    ]


def overtrain_tables(
    model: Mapping[str, Any], lesser: Sequence[Mapping[str, Any]], level: float, convention: str, loss_unit: str
) -> list[Table]:
    """A model of a given size beside the compute-optimal of its loss, and smaller ones of that loss."""
    cost = [("dollars", "usd", dollars)] if "optimal_usd" in model else []
    quantities: list[Column] = [(params_label(convention), "params", count), ("tokens", "tokens", count)]
    quantities += [("training FLOPs", "flops", three_digits), *cost]
    rows = [
        [heading, _cell(model, name, form), _cell(model, f"optimal_{name}", form)] for heading, name, form in quantities
    ]
    rows.insert(2, ["tokens/param", _cell(model, "tokens_per_param", three_digits), ""])
    rows.append([f"loss ({loss_unit})", _cell(model, "loss", loss), "the same"])
    rows.append(["more compute", _cell(model, "overhead", _share), ""])
    heads = ["", "this model", "compute-optimal"]
    columns: list[Column] = [("more compute", "overhead", _share), (params_label(convention), "params", count)]
    columns += [("of the optimal", "share", _percent), ("tokens", "tokens", count)]
    columns += [("tokens/param", "tokens_per_param", three_digits), ("FLOPs", "flops", three_digits), *cost]
    return [
        Table(f"Of one loss{_sure(model, level)}", heads, rows),
        _table(f"How small a model of loss {loss(model['loss'])} can be", lesser, columns),
    ]


def family_tables(family: Mapping[str, Any]) -> list[Table]:
    """What `nextscale.sweeps.budget.model_family.family` returns."""
    members, convention, loss_unit = family["members"], family["params_convention"], family["loss_unit"]
    columns: list[Column] = [("", "name", str)]
    if "width" in members[0]:
        columns += [("width", "width", str), ("depth", "depth", str), ("heads", "heads", str)]
    columns += [(params_label(convention), "params", count)]
    if any(member["best_params"] is not None for member in members):
        columns += [("best by the law", "best_params", count)]
    columns += [("tokens", "tokens", count), ("tokens/param", "tokens_per_param", three_digits)]
    columns += [(f"loss ({loss_unit})", "loss", loss)]
    # What is given has no interval, and what follows from it none either.
    given = all(member["flops_interval"] == [member["flops"]] * 2 for member in members)
    training = "training FLOPs, as given" if given else "training FLOPs"
    cost: list[Column] = [("", "name", str), (training, "flops", three_digits)]
    if any(member["served"] for member in members):
        cost += [("serving FLOPs", "serving_flops", three_digits)]
    cost += [("more compute than its loss takes", "overhead", _share)]
    where = ""
    if family["cluster"] is not None:
        where = f" on {family['cluster']['name']}"
        if members[0]["slices"] is not None:
            cost += [("slices", "slices", str), ("chips", "chips", str)]
        cost += [("device-hours", "device_hours", count), ("days", "days", three_digits)]
        cost += [("dollars", "usd", dollars), ("kWh", "kwh", count)]
    everything = {"name": "all", "slices": _sum(members, "slices"), "chips": _sum(members, "chips"), **family["total"]}
    sure = _sure(members[0], family["level"])
    return [
        _table(f"A family of {len(members)}{sure}", members, columns),
        _table(f"What it costs{where}{sure}", [*members, everything], cost),
    ]


def _sure(row: Mapping[str, Any], level: float) -> str:
    """What a title says of intervals: nothing where there are none but of what was given."""
    ends = {name.removesuffix("_interval"): value for name, value in row.items() if name.endswith("_interval")}
    known = any(value is not None and value != [row[name], row[name]] for name, value in ends.items())
    return f", with {level:.0%} intervals" if known else ""


def _table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Table:
    return Table(
        title,
        [heading for heading, _, _ in columns],
        [[_cell(row, key, form) for _, key, form in columns] for row in rows],
    )


def _cell(row: Mapping[str, Any], key: str, form: Format) -> str:
    """A figure with its interval, where it is not given or follows from what is."""
    value, ends = row.get(key), row.get(f"{key}_interval")
    if value is None:
        return "-" if key in row else ""
    shown = form(value) if isinstance(value, str) or math.isfinite(value) else "-"
    if ends is None or all(math.isclose(end, value, rel_tol=1e-9) for end in ends):
        return shown
    return f"{shown} {interval([_ended(end) for end in ends], form)}"


def _ended(end: float) -> float | None:
    return end if end < float("inf") else None


def _share(value: float) -> str:
    return f"{value:,.0%}" if value >= 10 else f"{value:.1%}"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _sum(rows: Sequence[Mapping[str, Any]], key: str) -> int | None:
    values = [row.get(key) for row in rows]
    return None if None in values else sum(v for v in values if v is not None)
