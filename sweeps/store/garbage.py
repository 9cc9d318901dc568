"""Garbage collection: checkpoints that nothing needs any more, and how much room they take.

Of a run that has its result nothing is needed but its trained model, if its sweep keeps those (`checkpoint.final`) or
it is of no sweep, the states that branches without a result begin from, and what trunks keep for longer runs, as the
newest sweep of a name has it (`training.keep_trunk`). Of a run without a result all is kept: it goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from nextscale.cluster.controller.lease import holder
from nextscale.model.config.run import Parent
from nextscale.sweeps.design.chosen_runs import all_runs
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.design.trunks import kept_trunks, rooted
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.index import spec_files
from nextscale.sweeps.store.store import Store, check_no_copy


@dataclasses.dataclass(frozen=True)
class Garbage:
    """What of a run can go.

    Attributes:
        checkpoints: folders; those named by a number are at that position, in tokens.
        bytes: that they hold together.
    """

    run_id: str
    checkpoints: tuple[Path, ...]
    bytes: int


@dataclasses.dataclass(frozen=True)
class KeptState:
    """What a trunk keeps for longer runs."""

    run_id: str
    tokens: int
    bytes: int


def kept_states(out: str | Path) -> list[KeptState]:
    """The states that trunks of a folder keep for longer runs.

    Raises:
        SpecError: see `garbage`.
    """
    store = Store.existing(out)
    found = []
    for run_id, positions in sorted(_kept_for_longer(_sweeps(store)).items()):
        for tokens in sorted(positions):
            if (path := Path(store.run(run_id).checkpoint(tokens))).exists():
                found.append(KeptState(run_id, tokens, _size(path)))
    return found


def garbage(out: str | Path, *, finals: bool = False) -> list[Garbage]:
    """The checkpoints of a folder that nothing needs, of each run that has some. Runs that are at work are left out.

    Args:
        finals: whether trained models can go too.

    Raises:
        SpecError: the folder holds no sweep, or what a spec there needs cannot be told.
    """
    store = Store.existing(out)
    alien = unreadable(store)
    needed, found = _needed(store, alien, finals=finals), []
    for run in sorted((store.root / "runs").iterdir()):
        if not (run / "record.json").exists() or holder(run) is not None or run.name in alien:
            continue
        kept = needed.get(run.name, set())
        every = _entries(run / "checkpoints")
        paths = [path for path in every if not path.name.isdecimal() or int(path.name) not in kept]
        if paths:
            found.append(Garbage(run.name, tuple(sorted(paths)), sum(map(_size, paths))))
    return found


def collect(out: str | Path, *, finals: bool = False) -> list[Garbage]:
    """Deletes what `garbage` finds; returns it.

    Each checkpoint is out of sight before it is gone: whoever looks for it finds it whole or not at all. A sweep that
    is begun meanwhile is noticed, and its branches find their states.

    Raises:
        SpecError: see `garbage`; or the folder is a copy of what lies in a bucket.
    """
    store = Store.existing(out)
    check_no_copy(store)
    specs, found = _specs(store), garbage(out, finals=finals)
    for i, one in enumerate(found):
        if _specs(store) != specs:
            return [*found[:i], *collect(out, finals=finals)]
        run = store.root / "runs" / one.run_id
        if not (run / "record.json").exists() or holder(run) is not None:
            continue
        for path in one.checkpoints:
            hidden = path.with_name(f".gone-{uuid.uuid4().hex[:8]}")
            with contextlib.suppress(FileNotFoundError):  # another was faster
                path.rename(hidden)
                shutil.rmtree(hidden)
    return found


def unreadable(store: Store) -> dict[str, SpecError]:
    """The runs whose config this version cannot read, and why: nothing of theirs is garbage."""
    found = {}
    for directory in (store.root / "runs").iterdir():
        try:
            store.config(directory.name)
        except SpecError as error:
            found[directory.name] = error
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found


def _needed(store: Store, alien: Mapping[str, SpecError], *, finals: bool) -> dict[str, set[int]]:
    """The positions that are needed of runs that have a result.

    Args:
        alien: runs that cannot be read.

    Raises:
        SpecError: one of those has no result, and does not say what it goes on from.
    """
    sweeps = _sweeps(store)
    needed = _kept_for_longer(sweeps)
    kept: set[str] = set()
    planned_ids: set[str] = set()
    for spec, planned in sweeps:
        for run in (*planned, *rooted(planned, store.root)):
            planned_ids.add(run.run_id)
            if spec.checkpoint.final:
                kept.add(run.run_id)
            for start in (run.start, run.config.parent):
                if start is not None and not _has_result(store, run.run_id):
                    needed.setdefault(start.run_id, set()).add(start.tokens)
    for run_id, error in alien.items():
        if not _has_result(store, run_id) and (parent := _parent(store, run_id, error)) is not None:
            needed.setdefault(parent.run_id, set()).add(parent.tokens)
    for directory in (store.root / "runs").iterdir():
        if directory.name in alien:
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            config = store.config(directory.name)
            if config.parent is not None and not _has_result(store, directory.name):
                needed.setdefault(config.parent.run_id, set()).add(config.parent.tokens)
            if not finals and (directory.name in kept or directory.name not in planned_ids):
                needed.setdefault(directory.name, set()).add(config.tokens)
    return needed


def _sweeps(store: Store) -> list[tuple[SweepSpec, list[PlannedRun]]]:
    """Each spec of a folder with its runs, the one that was run last the last.

    Raises:
        SpecError: one cannot be read.
    """
    found = []
    for path, _ in spec_files(store.root / "sweeps"):
        try:
            spec = SweepSpec.model_validate_json(path.read_text())
            found.append((spec, all_runs(store.root, spec)))
        except FileNotFoundError:
            continue
        except ValueError:
            raise SpecError(
                f"{path}: is no spec that this version can read, so what its runs need cannot be told; restore it, or "
                "move it away if they need nothing"
            ) from None
    return found


def _kept_for_longer(sweeps: list[tuple[SweepSpec, list[PlannedRun]]]) -> dict[str, set[int]]:
    """By run, the states that trunks keep for longer runs, as the newest spec of each name has it."""
    newest = {spec.name: kept_trunks(spec, planned) for spec, planned in sweeps}
    found: dict[str, set[int]] = {}
    for kept in newest.values():
        for run_id, tokens in kept.items():
            found.setdefault(run_id, set()).add(tokens)
    return found


def _parent(store: Store, run_id: str, error: SpecError) -> Parent | None:
    """What a run goes on from whose config another version wrote.

    Raises:
        SpecError: it does not say that.
    """
    try:
        parent = json.loads((store.root / "runs" / run_id / "config.json").read_bytes())["parent"]
        return None if parent is None else Parent.model_validate(parent)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        text = "as it has no result either, what it goes on from cannot be told, and nothing is freed"
        raise SpecError(f"{error}; {text}") from None


def _has_result(store: Store, run_id: str) -> bool:
    return (store.root / "runs" / run_id / "record.json").exists()


def _specs(store: Store) -> list[Path]:
    return sorted((store.root / "sweeps").glob("*.json"))


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    return sum(_sizes(str(folder)))


def _sizes(folder: str) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
            else:
                yield entry.stat(follow_symlinks=False).st_size
