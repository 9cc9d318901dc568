"""Documents in shuffled order: each once an epoch, one after another, cut into sequences as they come.

No order of all documents is ever made. A corpus is divided into stretches of whole documents; an epoch shuffles the
stretches, takes them in groups of about `GROUP_TOKENS`, and shuffles the documents of each group. (So does MosaicML's
Streaming, by "shuffle blocks" of shards: its docs, "Shuffling", algorithm py1b.) A corpus of no more tokens is one
group, and its documents are in no order at all.

Where a sequence lies in that order follows from (data, seed, position) alone. A group is scanned for the ends of its
documents by whoever first reads a sequence of it, and nothing is read of a file of which no group holds anything.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nextscale.model.config.data import TextData, TokenData
from nextscale.model.data.manifest import Manifest
from nextscale.model.data.token_files import Shard
from nextscale.model.data.windows import Split, check_tokens, shuffled
from nextscale.model.storage.bucket import in_parallel

GROUP_TOKENS = 2**29
_MOST_CUTS = 4096
"""Places inside of files where a stretch ends: what is read to find them is little, however large a corpus is."""
_FEWEST_TOKENS = 2**20
"""Of a stretch that is cut off a file."""
_LOOK_TOKENS = 2**14

Cuts = list[list[int]]
"""Of each file: where its stretches end; for the end of a file that no end of a document is at, there is -1."""


@dataclasses.dataclass(frozen=True)
class Stretches:
    """Stretches of files, each of whole documents.

    Attributes:
        shard, start, stop: of each, in tokens.
        open: 1 where its last document does not say that it ends: then an end is put behind it.
    """

    shard: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    open: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each, with the end that is put behind it."""
        return self.stop - self.start + self.open


def cuts_of(shards: Sequence[np.ndarray | Shard], end: int) -> Cuts:
    """Where files are divided into stretches: behind the first end of a document after each so many tokens."""
    piece = max(_FEWEST_TOKENS, sum(map(len, shards)) // _MOST_CUTS)

    def cuts(shard: np.ndarray | Shard) -> list[int]:
        found = [_behind_end(shard, start, end) for start in range(piece, len(shard), piece)]
        ends = len(shard) > 0 and _part(shard, len(shard) - 1, len(shard))[0] == end
        return [*sorted({one for one in found if one < len(shard)}), *([len(shard)] if ends else [-1])]

    return in_parallel(cuts, shards)


def whole_files(shards: Sequence[np.ndarray | Shard], cuts: Cuts) -> Stretches:
    """All of the files, divided where `cuts_of` says."""
    found = [
        (number, start, len(shards[number]) if stop < 0 else stop, int(stop < 0))
        for number, stops in enumerate(cuts)
        for start, stop in zip([0, *stops], stops, strict=False)
        if len(shards[number])
    ]
    return Stretches(*np.array(found, np.int64).reshape(-1, 4).T)


def between_held_out(split: Split) -> Stretches:
    """What lies between the blocks that are held out of a corpus; a document that one cuts through ends there."""
    windows, T = split.windows, split.windows.context
    begins = np.concatenate([[0], windows.ends[:-1]])
    points = np.unique(np.concatenate([split.train_borders, begins, windows.ends]))
    points = points[points <= windows.count]
    first, last = points[:-1], points[1:]
    trains = split.trains(first)
    first, last = first[trains], last[trains]
    shard = np.searchsorted(windows.ends, first, side="right")
    start = (first - begins[shard]) * T
    # The token at a border is predicted by who is held out before it, and read by who is held out after it.
    return Stretches(shard, start + (start > 0), (last - begins[shard]) * T, np.ones(len(first), np.int64))


@dataclasses.dataclass(frozen=True)
class ShuffledDocuments:
    """The documents of a corpus, shuffled anew at each epoch, as one row of tokens without end, cut into sequences.

    Attributes:
        end: the token that ends a document.
        group_tokens: that a group has, or a little more.
    """

    shards: Sequence[np.ndarray | Shard]
    stretches: Stretches
    end: int
    context: int
    vocab: int
    seed: int
    group_tokens: int

    @functools.cached_property
    def tokens(self) -> int:
        """Of an epoch."""
        return int(self.stretches.sizes.sum())

    def sequences(self, first: int, count: int) -> np.ndarray:
        """Sequences `first` to `first + count`: int32, count x (context + 1); the last token of each is the first of
        the next.

        Raises:
            InputError: a token is not below `vocab`.
        """
        T = self.context
        found = np.empty(count * T + 1, np.int64)  # as large as tokens may be: which are none is looked at below
        done = 0
        while done < len(found):
            epoch, place = divmod(first * T + done, self.tokens)
            group = self._group_at(epoch, place)
            done += group.read(place - group.first, found[done:])
        check_tokens(found, self.vocab)
        return sliding_window_view(found.astype(np.int32), T + 1)[::T].copy()

    def _group_at(self, epoch: int, place: int) -> _Group:
        _, firsts = self._epoch(epoch)
        number = int(np.searchsorted(firsts, place, side="right")) - 1
        return self._group(epoch, number)

    @functools.cached_property
    def _epoch(self) -> functools._lru_cache_wrapper[tuple[list[np.ndarray], np.ndarray]]:
        """Of an epoch: the stretches of each group, and at which token each begins."""

        def epoch_of(epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
            count = len(self.stretches.shard)
            order = shuffled(np.arange(count), count, (self.seed, epoch, 0))
            firsts = np.concatenate([[0], np.cumsum(self.stretches.sizes[order])[:-1]])
            begins = np.flatnonzero(np.diff(firsts // self.group_tokens, prepend=-1))
            return np.split(order, begins[1:]), firsts[begins]

        return functools.lru_cache(maxsize=2)(epoch_of)

    @functools.cached_property
    def _group(self) -> functools._lru_cache_wrapper[_Group]:
        # Two: a batch may be of the end of one and the beginning of the next.
        return functools.lru_cache(maxsize=2)(self._scanned)

    def _scanned(self, epoch: int, number: int) -> _Group:
        groups, firsts = self._epoch(epoch)
        found = [self._documents_of(int(stretch)) for stretch in groups[number]]
        shard, start, size, ends = (np.concatenate(column) for column in zip(*found, strict=True))
        order = shuffled(np.arange(len(shard)), len(shard), (self.seed, epoch, 1 + number))
        arrays = {number: np.asarray(self.shards[number]) for number in map(int, np.unique(shard))}
        stops = np.cumsum(size[order])
        return _Group(arrays, self.end, int(firsts[number]), shard[order], start[order], stops, ends[order])

    def _documents_of(self, stretch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of each document of a stretch: its file, where it begins, how many tokens it has, and whether the file holds
        the end of it."""
        shard, start, stop, is_open = (int(column[stretch]) for column in dataclasses.astuple(self.stretches))
        stops = np.flatnonzero(np.asarray(self.shards[shard])[start:stop] == self.end) + (start + 1)
        if is_open:
            stops = np.append(stops, stop + 1)
        starts = np.concatenate([[start], stops[:-1]])
        return np.full(len(stops), shard, np.int32), starts, stops - starts, stops <= stop


def shuffled_documents(data: TextData | TokenData, split: Split, files: Manifest, seed: int) -> ShuffledDocuments:
    """The documents of a corpus that train.

    Args:
        files: of it; where they can be divided is kept with them.
    """
    assert data.pack is not None and data.pack.end is not None
    end, shards = data.pack.end, split.windows.shards
    if split.held_out is None:
        stretches = between_held_out(split)
    else:
        assert isinstance(data, TokenData)
        cuts = files.kept(data.path, f"cuts-{data.dtype}-{end}", lambda: cuts_of(shards, end))
        stretches = whole_files(shards, cuts)
    return ShuffledDocuments(shards, stretches, end, split.windows.context, data.vocab, seed, GROUP_TOKENS)


@dataclasses.dataclass(frozen=True)
class _Group:
    """Documents in the order in which they are read.

    Attributes:
        first: token of the epoch that it begins with.
        stops: how many tokens there are up to the end of each document.
    """

    shards: dict[int, np.ndarray]
    end: int
    first: int
    shard: np.ndarray
    start: np.ndarray
    stops: np.ndarray
    ends: np.ndarray

    def read(self, place: int, out: np.ndarray) -> int:
        """Fills an array with what comes from a place on, as far as there is any; tells how far."""
        document, done = int(np.searchsorted(self.stops, place, side="right")), 0
        while done < len(out) and document < len(self.stops):
            behind = int(self.stops[document]) - place  # tokens left of it
            before = int(self.stops[document - 1]) if document else 0
            at = int(self.start[document]) + place - before
            held = behind - (not self.ends[document])  # of them the file holds
            wanted = min(behind, len(out) - done)
            taken = min(held, wanted)
            out[done : done + taken] = self.shards[int(self.shard[document])][at : at + taken]
            out[done + taken : done + wanted] = self.end
            done, place, document = done + wanted, place + wanted, document + 1
        return done


def _behind_end(shard: np.ndarray | Shard, start: int, end: int) -> int:
    """The first place at or after `start` that is behind the end of a document; where none is, the end of the file."""
    for here in range(start - 1, len(shard), _LOOK_TOKENS):
        found = np.flatnonzero(_part(shard, here, min(here + _LOOK_TOKENS, len(shard))) == end)
        if len(found):
            return here + int(found[0]) + 1
    return len(shard)


def _part(shard: np.ndarray | Shard, start: int, stop: int) -> np.ndarray:
    return shard.part(start, stop) if isinstance(shard, Shard) else shard[start:stop]
