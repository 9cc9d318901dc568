"""Checkpoints: saved and read by orbax, and checked by a digest of their bits.

Orbax finds a cut or missing file, but not a flipped byte inside an array: what is read back is compared with a
digest saved beside it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath

from nextscale.model.errors import CorruptCheckpoint, InputError, UnreadableCheckpoint, first_line
from nextscale.model.network.processes import barrier, of_first_process
from nextscale.model.network.sharding import scalar_sharding
from nextscale.model.record import pattern_in

PyTree = Any

preservation = ocp.training.preservation_policies

_log = logging.getLogger(__name__)

_SHARE = 0.05
"""Of the time, in which checkpoints are written, at the most."""
_PAUSES = (1.0, 5.0, 25.0)
"""Seconds before a checkpoint that cannot be read is read again: a file server that starts anew takes some."""
_PIECE_BYTES = 1 << 24
_SHOWN = 200
"""Characters of an error of orbax's, which goes on with all of its settings."""


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
    """When a run saves itself; none of it changes the run's numbers.

    Attributes:
        every_seconds: least time between two checkpoints; 0 saves as often as can be.
        keep: how many of the newest are kept.
        final: whether the trained model is kept too.
        pinned: positions, in tokens, at which it saves itself too, and that are kept whatever comes after.
    """

    every_seconds: float = 30.0
    keep: int = 2
    final: bool = True
    pinned: tuple[int, ...] = ()

    def interval(self, save_seconds: float) -> float:
        """Seconds between the beginnings of two checkpoints, where it takes so many to write one: a large state does
        not keep its disk, and those of others, busy for more than a small share of the time."""
        return self.every_seconds and max(self.every_seconds, save_seconds / _SHARE)


class Checkpoints:
    """The checkpoints of one run, by position in tokens. Saving is asynchronous; `close` waits for it.

    Raises:
        InputError: what is saved in that folder could not be read back.
    """

    def __init__(self, directory: epath.Path, policy: CheckpointPolicy):
        if (problem := pattern_in(directory)) is not None:
            raise InputError(f"{directory}: {problem}")
        self.directory = directory
        kept = [preservation.LatestN(policy.keep), preservation.CustomSteps(policy.pinned)]
        self._orbax = ocp.training.Checkpointer(
            directory.resolve(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=preservation.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )

    @property
    def saving(self) -> bool:
        """Whether one is being written."""
        return self._orbax.is_saving_in_progress()

    def save(self, position: int, state: PyTree) -> None:
        """Starts to save; returns when the arrays may be changed again.

        A state with a number that is none is not saved: nothing good can go on from it.
        """
        if not _is_finite(state):
            _log.warning("no checkpoint was saved at token %d: the state is not finite", position)
            return
        saving = self._orbax.save_async(position, {"state": state, "digest": _digest(state)}, overwrite=True)
        if saving is None:
            _log.warning("no checkpoint was saved at token %d: %s holds a newer one", position, self.directory)

    def restore(self, state: PyTree) -> tuple[int, PyTree] | None:
        """The newest checkpoint that reads back whole, as (position, state); None when there never was one.

        Newer ones that do not are put out of the way, since orbax saves nothing older than its newest: deleted where
        their digest proves them broken, else renamed.

        Args:
            state: arrays or shapes of what was saved.

        Raises:
            CorruptCheckpoint: there are checkpoints, but not one is whole.
            UnreadableCheckpoint: see `read_checkpoint`.
        """
        broken: list[_Broken] = []
        # Processes may see what was last written at different times.
        for position in of_first_process([checkpoint.step for checkpoint in reversed(self._orbax.checkpoints)]):
            try:
                saved = _read(self.directory / str(position), state)
            except _Broken as found:
                broken.append(found)
            else:
                self._put_away(broken)
                return position, saved
        if broken:
            raise CorruptCheckpoint(
                f"checkpoint {', '.join(str(one.checkpoint) for one in broken)} is corrupt and there is no older one "
                f"to resume from; delete {self.directory} to train this run again from its start"
            )
        return None

    def close(self) -> None:
        self._orbax.close()

    def _put_away(self, broken: list[_Broken]) -> None:
        for one in broken:
            _log.warning("checkpoint %s is corrupt (%s); the one before it is used", one.checkpoint, one)
            if jax.process_index() == 0:
                if one.proven:
                    one.checkpoint.rmtree()
                else:
                    one.checkpoint.rename(
                        one.checkpoint.with_name(f".unreadable-{one.checkpoint.name}-{time.time_ns()}")
                    )
        if broken:
            barrier("broken checkpoints are gone")
            self._orbax.reload()


class _Broken(Exception):
    """A checkpoint all of whose files can be read, and that does not hold what was saved.

    Attributes:
        proven: by the digest of what it holds.
    """

    def __init__(self, checkpoint: epath.Path, why: str, *, proven: bool = False):
        super().__init__(why)
        self.checkpoint, self.proven = checkpoint, proven


def read_checkpoint(checkpoint: epath.Path, state: PyTree) -> PyTree | None:
    """What a checkpoint holds, None where the first process does not see it, or it does not read back whole. It is left
    as it is: its run may be at work.

    Args:
        state: arrays or shapes of what was saved.

    Raises:
        UnreadableCheckpoint: a file of it cannot be read now.
    """
    if not any(of_first_process([checkpoint.exists()])):
        return None
    try:
        return _read(checkpoint, state)
    except _Broken as broken:
        _log.info("checkpoint %s: %s", checkpoint, broken)
        return None


def _read(checkpoint: epath.Path, state: PyTree) -> PyTree:
    """
    Raises:
        _Broken: it is not whole.
        UnreadableCheckpoint: a file of it cannot be read, now and a while later. Of several processes one that fails
            leaves the others waiting, so there it is raised whatever orbax trips over, and ends the attempt of all.
    """
    digest = jax.ShapeDtypeStruct((), jnp.uint32, sharding=scalar_sharding(jax.tree.leaves(state)[0]))
    wanted = {"state": jax.tree.map(_abstract, state), "digest": digest}
    together, seen_broken = jax.process_count() > 1, False
    for pause in (*_PAUSES, None):
        try:
            saved = ocp.load(checkpoint.resolve(), wanted)
        except Exception as error:
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                raise
            unreadable = error if together else _unreadable(checkpoint)
            broken = _Broken(checkpoint, first_line(error.__cause__ or error)[:_SHOWN])
        else:
            if saved["digest"] == _digest(saved["state"]):
                return saved["state"]
            unreadable, broken = None, _Broken(checkpoint, "its digest differs", proven=True)
        # All is read twice before anything is called broken: what failed once may have been on its way here.
        if unreadable is None and seen_broken:
            raise broken
        if pause is None or (together and unreadable is not None):
            break
        seen_broken = unreadable is None
        time.sleep(pause)
    why = first_line(unreadable or broken)[:_SHOWN]
    raise UnreadableCheckpoint(
        f"checkpoint {checkpoint} cannot be read now, and stays as it is ({why}); if it is lost for good, delete it: "
        "the run goes on from the one before"
    )


def _unreadable(folder: epath.Path) -> OSError | None:
    """Why not all files in a folder can be read, whatever they hold."""
    try:
        for entry in folder.iterdir():
            if entry.is_dir():
                if (error := _unreadable(entry)) is not None:
                    return error
                continue
            with entry.open("rb") as content:
                while content.read(_PIECE_BYTES):
                    pass
    except OSError as error:
        return error
    return None


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


@jax.jit
def _is_finite(state: PyTree) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


@jax.jit
def _digest(state: PyTree) -> jax.Array:
    """Sum of all bits as words of each array's own size, modulo 2^32: any one changed word changes it."""
    return sum((jnp.sum(_words(leaf), dtype=jnp.uint32) for leaf in jax.tree.leaves(state)), jnp.uint32(0))


def _words(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        return leaf
    return jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
