"""How a model is computed, chosen by plain arithmetic (no jax), for plans too: none of it changes what a run means."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from nextscale.model.config.run import ModelConfig

Kernel = Literal["blocks", "cudnn", "splash"]
Recompute = Literal["none", "dots", "full", "offload"]
"""What of a block is computed a second time for the gradient (Chen et al. 2016), instead of kept: nothing; all but the
products with weights and what a flash kernel gives; all; all, and what goes into each block waits in the host's memory.
"""
RECOMPUTE: tuple[Recompute, ...] = get_args(Recompute)
"""The one that keeps least on the device is last."""
RECOMPUTED: Mapping[Recompute, float] = {"none": 0.0, "dots": 0.05, "full": 1 / 3, "offload": 1 / 3}
"""FLOPs that are done twice / all of a run: a third is one forward pass of three; of `dots` a guess, since what it
computes again is bound by memory."""

SCANNED_FROM = 8
"""Blocks from which on one is compiled for all. Of fewer, each is compiled for itself: no copy of their weights in one
piece, and on a CPU a faster step."""
_CUDNN_HEAD_WIDTH = 128
"""The widest head of cuDNN's flash attention on any GPU that has it; Hopper's goes to 256."""
SPLASH_TILES = (512, 256, 128)
_LOGITS = 2**26
"""Logits of a device that are computed at once, 256 MiB; still so many rows of a vocabulary of 131072 that reading the
head takes no longer than the product with it."""


def recompute_of(written: bool | str) -> Recompute:
    """As records and accounts hold it; earlier versions wrote whether blocks were computed again.

    Raises:
        ValueError: it is none.
    """
    return RECOMPUTE[RECOMPUTE.index({False: "none", True: "full"}.get(written, written))]  # type: ignore[arg-type]


def scans(depth: int, recompute: Recompute) -> bool:
    """Whether blocks are scanned: unrolled, XLA finds a second computation equal to the first, and keeps that."""
    return recompute != "none" or depth >= SCANNED_FROM


def loss_parts(N: int, V: int) -> int:
    """In how many parts, one after the other, the loss of N tokens is computed from logits of V each."""
    return -(-N * V // _LOGITS)


def kernel_for(c: ModelConfig, dtype: Any, T: int, platform: str, *, documents: bool = False) -> Kernel:
    """The kernel for T tokens of a model on a platform: `cuda`, `tpu`, or any other.

    Args:
        dtype: by its name, or as anything that prints so.
        documents: whether they are kept apart. JAX gives cuDNN no masks but whole ones, of T x T for each sequence.
    """
    K = c.query_width // c.heads
    if c.position != "alibi":
        if platform == "cuda" and not documents and str(dtype) == "bfloat16" and K % 8 == 0 and K <= _CUDNN_HEAD_WIDTH:
            return "cudnn"
        if platform == "tpu" and K % 64 == 0 and T % SPLASH_TILES[-1] == 0:
            return "splash"
    return "blocks"


def query_blocks(T: int) -> list[tuple[int, int]]:
    """(start, end) of each block of queries; it is scored against the keys before `end`."""
    edges = np.linspace(0, T, 1 + min(max(T // 32, 1), 4)).astype(int).tolist()
    return list(itertools.pairwise(edges))
