"""What a person decides of the runs of a finished or stopped sweep: one is done again, another is not to be trained.

Nothing is lost, and nothing that was foretold is rewritten. What a run was moves to `OUT/set-aside/<run_id>-<n>/`; a
score in the ledger stands by the loss of then; and no forecast made after that loss was known counts as one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.lease import Lease, LeaseHeld, holder
from nextscale.model.record import append_row
from nextscale.model.storage.sweep_copy import told
from nextscale.sweeps.design.chosen_runs import DROPPED, all_runs, dropped_runs
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.run.journal import Journal
from nextscale.sweeps.spec.designs import SequentialDesign
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.index import read_row
from nextscale.sweeps.store.store import SET_ASIDE, Store, check_no_copy
from nextscale.sweeps.watch.controller import controller_of

_SHOWN = 5
"""Runs that a message names, at the most."""
_DONE_AGAIN = ("done", "diverged", "failed")
"""What a run may be that is done again; of one that is none of these `nextscale run` trains the rest."""


@dataclasses.dataclass(frozen=True)
class SetAside:
    """A run that is to be done again.

    Attributes:
        was: its status until now.
        kept: the folder that it is in now.
        scored: the hashes of the forecasts that were scored by it.
    """

    run_id: str
    was: str
    kept: str
    scored: tuple[str, ...]


def rerun(out: str | Path, names: Sequence[str]) -> list[SetAside]:
    """Sets runs aside, so that `nextscale run` trains them from their beginning.

    Args:
        names: run_ids, or how they begin.

    Raises:
        SpecError: a run is not known, or neither done nor failed; or something is at work in the folder. Then nothing
            has been set aside.
    """
    store = Store.existing(out)
    with _alone(store):
        scores = [entry for entry in Ledger(store.root / "ledger.jsonl").entries() if entry["kind"] == "score"]
        found = []
        for run_id in _named(names, {path.name for path in (store.root / "runs").iterdir()}, store):
            row = read_row(store.root / "runs" / run_id)
            if row is None or row["status"] not in _DONE_AGAIN:
                raise SpecError(f"run {run_id}: is not finished and did not fail; `nextscale run` goes on with it")
            _check_idle(store, run_id)
            free = (store.root / SET_ASIDE / f"{run_id}-{n}" for n in itertools.count(1))
            kept = next(path for path in free if not path.exists())
            scored = [
                score["forecast"] for score in scores if run_id in [target["run_id"] for target in score["targets"]]
            ]
            place = f"{told(store.root)}/{kept.relative_to(store.root)}"
            found.append((kept, SetAside(run_id, row["status"], place, tuple(scored))))
        for kept, one in found:
            kept.parent.mkdir(exist_ok=True)
            (store.root / "runs" / one.run_id).rename(kept)
            _note(store, f"run {one.run_id} ({one.was}) is to be done again; it is kept in {one.kept}")
    return [one for _, one in found]


def drop(out: str | Path, names: Sequence[str], reason: str | None = None) -> list[str]:
    """Takes runs that have no result from what is to be trained; returns their run_ids.

    Args:
        names: run_ids, or how they begin.

    Raises:
        SpecError: a run is of no sweep, has a result, or is needed: it was foretold, a sequence chose it, or it is the
            last of its role; or something is at work in the folder. Then nothing has been dropped.
    """
    store = Store.existing(out)
    with _alone(store):
        sweeps = [(spec, all_runs(store.root, spec)) for spec in store.specs()]
        runs = {run.run_id: run for _, planned in sweeps for run in planned}
        chosen = list(_named(names, runs, store))
        for run_id in chosen:
            if store.record(run_id) is not None:
                raise SpecError(f"run {run_id}: has its result, and nothing is left to be trained of it")
            _check_idle(store, run_id)
        _check_not_needed(store, sweeps, {*chosen, *dropped_runs(store.root)})
        for run_id in chosen:
            run = runs[run_id]
            told = {"params": run.params, "tokens": run.tokens, "flops": run.flops, "reason": reason}
            append_row(epath.Path(store.root / DROPPED), _row(run_id, dropped=True) | told)
            _note(store, f"run {run_id} is dropped" + (f": {reason}" if reason else ""))
    return chosen


def take_back(out: str | Path, names: Sequence[str]) -> list[str]:
    """Lets runs that were dropped be trained after all; returns their run_ids.

    Raises:
        SpecError: a run is not dropped, or something is at work in the folder. Then none is let.
    """
    store = Store.existing(out)
    with _alone(store):
        chosen = list(_named(names, dropped_runs(store.root), store, "is dropped"))
        for run_id in chosen:
            append_row(epath.Path(store.root / DROPPED), _row(run_id, dropped=False))
            _note(store, f"run {run_id} is dropped no more")
    return chosen


def _row(run_id: str, *, dropped: bool) -> dict[str, Any]:
    return {"run_id": run_id, "dropped": dropped, "time": time.time()}


def _named(names: Sequence[str], known: Collection[str], store: Store, what: str = "is there") -> Iterator[str]:
    """The runs that are meant, each once.

    Raises:
        SpecError: a name fits none of the known, or several.
    """
    meant = dict[str, None]()
    for name in names:
        found = [name] if name in known else sorted(run_id for run_id in known if name and run_id.startswith(name))
        if not found:
            raise SpecError(f"run {name}: none of {store.root} {what} under this name; see `nextscale runs`")
        if len(found) > 1:
            shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
            raise SpecError(f"run {name}: {len(found)} runs begin so ({shown}); give more of it")
        meant[found[0]] = None
    return iter(meant)


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    """While nobody else decides of the runs of a folder, or trains them.

    Raises:
        SpecError: a controller is at work there, or it is a copy of what lies in a bucket.
    """
    check_no_copy(store)
    refusal = SpecError(f"{store.root}: a controller is at work there; `nextscale stop` it, and ask again")
    if controller_of(store.root).state == "at work":
        raise refusal
    folder = store.root / "controller"
    try:
        lease = Lease(folder, silent=holder(folder))
    except LeaseHeld:
        raise refusal from None
    with lease:
        yield


def _check_idle(store: Store, run_id: str) -> None:
    """
    Raises:
        SpecError: a worker may be at work on a run, or what it did last is not booked yet.
    """
    if holder(store.root / "runs" / run_id) is not None:
        raise SpecError(f"run {run_id}: a worker may be at work on it; wait until it is done or dead, and ask again")
    if any(one.run_id == run_id for one in Accounts(store.root / "accounts.jsonl").open.values()):
        raise SpecError(f"run {run_id}: an attempt at it was never settled; `nextscale run` does that, then ask again")


def _check_not_needed(store: Store, sweeps: list[tuple[SweepSpec, list[PlannedRun]]], dropped: set[str]) -> None:
    """
    Raises:
        SpecError: what is dropped is needed.
    """
    forecasts = [entry for entry in Ledger(store.root / "ledger.jsonl").entries() if entry["kind"] == "forecast"]
    for entry in forecasts:
        for target in entry["targets"]:
            if target["run_id"] in dropped:
                text = f"forecast {entry['hash']} is of it, and is scored by all runs that it names"
                raise SpecError(f"run {target['run_id']}: {text}; train it")
    for spec, planned in sweeps:
        if isinstance(spec.design, SequentialDesign) and (
            own := sorted(run.run_id for run in planned if run.run_id in dropped and run.role == "fit")
        ):
            text = f"sweep {spec.name} chooses its runs one after another, and would choose it again"
            raise SpecError(f"run {own[0]}: {text}; give its design less flops, or a wider goal")
        for role in sorted({run.role for run in planned}):
            own = [run.run_id for run in planned if run.role == role]
            if dropped.issuperset(own):
                text = f"sweep {spec.name} would have no run to {'fit' if role == 'fit' else 'forecast'} left"
                raise SpecError(f"run {own[0]}: {text}; change its spec instead")


def _note(store: Store, text: str) -> None:
    Journal(store.root).note(Event("notice", message=text))
