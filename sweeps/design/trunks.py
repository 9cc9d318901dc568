"""The state that each run of an output folder begins from: its trunk's, one that a finished run kept, or none."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from etils import epath

from nextscale.model.config.run import Parent, RunConfig
from nextscale.model.record import RunDirectory
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.spec.sweep_spec import SweepSpec, SweepTraining


def kept_trunks(spec: SweepSpec, planned: Iterable[PlannedRun]) -> dict[str, int]:
    """The runs of a sweep that keep the state before their own cooldown, and its position: those that are no branch.

    Args:
        planned: the runs as the spec has them.
    """
    if not (isinstance(spec.training, SweepTraining) and spec.training.keep_trunk):
        return {}
    alone = (run.config for run in planned if run.trunk is None)
    return {
        config.run_id: config.stable_tokens
        for config in alone
        if isinstance(config, RunConfig) and config.stable_tokens
    }


def rooted(planned: Iterable[PlannedRun], root: Path) -> list[PlannedRun]:
    """The same runs as an output folder leaves them to be trained, each from the furthest state that it can begin from.

    A branch whose trunk is done, and its state gone, is trained from another run's state or from its first token. A
    run that is longer than a finished one of its width goes on from the state which that one kept (`kept_trunks`). One
    that is done stands as it was trained, as far as its attempts say.

    Args:
        planned: the runs of one sweep as its spec has them.
    """
    planned = list(planned)
    finished, found = _Finished(root), dict[str, PlannedRun]()
    for run in sorted(planned, key=lambda run: run.trunk is not None):  # trunks first
        found[run.run_id] = _rooted(run, root, finished, found)
    for run in [run for run in found.values() if run.is_longer]:
        trunk = found.get(run.start.run_id) if run.start is not None else None
        if trunk is not None and trunk.trunk == run.config:  # it was trained before there was a longer one
            found[trunk.run_id] = _with_trunk(trunk, None)
    return [found[run.run_id] for run in planned]


def without_states(planned: Sequence[PlannedRun], root: Path) -> dict[str, str]:
    """The runs that are to be trained from their first token though they are a finished run up to its cooldown, each
    with that run: it kept no state."""
    finished = _Finished(root)
    found = {}
    for run in planned:
        config = run.config
        if run.trunk is not None or not isinstance(config, RunConfig) or not config.stable_tokens:
            continue
        if not _directory(root, config.run_id).started:
            before = max(finished.like(config), key=lambda other: other.tokens, default=None)
            if before is not None:
                found[config.run_id] = before.run_id
    return found


def _rooted(run: PlannedRun, root: Path, finished: _Finished, trunks: Mapping[str, PlannedRun]) -> PlannedRun:
    if not isinstance(run.config, RunConfig) or not run.config.stable_tokens:
        return run
    own = _directory(root, run.run_id)
    if own.done:
        return _as_begun(run, own)
    if _will_be_there(run, root, own, trunks):
        return run
    saved = max(own.checkpoint_positions, default=0)
    found = _with_trunk(run, finished.furthest(run.config))
    if not saved or saved >= found.branches_at > 0:
        return found
    begun = _as_begun(_with_trunk(run, None), own)
    return begun if saved >= begun.branches_at else _with_trunk(run, None)


def _will_be_there(run: PlannedRun, root: Path, own: RunDirectory, trunks: Mapping[str, PlannedRun]) -> bool:
    """Whether a branch may begin from the state of its trunk, or has begun."""
    if run.trunk is None:
        return False
    trunk, at = _directory(root, run.trunk.run_id), run.branches_at
    if trunk.checkpoint(at).exists() or any(position >= at for position in own.checkpoint_positions):
        return True
    planned = trunks.get(run.trunk.run_id)
    return planned is not None and not trunk.done and planned.branches_at < at


def _with_trunk(run: PlannedRun, trunk: RunConfig | None) -> PlannedRun:
    return dataclasses.replace(run, trunk=trunk)


def _as_begun(run: PlannedRun, own: RunDirectory) -> PlannedRun:
    """A run with the trunk that it was begun from, by its newest attempt that says so."""
    starts = [row["start"] for row in own.attempts() if "start" in row]
    if not starts or starts[-1] is None:
        return _with_trunk(run, None) if starts else run
    try:
        trunk = own.sibling(Parent.model_validate(starts[-1]).run_id).config()
        return _with_trunk(run, trunk) if isinstance(trunk, RunConfig) else run
    except (ValueError, OSError):  # that run was deleted since
        return run


class _Finished:
    """The finished wsd runs of an output folder."""

    def __init__(self, root: Path):
        self._root = root

    def like(self, config: RunConfig) -> list[RunConfig]:
        """Those that are the same run up to a cooldown."""
        return self._by_phase.get(config.stable_phase or "", [])

    def furthest(self, config: RunConfig) -> RunConfig | None:
        """The one with the furthest state that a run may begin from: before its own cooldown, or that one's."""
        at = {other.run_id: min(config.stable_tokens, other.stable_tokens) for other in self.like(config)}
        there = [
            other
            for other in self.like(config)
            if at[other.run_id] and _directory(self._root, other.run_id).checkpoint(at[other.run_id]).exists()
        ]
        return max(there, key=lambda other: at[other.run_id], default=None)

    @functools.cached_property
    def _by_phase(self) -> dict[str, list[RunConfig]]:
        found: dict[str, list[RunConfig]] = {}
        for record in sorted((self._root / "runs").glob("*/record.json")):
            try:
                told = json.loads((record.parent / "config.json").read_bytes())
                if told["training"]["schedule"] != "wsd":
                    continue
                config = RunConfig.model_validate(told)
            except (OSError, ValueError, KeyError, TypeError):  # none that this version can go on from
                continue
            if config.run_id == record.parent.name:
                found.setdefault(config.stable_phase or "", []).append(config)
        return found


def _directory(root: Path, run_id: str) -> RunDirectory:
    return RunDirectory(epath.Path(root / "runs" / run_id))
