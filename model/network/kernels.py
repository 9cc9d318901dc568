"""Chooses the attention kernel by plain arithmetic (no jax), for plans too."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np

from nextscale.model.config.run import ModelConfig

Kernel = Literal["blocks", "cudnn", "splash"]

_CUDNN_HEAD_WIDTH = 128
"""The widest head of cuDNN's flash attention on any GPU that has it; Hopper's goes to 256."""
SPLASH_TILES = (512, 256, 128)


def kernel_for(c: ModelConfig, dtype: Any, T: int, platform: str) -> Kernel:
    """The kernel for T tokens of a model on a platform: `cuda`, `tpu`, or any other.

    Args:
        dtype: by its name, or as anything that prints so.
    """
    K = c.query_width // c.heads
    if c.position != "alibi":
        if platform == "cuda" and str(dtype) == "bfloat16" and K % 8 == 0 and K <= _CUDNN_HEAD_WIDTH:
            return "cudnn"
        if platform == "tpu" and K % 64 == 0 and T % SPLASH_TILES[-1] == 0:
            return "splash"
    return "blocks"


def query_blocks(T: int) -> list[tuple[int, int]]:
    """(start, end) of each block of queries; it is scored against the keys before `end`."""
    edges = np.linspace(0, T, 1 + min(max(T // 32, 1), 4)).astype(int).tolist()
    return list(itertools.pairwise(edges))
