"""The state of a sweep as one JSON object, which is all that the live page shows."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nextscale.fit.jsonable import jsonable
from nextscale.model.record import Row
from nextscale.sweeps.design.chosen_runs import ChosenRuns
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.errors import USER_ERRORS, SpecError
from nextscale.sweeps.ledger import Entry, Ledger
from nextscale.sweeps.plan.time_left import AtWork, TimeLeft, time_left
from nextscale.sweeps.spec.designs import SequentialDesign
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.index import file_stamp
from nextscale.sweeps.store.run_rows import UNREADABLE
from nextscale.sweeps.watch.lanes import ended, lanes, natural, pools, slots_of
from nextscale.sweeps.watch.status import Status, status_of
from nextscale.sweeps.watch.watcher import STATES, Curve, Watcher

_CURVES, _POINTS_OF_A_CURVE, _BUDGETS = 12, 160, 12
_RESULTS, _NEWEST, _EVENTS, _FORECASTS, _FAILURES = 300, 12, 60, 6, 100
_GONE = 60.0
"""Seconds after its last attempt ended for which a slot that got no other is taken to be up."""
_NEARLY = 0.9
"""Of a cap, from where on it is an alarm."""
_SELDOM = 20.0
"""The time left is computed anew when so many times as long has passed as that takes."""


class Live:
    """A folder, for as long as somebody watches it. It may be empty or missing, come later, or go away for a while."""

    def __init__(self, out: str | Path):
        self.out = Path(out).expanduser().absolute()
        self.version = 0
        """Another one whenever there is something new."""
        self.state: dict[str, Any] = {}
        self._watcher: Watcher | None = None
        self._marks: dict[str, str] = {}
        self._ledger: list[dict[str, Any]] = []
        self._ledger_problem: str | None = None
        self._left: TimeLeft | None = None
        self._left_at, self._left_due = 0.0, -math.inf

    def look(self) -> dict[str, Any]:
        """Reads what is new in the folder; returns what there is to tell, see `docs/serve.md`."""
        problem, changed = None, False
        try:
            self._watcher = self._watcher or Watcher(self.out)
            changed = self._watcher.look()
            changed |= self._read_files()
        except (*USER_ERRORS, OSError) as error:
            problem = str(error)
        begun, whole = self._watcher is not None, problem is None
        if self._watcher is not None and whole:
            problem = "; ".join(self._watcher.damage) or None
        if changed or not self.state or problem != self.state["problem"]:
            news = self._tell(self._watcher) if self._watcher is not None and whole else {}
            frame = {"out": str(self.out), "at": time.time(), "begun": begun, "problem": problem}
            self.state = jsonable(self.state | news | frame)
            self.version += 1
        return self.state

    def _read_files(self) -> bool:
        """Looks at what a sweep leaves in its end; tells whether any of it is new."""
        names = ("ledger.jsonl", "ledger.head", "summary.json", "report.html", "figures")
        before, self._marks = self._marks, {name: file_stamp(str(self.out / name)) for name in names}
        if self._marks == before:
            return False
        try:
            self._ledger, self._ledger_problem = forecasts(Ledger(self.out / "ledger.jsonl").entries()), None
        except SpecError as error:
            self._ledger, self._ledger_problem = [], str(error)
        return True

    def _tell(self, watcher: Watcher) -> dict[str, Any]:
        status, states = status_of(watcher), watcher.states()
        at_work = watcher.controller.state == "at work"
        slots = slots_of(watcher.accounts, watcher.controller.started) if at_work else {}
        newest = watcher.sweeps[-1] if watcher.sweeps else None
        self._time_left(watcher, newest, states, slots)
        spent = costs(watcher, None if newest is None else newest[0], at_work)
        return status.to_dict() | {
            "alarms": alarms(status, spent),
            "narrowing": narrowing(watcher),
            "holder": {"host": watcher.controller.host, "pid": watcher.controller.pid},
            "sweeps": [progress(watcher, spec, runs, states) for spec, runs in reversed(watcher.sweeps)],
            "time_left": None if self._left is None else self._left._asdict() | {"ends": self._left_at + self._left[0]},
            "costs": spent,
            "pools": pools(watcher.accounts.rows, slots),
            "lanes": lanes(watcher, slots),
            "failed": failed(watcher, states),
            "curves": curves(watcher),
            "newest": newest_results(watcher),
            "results": results(watcher, states),
            "budgets": budgets({} if newest is None else newest[1]),
            "events": list(watcher.events)[: -_EVENTS - 1 : -1],
            "forecasts": self._ledger,
            "ledger_problem": self._ledger_problem,
            "summary": None if at_work else self._summary(),
            "report": self._marks.get("report.html") or None,
            "figures": figures(self.out),
        }

    def _time_left(
        self,
        watcher: Watcher,
        newest: tuple[SweepSpec, dict[str, PlannedRun]] | None,
        states: Mapping[str, str],
        slots: Mapping[str, Row],
    ) -> None:
        if newest is None or not slots:
            self._left, self._left_due = None, -math.inf
            return
        began, now = time.monotonic(), watcher.controller.now()
        if began < self._left_due:
            return
        runs = newest[1]
        own = [one for one in watcher.accounts.open.values() if one.run_id in runs and one.run_id in watcher.curves]
        at_work = [AtWork(one, now - one.started, watcher.curves[one.run_id].position) for one in own]
        no_forecast = any(run.role == "fit" and states[run_id] == "failed" for run_id, run in runs.items())
        waiting = [
            run_id
            for run_id, run in runs.items()
            if states[run_id] in ("unfinished", "not started") and not (no_forecast and run.role == "holdout")
        ]
        up = [row for row in slots.values() if row["kind"] == "reserved" or now - ended(row) < _GONE]
        rows, order = watcher.accounts.rows, newest[0].order
        self._left = time_left(runs, waiting, at_work, up, rows, watcher.config, order) if up else None
        self._left_at, self._left_due = time.time(), began + _SELDOM * (time.monotonic() - began)

    def _summary(self) -> dict[str, Any] | None:
        """What a sweep said in its end; None where there is nothing, or it is another version's."""
        try:
            summary = json.loads((self.out / "summary.json").read_text())
            return {name: summary[name] for name in ("sweep", "warnings", "problem", "stopped_by", "seconds")}
        except (OSError, ValueError, KeyError, TypeError):
            return None


def progress(
    watcher: Watcher, spec: SweepSpec, runs: Mapping[str, PlannedRun], states: Mapping[str, str]
) -> dict[str, Any]:
    """How far a sweep has come: `runs` by state; `flops` of those that are done, with the part of those at work that is
    done, and of all; `more` says whether further runs are chosen as results land."""
    counts = dict.fromkeys(STATES, 0)
    done = 0.0
    for run_id, run in runs.items():
        counts[states[run_id]] += 1
        own = watcher.own_flops[run_id]
        if states[run_id] in ("done", "diverged"):
            done += own
        elif run_id in watcher.curves:
            done += own * max(watcher.curves[run_id].position - run.branches_at, 0) / (run.tokens - run.branches_at)
    more = isinstance(spec.design, SequentialDesign) and ChosenRuns(watcher.store.root, spec).ended is None
    planned = sum(watcher.own_flops[run_id] for run_id in runs)
    return {"name": spec.name, "runs": counts, "flops": [done, planned], "more": more}


def costs(watcher: Watcher, spec: SweepSpec | None, at_work: bool) -> list[dict[str, Any]]:
    """Spent and reserved against each cap, in its own unit; `limit` is None where there is none. Of the wall's hours
    `since` tells when they began to count, and `until` when they ended, None while they go on."""
    limits = {} if spec is None else spec.caps.model_dump()
    accounts, ahead = watcher.accounts, watcher.controller.ahead
    spent, pending = accounts.spent, accounts.pending
    found = [
        {"cap": "max_flops", "unit": "FLOPs", "spent": spent.flops, "reserved": pending.flops},
        {"cap": "max_usd", "unit": "$", "spent": float(spent.usd), "reserved": float(pending.usd)},
        {
            "cap": "max_device_hours",
            "unit": "device-hours",
            "spent": spent.device_hours,
            "reserved": pending.device_hours,
        },
    ]
    if accounts.first_start is not None:
        last = max((ended(row) for row in accounts.rows if row["kind"] == "settled"), default=accounts.first_start)
        since, until = accounts.first_start - ahead, None if at_work else last - ahead
        hours = ((until or time.time()) - since) / 3600
        wall = {"cap": "max_wall", "unit": "hours", "spent": hours, "reserved": 0.0}
        found.append(wall | {"since": since, "until": until})
    return [one | {"limit": limits.get(str(one["cap"]))} for one in found]


def alarms(status: Status, spent: Iterable[Mapping[str, Any]]) -> list[str]:
    """What somebody should look at, a line each.

    Args:
        spent: see `costs`.
    """
    found = ["the controller is silent, and taken for dead"] if status.controller == "silent" else []
    for one in spent:
        if one["limit"] and (share := (one["spent"] + one["reserved"]) / one["limit"]) >= _NEARLY:
            found.append(
                f"{share:.0%} of the cap of {one['limit']:,g} {one['unit']} is spent or reserved ({one['cap']})"
            )
    for state, what in (("failed", "failed for good"), ("diverged", "diverged"), (UNREADABLE, "cannot be read")):
        if count := status.runs.get(state):
            found.append(f"{count} run{'s' * (count > 1)} {what}")
    return found + [f"waits for an approval: {gate}" for gate in status.waits_for]


def narrowing(watcher: Watcher) -> list[dict[str, float]]:
    """Of a newest sweep whose runs are chosen as results land, how its forecast narrowed: at each choice the FLOPs
    `spent`, and `half_width`, half the interval of the loss at the target / that loss."""
    if not watcher.sweeps or not isinstance(watcher.sweeps[-1][0].design, SequentialDesign):
        return []
    rows = ChosenRuns(watcher.store.root, watcher.sweeps[-1][0]).rows()
    told = {row["spent"]: row["half_width"] for row in rows}
    return [{"spent": spent, "half_width": half} for spent, half in sorted(told.items())]


def failed(watcher: Watcher, states: Mapping[str, str]) -> list[dict[str, Any]]:
    """The runs that failed for good, with the reason of the last attempt, and those that cannot be read."""
    found = [run_id for run_id, state in states.items() if state in ("failed", UNREADABLE)]
    return [
        {
            "run_id": run_id,
            "what": watcher.label(run_id),
            "reason": str(watcher.rows[run_id]["reason"]),
            "attempts": watcher.rows[run_id]["attempts"] or 0,
        }
        for run_id in found[:_FAILURES]
    ]


def curves(watcher: Watcher) -> list[dict[str, Any]]:
    """The losses along the runs at work that were started last, by slot."""
    started = sorted(watcher.accounts.open.values(), key=lambda one: -one.started)
    shown = [one for one in started if one.run_id in watcher.curves][:_CURVES]
    return [
        {"run_id": one.run_id, "slot": one.slot, "what": watcher.label(one.run_id)}
        | thinned(watcher.curves[one.run_id])
        for one in sorted(shown, key=lambda one: natural(one.slot))
    ]


def thinned(curve: Curve) -> dict[str, Any]:
    """A curve in no more points than a chart can show, the newest among them."""
    step = max(math.ceil(len(curve.tokens) / _POINTS_OF_A_CURVE), 1)
    return {"tokens": curve.tokens[::-step][::-1], "loss": curve.losses[::-step][::-1]}


def newest_results(watcher: Watcher) -> list[dict[str, Any]]:
    """What landed last, the newest first."""
    times: dict[str, float] = {}
    for event in reversed(watcher.events):
        if event["event"] == "finished" and event["run_id"] in watcher.rows:
            times.setdefault(event["run_id"], event["time"])
    shown = ("run_id", "status", "reason", "params", "tokens", "flops", "loss", "bits_per_byte")
    return [
        {"time": when} | {name: watcher.rows[run_id][name] for name in shown}
        for run_id, when in list(times.items())[:_NEWEST]
    ]


def results(watcher: Watcher, states: Mapping[str, str]) -> list[dict[str, Any]]:
    """The losses of the newest sweep's runs, by budget and size: of many an even choice."""
    if not watcher.sweeps:
        return []
    done = [
        {name: watcher.rows[run_id][name] for name in ("run_id", "params", "tokens", "loss")}
        | {"budget": run.budget, "role": run.role}
        for run_id, run in watcher.sweeps[-1][1].items()
        if states[run_id] == "done" and watcher.rows[run_id]["loss"] is not None
    ]
    return done[:: max(math.ceil(len(done) / _RESULTS), 1)]


def budgets(runs: Mapping[str, PlannedRun]) -> list[float]:
    """At which sizes are compared; none where there are as many as runs, or too many to tell apart."""
    found = sorted({run.budget for run in runs.values()})
    return found if len(found) <= _BUDGETS and len(found) < len(runs) else []


def forecasts(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """What the ledger holds, the newest first: each forecast with what was measured since."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry["kind"] == "forecast":
            names = ("run_id", "flops", "params", "tokens", "predicted", "interval")
            targets = [{name: target.get(name) for name in names} for target in entry["targets"]]
            late = len(entry.get("started_before", ()))
            one = {name: entry.get(name) for name in ("sweep", "time", "law", "level")}
            found[entry["hash"]] = one | {"started_before": late, "targets": targets}
        elif entry["kind"] == "score" and entry["forecast"] in found:
            for target, score in zip(found[entry["forecast"]]["targets"], entry["targets"], strict=False):
                target |= {"measured": score["measured"], "inside": score["inside"]}
    return list(found.values())[: -_FORECASTS - 1 : -1]


def figures(out: Path) -> list[str]:
    """Names of the files of figures."""
    try:
        found = list((out / "figures").iterdir())
    except OSError:
        return []
    return sorted(entry.name for entry in found if entry.suffix in (".svg", ".png") and not entry.is_symlink())
