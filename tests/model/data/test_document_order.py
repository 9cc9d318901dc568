"""Shuffled documents: each once an epoch and whole, whoever reads which part of them, and of few files at a time."""

import itertools
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nextscale.model.config.data import MixtureData, Pack, TextData, TokenData
from nextscale.model.data import document_order
from nextscale.model.data.document_order import ShuffledDocuments, between_held_out, cuts_of, whole_files
from nextscale.model.data.sources import open_source, resolve
from nextscale.model.data.windows import Split, Windows

END, VOCAB = 0, 1000


def documents_in(tokens):
    """With their ends; what is behind the last end is a document that is cut short."""
    stops = np.flatnonzero(tokens == END) + 1
    return [tuple(map(int, one)) for one in np.split(tokens, stops) if len(one)]


def corpus(seed, sizes, longest=40):
    """Files of about so many tokens, in documents that no other has; every other file ends within one."""
    rng, files, number = np.random.default_rng(seed), [], 0
    for i, size in enumerate(sizes):
        tokens = []
        while len(tokens) < size:
            number += 1
            name = [1 + number // 999, 1 + number % 999]
            tokens += [*name, *map(int, rng.integers(1, VOCAB, rng.integers(0, longest))), END]
        files.append(np.array(tokens[: len(tokens) - i % 2], np.uint16))
    return files


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Stretches and groups of such a size that there are some of each."""
    monkeypatch.setattr(document_order, "_FEWEST_TOKENS", 200)
    monkeypatch.setattr(document_order, "_LOOK_TOKENS", 16)
    monkeypatch.setattr(document_order, "GROUP_TOKENS", 900)


def shuffled(files, context=16, seed=0, group_tokens=900):
    stretches = whole_files(files, cuts_of(files, END))
    return ShuffledDocuments(files, stretches, END, context, VOCAB, seed, group_tokens)


def epoch(found, number):
    """All tokens of one, from the sequences that it lies in."""
    T = found.context
    first, last = number * found.tokens // T, -(-(number + 1) * found.tokens // T)
    row = found.sequences(first, last - first)[:, :-1].ravel()
    return row[number * found.tokens - first * T :][: found.tokens]


class TestAnEpoch:
    @pytest.mark.parametrize("sizes", [(1000, 300, 50, 2500, 700), (40,), (199, 200, 201), (3000,)])
    def test_has_each_document_once_and_whole(self, sizes):
        files = corpus(0, sizes)
        there = Counter(document for file in files for document in documents_in(np.append(file, END)[: len(file) + 1]))
        there.pop((END,), None)  # of a file that ended with one
        there = Counter({one if one[-1] == END else (*one, END): count for one, count in there.items()})
        found = shuffled(files)
        epochs = [epoch(found, number) for number in range(3)]
        for one in epochs:
            assert Counter(documents_in(one)) == there
        if len(there) > 5:
            assert len({one.tobytes() for one in epochs}) == 3
            assert epoch(shuffled(files, seed=1), 0).tobytes() != epochs[0].tobytes()

    def test_of_one_group_has_documents_from_all_over_next_to_each_other(self):
        files = corpus(1, [5000] * 4, longest=10)
        found = shuffled(files, group_tokens=10**9)
        named = [999 * (one[0] - 1) + one[1] for one in documents_in(epoch(found, 0))]
        apart = np.abs(np.diff(named)).mean() / len(named)
        assert apart == pytest.approx(1 / 3, rel=0.1), "the mean distance of two places drawn at random"

    def test_of_many_groups_has_stretches_from_all_over_in_each(self):
        files = corpus(1, [5000] * 4, longest=10)
        named = [999 * (one[0] - 1) + one[1] for one in documents_in(epoch(shuffled(files, group_tokens=2000), 0))]
        tenth = len(named) // 10
        for begin in range(0, 10 * tenth, tenth):
            assert np.ptp(named[begin : begin + tenth]) > len(named) / 3


class TestAnyPart:
    files = corpus(2, [700, 900, 400])

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 600), st.integers(1, 80), st.integers(1, 8))
    def test_is_what_it_is_in_the_whole(self, first, count, hosts):
        """Who goes on, and hosts that read a part each, read what one does that reads all."""
        whole = shuffled(self.files, context=8).sequences(0, first + count)[first:]
        reader = shuffled(self.files, context=8)
        cuts = np.linspace(first, first + count, hosts + 1).astype(int)
        parts = [reader.sequences(int(a), int(b - a)) for a, b in itertools.pairwise(cuts) if b > a]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert (whole[1:, 0] == whole[:-1, -1]).all()


class TestHeldOut:
    @pytest.mark.parametrize("count", [33, 100, 512 + 500, 2048 + 7])
    def test_blocks_are_not_trained_on_and_all_else_is_once(self, count):
        T, vocab = 4, 10**6
        codes = np.arange(1, count * T + 2, dtype=np.int64)
        codes[10::37] = END
        split = Split(Windows([codes], T))
        found = ShuffledDocuments([codes], between_held_out(split), END, T, vocab, 0, 500)
        trained = Counter(epoch(found, 0).tolist())
        held = split.evaluation(10**6, vocab)
        assert not {*held[:, 1:].ravel().tolist()} - {END} & trained.keys()
        windows = split.train(np.arange(split.train_count), vocab)
        alone = {*windows.ravel().tolist()} - {*held.ravel().tolist()} - {END}
        assert max(count for token, count in trained.items() if token != END) == 1
        assert trained.keys() - {END} <= alone
        assert len(alone - trained.keys()) <= 1, "the last token of all, where the end of its document is put"

    @pytest.mark.parametrize("count", range(1000, 1100, 7))
    def test_any_number_of_sequences_can_be_trained_on(self, count):
        """Also where the last block that trains is longer than the others."""
        split = Split(Windows([np.arange(count * 1024 + 1) % 50], 1024))
        for number in (0, split.train_count - 1):
            assert split.train(np.array([number]), 50).shape == (1, 1025)
        assert split.train_count + split.held_out_count == count


class TestASource:
    @pytest.fixture
    def folder(self, tmp_path):
        for i, file in enumerate(corpus(3, [600] * 12)):
            file.tofile(tmp_path / f"train-{i:02}.bin")
        corpus(4, [900])[0].tofile(tmp_path / "val.bin")
        for file in tmp_path.iterdir():
            os.utime(file, (1e9, 1e9))
        return tmp_path

    def data(self, folder, **pack):
        return resolve(TokenData(source="tokens", path=str(folder), vocab=VOCAB, pack={"end": END} | pack))

    def test_opens_the_files_of_a_group_alone(self, folder, tiny_run):
        source = open_source(tiny_run(data=self.data(folder, shuffle="documents")))
        source.sequences(0, 4)
        opened = [shard for shard in source.split.windows.shards if "_tokens" in shard.__dict__]
        fresh = open_source(tiny_run(data=self.data(folder, shuffle="documents")))
        assert opened
        assert fresh.documents.tokens == source.documents.tokens == source.unique_tokens(10**9)
        groups, _ = source.documents._epoch(0)
        read = {int(source.documents.stretches.shard[stretch]) for stretch in groups[0]}
        assert len(read) < 6
        assert {int(one.place.file[-6:-4]) for one in opened} >= read

    def test_is_held_out_as_before_and_another_run(self, folder, tiny_run):
        plain, masked, both = (
            tiny_run(data=self.data(folder, **pack))
            for pack in ({"mask": "documents"}, {"shuffle": "documents"}, {"mask": "documents", "shuffle": "documents"})
        )
        assert len({run.run_id for run in (plain, masked, both)}) == 3
        assert masked.document_end is None
        assert both.document_end == END
        for run in (masked, both):
            np.testing.assert_array_equal(open_source(run).held_out(8), open_source(plain).held_out(8))
        np.testing.assert_array_equal(open_source(masked).sequences(5, 9), open_source(both).sequences(5, 9))

    def test_of_text_and_in_a_mixture(self, folder, tmp_path, tiny_run):
        (tmp_path / "text").mkdir()
        for i in range(200):
            (tmp_path / "text" / f"{i:03}.txt").write_text(f"document {i} " * 9)
        text = resolve(TextData(source="text", path=str(tmp_path / "text"), vocab=128, pack=Pack(shuffle="documents")))
        whole = {"".join(map(chr, one)) for one in documents_in(epoch(open_source(tiny_run(data=text)).documents, 0))}
        cut = sum(f"document {i} " * 9 + "\0" not in whole for i in range(200))
        assert cut < 200 / 31 + 3, "what is held out, and what it cuts"
        other = text.model_copy(update={"pack": None, "fingerprint": "x"})
        mixed = MixtureData(
            source="mixture", sources={"a": {"weight": 1, "data": text}, "b": {"weight": 1, "data": other}}
        )
        assert tiny_run(data=mixed).document_end is None

    @pytest.mark.parametrize(
        "fields, says",
        [
            ({"pack": {"end": 0}}, "says nothing to do"),
            ({"pack": {"shuffle": "documents"}}, "which token ends a document"),
            ({"pack": {"shuffle": "documents", "end": 0}, "unique_tokens": 99}, "which shuffled documents are not"),
        ],
    )
    def test_what_cannot_be_is_said(self, fields, says):
        with pytest.raises(ValidationError, match=says):
            TokenData(source="tokens", path="x", vocab=VOCAB, **fields)
