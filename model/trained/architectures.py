"""What of our Transformer which architecture of Hugging Face's `transformers` computes, and by which names.

| MLP | norms of queries and keys | cap of logits | architecture |
|---|---|---|---|
| `swiglu` | no | no | Llama (Touvron et al. 2023) |
| `swiglu` | yes | no | Qwen3 (Qwen Team 2025) |
| `swiglu` | no | yes | VaultGemma (Sinha et al. 2025): Gemma 2 without the norms after its blocks |
| `gelu`, `relu2` | no | no | Arcee (AFM-4.5B, 2025): Llama with an MLP without a gate |
| `gelu`, `relu2` | yes | no | Apertus (Apertus Team 2025), with another activation |

All turn pairs (k, k + K/2) of queries and keys by the angles that ours do. What has no place of its own there is
multiplied into the weights, which gives the same function: the multipliers of the parametrization, the width that a
tied head is divided by, norms without a scale (ones).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from nextscale.model.config.run import Network
from nextscale.model.errors import InputError

_UNTURNED = 1e30
"""By which positions are divided where there are none: the angles that are left are 0 in float32."""
_SHAPES = ("width", "depth", "heads", "kv_heads", "head_width", "vocab", "context", "mlp_ratio", "tied", "norm_scale")
_KNOWN = {*_SHAPES, "position", "mlp", "qk_norm", "logit_cap", "z_loss", "scores_multiplier", "residual_multiplier"}
"""The options that are looked at here; `z_loss` is of training alone."""
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
    """

    name: str
    kind: str
    attention_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    activation: str = "hidden_act"
    embeds_by_width: bool = False
    norm_offset: float = 0.0
    heads_fill_width: bool = False

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
    for option in sorted(c.semantic().keys() - _KNOWN):
        raise InputError(f"model.{option}: is exported into no architecture of transformers")
    if c.position == "alibi":
        raise InputError(
            "model.position: alibi; no architecture of transformers has these slopes beside RMSNorm; those of rope and "
            "none can be exported"
        )
    if c.mlp == "none":
        raise InputError("model.mlp: none; every architecture of transformers that is like ours has an MLP")
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
        "rope_parameters": {"rope_theta": 10000.0, **turned},
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
    return config
