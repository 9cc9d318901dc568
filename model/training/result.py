"""The result of a run: one flat row of counts, losses and settings, which `record.json` holds."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence

import jax

from nextscale.model import accounting
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import RunConfig
from nextscale.model.data.sources import MixtureSource, Source
from nextscale.model.record import Row
from nextscale.model.training.evaluate import Evaluation
from nextscale.model.training.tally import ROUTING


def record_of(
    config: RunConfig, source: Source, evaluation: Evaluation | None, reason: str | None, curve: Sequence[Row]
) -> Row:
    """The result of a run as one flat row. Losses are null when the run diverged, and `reason` says how.
    Where tokens are routed, how evenly is that of the last row of the curve."""
    model, tokens = config.model, config.tokens
    unique = source.unique_tokens(tokens)
    sets = [f"{key}_{name}" for name in config.set_names for key in ("loss", "bits_per_byte")]
    return {
        "run_id": config.run_id,
        "status": "diverged" if reason else "done",
        "reason": reason,
        "params": accounting.parameters(model),
        "params_non_embedding": accounting.non_embedding_parameters(model),
        "params_active": accounting.active_parameters(model),
        "tokens": tokens,
        "unique_tokens": unique,
        "epochs": tokens / unique,
        **(source.epochs(tokens) if isinstance(source, MixtureSource) else {}),
        "flops": accounting.flops_per_token(model) * tokens,
        "loss": evaluation and evaluation.loss,
        "bits_per_byte": evaluation and evaluation.bits_per_byte,
        **{column: evaluation and evaluation.columns[column] for column in sets},
        "loss_by_position": evaluation and evaluation.loss_by_position,
        "in_context_learning": evaluation and evaluation.in_context_learning,
        "evaluation_tokens": evaluation and evaluation.tokens,
        **({"flops_by": model.counted.flops_by} if isinstance(model, ModuleModel) else {}),
        **({name: curve[-1].get(name) if curve else None for name in ROUTING} if config.network.experts > 1 else {}),
        "width": model.width,
        "depth": model.depth,
        "steps": config.training.steps,
        "batch_tokens": config.training.batch_tokens,
        "lr": config.training.lr,
        "skipped_steps": sum(row.get("skipped", 0) for row in curve),
        "seed": config.seed,
        "device": jax.devices()[0].device_kind,
        "versions": _versions(),
        **({"notes": list(evaluation.notes)} if evaluation is not None and evaluation.notes else {}),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("nextscale", "jax", "flax", "optax")}
