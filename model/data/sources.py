"""Sources of training and held-out tokens, opened as a run's configuration says.

A batch is a pure function of (data, seed, position in tokens): nothing to save, nothing to lose, and a run resumed on
another machine reads on exactly where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from nextscale.model.config.data import (
    DataConfig,
    DatasetData,
    MarkovData,
    MixtureData,
    SingleData,
    TextData,
    TokenData,
)
from nextscale.model.config.evaluation import EvaluationConfig
from nextscale.model.config.run import RunConfig
from nextscale.model.data import text, token_files
from nextscale.model.data.dataset import Dataset, call_factory, import_factory
from nextscale.model.data.document_order import ShuffledDocuments, shuffled_documents
from nextscale.model.data.manifest import Manifest
from nextscale.model.data.markov import Markov, markov
from nextscale.model.data.mixture import Mix, in_proportion, spread_evenly
from nextscale.model.data.token_files import Place, Shard
from nextscale.model.data.windows import Split, Windows, epoch_order
from nextscale.model.errors import InputError
from nextscale.model.storage.address import absolute

_TRAIN, _HELD_OUT = 0, 1


class Source(Protocol):
    """Tokens to train on, and held-out tokens to be scored on."""

    def sequences(self, first: int, count: int) -> np.ndarray:
        """Training sequences `first` to `first + count` of this run: int32, count x (context + 1)."""

    def held_out(self, count: int) -> np.ndarray:
        """`count` held-out sequences, the same for every run: int32, count x (context + 1)."""

    def unique_tokens(self, tokens: int) -> int:
        """How many of the first `tokens` training tokens are distinct data."""

    @property
    def tokens_per_byte(self) -> float | None:
        """None where tokens do not stand for bytes."""


@dataclasses.dataclass(frozen=True)
class MarkovSource:
    """Fresh sequences of a known Markov chain, without end; or `limit` of them, shuffled anew at each epoch."""

    chain: Markov
    context: int
    seed: int
    limit: int | None = None
    tokens_per_byte: None = None

    def sequences(self, first: int, count: int) -> np.ndarray:
        if self.limit is None:
            return self.chain.sample((_TRAIN, self.seed), first, count, self.context + 1)
        return self._kept[epoch_order(first, count, self.limit, self.seed)]

    @functools.cached_property
    def _kept(self) -> np.ndarray:
        assert self.limit is not None
        return self.chain.sample((_TRAIN, self.seed), 0, self.limit, self.context + 1)

    def held_out(self, count: int) -> np.ndarray:
        return self.chain.sample((_HELD_OUT,), 0, count, self.context + 1)

    def unique_tokens(self, tokens: int) -> int:
        return tokens if self.limit is None else min(tokens, self.limit * self.context)


@dataclasses.dataclass(frozen=True)
class CorpusSource:
    """A fixed corpus in shuffled order, shuffled anew at each epoch: its sequences, or `limit` of them from all over
    it, or its documents."""

    split: Split
    files: Manifest
    vocab: int
    seed: int
    tokens_per_byte: float | None
    limit: int | None = None
    documents: ShuffledDocuments | None = None

    def sequences(self, first: int, count: int) -> np.ndarray:
        if self.documents is not None:
            return self.documents.sequences(first, count)
        order = epoch_order(first, count, self._size, self.seed)
        return self.split.train(order * self.split.train_count // self._size, self.vocab)

    @property
    def _size(self) -> int:
        return min(self.split.train_count, self.limit or self.split.train_count)

    def held_out(self, count: int) -> np.ndarray:
        return self.split.evaluation(count, self.vocab)

    def unique_tokens(self, tokens: int) -> int:
        there = self._size * self.split.windows.context if self.documents is None else self.documents.tokens
        return min(tokens, there)


@dataclasses.dataclass(frozen=True)
class DatasetSource:
    """Objects that others wrote, in the order that they have; from the beginning again at each epoch."""

    train: Dataset | None
    test: Dataset
    context: int
    tokens_per_byte: float | None

    def sequences(self, first: int, count: int) -> np.ndarray:
        assert self.train is not None, "a validation set is not trained on"
        return self.train.sequences(first, count)

    def held_out(self, count: int) -> np.ndarray:
        return self.test.sequences(0, count if self.test.count is None else min(count, self.test.count))

    def unique_tokens(self, tokens: int) -> int:
        count = None if self.train is None else self.train.count
        return tokens if count is None else min(tokens, count * self.context)


@dataclasses.dataclass(frozen=True)
class MixtureSource:
    """Several sources by name, each read on in its own order (see `Mix`)."""

    parts: dict[str, Source]
    mix: Mix
    context: int

    def sequences(self, first: int, count: int) -> np.ndarray:
        tokens = np.empty((count, self.context + 1), np.int32)
        source_of = self.mix.sources(first, count)
        for i, (before, (name, part)) in enumerate(zip(self.mix.counts_before(first), self.parts.items(), strict=True)):
            here = source_of == i
            if here.any():
                with _under(f"data.sources.{name}.data"):
                    tokens[here] = part.sequences(before, int(here.sum()))
        return tokens

    def held_out(self, count: int) -> np.ndarray:
        """In proportion to the weights: where one source has too few, there are fewer of all."""
        while True:
            wanted = dict(enumerate(in_proportion(count, self.mix.shares)))
            found = [
                part.held_out(wanted[i]) if wanted[i] else np.empty((0, self.context + 1), np.int32)
                for i, part in enumerate(self.parts.values())
            ]
            reach = [len(found[i]) / self.mix.shares[i] for i in wanted if len(found[i]) < wanted[i]]
            if not reach:
                break
            count = max(min(count - 1, math.floor(min(reach))), 1)
        source_of = spread_evenly({i: number for i, number in wanted.items() if number})
        tokens = np.empty((count, self.context + 1), np.int32)
        for i, sequences in enumerate(found):
            tokens[source_of == i] = sequences
        return tokens

    def unique_tokens(self, tokens: int) -> int:
        return min(tokens, sum(unique for _, unique in self._read_of_each(tokens).values()))

    def epochs(self, tokens: int) -> dict[str, float | int]:
        """`unique_tokens_<name>` and `epochs_<name>` of each source, when so many tokens of all have been read."""
        columns: dict[str, float | int] = {}
        for name, (read, unique) in self._read_of_each(tokens).items():
            columns |= {f"unique_tokens_{name}": unique, f"epochs_{name}": read / unique if unique else 0.0}
        return columns

    @property
    def tokens_per_byte(self) -> float | None:
        per_byte = [part.tokens_per_byte for part in self.parts.values()]
        bytes_per_token = [s / p for s, p in zip(self.mix.shares, per_byte, strict=True) if p is not None]
        return 1 / sum(bytes_per_token) if len(bytes_per_token) == len(per_byte) else None

    def _read_of_each(self, tokens: int) -> dict[str, tuple[int, int]]:
        """Tokens read of each source, and how many of them are distinct data."""
        counts = self.mix.counts_before(-(-tokens // self.context))
        return {
            name: (count * self.context, part.unique_tokens(count * self.context))
            for count, (name, part) in zip(counts, self.parts.items(), strict=True)
        }


def resolve(data: DataConfig) -> DataConfig:
    """The same data with its fingerprint filled in, so that runs on it can be named, and an absolute path.

    The tokens of a text are kept from now on: it may change, as a folder that people work in does, while a sweep runs.

    Raises:
        InputError: the data is missing, or a file of it is broken.
    """
    if isinstance(data, MixtureData):
        return _resolved_mixture(data)
    if isinstance(data, TextData):
        return text.resolved(data)
    if isinstance(data, TokenData):
        return _resolved_tokens(data)
    if isinstance(data, DatasetData):
        import_factory(data.factory, "factory")
        import_factory(data.held_out, "held_out")
    return data


def _resolved_tokens(data: TokenData) -> TokenData:
    path = absolute(data.path)
    manifest = token_files.manifest(path)
    settled = manifest.settled
    fingerprint = manifest.kept(path, "digest", lambda: token_files.fingerprint(path, data.dtype))
    _shards(data.model_copy(update={"path": path}), manifest)
    data = data.model_copy(update={"fingerprint": fingerprint, "path": path})
    return data.stamped(manifest.stamp) if settled else data


def _resolved_mixture(data: MixtureData) -> MixtureData:
    sources = {}
    for name, part in data.sources.items():
        with _under(f"data.sources.{name}.data"):
            sources[name] = part.model_copy(update={"data": resolve(part.data)})
        for other in list(sources)[:-1]:
            if sources[other].data.semantic() == sources[name].data.semantic():
                raise InputError(
                    f"data.sources.{name}: is the data of {other} too; leave it out, and give {other} both weights"
                )
    return data.model_copy(update={"sources": sources})


def resolve_sets(evaluation: EvaluationConfig) -> EvaluationConfig:
    """The same evaluation with each of its sets resolved, and the whole path of each task that is a file.

    Raises:
        InputError: a set is missing, or a file of it is broken; or there is no file of a task.
    """
    sets = {}
    for name, data in evaluation.sets.items():
        with _under(f"evaluation.sets.{name}"):
            sets[name] = resolve(data)
    tasks = tuple(absolute(name) if name.endswith((".yaml", ".yml")) else name for name in evaluation.tasks)
    if missing := next((name for name in tasks if name.endswith((".yaml", ".yml")) and not Path(name).is_file()), None):
        raise InputError(f"evaluation.tasks: there is no file {missing}")
    return evaluation.model_copy(update={"sets": sets, "tasks": tasks})


def open_sets(config: RunConfig, source: Source | None = None) -> dict[str, Source]:
    """The validation sets of a run by name: of each its held-out files where it has such, else all of it; and, of a
    mixture, each source by its name, its held-out part.

    Args:
        source: what the run reads, as it was opened.

    Raises:
        InputError: a set is missing, has changed since it was resolved, or is shorter than the context.
    """
    sources: dict[str, Source] = {}
    for name, data in config.evaluation.sets.items():
        with _under(f"evaluation.sets.{name}"):
            sources[name] = _open_set(data, config.model.context, config.seed)
    return sources | (source.parts if isinstance(source, MixtureSource) else {})


def _open_set(data: SingleData, context: int, seed: int) -> Source:
    if isinstance(data, MarkovData):
        return MarkovSource(_chain(data), context, seed)
    if isinstance(data, DatasetData):
        return _dataset(data, context, trains=False)
    split, tokens_per_byte, files = _corpus(data, context)
    whole = Split(split.windows, split.held_out or split.windows)
    if whole.held_out_count == 0:
        raise InputError(f"data.path: {data.path} holds not one sequence of model.context {context}; use more")
    return CorpusSource(whole, files, data.vocab, seed, tokens_per_byte)


@contextlib.contextmanager
def _under(key: str) -> Iterator[None]:
    """Says of which of several sources it is what is wrong with its data."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}.{str(error).removeprefix('data.')}") from error


def open_source(config: RunConfig) -> Source:
    """The source that a run reads.

    Raises:
        InputError: the data is missing, has changed since it was resolved, or is too small for the context.
    """
    data, context = config.data, config.model.context
    if not isinstance(data, MixtureData):
        return _open(data, context, config.seed)
    opened: dict[str, Source] = {}
    for name in data.weights:
        with _under(f"data.sources.{name}.data"):
            opened[name] = _open(data.sources[name].data, context, config.seed)
    return MixtureSource(opened, Mix(tuple(data.weights.values()), config.seed), context)


def check_unchanged(sources: Iterable[Source]) -> None:
    """
    Raises:
        InputError: a file of a corpus is no longer as it was when it was opened.
    """
    for files in {source.files for source in sources if isinstance(source, CorpusSource)}:
        files.check()


def _open(data: SingleData, context: int, seed: int) -> Source:
    if isinstance(data, DatasetData):
        return _dataset(data, context, trains=True)
    limit = None if data.unique_tokens is None else max(data.unique_tokens // context, 1)
    if isinstance(data, MarkovData):
        return MarkovSource(_chain(data), context, seed, limit)
    split, tokens_per_byte, files = _corpus(data, context)
    if split.train_count == 0 or split.held_out_count == 0:
        raise InputError(
            f"data.path: {data.path} holds {sum(map(len, split.windows.shards))} tokens, too few to train on "
            f"and hold some out with model.context {context}; use {33 * context + 1} or more"
        )
    documents = shuffled_documents(data, split, files, seed) if data.pack and data.pack.shuffle else None
    return CorpusSource(split, files, data.vocab, seed, tokens_per_byte, limit, documents)


def _chain(data: MarkovData) -> Markov:
    """The source itself: how much of it is read does not change it."""
    return markov(data.model_copy(update={"unique_tokens": None}))


def _dataset(data: DatasetData, context: int, *, trains: bool) -> DatasetSource:
    def opened(name: str, arguments: dict, where: str) -> Dataset:
        return Dataset(call_factory(name, arguments, where), context, data.vocab, data.key, where)

    return DatasetSource(
        opened(data.factory, data.arguments, "factory") if trains else None,
        opened(data.held_out, data.held_out_arguments, "held_out"),
        context,
        None if data.bytes_per_token is None else 1 / data.bytes_per_token,
    )


def _corpus(data: TextData | TokenData, context: int) -> tuple[Split, float | None, Manifest]:
    if isinstance(data, TextData):
        codes, tokens_per_byte = text.tokens(data)
        return Split(Windows([codes], context)), tokens_per_byte, Manifest.of([Path(str(codes.filename))])
    manifest = token_files.manifest(data.path)
    if data.fingerprint is not None and data.stamp != manifest.stamp:
        found = manifest.kept(data.path, "digest", lambda: token_files.fingerprint(data.path, data.dtype))
        if found != data.fingerprint:
            raise InputError(
                f"data.path: {data.path} has changed ({found}, was {data.fingerprint}); restore it, or start a new "
                "sweep"
            )
    train, held_out = _shards(data, manifest)
    per_byte = None if data.bytes_per_token is None else 1 / data.bytes_per_token
    return Split(Windows(train, context), Windows(held_out, context) if held_out else None), per_byte, manifest


def _shards(data: TokenData, manifest: Manifest) -> tuple[list[Shard], list[Shard]]:
    """The files for training and those held out, none of them open yet.

    Raises:
        InputError: a file cannot be read.
    """
    found = _opened(data.path, data.dtype, manifest)
    for files in found:
        token_files.check_vocab((shard.place for shard in files), data.vocab)
    return found


@functools.lru_cache(maxsize=16)
def _opened(path: str, dtype: str, manifest: Manifest) -> tuple[list[Shard], list[Shard]]:
    """They serve the runs of a process as long as the files stay as they are."""
    found = manifest.kept(path, f"places-{dtype}", lambda: token_files.places(path, dtype))
    listed = {str(file): file for file, _, _ in manifest.entries}
    train, held_out = ([Shard(Place(*place), listed[place[0]]) for place in files] for files in found)
    return train, held_out
