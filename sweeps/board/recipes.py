"""Sweeps against each other: recipes by what one is worth in compute, sweeps by their loss at a shared target."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from nextscale.fit.table.runs import as_runs
from nextscale.fit.trust.compare import Comparison, compare
from nextscale.sweeps.board.standing import Standing
from nextscale.sweeps.errors import USER_ERRORS
from nextscale.sweeps.ledger import digest_of

RESAMPLES = 100
"""Of the interval of a multiplier: a tenth of the lowest and the highest of these lie outside one of 90 %."""
MOST_PAIRS = 15
"""That are compared: each takes a second or two."""
_DIGITS = 4
"""To which budgets are the same."""
_NAMES, _CHANGES = 4, 4
_UNSAID = "default"
_SHOWN = ("loss", "params", "tokens", "run_id")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Runs of one model family, trained in one way on the same data, of one sweep or of several.

    Attributes:
        name: that of its sweeps.
        told: what its spec says of model and training; None of imported runs.
        runs: that came to a loss.
    """

    name: str
    data: str
    told: dict[str, Any] | None
    runs: pd.DataFrame


@dataclasses.dataclass(frozen=True)
class Pair:
    """What recipe `b` is worth over recipe `a`: `found`, or the `problem` that keeps them from being compared."""

    a: Recipe
    b: Recipe
    found: Comparison | None
    problem: str | None


def recipes(sweeps: Sequence[Standing]) -> list[Recipe]:
    """Of the runs of all sweeps, the one of most runs first."""
    parts: dict[tuple[str, str], list[tuple[Standing, pd.DataFrame]]] = {}
    for sweep in sweeps:
        if sweep.table.empty:
            continue
        known = sweep.table[sweep.table["loss"].notna()]
        # Of what imported runs were trained with nobody knows more than that they came together.
        keys = known["recipe"].where(known["recipe"].notna(), sweep.name)
        for (data, key), rows in known.groupby([known["data"], keys], sort=False):
            parts.setdefault((str(data), str(key)), []).append((sweep, rows))
    found = []
    for (data, key), those in parts.items():
        names = [_name(sweep, key) for sweep, _ in those]
        told = next((sweep.recipes[key] for sweep, _ in those if key in sweep.recipes), None)
        runs = pd.concat([rows.astype(object) for _, rows in those]).drop_duplicates("run_id", ignore_index=True)
        found.append(Recipe(_listed(names), data, told, runs))
    return sorted(found, key=lambda one: (-len(one.runs), one.name))


def _name(sweep: Standing, key: str) -> str:
    """Of one recipe of several in a folder, which."""
    several = sweep.table["recipe"].nunique(dropna=False) > 1
    return f"{sweep.name} ({key[:6] if key in sweep.recipes else 'imported'})" if several else sweep.name


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_NAMES])} and {more} more"


def pairs(found: Sequence[Recipe], known: dict[str, Pair]) -> tuple[list[Pair], int]:
    """Recipes of the same data compared, and how many pairs are left out: those of the fewest runs.

    Args:
        known: pairs that were compared before, by what they were compared from; what is compared now is added.
    """
    every = [(a, b) for a, b in itertools.combinations(found, 2) if a.data == b.data]
    compared = [_compared(a, b, known) for a, b in every[:MOST_PAIRS]]
    return compared, len(every) - len(compared)


def _compared(a: Recipe, b: Recipe, known: dict[str, Pair]) -> Pair:
    columns = ["run_id", "params", "tokens", "flops", "loss"]
    key = digest_of([[one.name, one.runs[columns].to_dict("records")] for one in (a, b)])
    if key not in known:
        result, problem = None, None
        try:
            of_a, of_b = (as_runs(one.runs, variables=["C"], as_is=True, where=one.name) for one in (a, b))
            result = compare(of_a, of_b, resamples=RESAMPLES)
        except USER_ERRORS as error:
            problem = str(error)
        known[key] = Pair(a, b, result, problem)
    return known[key]


def differences(a: Recipe, b: Recipe) -> str:
    """In what two recipes differ, by their specs, such as `training.lr: 0.01, 0.02`."""
    if a.told is None or b.told is None:
        return "not known of imported runs"
    one, other = dict(_flat(a.told)), dict(_flat(b.told))
    apart = [
        f"{key}: {one.get(key, _UNSAID)}, {other.get(key, _UNSAID)}"
        for key in dict.fromkeys([*one, *other])
        if one.get(key, _UNSAID) != other.get(key, _UNSAID)
    ]
    more = f"; and {len(apart) - _CHANGES} more" if len(apart) > _CHANGES else ""
    return "; ".join(apart[:_CHANGES]) + more


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, str(value)


def leaderboards(sweeps: Sequence[Standing]) -> list[tuple[str, float, pd.DataFrame]]:
    """Of each target that two sweeps or more hold out, its data, its FLOPs, and a row per sweep: `sweep`, and of its
    best run there `loss`, `params`, `tokens`, `run_id`; the lowest loss first, those not measured yet last."""
    boards: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for one in sweeps:
        for data, budget in sorted(one.targets):
            held_out = one.table[(one.table["role"] == "holdout") & (one.table["data"] == data)]
            its = held_out[(held_out["budget"] == budget) & held_out["loss"].notna()].sort_values("loss").head(1)
            best: dict[Any, Any] = {name: its[name].iloc[0] if len(its) else None for name in _SHOWN}
            target = data, float(f"{budget:.{_DIGITS}g}")
            boards.setdefault(target, []).append({"sweep": one.name} | best)
    found = []
    for (data, budget), rows in sorted(boards.items()):
        if len({row["sweep"] for row in rows}) > 1:
            table = pd.DataFrame(rows).astype({"loss": float}).sort_values(["loss", "sweep"], ignore_index=True)
            found.append((data, budget, table.astype(object).where(table.notna(), None)))
    return found
