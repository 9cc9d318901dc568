"""Checkpoints: saved and read by orbax, and checked by a digest of their bits.

Orbax finds a cut or missing file, but not a flipped byte inside an array: what is read back is compared with a
digest saved beside it.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath

from nextscale.model.errors import CorruptCheckpoint, InputError
from nextscale.model.network.processes import barrier
from nextscale.model.network.sharding import scalar_sharding
from nextscale.model.record import pattern_in

PyTree = Any

preservation = ocp.training.preservation_policies

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
    """When a run saves itself; none of it changes the run's numbers.

    Attributes:
        every_seconds: least time between two checkpoints.
        keep: how many of the newest are kept.
        final: whether the trained model is kept too.
        pinned: positions, in tokens, at which it saves itself too, and that are kept whatever comes after.
    """

    every_seconds: float = 30.0
    keep: int = 2
    final: bool = True
    pinned: tuple[int, ...] = ()


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

        Newer ones that do not are deleted: orbax saves nothing older than its newest.

        Args:
            state: arrays or shapes of what was saved.

        Raises:
            CorruptCheckpoint: there are checkpoints, but not one is whole.
        """
        broken: list[epath.Path] = []
        for checkpoint in reversed(self._orbax.checkpoints):
            saved = read_checkpoint(self.directory / str(checkpoint.step), state)
            if saved is not None:
                self._delete(broken)
                return checkpoint.step, saved
            broken.append(self.directory / str(checkpoint.step))
        if broken:
            raise CorruptCheckpoint(
                f"checkpoint {', '.join(map(str, broken))} is corrupt and there is no older one to resume from; "
                f"delete {self.directory} to train this run again from its start"
            )
        return None

    def close(self) -> None:
        self._orbax.close()

    def _delete(self, broken: list[epath.Path]) -> None:
        for checkpoint in broken:
            _log.warning("checkpoint %s is corrupt; the one before it is used", checkpoint)
            if jax.process_index() == 0:
                checkpoint.rmtree()
        if broken:
            barrier("broken checkpoints are gone")
            self._orbax.reload()


def read_checkpoint(checkpoint: epath.Path, state: PyTree) -> PyTree | None:
    """What a checkpoint holds, None where it does not read back whole. Nothing beside it is touched: its run may be at
    work.

    Args:
        state: arrays or shapes of what was saved.
    """
    digest = jax.ShapeDtypeStruct((), jnp.uint32, sharding=scalar_sharding(jax.tree.leaves(state)[0]))
    wanted = {"state": jax.tree.map(_abstract, state), "digest": digest}
    try:
        saved = ocp.load(checkpoint.resolve(), wanted)
        return saved["state"] if saved["digest"] == _digest(saved["state"]) else None
    except Exception as error:  # whatever orbax trips over, it is this checkpoint that is unusable
        _log.info("checkpoint %s: %s", checkpoint, error)
        return None


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


@jax.jit
def _is_finite(state: PyTree) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()


@jax.jit
def _digest(state: PyTree) -> jax.Array:
    """Sum of all bits as 32-bit words, modulo 2^32: any one changed word changes it."""
    words = [jax.lax.bitcast_convert_type(leaf, jnp.uint32) for leaf in jax.tree.leaves(state)]
    return sum((jnp.sum(word, dtype=jnp.uint32) for word in words), jnp.uint32(0))
