"""Fits a run into memory: the same batch in smaller micro-batches, and in the end blocks computed again, more and more.

The gradient of a batch is the mean of those of its parts, so a run with half the micro-batch is the same run, but for
the order of its sums. Smaller parts cost little while one sequence fills a device; computing blocks twice costs up to a
third of all FLOPs, and comes last.
"""

from __future__ import annotations

import functools
import socket

import jax
import numpy as np
from jax.sharding import Mesh

from nextscale.model.accounting import steps_per_row
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import RunConfig
from nextscale.model.errors import InputError, TooLarge
from nextscale.model.network.kernels import RECOMPUTE, Recompute, recompute_of
from nextscale.model.network.sharding import Layout, mesh_of, rows_sharding
from nextscale.model.record import Row
from nextscale.model.training.step import MemorySaving, Program, program_of, state_shapes, train_steps


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA says that memory ran out, when it compiled a program or when it ran it."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def sequences_per_device(config: RunConfig, layout: Layout) -> int:
    """How many sequences of a batch each device has.

    Raises:
        InputError: they cannot be spread evenly.
    """
    if config.batch_sequences % layout.batch_shards:
        raise InputError(
            f"layout {layout} spreads a batch over data x fsdp = {layout.batch_shards} devices, but it has "
            f"{config.batch_sequences} sequences; take a divisor of that"
        )
    return config.batch_sequences // layout.batch_shards


def next_saving(config: RunConfig, layout: Layout, saving: MemorySaving) -> MemorySaving:
    """What to try where `saving` is too little: twice the micro-batches, or the next number that is even; then to
    compute more of the blocks again. A CPU's memory is the host's: nothing is moved there. What a module
    of one's own computes again is its own matter.

    Raises:
        TooLarge: that is done already.
    """
    own = sequences_per_device(config, layout)
    more = next((n for n in range(2 * saving.micro_batches, own + 1) if own % n == 0), None)
    if more is not None:
        return saving._replace(micro_batches=more)
    if isinstance(config.model, ModuleModel):
        known: tuple[Recompute, ...] = ("none",)
    else:
        known = RECOMPUTE[:-1] if jax.default_backend() == "cpu" else RECOMPUTE
    for recompute in known[RECOMPUTE.index(saving.recompute) + 1 :]:
        return saving._replace(recompute=recompute)
    raise TooLarge(
        f"one sequence of {config.model.context} tokens per device does not fit into memory; take a smaller model "
        f"or context, or split the weights over more devices than layout {layout} does"
    )


def bytes_needed(config: RunConfig, layout: Layout, saving: MemorySaving) -> int:
    """Bytes of each device that the steps of a run take, as XLA plans them: state, batches and all in between.

    Raises:
        InputError: XLA does not say.
    """
    return _planned(program_of(config, mesh_of(layout), saving), _batches(config))


def lowered_steps(config: RunConfig, mesh: Mesh | None, saving: MemorySaving) -> jax.stages.Lowered:
    """The steps of a run for the devices of a mesh, which need not be there, before XLA compiles them."""
    return _lowered(program_of(config, mesh, saving), _batches(config))


def _batches(config: RunConfig) -> tuple[int, int, int]:
    return steps_per_row(config), config.batch_sequences, config.model.context + 1


def _lowered(program: Program, batches: tuple[int, int, int]) -> jax.stages.Lowered:
    sharding = None if program.mesh is None else rows_sharding(program.mesh)
    batches_KxBxT1 = jax.ShapeDtypeStruct(batches, np.int32, sharding=sharding)
    schedule_K = jax.ShapeDtypeStruct(batches[:1], np.float32)
    numbers = jax.tree.unflatten(program.numbers, [np.float32(0)] * program.numbers.num_leaves)
    return train_steps(program).lower(state_shapes(program), batches_KxBxT1, schedule_K, batches[0], numbers)


@functools.lru_cache
def _planned(program: Program, batches: tuple[int, int, int]) -> int:
    if (plan := _lowered(program, batches).compile().memory_analysis()) is None:
        raise InputError(f"memory: {jax.default_backend()} does not say what a program needs; leave the limit out")
    return int(plan.argument_size_in_bytes + plan.temp_size_in_bytes)


def saving_within(config: RunConfig, layout: Layout, saving: MemorySaving, limit: int) -> MemorySaving:
    """The least saving, `saving` or more, with which the steps of a run keep to `limit` bytes of each device.

    Raises:
        InputError: none does.
    """
    while bytes_needed(config, layout, saving) > limit:
        saving = next_saving(config, layout, saving)
    return saving


def out_of_memory_note(config: RunConfig, layout: Layout, saving: MemorySaving) -> Row:
    """The note of an attempt that ended so, for `first_saving` of the next."""
    own = sequences_per_device(config, layout) // saving.micro_batches
    what = f"micro-batches of {own} sequence(s) per device" + (
        "" if saving.recompute == "none" else f", recompute {saving.recompute}"
    )
    return {
        "host": socket.gethostname(),
        "device": jax.devices()[0].device_kind,
        "layout": str(layout),
        "micro_batches": saving.micro_batches,
        "recompute": saving.recompute,
        "status": "lost",
        "message": f"memory ran out with {what}; less is next",
    }


def first_saving(config: RunConfig, layout: Layout, attempts: list[Row]) -> MemorySaving:
    """What to begin with: no saving, or what is left to try after attempts that ran out of memory.

    Raises:
        InputError: nothing is.
    """
    here = {"device": jax.devices()[0].device_kind, "layout": str(layout)}
    failed = [
        MemorySaving(row["micro_batches"], recompute_of(row.get("recompute", False)))
        for row in attempts
        if "micro_batches" in row and row | here == row
    ]
    sequences_per_device(config, layout)
    return next_saving(config, layout, max(failed, key=lambda saving: saving.rank)) if failed else MemorySaving()
