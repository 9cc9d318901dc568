"""Evaluation: the loss of a model on held-out tokens, by position in the context."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nextscale.model.config.module import ModuleNetwork
from nextscale.model.config.run import Network, RunConfig
from nextscale.model.data.sources import MarkovSource, Source
from nextscale.model.errors import InputError
from nextscale.model.network.loss import batch_cross_entropy, is_scored
from nextscale.model.network.modules import model_of
from nextscale.model.network.processes import gather
from nextscale.model.network.sharding import mesh_of_params, place_whole_batches

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What held-out tokens say of a model.

    Attributes:
        loss: nats per token.
        bits_per_byte: None where tokens do not stand for bytes.
        loss_by_position: nats per token at each position of the context that is scored.
        tokens: how many predictions this rests on.
        sets: what further validation sets say of it, by name.
        notes: what was asked of the model and not answered, in words.
    """

    loss: float
    bits_per_byte: float | None
    loss_by_position: list[float]
    tokens: int
    sets: dict[str, Evaluation] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, float | None]:
        """Its losses, and `loss_<name>` and `bits_per_byte_<name>` of each set."""
        own = {"loss": self.loss, "bits_per_byte": self.bits_per_byte}
        return own | {f"{key}_{name}": one.columns[key] for name, one in self.sets.items() for key in own}

    @property
    def unusable(self) -> str | None:
        """The set whose loss is not a number, in words."""
        losses = {"the held-out loss": self.loss} | {
            f"the loss of set {name}": one.loss for name, one in self.sets.items()
        }
        return next((name for name, loss in losses.items() if not math.isfinite(loss)), None)

    @property
    def in_context_learning(self) -> float:
        """Loss late in the context less loss early in it: mean of the last against the first eighth of the positions;
        negative when context helps.

        Olsson et al. 2022 take the 500th less the 50th token of 512. Eighths serve a context of any length, and a mean
        over many positions is less noisy; as the first eighth begins at the first token, it reads more negative.
        """
        eighth = max(1, len(self.loss_by_position) // 8)
        return float(np.mean(self.loss_by_position[-eighth:]) - np.mean(self.loss_by_position[:eighth]))


def evaluation_points(config: RunConfig) -> list[int]:
    """The positions, in tokens, at which a run is evaluated on its way to the end.

    They are those steps of the run that are nearest to 10^(i / points) tokens, i a whole number: the same for runs of
    every length, so that the curves of a sweep compare and a trunk's is that of its branches.
    """
    start, batch_tokens, per_decade = config.start, config.training.batch_tokens, config.evaluation.points
    if not per_decade:
        return []
    ends = (per_decade * math.log10(tokens) for tokens in (start + batch_tokens, config.tokens))
    first, last = (math.floor(end) for end in ends)
    steps = {round((10 ** (i / per_decade) - start) / batch_tokens) for i in range(first, last + 2)}
    return [start + step * batch_tokens for step in sorted(steps) if 0 < step < config.training.steps]


def evaluate_all(
    config: RunConfig, params: PyTree, source: Source, sets: dict[str, Source], *, micro_batches: int = 1
) -> Callable[[], Evaluation]:
    """What the held-out tokens of `source`, and those of each of `sets`, say of a model (see `evaluate`)."""
    readers = [evaluate(config, params, each, micro_batches=micro_batches) for each in (source, *sets.values())]

    def read() -> Evaluation:
        own, *others = (reader() for reader in readers)
        return dataclasses.replace(own, sets=dict(zip(sets, others, strict=True)))

    return read


def evaluate(config: RunConfig, params: PyTree, source: Source, *, micro_batches: int = 1) -> Callable[[], Evaluation]:
    """The loss over `config.evaluation.tokens` held-out tokens.

    Where the source knows its own law, the loss is its entropy plus the mean Kullback-Leibler divergence of
    the model from the true distribution of the next token: no noise from sampled labels. The first position
    is then not scored, for one token of context does not determine that law.

    Args:
        micro_batches: into which a batch must be cut to fit into memory.

    Where documents are kept apart, no prediction is scored that begins another.

    Returns:
        waits for the devices, and gives what they found. Until it is called, they may be given more to do.
    """
    B, T = config.batch_sequences, config.model.context
    available = source.held_out(math.ceil(config.evaluation.tokens / (B * T)) * B)
    B = min(B, len(available))
    scored = available[: len(available) // B * B]
    mesh = mesh_of_params(params)
    rows = B // micro_batches if B % micro_batches == 0 else B
    batches_SxBxT1 = place_whole_batches(mesh, scored.reshape(-1, rows, T + 1))
    known, skipped = 0.0, 0
    if isinstance(source, MarkovSource):
        # 0·log 0 is 0, but not to a computer: what underflows is lifted to where it still weighs nothing.
        law = jnp.asarray(np.maximum(source.chain.conditional, np.finfo(np.float32).tiny), jnp.float32)
        found_SxT = _divergence(config.network, config.training.dtype, mesh, params, batches_SxBxT1, law)
        known, skipped = source.chain.entropy, 1
    else:
        found_SxT = _cross_entropy(config.network, config.training.dtype, mesh, params, batches_SxBxT1)

    counts_T = _counts(config, scored[:, :-1])

    def read() -> Evaluation:
        by_position_T = (known + gather(found_SxT).astype(np.float64).mean(axis=0))[skipped:]
        if counts_T is not None:
            by_position_T *= len(scored) / counts_T
        loss = float(np.average(by_position_T, weights=counts_T))
        per_byte = source.tokens_per_byte
        return Evaluation(
            loss=loss,
            bits_per_byte=None if per_byte is None else loss / math.log(2) * per_byte,
            loss_by_position=by_position_T.tolist(),
            tokens=len(scored) * len(by_position_T) if counts_T is None else int(counts_T.sum()),
        )

    return read


def _counts(config: RunConfig, tokens_NxT: np.ndarray) -> np.ndarray | None:
    """How many predictions are scored at each position of the context, T, where not all are.

    Raises:
        InputError: at one there is none.
    """
    scored_NxT = is_scored(config.network, tokens_NxT)
    if scored_NxT is None:
        return None
    counts_T: np.ndarray = scored_NxT.sum(axis=0)
    if not counts_T.all():
        raise InputError(
            f"evaluation.tokens: of {len(tokens_NxT)} held-out sequences not one has a token at position "
            f"{int(counts_T.argmin())} of the context whose next is of the same document; take more evaluation.tokens"
        )
    return counts_T


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _cross_entropy(
    model: Network | ModuleNetwork, dtype: str, mesh: Mesh | None, params: PyTree, batches_SxBxT1: jax.Array
) -> jax.Array:
    module = model_of(model, dtype, params)

    def batch(x_BxT1: jax.Array) -> jax.Array:
        loss_BxT, scored_BxT = batch_cross_entropy(module, x_BxT1, mesh), is_scored(model, x_BxT1[:, :-1])
        return (loss_BxT if scored_BxT is None else jnp.where(scored_BxT, loss_BxT, 0)).mean(axis=0)

    return jax.lax.map(batch, batches_SxBxT1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _divergence(
    model: Network | ModuleNetwork,
    dtype: str,
    mesh: Mesh | None,
    params: PyTree,
    batches_SxBxT1: jax.Array,
    law_VxVxV: jax.Array,
) -> jax.Array:
    """KL(law || model), S x T; position 0, where the token before is unknown, means nothing."""
    module = model_of(model, dtype, params)

    def batch(x_BxT1: jax.Array) -> jax.Array:
        log_q_BxTxV = jax.nn.log_softmax(module(x_BxT1[:, :-1], mesh))
        before_BxT = jnp.roll(x_BxT1[:, :-1], 1, axis=1)
        p_BxTxV = law_VxVxV[before_BxT, x_BxT1[:, :-1]]
        return (p_BxTxV * (jnp.log(p_BxTxV) - log_q_BxTxV)).sum(axis=-1).mean(axis=0)

    return jax.lax.map(batch, batches_SxBxT1)
