"""Parameters and FLOPs of a Transformer, counted exactly, by plain arithmetic; of other models as they are told.

A multiply-add is 2 FLOPs and a backward pass costs twice its forward pass, so training is three forward passes.
"""

from __future__ import annotations

from typing import Literal, overload

from nextscale.model.config.experts import expert_width, mixture_blocks
from nextscale.model.config.external import AnyModel, AnyRun, ExternalModel
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import ModelConfig, RunConfig

Convention = Literal["exact", "palm", "chinchilla", "kaplan", "6nd"]

_ROW_FLOPS, _ROW_STEPS = 2e10, 128


def parameter_groups(model: AnyModel) -> dict[str, int]:
    """Parameters by group; their sum is the model's size. A tied head has none of its own, nor has any position;
    experts that every token passes are in `mlp`. Of an external model, and of a module, none of these groups are known.
    """
    if isinstance(model, ExternalModel | ModuleModel):
        return {}
    per_block = 2 * model.width * (model.query_width + model.key_width)
    mixtures, per_hidden = mixture_blocks(model), (model.into_hidden + (model.mlp != "none")) * model.width
    expert = per_hidden * expert_width(model) if mixtures else 0
    return {
        "embedding": model.vocab * model.width,
        "position": 0,
        "attention": model.depth * per_block,
        "mlp": (model.depth - mixtures) * per_hidden * model.hidden_width + mixtures * model.shared_experts * expert,
        "experts": mixtures * model.experts * expert,
        "router": mixtures * model.width * model.experts + _biases(model),
        "norm": _norm_parameters(model) if model.norm_scale else 0,
        "head": 0 if model.tied else model.vocab * model.width,
    }


def parameters(model: AnyModel) -> int:
    """All parameters: N in most laws (Hoffmann et al. 2022)."""
    if isinstance(model, ModuleModel):
        return model.counted.params
    return model.params if isinstance(model, ExternalModel) else sum(parameter_groups(model).values())


def active_parameters(model: AnyModel) -> int:
    """Parameters that one token uses: all but those of the experts that it is not sent to."""
    if isinstance(model, ExternalModel):
        return model.params if model.params_active is None else model.params_active
    return parameters(model) if isinstance(model, ModuleModel) else parameters(model) - _idle_parameters(model)


def _idle_parameters(model: ModelConfig) -> int:
    """Of the experts that a token is not sent to."""
    return parameter_groups(model)["experts"] // model.experts * max(model.experts - model.experts_per_token, 0)


@overload
def non_embedding_parameters(model: ModelConfig) -> int: ...
@overload
def non_embedding_parameters(model: AnyModel) -> int | None: ...


def non_embedding_parameters(model: AnyModel) -> int | None:
    """Parameters without embedding, position and head: N in Kaplan et al. 2020, sec. 2.1. None where an external model
    or a module does not state them."""
    if isinstance(model, ExternalModel | ModuleModel):
        return (model.counted if isinstance(model, ModuleModel) else model).params_non_embedding
    groups = parameter_groups(model)
    return sum(groups[name] for name in ("attention", "mlp", "experts", "router", "norm"))


def forward_flops_per_token(model: ModelConfig, convention: Convention = "exact") -> float:
    """Forward FLOPs per token, averaged over a full context.

    - `exact`: every matrix product, a query counted against the (context + 1) / 2 keys that it can see on average.
      The convention of this package. Norms, softmax, activations and the optimiser are left out.
    - `palm`: the same with all `context` keys (Chowdhery et al. 2022, app. B: 6 N + 12 L H Q T to train, N with the
      one matrix of PaLM's embedding and head). What is executed here lies between the two: blocks of queries
      (`attention.query_blocks`) skip most keys that they cannot see.
    - `chinchilla`: `palm`, with the look-up of the embedding as a matrix product and 3 for each weight of the softmax
      (Hoffmann et al. 2022, app. F).
    - `kaplan`: 2 N + 2 L T A, half of all keys and neither embedding nor head (Kaplan et al. 2020, table 1).
    - `6nd`: 2 N with all parameters (Hoffmann et al. 2022, sec. 3.3: C = 6 N D).

    Of a mixture of experts, N is in each the parameters that a token uses (`active_parameters`).
    """
    if convention == "6nd":
        return 2.0 * active_parameters(model)
    groups = parameter_groups(model)
    products = sum(groups[name] for name in ("attention", "mlp", "experts", "router"))
    blocks = 2.0 * (products - _biases(model) - _idle_parameters(model))
    per_key = 4.0 * model.depth * model.query_width  # queries x keys, then weights x values
    if convention == "kaplan":
        return blocks + per_key * model.context / 2
    head = 2.0 * model.vocab * model.width
    if convention == "exact":
        return blocks + head + per_key * (model.context + 1) / 2
    palm = blocks + head + per_key * model.context
    if convention == "palm":
        return palm
    look_up, softmax = head, 3.0 * model.depth * model.heads * model.context
    return palm + look_up + softmax


def flops_per_token(model: AnyModel, convention: Convention = "exact") -> float:
    """Training FLOPs per token: forward and backward, three times the forward pass. An external model and a module
    have those that are here called exact, and no others."""
    if isinstance(model, ExternalModel | ModuleModel):
        assert convention == "exact", f"a model of one's own has no FLOPs by {convention}"
        return (model.counted if isinstance(model, ModuleModel) else model).flops_per_token
    return 3.0 * forward_flops_per_token(model, convention)


def flops_per_step(config: AnyRun) -> float:
    """Training FLOPs of one step of a run."""
    return flops_per_token(config.model) * config.training.batch_tokens


def steps_per_row(config: RunConfig) -> int:
    """Steps in a row of the curve, K; a function of the shapes alone, so that a curve is always the same.

    On a CPU they are one compiled call, of about a second of one core.
    """
    return min(max(int(_ROW_FLOPS / flops_per_step(config)), 1), _ROW_STEPS)


def _biases(model: ModelConfig) -> int:
    """Of the routers' choices."""
    return mixture_blocks(model) * model.experts if model.balance_rate else 0


def _norm_parameters(model: ModelConfig) -> int:
    per_block = model.width if model.mlp == "none" else 2 * model.width
    if model.qk_norm:
        per_block += 2 * (model.query_width // model.heads)
    return model.depth * per_block + model.width
