"""The order in which a mixture reads its sources, in proportion to their weights."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping

import numpy as np

from nextscale.model.data.windows import mix_bits

_FEWEST_SLOTS = 256
_ONE = 2**40
"""Shares are whole numbers of this: what is exact has the same rounding everywhere, however far a run has come."""


@dataclasses.dataclass(frozen=True)
class Mix:
    """Which source each sequence of a mixture comes from, and which of that source's sequences it is: a pure function
    of (weights, seed, number), in closed form.

    Numbers come in periods. A period has of each source its share to the nearest whole number, carried over from one
    period to the next, so that shares are exact to within one sequence at the end of every period, however many
    there were; inside, the order is shuffled.
    """

    shares: tuple[float, ...]
    seed: int

    @functools.cached_property
    def period(self) -> int:
        """Slots in a period: so many that every source has one in each."""
        return max(_FEWEST_SLOTS, 2 ** int(np.ceil(np.log2(2 / min(self.shares)))))

    def counts_before(self, number: int) -> list[int]:
        """How many of the first `number` sequences are of each source."""
        period, slot = divmod(number, self.period)
        counts = np.diff(self._bounds(period))
        if slot:
            counts = counts + np.bincount(self._sources(period, 1)[:slot], minlength=len(self.shares))
        return [int(count) for count in counts]

    def sources(self, first: int, count: int) -> np.ndarray:
        """The source of each of the sequences `first` to `first + count`."""
        period, slot = divmod(first, self.period)
        periods = (slot + count - 1) // self.period + 1
        return self._sources(period, periods)[slot : slot + count]

    @functools.cached_property
    def _cumulative(self) -> list[int]:
        total = sum(self.shares)
        return [0, *(round(float(share) / total * _ONE) for share in np.cumsum(self.shares)[:-1]), _ONE]

    def _bounds(self, period: int) -> np.ndarray:
        """How many of the sequences before a period are of the first k sources, for each k."""
        before = period * self.period
        return np.array([(before * share + _ONE // 2) // _ONE for share in self._cumulative], np.int64)

    def _sources(self, first: int, count: int) -> np.ndarray:
        bounds = np.array([self._bounds(period) for period in range(first, first + count + 1)])
        within = np.diff(np.diff(bounds, axis=0), axis=1)  # sequences in a period, count x sources
        sources = np.repeat(np.tile(np.arange(len(self.shares)), count), within.ravel()).reshape(count, self.period)
        key = np.frombuffer(hashlib.sha256(repr(("mixture", self.seed)).encode()).digest()[:8], np.uint64)
        slot = np.arange(first * self.period, (first + count) * self.period, dtype=np.uint64)
        order = np.argsort(mix_bits(mix_bits(slot) ^ key).reshape(count, self.period), axis=1, kind="stable")
        return np.take_along_axis(sources, order, axis=1).ravel()


def spread_evenly(counts: Mapping[int, int]) -> np.ndarray:
    """So many of each source, each evenly spread over the whole, so that any stretch of it holds them in proportion."""
    source = np.repeat(np.array(list(counts), np.int64), list(counts.values()))
    place = np.concatenate([(np.arange(count) + 0.5) / count for count in counts.values()])
    return source[np.argsort(place, kind="stable")]


def in_proportion(count: int, shares: tuple[float, ...]) -> list[int]:
    """A whole number for each share, `count` together: the largest remainders are rounded up."""
    exact = np.array(shares) / sum(shares) * count
    whole = np.floor(exact).astype(int)
    whole[np.argsort(whole - exact, kind="stable")[: count - whole.sum()]] += 1
    return [int(number) for number in whole]
