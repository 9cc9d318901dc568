"""A trained model as a folder that Hugging Face's `transformers` loads: weights, config and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nextscale.model.config.run import Network
from nextscale.model.errors import InputError
from nextscale.model.trained.architectures import GLM4_MOE, Architecture, architecture_of, config_of
from nextscale.model.trained.load import TrainedModel
from nextscale.model.trained.text import Codec, codec_of

PyTree = Any

_MATRICES = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "mlp.shared.gate": "mlp.shared_experts.gate_proj",
    "mlp.shared.up": "mlp.shared_experts.up_proj",
    "mlp.shared.down": "mlp.shared_experts.down_proj",
}
_WRITE = ("attention.out", "mlp.down", "mlp.shared.down")
"""The matrices that write the residual stream."""


def export(trained: TrainedModel, folder: Path) -> dict[str, Any]:
    """Writes model.safetensors, config.json and, where its data is text, the tokenizer.

    Returns:
        `architecture`, the class of transformers; `parameters`; and `tokenizer`, whether there is one.

    Raises:
        InputError: no architecture computes the same, or the folder is not empty.
    """
    from safetensors.numpy import save_file

    network, codec = trained.config.network, codec_of(trained.config.data)
    if not isinstance(network, Network):
        raise InputError(f"model.target: {network.model.target} is exported into no architecture of transformers")
    found = architecture_of(network)
    tensors = tensors_of(network, found, trained.params)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there, and not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if codec is not None:
        _write_tokenizer(codec, network, folder)
    _write(folder / "config.json", config_of(network, found, None if codec is None else codec.end))
    count = sum(tensor.size for tensor in tensors.values())
    return {"architecture": found.name, "parameters": count, "tokenizer": codec is not None}


def tensors_of(c: Network, found: Architecture, params: PyTree) -> dict[str, np.ndarray]:
    """The weights of an architecture, by its names: float32, of matrices out x in.

    Raises:
        InputError: there is a weight that has no place in it.
    """
    embedded = found.embedding_multiplier(c)
    # A tied head of ours is the embedding over the width; of theirs it is the embedding, as it is multiplied here.
    last = embedded / c.width if c.tied else 1.0
    tensors: dict[str, np.ndarray] = {}

    def norm(name: str, scale: np.ndarray | None, width: int, multiplier: float = 1.0) -> None:
        ones = np.ones(width) if scale is None else scale
        tensors[f"{name}.weight"] = _float32(ones * multiplier - found.norm_offset)

    leaves = dict(_named(params))
    tensors["model.embed_tokens.weight"] = _float32(leaves.pop("embedding") / embedded)
    if not c.tied:
        tensors["lm_head.weight"] = _float32(leaves.pop("head").T)
    norm("model.norm", leaves.pop("norm.scale", None), c.width, last)
    K = c.query_width // c.heads
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}.", f"model.layers.{i}."
        norm(theirs + found.attention_norm, leaves.pop(f"{ours}attention_norm.scale", None), c.width)
        norm(theirs + found.mlp_norm, leaves.pop(f"{ours}mlp_norm.scale", None), c.width)
        if c.qk_norm:
            scale = leaves.pop(f"{ours}attention.query_norm.scale", None)
            norm(f"{theirs}self_attn.q_norm", scale, K, c.scores_multiplier)
            norm(f"{theirs}self_attn.k_norm", leaves.pop(f"{ours}attention.key_norm.scale", None), K)
        for name, named in _MATRICES.items():
            if (matrix := leaves.pop(ours + name, None)) is not None:
                multiplier = c.residual_multiplier if name in _WRITE else 1.0
                if name == "attention.query" and not c.qk_norm:  # a norm would take it back
                    multiplier = c.scores_multiplier
                tensors[f"{theirs}{named}.weight"] = _float32(matrix.T * multiplier)
        if (router := leaves.pop(f"{ours}mlp.router", None)) is not None:
            routed = f"{theirs}{found.routed}."
            tensors[f"{routed}gate.weight"] = _float32(router.T)
            if found is GLM4_MOE:
                bias = leaves.pop(f"{ours}mlp.balance", np.zeros(c.experts))
                tensors[f"{routed}gate.e_score_correction_bias"] = _float32(bias)
            for name, named in zip(("gate", "up", "down"), found.expert, strict=True):
                multiplier = c.residual_multiplier * c.routed_scale if name == "down" else 1.0
                for e, matrix in enumerate(leaves.pop(f"{ours}mlp.experts.{name}")):
                    tensors[f"{routed}experts.{e}.{named}.weight"] = _float32(matrix.T * multiplier)
    if leaves:
        raise InputError(f"{found.name} of transformers has no place for the weights {', '.join(sorted(leaves))}")
    return tensors


def _named(params: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    """Weights in float64, by their path."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        yield ".".join(str(getattr(key, "key", key)) for key in path), np.asarray(leaf, np.float64)


def _float32(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)


def _write_tokenizer(codec: Codec, c: Network, folder: Path) -> None:
    made = codec.tokenizer()
    made.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": c.context,
        "clean_up_tokenization_spaces": False,
        "eos_token": None if codec.end is None else made.id_to_token(codec.end),
    }
    _write(folder / "tokenizer_config.json", config)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
