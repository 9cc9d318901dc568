"""The board: all sweeps of a folder on one page, with all their forecasts, targets and recipes."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nextscale.sweeps.board.recipes import Pair, differences, leaderboards, pairs, recipes
from nextscale.sweeps.board.standing import Standing
from nextscale.sweeps.forecasts.calibration import calibration, calibration_tables
from nextscale.sweeps.page.document import Section, document, raw, table
from nextscale.sweeps.page.provenance import written_by
from nextscale.sweeps.report import drawing, figures
from nextscale.sweeps.report.content import paragraph, section, shown_tables, warnings
from nextscale.sweeps.show.formats import count, interval, loss, number, three_digits
from nextscale.sweeps.show.formats import text as plain
from nextscale.sweeps.show.tables import Table, table_of

_STYLE = """
#sweeps .scroll { max-height: none; }
#sweeps td:nth-child(3) { min-width: 22rem; }
#recipes td:nth-child(5) { min-width: 16rem; }
.wraps td:first-child { min-width: 10rem; overflow-wrap: anywhere; }
"""
_SWEEPS = (
    ("sweep", "name", plain),
    ("state", "state", plain),
    ("forecast and what came of it; what is wrong", "told", plain),
    ("mean |error|", "error", lambda value: "-" if value is None else f"{value:.2%}"),
    ("inside", "inside", plain),
    ("done", "done", plain),
    ("failed", "failed", plain),
    ("left", "left", plain),
    ("imported", "imported", plain),
    ("$", "usd", lambda value: "-" if value is None else f"{value:,.2f}"),
    ("device-hours", "device_hours", three_digits),
)
_NUMBERS = ("flops", "params", "tokens", "reach", "level", "predicted", "low", "high", "measured", "error")


class Board:
    """The board of a folder.

    Args:
        title: what the folder is called.
        page_of: where the page of a sweep lies, seen from the board; None where it has none.
    """

    def __init__(self, title: str, page_of: Callable[[Standing], str | None]):
        self.title, self._page_of = title, page_of
        self._compared: dict[str, Pair] = {}

    def page(self, sweeps: Sequence[Standing]) -> str:
        """As HTML."""
        tables: dict[str, Any] = {}
        forecasts, svgs = _forecasts(sweeps, tables)
        sections = [self._sweeps(sweeps, tables), *forecasts, *_targets(sweeps), *self._recipes(sweeps)]
        now = datetime.datetime.now(datetime.UTC)
        states = pd.Series([one.state for one in sweeps]).value_counts()
        return document(
            f"{self.title}: {len(sweeps)} sweep{'s' * (len(sweeps) != 1)}",
            [*sections, _sources(sweeps)],
            {"tables": tables},
            subtitle="; ".join(f"{n} {state}" for state, n in states.items()),
            footer=f"written by {written_by()}, on {now:%Y-%m-%d %H:%M} UTC",
            style=drawing.palette(svgs) + _STYLE,
            scripts=("page.js",),
        )

    def _sweeps(self, sweeps: Sequence[Standing], tables: dict[str, Any]) -> Section:
        rows = [
            {"name": one.name, "state": one.state, "told": _told(one), "error": one.error, "inside": one.inside}
            | {name: one.runs.get(name) for name in ("done", "failed", "left", "imported")}
            | {name: (one.spent or {}).get(name) for name in ("usd", "device_hours")}
            for one in sweeps
        ]
        columns = [column for column in _SWEEPS if column[1] != "imported" or any(row["imported"] for row in rows)]
        shown, keys = table_of("One row each", rows, *columns), [key for _, key, _ in columns]
        tables["sweeps"] = raw(keys, [[row[key] for key in keys] for row in rows])
        links = [self._page_of(one) for one in sweeps]
        shown = dataclasses.replace(shown, left=3, wraps=True)
        body = table(shown, "sweeps", columns=keys, links=links)
        return Section("sweeps", "Sweeps", body)

    def _recipes(self, sweeps: Sequence[Standing]) -> list[Section]:
        found = recipes(sweeps)
        compared, left_out = pairs(found, self._compared)
        parts = []
        if not compared and len(found) > 1:
            parts.append(paragraph("No two recipes were trained on the same data: their losses do not compare."))
        if left_out:
            parts.append(warnings([f"{left_out} more pairs, of the recipes with the fewest runs, are not compared."]))
        if compared:
            level = next((f"{one.found.level:.0%} " for one in compared if one.found), "")
            columns = ["recipe B", "over recipe A", "verdict", "differ in (A, B)", "to be known"]
            columns += ["compute of A / of B", f"{level}interval", "at FLOPs"]
            told = "What B is worth over A: the compute of A / that of B, for the same loss"
            parts.append(table(Table(told, columns, [_pair(one) for one in compared], 5, True), "recipes"))
            parts += [paragraph(_answer(one), "quiet") for one in compared if one.found]
        return [*section("recipes", "Recipes", *parts)]


def _told(one: Standing) -> str:
    more = f" (and {len(one.problems) - 1} more)" if len(one.problems) > 1 else ""
    wrong = [f"Wrong: {one.problems[0]}{more}"] if one.problems else []
    return " ".join([*wrong, *filter(None, [one.forecast])])


def _pair(one: Pair) -> list[str]:
    names, apart = [one.b.name, one.a.name], differences(one.a, one.b)
    if one.found is None:
        return [*names, "not compared", apart, one.problem or "", "-", "-", "-"]
    found = one.found
    told = [number(found.multiplier, 3), interval(found.interval, three_digits), number(found.flops, 3)]
    return [*names, found.verdict, apart, "; ".join(found.warnings), *told]


def _answer(one: Pair) -> str:
    """In the words of `nextscale compare`."""
    return f"A is {one.a.name}, B is {one.b.name}. {'' if one.found is None else one.found.answer}"


def _forecasts(sweeps: Sequence[Standing], tables: dict[str, Any]) -> tuple[list[Section], list[str]]:
    """Everything that was ever foretold, and the drawings there."""
    own = [_of_folder(one) for one in sweeps if not one.foretold.empty]
    if not own:
        return [], []
    every = _once(pd.concat([one.astype(object) for one in own], ignore_index=True))
    scores = calibration(every)
    drawn, svgs = "", []
    if scores["scored"]:
        plot = figures.ledger_plot(every.astype(dict.fromkeys(_NUMBERS, float)), scores)
        with tempfile.TemporaryDirectory() as folder:
            svgs = [drawing.save(plot, Path(folder))]
        drawn = f'<div class="drawings">\n{drawing.figure(plot, svgs[0])}</div>\n'
        known = every.drop(columns="ledger")
        known = known.where(known.notna(), None)
        tables[plot.name] = raw(list(known.columns), known.to_numpy().tolist())
    body = "".join(map(paragraph, scores["notes"])) + drawn + shown_tables(calibration_tables(every, scores), "ledger")
    return [Section("forecasts", "All forecasts", body)], svgs


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """By time; what two ledgers have, one being a copy of the other, counts once, as the one that has its score."""
    rows = rows.assign(at=rows.groupby(["ledger", "forecast"]).cumcount(), waits=rows["verdict"] == "waiting")
    rows = rows.sort_values(["waits", "ledger"], kind="stable").drop_duplicates(["forecast", "at"])
    return rows.sort_values(["time", "at"], ignore_index=True).drop(columns=["at", "waits"])


def _of_folder(one: Standing) -> pd.DataFrame:
    """What its ledger foretold, by the name that the folder has here."""
    names = [one.name if of in (None, one.name) else f"{one.name} ({of})" for of in one.foretold["sweep"]]
    return one.foretold.assign(sweep=names)


def _targets(sweeps: Sequence[Standing]) -> list[Section]:
    parts = []
    for i, (data, flops, rows) in enumerate(leaderboards(sweeps), 1):
        places = [
            row | {"place": str(place) if row["loss"] is not None else "-"}
            for place, row in enumerate(rows.to_dict("records"), 1)
        ]
        columns = (
            ("place", "place", plain),
            ("sweep", "sweep", plain),
            ("run", "run_id", functools.partial(_or, "not measured yet")),
            ("parameters", "params", count),
            ("tokens", "tokens", count),
            ("loss (nats/token)", "loss", loss),
        )
        shown = table_of(f"Held out at {number(flops, 3)} FLOPs, on {data}", places, *columns)
        parts.append(table(dataclasses.replace(shown, left=3), f"target-{i}"))
    return [*section("targets", "Targets that sweeps share", *parts)]


def _or(otherwise: str, value: Any) -> str:
    return otherwise if value is None else str(value)


def _sources(sweeps: Sequence[Standing]) -> Section:
    rows = [
        [
            one.name,
            ", ".join(one.specs) or "-",
            "; ".join(sorted({*_known(one.table, "data"), *(data for data, _ in one.targets)})) or "-",
            "; ".join(_known(one.table, "versions")) or "-",
        ]
        for one in sweeps
    ]
    columns = ["sweep", "specs, the newest last", "data", "trained by"]
    return Section("sources", "Of what", table(Table("Specs, data and versions", columns, rows, 4, True), "sources"))


def _known(runs: pd.DataFrame, column: str) -> list[str]:
    return [] if column not in runs else sorted({str(one) for one in runs[column].dropna() if one})
