"""How each of many sweeps stands; what is broken in one is told of it, and keeps nobody from the others."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nextscale.sweeps.board.found import Found
from nextscale.sweeps.errors import USER_ERRORS
from nextscale.sweeps.forecasts.calibration import outcomes
from nextscale.sweeps.ledger import Ledger, digest_of
from nextscale.sweeps.page.provenance import spec_names
from nextscale.sweeps.show.sentences import outcome
from nextscale.sweeps.store.imported_runs import STATUS as IMPORTED
from nextscale.sweeps.store.run_rows import UNREADABLE, config_columns
from nextscale.sweeps.store.store import load
from nextscale.sweeps.watch.snapshot import progress
from nextscale.sweeps.watch.status import Status, status_of
from nextscale.sweeps.watch.watcher import Watcher

BROKEN = "broken"


@dataclasses.dataclass
class Standing:
    """How the sweeps of an output folder stand, as far as it can be read.

    Attributes:
        name: on the board.
        state: in words.
        specs: name and digest of each, the one that was run last the last.
        runs: how many are `done` (or diverged), `failed` (or unreadable), `left` and `imported`.
        spent: dollars and device-hours so far; None where the accounts cannot be read.
        forecast: of its held-out runs and what came of it, as a sentence.
        error, inside: of its scored runs the mean of |error|, and `k of n` inside their intervals.
        table: its runs, see `nextscale.sweeps.store.store.load`; `recipe` names model and training of a spec.
        targets: data and FLOPs of what its specs hold out.
        foretold: all that its ledger foretold, see `nextscale.sweeps.forecasts.calibration.outcomes`.
        recipes: by the names in `table`, what a spec says of model and training.
        problems: a line each.
    """

    name: str
    root: Path
    state: str = BROKEN
    specs: list[str] = dataclasses.field(default_factory=list)
    runs: dict[str, int] = dataclasses.field(default_factory=dict)
    spent: dict[str, float] | None = None
    forecast: str | None = None
    error: float | None = None
    inside: str | None = None
    table: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    targets: set[tuple[str, float]] = dataclasses.field(default_factory=set)
    foretold: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    recipes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What goes wrong within is a line among the problems; nothing is raised."""
        try:
            yield
        except (*USER_ERRORS, OSError) as error:
            self._add(str(error))
        except Exception as error:  # whatever another version or a damaged disk left: the other sweeps are shown
            self._add(f"cannot be read by this version ({type(error).__name__}: {error})")

    def _add(self, problem: str) -> None:
        # Where the folder lies is nothing to publish.
        line = " ".join(problem.replace(str(self.root), self.name).split())
        if line not in self.problems:
            self.problems.append(line)


def standings(sweeps: Sequence[Found]) -> list[Standing]:
    """How sweeps stand, in their order."""
    found = [Standing(one.name, one.root) for one in sweeps]
    watchers: list[tuple[Standing, Watcher]] = []
    for one in found:
        with one.told():
            watcher = Watcher(one.root)
            watcher.look()
            watchers.append((one, watcher))
    while doubtful := [(one, watcher) for one, watcher in watchers if not watcher.certain]:
        time.sleep(0.25)
        for one, watcher in doubtful:
            with one.told():
                watcher.look()
    for one in found:
        _read_ledger(one)
    for one, watcher in watchers:
        _read_runs(one, watcher)
    return found


def _read_runs(one: Standing, watcher: Watcher) -> None:
    with one.told():
        status = status_of(watcher)
        for problem in status.problems:
            one._add(problem)
        one.specs = spec_names(one.root)
        if unread := len(one.specs) - len(watcher.sweeps):
            one._add(f"{unread} of its specs cannot be read by this version; run it again, which trains nothing twice")
        one.table = _with_recipes(one, watcher)
        one.runs = _counted(status, one.table)
        spent = status.to_dict()["spent"]
        one.spent = {name: float(spent[name]) for name in ("usd", "device_hours")}
        one.forecast = one.forecast or _no_forecast(watcher)
        one.state = _state(status, one, watcher)


def _counted(status: Status, table: pd.DataFrame) -> dict[str, int]:
    runs, imported = status.runs, int((table["status"] == IMPORTED).sum())
    return {
        "done": runs["done"] + runs["diverged"],
        "failed": runs["failed"] + runs[UNREADABLE],
        "left": runs["running"] + runs["unfinished"] + runs["not started"],
        "imported": imported,
    }


def _state(status: Status, one: Standing, watcher: Watcher) -> str:
    runs = one.runs
    if status.controller == "at work":
        return "running"
    if status.waits_for:
        return "waits for an approval"
    if status.controller == "silent":
        return "silent: its controller is taken for dead"
    if not watcher.sweeps:
        return BROKEN if one.specs else "imported"
    newest = watcher.sweeps[-1]
    if runs["left"] or progress(watcher, *newest, watcher.states())["more"]:
        return "stopped" if status.spent["attempts"] or runs["done"] else "not begun"
    return "ended, with failures" if runs["failed"] else "done"


def _with_recipes(one: Standing, watcher: Watcher) -> pd.DataFrame:
    """The runs, each with the recipe of the spec that asked for it last; None of imported ones."""
    of_run: dict[str, str] = {}
    for spec, runs in watcher.sweeps:
        told = {"model": spec.model.semantic(), "training": spec.training.semantic()}
        one.recipes[digest_of(told)] = told
        of_run |= dict.fromkeys(runs, digest_of(told))
        held_out = [run for run in runs.values() if run.role == "holdout"]
        one.targets |= {(config_columns(run.config)["data"], run.budget) for run in held_out}
    table = load(one.root, unreadable=True)
    recipes = [of_run.get(run_id) for run_id in table["run_id"]]
    return table.assign(recipe=pd.Series(recipes, index=table.index, dtype=object))


def _read_ledger(one: Standing) -> None:
    with one.told():
        one.foretold = outcomes([Ledger(one.root / "ledger.jsonl")])
        rows = _standing_forecast(one.foretold)
        if rows.empty:
            return
        known = rows.astype(object).where(rows.notna(), None).to_dict("records")
        held_out = [row | {"interval": (row["low"], row["high"])} for row in known]
        late = [row for row in known if row["verdict"] == "late"]
        one.forecast = outcome({"holdout": held_out, "forecast": {"level": known[0]["level"], "started_before": late}})
        scored = [row for row in known if row["error"] is not None]
        if scored:
            one.error = sum(abs(row["error"]) for row in scored) / len(scored)
            inside = sum(row["low"] <= row["measured"] <= row["high"] for row in scored)
            one.inside = f"{inside} of {len(scored)}"


def _standing_forecast(foretold: pd.DataFrame) -> pd.DataFrame:
    """Of the forecasts of held-out runs the newest that was scored, else the newest: its rows."""
    rows = foretold[foretold["sweep"].notna()]
    scored = rows[rows["measured"].notna()]
    chosen = (scored if len(scored) else rows)["forecast"].tail(1)
    return rows[rows["forecast"].isin(chosen)]


def _no_forecast(watcher: Watcher) -> str:
    held_out = bool(watcher.sweeps) and watcher.sweeps[-1][0].holdout is not None
    return "Not made yet." if held_out else "Nothing is held out."
