"""Parameters and FLOPs of a Transformer, counted exactly, by plain arithmetic.

A multiply-add is 2 FLOPs and a backward pass costs twice its forward pass, so training is three forward
passes. Only matrix products count: norms, softmax, activations and the optimiser are left out, as in every
convention in use.
"""

from __future__ import annotations

from typing import Literal

from nextscale.model.config import ModelConfig

Convention = Literal["exact", "dense", "6nd", "kaplan"]

_MLP_MATRICES = {"gelu": 2, "relu2": 2, "swiglu": 3, "none": 0}


def parameter_groups(model: ModelConfig) -> dict[str, int]:
    """Parameters by group; their sum is the model's size. A tied head has none of its own."""
    return {
        "embedding": model.vocab * model.width,
        "attention": model.depth * 4 * model.width**2,
        "mlp": model.depth * _MLP_MATRICES[model.mlp] * model.width * model.hidden_width,
        "norm": _norms(model) * model.width if model.norm_scale else 0,
        "head": 0 if model.tied else model.vocab * model.width,
    }


def parameters(model: ModelConfig) -> int:
    """All parameters: N in most laws (Hoffmann et al. 2022)."""
    return sum(parameter_groups(model).values())


def non_embedding_parameters(model: ModelConfig) -> int:
    """Parameters without the embedding and the head: N in Kaplan et al. 2020, sec. 2.1."""
    groups = parameter_groups(model)
    return groups["attention"] + groups["mlp"] + groups["norm"]


def forward_flops_per_token(model: ModelConfig, convention: Convention = "exact") -> float:
    """Forward FLOPs per token, averaged over a full context.

    - `exact`: every matrix product, a query counted against the (context + 1) / 2 keys that it can see on
      average. The convention of this package.
    - `dense`: the same with all `context` keys, as in PaLM (Chowdhery et al. 2022, app. B). What is executed
      here lies between the two: blocks of queries (`transformer.query_blocks`) skip most keys that they cannot see.
    - `6nd`: 2 N with all parameters (Hoffmann et al. 2022, sec. 3.3: C = 6 N D).
    - `kaplan`: 2 N without embeddings and head (Kaplan et al. 2020, table 1, C = 6 N D).
    """
    if convention == "6nd":
        return 2.0 * parameters(model)
    if convention == "kaplan":
        return 2.0 * non_embedding_parameters(model)
    groups = parameter_groups(model)
    keys = (model.context + 1) / 2 if convention == "exact" else model.context
    attention_scores = model.depth * 2 * 2 * model.width * keys  # queries x keys, then weights x values
    return 2.0 * (groups["attention"] + groups["mlp"] + model.vocab * model.width) + attention_scores


def flops_per_token(model: ModelConfig, convention: Convention = "exact") -> float:
    """Training FLOPs per token: forward and backward, three times the forward pass."""
    return 3.0 * forward_flops_per_token(model, convention)


def _norms(model: ModelConfig) -> int:
    return model.depth * (1 if model.mlp == "none" else 2) + 1
