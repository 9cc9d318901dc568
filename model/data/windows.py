"""Windows of a fixed corpus: which train, which are held out, and their shuffled order."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nextscale.model.data.token_files import Shard
from nextscale.model.errors import InputError

_BLOCK_TOKENS = 16_384
_HELD_OUT_EVERY = 32
"""Without files of its own, the held-out split is one block of about 16k tokens in every 32."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of `context` + 1 tokens (the last is only predicted), `context` apart, of one or more shards."""

    shards: Sequence[np.ndarray | Shard]
    context: int

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """How many windows there are up to the end of each shard."""
        return np.cumsum([max(len(shard) - 1, 0) // self.context for shard in self.shards])

    @property
    def count(self) -> int:
        return int(self.ends[-1])

    def gather(self, index: np.ndarray, vocab: int) -> np.ndarray:
        """The windows at `index`, as int32, index.shape + (context + 1,).

        Raises:
            InputError: a token is not below `vocab`, or is no int32.
        """
        ends = self.ends
        shard_of = np.searchsorted(ends, index, side="right")
        tokens = np.empty((*index.shape, self.context + 1), np.int32)
        for number in np.unique(shard_of):
            here = shard_of == number
            start = (index[here] - (ends[number - 1] if number else 0)) * self.context
            # Rows of a view are copied whole: five times as fast as an index of every token.
            found = sliding_window_view(np.asarray(self.shards[number]), self.context + 1)[start]
            check_tokens(found, vocab)  # in the type they are kept in: as int32 a larger one could pass for another
            tokens[here] = found
        return tokens


@dataclasses.dataclass(frozen=True)
class Split:
    """Which windows train and which are held out.

    With `held_out` windows of their own (files named `val`), all of `windows` train. Otherwise every 32nd
    block is held out, so that both splits are drawn from the whole of the text.
    """

    windows: Windows
    held_out: Windows | None = None

    @property
    def _block(self) -> int:
        """Windows in a block: about 16k tokens, or what makes 32 blocks of a small text."""
        return max(1, min(_BLOCK_TOKENS // self.windows.context, self.windows.count // _HELD_OUT_EVERY))

    @property
    def _trained(self) -> int:
        """Windows that train, before a block that does not."""
        return self._block * (_HELD_OUT_EVERY - 1)

    @property
    def _periods(self) -> int:
        """Blocks that are held out."""
        return self.windows.count // (self._block * _HELD_OUT_EVERY)

    @property
    def train_count(self) -> int:
        if self.held_out is not None:
            return self.windows.count
        return self.windows.count - self.held_out_count

    @property
    def held_out_count(self) -> int:
        if self.held_out is not None:
            return self.held_out.count
        return self._periods * self._block

    def train(self, number: np.ndarray, vocab: int) -> np.ndarray:
        """Training windows by number, 0 to `train_count`."""
        if self.held_out is None:
            before = np.minimum(number // self._trained, self._periods)  # behind the last that is held out, none is
            number = number + before * self._block
        return self.windows.gather(number, vocab)

    def trains(self, window: np.ndarray) -> np.ndarray:
        """Whether a window trains, by where it lies."""
        period, place = np.divmod(window, self._block * _HELD_OUT_EVERY)
        return (place < self._trained) | (period >= self._periods) | (self.held_out is not None)

    @property
    def train_borders(self) -> np.ndarray:
        """The windows at which what trains begins or ends."""
        begins = np.arange(self._periods + 1) * self._block * _HELD_OUT_EVERY
        return np.concatenate([begins, begins[:-1] + self._trained])

    def evaluation(self, count: int, vocab: int) -> np.ndarray:
        """`count` held-out windows (all, if there are fewer), spread evenly over the split."""
        available = self.held_out_count
        number = np.arange(min(count, available)) * available // min(count, available)
        if self.held_out is not None:
            return self.held_out.gather(number, vocab)
        period = self._block * _HELD_OUT_EVERY
        start = number // self._block * period + self._block * (_HELD_OUT_EVERY - 1)
        return self.windows.gather(start + number % self._block, vocab)


def check_tokens(found: np.ndarray, vocab: int) -> None:
    """
    Raises:
        InputError: a token is not below `vocab`, or is no int32.
    """
    below = min(vocab, 2**31)
    if found.max() >= below or found.min() < 0:
        worst = found.max() if found.max() >= below else found.min()
        raise InputError(
            f"data.vocab: is {vocab}, but the data holds token {worst}; "
            + ("set data.vocab above it" if worst > 0 else "tokens are 0 and above: write the data again")
        )


def epoch_order(first: int, count: int, size: int, seed: int) -> np.ndarray:
    """Which of `size` sequences the ones from `first` on are: all of them once per epoch, shuffled anew in each."""
    number = np.arange(first, first + count)
    order = np.empty(count, np.int64)
    for epoch in np.unique(number // size):
        here = number // size == epoch
        order[here] = shuffled(number[here] % size, size, (seed, int(epoch)))
    return order


def shuffled(number: np.ndarray, count: int, seed: tuple[int, ...]) -> np.ndarray:
    """Where a seeded permutation of 0..count-1 sends each `number`, without ever building the permutation.

    A four-round Feistel network over the next power of four, walked until it lands inside (Black & Rogaway
    2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, (int(count - 1).bit_length() + 1) // 2)
    mask = np.uint64(2**half - 1)
    shift = np.uint64(half)
    digest = hashlib.sha256(repr(seed).encode()).digest()
    keys = np.frombuffer(digest, np.uint64)
    value = np.asarray(number, np.uint64).copy()
    outside = np.ones(value.shape, bool)
    while outside.any():
        left, right = value[outside] >> shift, value[outside] & mask
        for key in keys:
            left, right = right, left ^ (mix_bits(right ^ key) & mask)
        value[outside] = (left << shift) | right
        outside[outside] = value[outside] >= count
    return value.astype(np.int64)


def mix_bits(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
