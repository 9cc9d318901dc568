"""Curves of runs as long tables: `run`, `step`, and the metrics under their own names; and charts of Weights & Biases,
which are several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from nextscale.fit.table.names import STEPS, last_part

CHART_NOTE = "it is a chart of Weights & Biases, a curve a run; nextscale import --join adds sizes from another table"
_COLUMN = re.compile(r"(?:Group: )?(?P<run>.+) - (?P<metric>.+?)(?P<extreme>__MIN|__MAX)?")


def curve_of(rows: Iterable[Mapping[str, Any]], run: str) -> pd.DataFrame:
    """The curve of one run, a row a step: what is told of a step twice counts as told last, as after a restart.

    Args:
        rows: each with its `step`.
    """
    steps: dict[Any, dict[str, Any]] = {}
    for row in rows:
        steps.setdefault(row["step"], {}).update(row)
    table = pd.DataFrame([{"run": run} | steps[step] for step in sorted(steps)])
    return marked(table[["run", "step", *table.columns.difference(["run", "step"], sort=False)]], "step")


def marked(table: pd.DataFrame, step: str) -> pd.DataFrame:
    """The same, known as one of curves by the column of steps in `attrs["curve"]`."""
    table.attrs["curve"] = step
    return table


def step_column(table: pd.DataFrame) -> str | None:
    """The column that counts a run's steps, if there is one."""
    return next((str(name) for name in table if last_part(name) in STEPS), None)


def by_step(table: pd.DataFrame, run: str) -> pd.DataFrame | None:
    """Rows that a logger wrote of one run, as its curve; None if they have no steps, or are of several runs, which have
    names, sizes, or different values at one step."""
    step = step_column(table)
    sizes = [name for name in table if re.search("param|size", str(name), re.IGNORECASE)]
    if step is None or "run" in table or (table[sizes].nunique() > 1).any():
        return None
    steps = table.groupby(step)
    if (steps.nunique() > 1).to_numpy().any():
        return None
    merged = steps.last().reset_index()
    merged.insert(0, "run", run)
    return marked(merged.rename(columns={step: "step"}), "step")


def chart_curves(table: pd.DataFrame, sure: bool = False) -> pd.DataFrame | None:
    """The curves of a chart of Weights & Biases, whose columns are an axis and `RUN - METRIC` with its __MIN and __MAX;
    None if the table is none.

    Args:
        sure: whether somebody said that it is one; otherwise the axis has to be one of steps, or there be extremes.
    """
    axis, *others = map(str, table.columns)
    found = {name: _COLUMN.fullmatch(name) for name in others}
    if not others or not all(found.values()):
        return None
    matches = {name: match for name, match in found.items() if match}
    extremes = any(match["extreme"] for match in matches.values())
    is_step = last_part(axis) in STEPS
    if not (sure or extremes or is_step):
        return None
    kept: dict[str, dict[str, str]] = {}
    for name, match in matches.items():
        if not match["extreme"] and not (is_step and last_part(match["metric"]) in STEPS):
            kept.setdefault(match["run"], {})[name] = match["metric"]
    step = "step" if is_step else axis
    curves = []
    for run, names in kept.items():
        curve = table[[axis, *names]].rename(columns={axis: step, **names})
        curve = curve.dropna(subset=[*names.values()], how="all")
        curve.insert(0, "run", run)
        curves.append(curve)
    return marked(pd.concat(curves, ignore_index=True), step) if curves else None
