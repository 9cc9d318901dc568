"""Synthetic data on which only context helps: a random stretch of tokens, again and again.

What Olsson et al. 2022 ("In-context learning and induction heads", arXiv 2209.11895) test such heads with, as data to
train on: factories for a `dataset` source.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

_BLOCK = 1024
_TRAIN, _HELD_OUT = 0, 1


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Sequences without end. Each repeats a stretch of its own, of uniform tokens, whose length is drawn from a quarter
    to a half of the context: so nothing but what came after the last token before tells what comes now.

    A perfect model pays log(vocab) per token of the stretch and nothing after it.
    """

    vocab: int
    context: int
    split: int
    seed: int = 0

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: int) -> np.ndarray:
        """Batch `i`: int32, 1024 x (context + 1)."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.split, self.seed, i))))
        length_Bx1 = rng.integers(max(self.context // 4, 1), self.context // 2 + 1, (_BLOCK, 1))
        stretch_BxT = rng.integers(0, self.vocab, (_BLOCK, max(self.context // 2, 1)), dtype=np.int32)
        return np.take_along_axis(stretch_BxT, np.arange(self.context + 1)[None] % length_Bx1, axis=1)


def training(vocab: int, context: int, seed: int = 0) -> Repeats:
    return Repeats(vocab, context, _TRAIN, seed)


def held_out(vocab: int, context: int, seed: int = 0) -> Repeats:
    return Repeats(vocab, context, _HELD_OUT, seed)
