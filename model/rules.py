"""Published rules for learning rate, batch size and weight decay: N parameters, D tokens, C FLOPs; batches in tokens.

Each was fitted by its authors to their own models and data, at the scales named beside it. A rate that a rule gives is
that of a model's matrices under the standard parametrization.
"""

from __future__ import annotations

import math

from nextscale.model.config.run import ModelConfig

_POWER_LINES_SEQUENCE = 2048


def steplaw_lr(params_non_embedding: float, tokens: float) -> float:
    """Peak learning rate of AdamW, 1.79 N^-0.713 D^0.307.

    Li et al. 2025, "Predictable Scale: Part I", eq. 1 (arXiv 2503.04715): 60M to 1B parameters, 2B to 100B tokens,
    cosine to a final rate of 1e-5. N leaves out the embeddings.
    """
    return 1.79 * params_non_embedding**-0.713 * tokens**0.307


def steplaw_batch(tokens: float) -> float:
    """Batch, 0.58 D^0.571 tokens (Li et al. 2025, eq. 1; see `steplaw_lr`)."""
    return 0.58 * tokens**0.571


def deepseek_compute(model: ModelConfig, tokens: float) -> float:
    """C = M D of the two DeepSeek rules: M = 72 depth width^2 + 12 depth width context FLOPs per token.

    DeepSeek-AI 2024 (arXiv 2401.02954), sec. 3.2, eq. 2: embeddings and head left out, all keys of a context counted.
    """
    return (72 * model.width + 12 * model.context) * model.depth * model.width * tokens


def deepseek_lr(flops: float) -> float:
    """Peak learning rate of AdamW, 0.3118 C^-0.1250.

    DeepSeek-AI 2024 (arXiv 2401.02954), eq. 1: 1e17 to 2e19 FLOPs (see `deepseek_compute`), a rate that falls in steps.
    """
    return 0.3118 * flops**-0.1250


def deepseek_batch(flops: float) -> float:
    """Batch, 0.2920 C^0.3271 tokens (DeepSeek-AI 2024, eq. 1; see `deepseek_lr`)."""
    return 0.2920 * flops**0.3271


def power_lines_timescale(tokens_per_param: float) -> float:
    """How far back AdamW's weights remember, as a share of the run: 1.084 (D/N)^-0.527.

    Bergsma et al. 2025, "Power Lines" (arXiv 2505.13738), sec. 2, its coefficients as others quote them: 111M to 1.7B
    parameters, 20 to 200 tokens per parameter, rate falling linearly to zero. N counts all parameters.
    """
    return 1.084 * tokens_per_param**-0.527


def power_lines_weight_decay(params: float, tokens: float, batch_tokens: float) -> float:
    """Weight decay per step at the peak, independent of the learning rate: B / (D timescale).

    Theirs is λ = B / (η D timescale) (Bergsma et al. 2025, eq. 3), and a step decays by η λ.
    """
    return batch_tokens / (tokens * power_lines_timescale(tokens / params))


def power_lines_batch(tokens: float) -> float:
    """Batch, 0.0306 D^0.383 sequences of 2048 tokens (Bergsma et al. 2025, sec. 3), in tokens.

    The exponent is as others quote it; the factor has not been held against the paper.
    """
    return _POWER_LINES_SEQUENCE * 0.0306 * tokens**0.383


def square_root_lr(lr: float, batch_tokens: float, reference_batch_tokens: float) -> float:
    """Peak learning rate of Adam at another batch than the one it was tuned at: it grows with the root of the batch.

    Malladi et al. 2022, "On the SDEs and scaling rules for adaptive gradient algorithms" (arXiv 2205.10287), def. 5.1.
    Their rule moves the betas and ε too, which matters where the batch changes much.
    """
    return lr * math.sqrt(batch_tokens / reference_batch_tokens)
