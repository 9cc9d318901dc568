"""Follows an output folder by its files alone: each look reads only what is new."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from nextscale.cluster.controller.accounts import Accounts, row_problem
from nextscale.cluster.controller.events import event_problem
from nextscale.model.accounting import parameters
from nextscale.model.config.external import AnyRun
from nextscale.model.record import Row, RunDirectory, is_curve_row
from nextscale.sweeps.design.chosen_runs import DROPPED, all_runs, dropped_runs, without_dropped
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.design.trunks import rooted
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.show.formats import count
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store import index
from nextscale.sweeps.store.imported_runs import STATUS as IMPORTED
from nextscale.sweeps.store.run_rows import UNREADABLE
from nextscale.sweeps.store.store import Store, load
from nextscale.sweeps.watch.controller import Controller, ControllerWatch
from nextscale.sweeps.watch.tail import Tail

STATES = ("done", "diverged", "failed", "running", "unfinished", "not started", "dropped", UNREADABLE)
_COLUMNS = ("run_id", "status", "reason", "params", "tokens", "flops", "loss", "bits_per_byte", "attempts")
_EVENTS = 200
_ALL_AGAIN = 300.0
"""Seconds after which all runs are looked through: one may have been deleted, or copied here, without a word."""


class Curve:
    """The losses along a run as they come, and how fast it is. Of a long one every second is forgotten, time and again.

    Attributes:
        speed: the newest row of it, where there is one.
    """

    _MOST = 2048

    def __init__(self, run: RunDirectory):
        self._tail, self._speed = Tail(Path(run.metrics_file)), Tail(Path(run.speed_file))
        self.speed: Row | None = None
        self.tokens: list[int] = []
        self.losses: list[float | None] = []

    @property
    def position(self) -> int:
        """Tokens, of the newest loss."""
        return self.tokens[-1] if self.tokens else 0

    def look(self) -> bool:
        """Reads what is new; tells whether anything is."""
        timed, again = self._speed.look()
        self.speed = timed[-1] if timed else None if again else self.speed
        rows, restarted = self._tail.look()
        if restarted:
            self.tokens, self.losses = [], []
        rows = [row for row in rows if is_curve_row(row)]
        self.tokens += [row["tokens"] for row in rows]
        self.losses += [row.get("loss") for row in rows]
        while len(self.tokens) > self._MOST:  # the newest stays
            self.tokens, self.losses = self.tokens[::-2][::-1], self.losses[::-2][::-1]
        return bool(rows) or restarted or bool(timed)


class Watcher:
    """A folder that is looked at again and again: a look reads what has changed since the last one.

    Args:
        all_again: seconds after which every run is looked at, and not only those that the journal and the accounts
            name anew.

    Attributes:
        sweeps: each spec with its runs by id, the one that was run last the last.
        rows: of each run that was begun what its directory says, in short.
        events: the newest of the journal, oldest first.
        curves: of the runs at work.
        dropped: the runs that are not to be trained.
        own_flops: of each other planned run what is trained for it, when its trunk is trained too.
        damage: the rows of its accounts and its journal that are none, a line each file.

    Raises:
        SpecError: the folder holds no sweep.
    """

    def __init__(self, out: str | Path, all_again: float = _ALL_AGAIN):
        self.store = Store.existing(out)
        self.accounts = Accounts()
        self.controller = Controller("none")
        self._damage: dict[str, tuple[int, str]] = {}
        self._watch = ControllerWatch(self.store.root)
        self.sweeps: list[tuple[SweepSpec, dict[str, PlannedRun]]] = []
        self.rows: dict[str, Row] = {}
        self.events: collections.deque[Row] = collections.deque(maxlen=_EVENTS)
        self.curves: dict[str, Curve] = {}
        self._booked, self._events = Tail(self.store.root / "accounts.jsonl"), Tail(self.store.root / "events.jsonl")
        self._last_event: dict[str, str] = {}
        self.own_flops: dict[str, float] = {}
        self.dropped: dict[str, Row] = {}
        self._dropped_stamp = ""
        self._specs: dict[str, tuple[SweepSpec, dict[str, PlannedRun]] | None] = {}
        self._stamps: dict[str, str | None] = {}
        self._all_again, self._all_at = all_again, -math.inf

    def look(self) -> bool:
        """Reads what is new; tells whether anything is.

        Raises:
            SpecError: the folder is gone.
        """
        Store.existing(self.store.root)
        named = self._read_journal() | self._read_accounts()
        before, self.controller = self.controller, self._watch.look()
        changed = self._read_specs() or bool(named) or before != self.controller
        working = {one.run_id for one in self.accounts.open.values()}
        named |= {run_id for run_id, row in self.rows.items() if row["status"] == UNREADABLE}
        if self.controller.state != "at work":
            named, working = named | working, set()
        if time.monotonic() - self._all_at >= self._all_again:
            changed |= self._read_all()
        else:
            seen, self._all_at = self._all_at, -math.inf  # should one of them be damaged, all are read at the next look
            for run_id in named:
                changed |= self._read_run(run_id)
            self._all_at = seen
        for run_id in self.curves.keys() - working:
            del self.curves[run_id]
        for run_id in working:
            curve = self.curves.setdefault(run_id, Curve(self.store.run(run_id)))
            changed |= curve.look()
        return changed

    @property
    def certain(self) -> bool:
        """Whether the last look left no doubt whether the controller is at work."""
        return self._watch.certain

    @property
    def damage(self) -> list[str]:
        root = self.store.root
        return [
            f"{root / name}: rows that are none: {n}; the first: {what}" for name, (n, what) in self._damage.items()
        ]

    def states(self) -> dict[str, str]:
        """Of each run, planned or begun, how it stands: one of `STATES`."""
        return {run_id: self._state(run_id) for run_id in self.own_flops | self.rows | self.dropped}

    def config(self, run_id: str) -> AnyRun | None:
        """Of a planned run; None of any other."""
        found = (runs[run_id].config for _, runs in self.sweeps if run_id in runs)
        return next(found, None)

    def tokens(self, run_id: str) -> int | None:
        """That a run is to see; None where nobody says."""
        config = self.config(run_id)
        if config is not None:
            return config.tokens
        return self.rows[run_id]["tokens"] if run_id in self.rows else None

    def label(self, run_id: str) -> str:
        """A run in words."""
        config = self.config(run_id)
        if config is not None:
            model = config.model
            return f"{model.label}, {count(parameters(model))} params, {count(config.tokens)} tokens"
        row = self.rows.get(run_id)
        return (
            ""
            if row is None or row["params"] is None
            else f"{count(row['params'])} params, {count(row['tokens'])} tokens"
        )

    def _state(self, run_id: str) -> str:
        if run_id in self.curves:
            return "running"
        if run_id in self.dropped:
            return "dropped"
        row = self.rows.get(run_id)
        if row is None:
            return "not started"
        tried_again = self.controller.state == "at work" and self._last_event.get(run_id) == "retried"
        return "unfinished" if row["status"] == "failed" and tried_again else str(row["status"])

    def _read_journal(self) -> set[str]:
        """Takes in what happened; tells to which runs."""
        rows, restarted = self._events.look()
        if restarted:
            self.events.clear()
            self._damage.pop("events.jsonl", None)
            self._last_event.clear()
            self._all_at = -math.inf
        rows = self._whole("events.jsonl", rows, event_problem)
        self.events.extend(rows)
        happened = {row["run_id"]: row.get("event") for row in rows if row.get("run_id") is not None}
        self._last_event |= happened
        return set(happened)

    def _read_accounts(self) -> set[str]:
        """Takes in what was reserved and settled; tells of which runs."""
        rows, restarted = self._booked.look()
        if restarted:
            self.accounts = Accounts()
            self._all_at = -math.inf
            self._damage.pop("accounts.jsonl", None)
        rows = self._whole("accounts.jsonl", rows, row_problem)
        self.accounts.add_rows(rows, self.store.root / "accounts.jsonl")
        return {row["run_id"] for row in rows}

    def _whole(self, name: str, rows: list[Row], problem_of: Callable[[Row], str | None]) -> list[Row]:
        """The rows of a file that are such; what the others are is kept."""
        problems = [problem for row in rows if (problem := problem_of(row)) is not None]
        if problems:
            count, last = self._damage.get(name, (0, ""))
            self._damage[name] = count + len(problems), last or problems[0]
        return [row for row in rows if problem_of(row) is None] if problems else rows

    def _read_specs(self) -> bool:
        """Plans the sweeps whose spec is new; tells whether any is."""
        stamped, dropped = (
            index.spec_files(self.store.root / "sweeps"),
            index.file_stamp(str(self.store.root / DROPPED)),
        )
        if [stamp for _, stamp in stamped] == list(self._specs) and dropped == self._dropped_stamp:
            return False
        known, self._specs = self._specs, {}
        self.dropped, self._dropped_stamp = dropped_runs(self.store.root), dropped
        for path, stamp in stamped:
            self._specs[stamp] = known[stamp] if stamp in known else _read_spec(self.store.root, path)
        self.sweeps = [
            (
                spec,
                {run.run_id: run for run in rooted(without_dropped(runs.values(), self.store.root), self.store.root)},
            )
            for spec, runs in filter(None, self._specs.values())
        ]
        self.own_flops = {run_id: run.own_flops for _, runs in self.sweeps for run_id, run in runs.items()}
        return True

    def _read_all(self) -> bool:
        table = load(self.store.root, unreadable=True)
        kept = table.loc[table["status"] != IMPORTED, list(_COLUMNS)].astype(object)
        before, self._all_at = self.rows, time.monotonic()
        rows = cast(list[Row], kept.where(kept.notna(), None).to_dict("records"))
        self.rows = {row["run_id"]: row for row in rows}
        self._stamps.clear()
        return self.rows != before

    def _read_run(self, run_id: str) -> bool:
        path = self.store.root / "runs" / run_id
        stamp = index.run_stamp(str(path))
        if stamp == self._stamps.get(run_id, ""):
            return False
        try:
            row = index.read_row(path)
        except SpecError as error:
            row = {"run_id": run_id, "status": UNREADABLE, "reason": str(error)}
        self.rows.pop(run_id, None)
        if row is not None:
            self.rows[run_id] = {name: row.get(name) for name in _COLUMNS}
        self._stamps[run_id] = stamp
        return True


def _read_spec(root: Path, path: Path) -> tuple[SweepSpec, dict[str, PlannedRun]] | None:
    """A spec and its runs; None where this version cannot read it."""
    try:
        spec = SweepSpec.model_validate_json(path.read_text())
        return spec, {run.run_id: run for run in all_runs(root, spec)}
    except (ValueError, OSError):
        return None
