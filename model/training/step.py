"""The compiled programs of a run: its initial state, and its training steps.

A program is known by what XLA must know, the shapes and where they lie. Every number that a sweep varies is passed in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from nextscale.model.accounting import flops_per_step, steps_per_row
from nextscale.model.config.code import Function, is_target
from nextscale.model.config.initial import Initial
from nextscale.model.config.module import ModuleNetwork
from nextscale.model.config.run import Network, RunConfig
from nextscale.model.config.training import OptimizerName
from nextscale.model.errors import InputError
from nextscale.model.network.experts import Routing, with_balance
from nextscale.model.network.initial import rescaled
from nextscale.model.network.kernels import RECOMPUTE, Recompute
from nextscale.model.network.loss import batch_loss, is_scored
from nextscale.model.network.modules import groups_of, in_float32, initial_params, kept_in, model_of
from nextscale.model.network.sharding import AnyMesh, replicated, rows_sharding, shardings
from nextscale.model.training import spikes, tally
from nextscale.model.training.optimizer import Hyperparameters, hyperparameters, optimizer, taken_by

PyTree = Any
Array = Any
"""Of numpy or JAX; or, in place of one, its sharding or the axis along which it is mapped."""

_CALL_FLOPS, _CALL_ROWS = 1e13, 16
"""Of an accelerator: some hundredths of a second, and never so many steps that progress cannot be seen."""


class MemorySaving(NamedTuple):
    """What is done to need less memory; it changes a run's numbers by the order of their sums at most.

    Attributes:
        micro_batches: in which each batch is trained, one after the other.
        recompute: what of a block is computed again for the gradient.
    """

    micro_batches: int = 1
    recompute: Recompute = "none"

    @property
    def rank(self) -> tuple[int, int]:
        """The higher, the less memory it needs, of those that are tried one after the other."""
        return self.micro_batches, RECOMPUTE.index(self.recompute)


NO_SAVING = MemorySaving()


class Program(NamedTuple):
    """What is compiled into the steps of a run; all else is passed in.

    Attributes:
        numbers: the tree that the hyperparameters passed in are shaped as.
        mesh: None for one device.
        memory_saving: what is done to need less memory.
        loss: what training lowers; None for cross-entropy.
        init: of the first weights.
        param_dtype: in which weights are kept.
    """

    model: Network | ModuleNetwork
    dtype: str
    optimizer: OptimizerName | Function
    numbers: jax.tree_util.PyTreeDef
    mesh: Mesh | None = None
    memory_saving: MemorySaving = NO_SAVING
    loss: Function | None = None
    init: Initial | None = None
    param_dtype: str = "float32"


class Inputs(NamedTuple):
    """The inputs of the steps of a call, M stretches of up to K of them.

    Attributes:
        batches: M·K x B x (T+1).
        schedule: learning rate / peak, M·K.
        steps: of each stretch, M.
        completes_row: whether each ends a row of the curve, M.
    """

    batches: Array
    schedule: Array
    steps: Array
    completes_row: Array


class Call(NamedTuple):
    """A compiled call: a program, and what it is given."""

    program: Program
    state: PyTree
    inputs: Inputs
    numbers: Hyperparameters


Found = tuple[jax.Array, Routing | None]
"""The loss of a batch, and where its tokens were routed if they were."""
CallResult = tuple[PyTree, tally.Tally]
"""The state after a call, and `sums` of the row of the curve after each stretch, M."""


def execute(call: Call) -> CallResult:
    """Makes a call. The state before is given away; in the one after, the sums begin anew where a row is complete."""
    inputs, program = call.inputs, call.program
    if len(inputs.steps) > 1:
        return train_stretches(program)(call.state, inputs, call.numbers)
    state = train_steps(program)(call.state, inputs.batches, inputs.schedule, int(inputs.steps[0]), call.numbers)
    return (state | {"sums": zero_sums(program)} if inputs.completes_row[0] else state), state["sums"]


def program_of(config: RunConfig, mesh: Mesh | None = None, saving: MemorySaving = NO_SAVING) -> Program:
    """The program that a run is trained by."""
    training = config.training
    return Program(
        config.network,
        training.dtype,
        _optimizer(config),
        jax.tree.structure(numbers_of(config)),
        mesh,
        saving,
        None if training.loss is None else config.function(training.loss),
        training.init,
        training.param_dtype,
    )


def _optimizer(config: RunConfig) -> OptimizerName | Function:
    """
    Raises:
        InputError: it would leave out a weight decay that is asked for.
    """
    name, decay = config.training.optimizer, config.training.weight_decay
    if not is_target(name):
        return cast(OptimizerName, name)
    own = config.function(name)
    if decay and "weight_decay" not in taken_by(own):
        raise InputError(f"training.weight_decay {decay}: {name} takes none; let it, by that name, or leave it out")
    return own


def numbers_of(config: RunConfig) -> Hyperparameters:
    """The hyperparameters of a run, which are passed to its program."""
    groups = groups_of(config.network, config.training.dtype)
    return hyperparameters(config.training, groups=groups, size=config.training.size_of(config.model))


def stretches_per_call(config: RunConfig) -> int:
    """How many rows of the curve one compiled call is of, M.

    What takes a CPU core a second takes an accelerator less time than it takes to ask for it.
    """
    if jax.default_backend() == "cpu":
        return 1
    return int(np.clip(_CALL_FLOPS / (steps_per_row(config) * flops_per_step(config)), 1, _CALL_ROWS))


def zero_sums(program: Program) -> tally.Tally:
    """Zeros for `sums` of a state (see `train_steps`)."""
    empty = tally.empty(skips=_skips(program), routes=program.model.experts > 1)
    if program.mesh is None:
        return empty
    zero, same = np.float32(0), replicated(program.mesh)
    return {name: jax.make_array_from_callback((), same, lambda _: zero) for name in empty}


def _skips(program: Program) -> bool:
    """Whether steps may be skipped."""
    numbers = jax.tree.unflatten(program.numbers, range(program.numbers.num_leaves))
    return numbers.skip_spikes is not None


@functools.lru_cache
def state_shapes(program: Program) -> PyTree:
    """Shape, dtype and sharding of each array of a state."""
    groups = groups_of(program.model, program.dtype)
    numbers = jax.tree.unflatten(program.numbers, [np.float32(0)] * program.numbers.num_leaves)
    shapes = jax.eval_shape(_initial_state_anywhere(program), jax.random.key(0), numbers)
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings(program.mesh, groups, shapes),
    )


@functools.lru_cache
def initial_state(program: Program) -> Callable[[jax.Array, Hyperparameters], PyTree]:
    """Gives the first state of a run from a random key and its numbers. The same for every mesh."""
    if program.mesh is None:
        return _initial_state_anywhere(program)
    start, same = functools.partial(_initial_state, program), replicated(program.mesh)
    return jax.jit(start, in_shardings=same, out_shardings=_state_shardings(program))


@functools.lru_cache
def train_steps(program: Program) -> jax.stages.Wrapped:
    """Gives the state after the first `steps` of K batches, one optimiser step each.

    Args of what is returned:
        state: parameters, moments of the optimiser, and `sums` over the steps so far (see `tally.py`); where steps may
            be skipped, also the `usual` gradient norm (see `spikes.py`). Its buffers are given away.
        batches: K x B x (T+1).
        unit_schedule: K.
        steps: at most K.
        numbers: of the run.
    """
    steps = functools.partial(_train_steps, program)
    if program.mesh is None:
        return jax.jit(steps, donate_argnums=0)
    state, same = _state_shardings(program), replicated(program.mesh)
    return jax.jit(
        steps,
        donate_argnums=0,
        in_shardings=(state, rows_sharding(program.mesh), same, same, same),
        out_shardings=state,
    )


@functools.lru_cache
def train_stretches(program: Program) -> jax.stages.Wrapped:
    """`train_steps` of several stretches, one after the other: gives what `execute` does."""
    stretches = functools.partial(_train_stretches, program)
    if program.mesh is None:
        return jax.jit(stretches, donate_argnums=0)
    state, same = _state_shardings(program), replicated(program.mesh)
    inputs = Inputs(rows_sharding(program.mesh), same, same, same)
    return jax.jit(stretches, donate_argnums=0, in_shardings=(state, inputs, same), out_shardings=(state, same))


@functools.lru_cache
def train_packed(program: Program) -> jax.stages.Wrapped:
    """`train_stretches` of several runs at once: all but `steps` and `completes_row` has one more axis, the runs, in
    front."""
    stretches = functools.partial(_train_stretches, program)
    return jax.jit(jax.vmap(stretches, in_axes=(0, Inputs(0, 0, None, None), 0)), donate_argnums=0)


def _state_shardings(program: Program) -> PyTree:
    return jax.tree.map(lambda shape: shape.sharding, state_shapes(program))


@functools.lru_cache
def _initial_state_anywhere(program: Program) -> Callable[[jax.Array, Hyperparameters], PyTree]:
    return jax.jit(functools.partial(_initial_state, program))


def _initial_state(program: Program, key: jax.Array, numbers: Hyperparameters) -> PyTree:
    model, dtype = program.model, program.dtype
    params, groups = initial_params(model, dtype, nnx.Rngs(key)), groups_of(model, dtype)
    if program.init is not None:
        params = rescaled(program.init, params, groups, model.depth, key)
    moments = optimizer(program.optimizer, groups, numbers, 0.0).init(params)
    skips = numbers.skip_spikes is not None
    kept = kept_in(program.param_dtype, groups, params)
    state = {"params": kept, "optimizer": moments, "sums": tally.empty(skips=skips, routes=model.experts > 1)}
    return state | ({"usual": spikes.initial_average()} if skips else {})


def _train_stretches(
    program: Program, state: PyTree, inputs: Inputs, numbers: Hyperparameters
) -> tuple[PyTree, tally.Tally]:
    M = len(inputs.steps)

    def stretch(state: PyTree, now: Inputs) -> tuple[PyTree, tally.Tally]:
        state = _train_steps(program, state, now.batches, now.schedule, now.steps, numbers)
        sums = state["sums"]
        return state | {"sums": jax.tree.map(lambda total: jnp.where(now.completes_row, 0, total), sums)}, sums

    batches, schedule = (x.reshape(M, -1, *x.shape[1:]) for x in (inputs.batches, inputs.schedule))
    return jax.lax.scan(stretch, state, inputs._replace(batches=batches, schedule=schedule))


def gradient_of(program: Program, params: PyTree, batch_BxT1: jax.Array) -> tuple[PyTree, Found]:
    """The gradient of a batch; in micro-batches, the mean of theirs.

    Devices along `data` each sum up those of their own, and sum up over one another once, after all: left to XLA, they
    do so in each micro-batch.
    """
    mesh, M = program.mesh, program.memory_saving.micro_batches
    if M == 1:
        return _gradient(program, mesh, params, batch_BxT1)
    counts_BxT = is_scored(program.model, batch_BxT1[:, :-1])
    scored = None if counts_BxT is None else counts_BxT.astype(jnp.float32).mean()
    if mesh is None or (ways := mesh.shape["data"]) == 1:
        ways, total = 1, _summed(program, mesh, params, batch_BxT1, scored)
    else:

        def own(*given: Any) -> tuple[PyTree, Found]:
            return jax.lax.psum(_summed(program, jax.sharding.get_abstract_mesh(), *given), "data")

        specs = P(), P("data"), P()
        spread = jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=P(), axis_names={"data"}, check_vma=False)
        total = spread(params, batch_BxT1, scored)
    gradient, (loss, routing) = jax.tree.map(lambda total: total / (M * ways), total)
    summed = total[1][1]
    if routing is not None and summed is not None:  # loads stay whole numbers: what is even is so exactly
        routing = routing._replace(load_E=summed.load_E)
    return gradient, (loss, routing)


def _summed(
    program: Program, mesh: AnyMesh | None, params: PyTree, batch_BxT1: jax.Array, scored: jax.Array | None
) -> tuple[PyTree, Found]:
    """The sum of `_gradient` over micro-batches."""
    # Each is every so-many-th sequence, so that a device finds its share of it among its own rows.
    M = program.memory_saving.micro_batches
    batch_bxMxT1 = batch_BxT1.reshape(-1, M, batch_BxT1.shape[1])

    def add(m: jax.Array, total: tuple[PyTree, Found]) -> tuple[PyTree, Found]:
        return jax.tree.map(jnp.add, total, _gradient(program, mesh, params, batch_bxMxT1[:, m], scored))

    shapes = jax.eval_shape(functools.partial(_gradient, program, mesh), params, batch_bxMxT1[:, 0], scored)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, M, add, zero)


def _gradient(
    program: Program, mesh: AnyMesh | None, params: PyTree, batch_BxT1: jax.Array, scored: jax.Array | None = None
) -> tuple[PyTree, Found]:
    """Of a batch, in float32, or of a part of one: `scored` is then of the whole (see `prediction_weights`)."""
    model, dtype, recompute = program.model, program.dtype, program.memory_saving.recompute

    def loss_of(params: PyTree) -> tuple[jax.Array, Found]:
        model_now = model_of(model, dtype, params)
        return batch_loss(model_now, batch_BxT1, mesh, recompute=recompute, own=program.loss, scored=scored)

    (_, found), gradient = jax.value_and_grad(loss_of, has_aux=True)(in_float32(params))
    return gradient, found


def _train_steps(
    program: Program,
    state: PyTree,
    batches_KxBxT1: jax.Array,
    schedule_K: jax.Array,
    steps: int | jax.Array,
    numbers: Hyperparameters,
) -> PyTree:
    model, groups = program.model, groups_of(program.model, program.dtype)

    def step(i: jax.Array, state: PyTree) -> PyTree:
        params, sums = state["params"], state["sums"]
        gradient, (loss, routing) = gradient_of(program, params, batches_KxBxT1[i])
        rule = optimizer(program.optimizer, groups, numbers, schedule_K[i])
        updates, moments = rule.update(gradient, state["optimizer"], in_float32(params))
        found = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        after = {"params": optax.apply_updates(params, updates), "optimizer": moments}
        if routing is not None and isinstance(model, Network):
            found |= tally.of_routing(routing)
            after["params"] = with_balance(model, after["params"], routing)
        if numbers.skip_spikes is None:
            return after | {"sums": tally.add(sums, found)}
        taken, usual = spikes.judge_step(state["usual"], loss, found["gradient_norm"], numbers.skip_spikes)
        after = {name: jax.tree.map(functools.partial(jnp.where, taken), after[name], state[name]) for name in after}
        return after | {"sums": tally.add(sums, found, taken), "usual": usual}

    return jax.lax.fori_loop(0, steps, step, state)
