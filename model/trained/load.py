"""The model that a finished run has trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from nextscale.model.config.module import ModuleNetwork
from nextscale.model.config.run import Network, RunConfig
from nextscale.model.errors import InputError
from nextscale.model.network.modules import in_float32, model_of
from nextscale.model.record import RunDirectory
from nextscale.model.training.checkpoint import read_checkpoint
from nextscale.model.training.step import program_of, state_shapes

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A run and its trained weights, in float32."""

    config: RunConfig
    params: PyTree

    @functools.cached_property
    def logits(self) -> Callable[[jax.Array], jax.Array]:
        """Float32 logits of the token after each, B x T x V, of tokens B x T; computed as the run was evaluated."""
        network, dtype = self.config.network, self.config.training.dtype
        return functools.partial(_logits, network, dtype, self.params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(network: Network | ModuleNetwork, dtype: str, params: PyTree, tokens_BxT: jax.Array) -> jax.Array:
    return model_of(network, dtype, params)(tokens_BxT)


def load_trained(directory: RunDirectory) -> TrainedModel:
    """Reads the trained model of a run, onto one device.

    Raises:
        InputError: there is no such run, it is an external trainer's, has no result or diverged, or its model was not
            kept.
    """
    path = directory.path
    if not directory.started:
        raise InputError(f"{path}: holds no run; name the folder of one, such as OUT/runs/RUN_ID")
    try:
        config, record = directory.config(), directory.record()
    except ValueError as error:
        raise InputError(f"{path}: its config or record cannot be read ({error})".splitlines()[0]) from None
    if not isinstance(config, RunConfig):
        raise InputError(f"{path}: an external trainer trained it; what it left is in {directory.trainer}")
    if record is None:
        raise InputError(f"{path}: is not trained to its end; `nextscale run` goes on with it")
    if record["status"] != "done":
        raise InputError(f"{path}: {record['status']} ({record.get('reason')}); take another run")
    state = read_checkpoint(directory.checkpoint(config.tokens), state_shapes(program_of(config)))
    if state is None:
        raise InputError(
            f"{path}: its trained model was not kept, or is damaged; set it aside with `nextscale rerun`, and train it "
            "again with checkpoint.final: true"
        )
    return TrainedModel(config, in_float32(state["params"]))
