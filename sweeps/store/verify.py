"""Verifies an output folder: records against configs, curves and checkpoints, the ledger against the records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from etils import epath

from nextscale.model.record import Row, RunDirectory, read_lines, read_rows
from nextscale.sweeps.design.chosen_runs import SEQUENCE
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Ledger, score_of
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.faults import Fault, fault_of
from nextscale.sweeps.store.imported_runs import imported_rows
from nextscale.sweeps.store.store import Store
from nextscale.sweeps.store.verify_accounts import account_faults
from nextscale.sweeps.store.verify_runs import data_faults, run_faults, unit_faults

_CHOSEN = {"run_id", "budget", "seed"}


def verify(out: str | Path, *, deep: bool = False) -> tuple[int, list[Fault]]:
    """How many runs there are, and what is wrong with them, with the ledger, the accounts, the specs, the choices and
    the imports of a folder.

    Runs that are being trained are looked at no further than their config.

    Args:
        deep: whether each checkpoint is restored too, else its metadata is read; and whether token files are read.

    Raises:
        SpecError: the folder holds no sweep.
    """
    store = Store.existing(out)
    directories = sorted(path for path in (store.root / "runs").iterdir() if path.is_dir())
    runs = [RunDirectory(epath.Path(directory)) for directory in directories]
    faults: list[Fault] = []
    for run in runs:
        try:
            faults += run_faults(run, deep=deep)
        except FileNotFoundError:  # deleted meanwhile
            continue
    faults += data_faults(runs) if deep else ()
    faults += [*unit_faults(runs), *_of_ledger(store), *account_faults(store.root, runs), *_of_specs(store.root)]
    return len(directories), [*faults, *_of_choices(store.root), *_of_imports(store.root)]


def _of_ledger(store: Store) -> Iterator[Fault]:
    path = store.root / "ledger.jsonl"
    try:
        entries = Ledger(path).entries()
    except SpecError as error:
        yield fault_of(error)
        return
    forecasts = {entry["hash"]: entry for entry in entries if entry["kind"] == "forecast"}
    mend = "see which of the two is right; a score is never rewritten"
    for entry in entries:
        if entry["kind"] != "score":
            continue
        where = f"{path}: entry {entry['hash']}"
        if entry["forecast"] not in forecasts:
            yield Fault(where, f"scores forecast {entry['forecast']}, which is not there", "restore it from a copy")
            continue
        for target, score in zip(forecasts[entry["forecast"]]["targets"], entry["targets"], strict=True):
            again = score_of(target, score["measured"])
            if any(score[name] != again[name] for name in again):
                yield Fault(where, f"its score of run {score['run_id']} does not follow from the forecast", mend)
            record = None if score.get("by_hand") else _record(store, score["run_id"])
            earlier = [run.record() or {} for run in store.set_aside(score["run_id"])] if record is not None else []
            if record is not None and all(one.get("loss") != score["measured"] for one in (record, *earlier)):
                what = f"measured {score['measured']} of run {score['run_id']}, whose record says {record.get('loss')}"
                yield Fault(where, what, mend)


def _record(store: Store, run_id: str) -> Row | None:
    try:
        return store.record(run_id)
    except SpecError:  # told of the run already
        return None


def _of_choices(root: Path) -> Iterator[Fault]:
    path = root / SEQUENCE
    lines = [line for line in read_lines(epath.Path(path)) if not line.startswith("{")]  # what does was cut short
    rows = [row for row in read_rows(epath.Path(path)) if "ended" not in row and not _is_choice(row)]
    if strange := len(lines) + len(rows):
        yield Fault(str(path), f"{strange} of its lines are no choices", "restore it from a copy, or take them out")


def _is_choice(row: Row) -> bool:
    return row.keys() >= _CHOSEN and ("width" in row or "size" in row)


def _of_imports(root: Path) -> Iterator[Fault]:
    try:
        imported_rows(root)
    except SpecError as error:
        yield fault_of(error)


def _of_specs(root: Path) -> Iterator[Fault]:
    for path in sorted((root / "sweeps").glob("*.json")):
        try:
            SweepSpec.model_validate_json(path.read_text())
        except FileNotFoundError:
            continue
        except ValueError:
            yield Fault(
                str(path),
                "is no spec that this version can read",
                "read it with the version that wrote it, or move it away",
            )
