"""What of our Transformer which architecture of Hugging Face's `transformers` computes, and by which names.

| MLP | norms of queries and keys | cap of logits | architecture |
|---|---|---|---|
| `swiglu` | no | no | Llama (Touvron et al. 2023) |
| `swiglu` | yes | no | Qwen3 (Qwen Team 2025) |
| `swiglu` | no | yes | VaultGemma (Sinha et al. 2025): Gemma 2 without the norms after its blocks |
| `gelu`, `relu2` | no | no | Arcee (AFM-4.5B, 2025): Llama with an MLP without a gate |
| `gelu`, `relu2` | yes | no | Apertus (Apertus Team 2025), with another activation |
| `swiglu` experts | no | no | Mixtral (Jiang et al. 2024) |
| `swiglu` experts | yes | no | Qwen3-MoE (Qwen Team 2025) |
| `swiglu` experts by sigmoids | either | no | GLM-4.5 (GLM-4.5 Team 2025), routed as DeepSeek-V3 is |

All turn pairs (k, k + K/2) of queries and keys by the angles that ours do. What has no place of its own there is
multiplied into the weights, which gives the same function: the multipliers of the parametrization and of routed
experts, the width that a tied head is divided by, norms without a scale (ones).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nextscale.model.config.experts import Mixture, expert_width
from nextscale.model.config.run import Network
from nextscale.model.errors import InputError

_UNTURNED = 1e30
"""By which positions are divided where there are none: the angles that are left are 0 in float32."""
_SHAPES = ("width", "depth", "heads", "kv_heads", "head_width", "vocab", "context", "mlp_ratio", "tied", "norm_scale")
_KNOWN = {*_SHAPES, "position", "mlp", "qk_norm", "logit_cap", "z_loss", "scores_multiplier", "residual_multiplier"}
_KNOWN |= {*Mixture.model_fields}
"""The options that are looked at here; the losses beside the cross-entropy are of training alone."""
_ACTIVATIONS = {"swiglu": "silu", "gelu": "gelu_pytorch_tanh", "relu2": "relu2"}


class Architecture(NamedTuple):
    """One of `transformers`.

    Attributes:
        name: of its class.
        kind: its `model_type`.
        attention_norm, mlp_norm: of a block, by their names in it.
        activation: the key of its config.
        embeds_by_width: whether embeddings are multiplied by the root of the width.
        norm_offset: what it adds to the weights of norms.
        heads_fill_width: whether it takes no width that its heads do not divide.
        routed: of a block what has a router and experts, by its name in it.
        expert: the matrices of an expert: gate, up, down.
    """

    name: str
    kind: str
    attention_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    activation: str = "hidden_act"
    embeds_by_width: bool = False
    norm_offset: float = 0.0
    heads_fill_width: bool = False
    routed: str = "mlp"
    expert: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")

    def embedding_multiplier(self, c: Network) -> float:
        """By which it multiplies its embeddings."""
        return math.sqrt(c.width) if self.embeds_by_width else 1.0


LLAMA = Architecture("LlamaForCausalLM", "llama", heads_fill_width=True)
QWEN3 = Architecture("Qwen3ForCausalLM", "qwen3")
ARCEE = Architecture("ArceeForCausalLM", "arcee", heads_fill_width=True)
APERTUS = Architecture(
    "ApertusForCausalLM", "apertus", attention_norm="attention_layernorm", mlp_norm="feedforward_layernorm"
)
VAULT_GEMMA = Architecture(
    "VaultGemmaForCausalLM",
    "vaultgemma",
    mlp_norm="pre_feedforward_layernorm",
    activation="hidden_activation",
    embeds_by_width=True,
    norm_offset=1.0,
    heads_fill_width=True,
)
MIXTRAL = Architecture("MixtralForCausalLM", "mixtral", routed="block_sparse_moe", expert=("w1", "w3", "w2"))
QWEN3_MOE = Architecture("Qwen3MoeForCausalLM", "qwen3_moe")
GLM4_MOE = Architecture("Glm4MoeForCausalLM", "glm4_moe")
_BY_OPTIONS = {
    # (gated, qk_norm, logit_cap)
    (True, False, False): LLAMA,
    (True, True, False): QWEN3,
    (True, False, True): VAULT_GEMMA,
    (False, False, False): ARCEE,
    (False, True, False): APERTUS,
}


def architecture_of(c: Network) -> Architecture:
    """The architecture that computes the same.

    Raises:
        InputError: there is none; the message names the option.
    """
    for target in c.targets:
        raise InputError(f"model: {target} is code of your own, which is in no architecture of transformers")
    for option in sorted(c.semantic().keys() - _KNOWN):
        raise InputError(f"model.{option}: is exported into no architecture of transformers")
    if c.position == "alibi":
        raise InputError(
            "model.position: alibi; no architecture of transformers has these slopes beside RMSNorm; those of rope and "
            "none can be exported"
        )
    if c.mlp == "none":
        raise InputError("model.mlp: none; every architecture of transformers that is like ours has an MLP")
    if c.experts > 1:
        return _of_experts(c)
    options = (c.mlp == "swiglu", c.qk_norm, c.logit_cap is not None)
    if options not in _BY_OPTIONS:
        why = "qk_norm" if c.qk_norm else f"mlp {c.mlp}"
        raise InputError(f"model.logit_cap: no architecture of transformers has one beside {why}")
    found = _BY_OPTIONS[options]
    if found.heads_fill_width and c.width % c.heads:
        raise InputError(
            f"model.head_width: {found.name} of transformers takes no width ({c.width}) that its heads ({c.heads}) do "
            "not divide"
        )
    return found


def _of_experts(c: Network) -> Architecture:
    """The same of a model of experts."""
    renormalised = c.router == "renormalised"
    lacking = {
        f"mlp: {c.mlp}": c.mlp != "swiglu",
        "logit_cap: a cap": c.logit_cap is not None,
        f"balance_rate: a bias with router {c.router}": c.balance_rate > 0 and c.router != "sigmoid",
        f"shared_experts: experts of every token with router {c.router}": c.shared_experts and c.router != "sigmoid",
        "shared_experts: router sigmoid without any": not c.shared_experts and c.router == "sigmoid",
        "router: softmax without qk_norm": c.router == "softmax" and not c.qk_norm,
        "dense_layers: blocks of one MLP without qk_norm": renormalised and c.dense_layers and not c.qk_norm,
    }
    if what := next((what for what, lacks in lacking.items() if lacks), None):
        raise InputError(f"model.{what} is in no architecture of transformers that has experts")
    return GLM4_MOE if c.router == "sigmoid" else QWEN3_MOE if c.qk_norm else MIXTRAL


def _config_of_experts(c: Network, found: Architecture) -> dict[str, Any]:
    """What a config says of experts."""
    F = expert_width(c)
    config: dict[str, Any] = {"num_experts_per_tok": c.experts_per_token}
    if found is MIXTRAL:
        return config | {"num_local_experts": c.experts, "intermediate_size": F}
    config |= {"moe_intermediate_size": F, "norm_topk_prob": c.router != "softmax" and c.experts_per_token > 1}
    if found is QWEN3_MOE:
        return config | {"num_experts": c.experts, "mlp_only_layers": list(range(c.dense_layers))}
    of_router = {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "first_k_dense_replace": c.dense_layers}
    return config | of_router | {"n_routed_experts": c.experts, "n_shared_experts": c.shared_experts}


def config_of(c: Network, found: Architecture, end: int | None) -> dict[str, Any]:
    """Its config.json.

    Args:
        end: the token that ends a text, if there is one.
    """
    K = c.query_width // c.heads
    turned = {"rope_type": "default"} if c.position == "rope" else {"rope_type": "linear", "factor": _UNTURNED}
    config = {
        "architectures": [found.name],
        "model_type": found.kind,
        "dtype": "float32",
        "vocab_size": c.vocab,
        "hidden_size": c.width,
        "intermediate_size": c.hidden_width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads or c.heads,
        "head_dim": K,
        found.activation: _ACTIVATIONS[c.mlp],
        "max_position_embeddings": c.context,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0, **turned},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": c.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": None,
    }
    if found is VAULT_GEMMA:
        config |= {"final_logit_softcapping": c.logit_cap, "attn_logit_softcapping": None, "query_pre_attn_scalar": K}
        config["layer_types"] = ["full_attention"] * c.depth
    if found is GLM4_MOE:
        config["use_qk_norm"] = c.qk_norm
    return config | (_config_of_experts(c, found) if c.experts > 1 else {})
