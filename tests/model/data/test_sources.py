"""Batches are a pure function of (data, seed, position); nothing is lost, nothing held out is trained on."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.model.config.data import MarkovData, TextData, TokenData
from nextscale.model.data import sources, text, token_files
from nextscale.model.data.markov import alias_tables, markov
from nextscale.model.data.sources import open_source, resolve
from nextscale.model.data.token_files import Shard, place_in
from nextscale.model.data.windows import Split, Windows, shuffled
from nextscale.model.errors import InputError
from nextscale.model.storage.cache import cache_folder

VERSIONS = {20240520: 1, 20240801: 7}


def llmc_file(path, values, magic=20240520, promised=None, version=None):
    header = np.zeros(256, np.int32)
    header[:3] = magic, version or VERSIONS[magic], len(values) if promised is None else promised
    dtype = np.uint32 if magic == 20240801 else np.uint16
    path.write_bytes(header.tobytes() + np.asarray(values, dtype).tobytes())
    return path


class TestMarkov:
    def test_entropy_agrees_with_monte_carlo(self):
        chain = markov(MarkovData(source="markov", seed=3))
        x = chain.sample((0, 1), 0, 40_000, 34)
        surprise = -np.log(chain.conditional[x[:, :-2], x[:, 1:-1], x[:, 2:]])
        # Chains are independent, so the mean over chains has a standard error.
        error = surprise.mean(axis=1).std() / np.sqrt(len(x))
        assert abs(surprise.mean() - chain.entropy) < 4 * error
        assert error < 0.002

    @pytest.mark.parametrize("seed, entropy", [(0, 2.18801), (1, 2.20342)])
    def test_entropy_of_the_known_sources(self, seed, entropy):
        assert markov(MarkovData(source="markov", seed=seed)).entropy == pytest.approx(entropy, abs=5e-6)

    def test_the_pair_law_is_stationary(self):
        chain = markov(MarkovData(source="markov", vocab=8))
        assert chain.stationary.sum() == pytest.approx(1)
        np.testing.assert_allclose(chain.stationary.sum(axis=0), chain.stationary.sum(axis=1), atol=1e-12)

    def test_sequences_do_not_depend_on_how_they_are_asked_for(self):
        chain = markov(MarkovData(source="markov", vocab=8))
        whole = chain.sample((5,), 0, 3000, 9)
        np.testing.assert_array_equal(whole[1000:1100], chain.sample((5,), 1000, 100, 9))
        assert not np.array_equal(whole[:100], chain.sample((6,), 0, 100, 9))

    @given(st.integers(0, 1000), st.integers(2, 12))
    def test_alias_tables_hold_the_distribution(self, seed, size):
        p = np.random.default_rng(seed).dirichlet(np.full(size, 0.3), size=5)
        keep, alias = alias_tables(p)
        rebuilt = keep.copy()
        for row in range(5):
            np.add.at(rebuilt[row], alias[row], 1 - keep[row])
        np.testing.assert_allclose(rebuilt / size, p, atol=1e-12)


class TestWindows:
    @given(st.integers(1, 5000), st.integers(0, 3))
    def test_shuffling_is_a_permutation(self, count, seed):
        assert np.array_equal(np.sort(shuffled(np.arange(count), count, (seed,))), np.arange(count))

    def test_shuffling_leaves_no_order(self):
        order = shuffled(np.arange(100_000), 100_000, (0,))
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
        assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.02

    @given(st.integers(264, 3000), st.sampled_from([4, 8]))
    def test_held_out_windows_are_never_trained_on_and_none_is_lost(self, length, context):
        split = Split(Windows([np.arange(length)], context))
        train = split.train(np.arange(split.train_count), 10**9)[:, 0]
        held_out = split.evaluation(10**9, 10**9)[:, 0]
        assert split.held_out_count > 0
        every = np.concatenate([train, held_out])
        assert np.array_equal(np.sort(every), np.arange(split.windows.count) * context)

    def test_windows_overlap_by_the_token_that_is_only_predicted(self):
        windows = Windows([np.arange(13), np.arange(100, 109)], 4)
        np.testing.assert_array_equal(
            windows.gather(np.arange(windows.count), 200),
            [
                [0, 1, 2, 3, 4],
                [4, 5, 6, 7, 8],
                [8, 9, 10, 11, 12],
                [100, 101, 102, 103, 104],
                [104, 105, 106, 107, 108],
            ],
        )

    @pytest.mark.parametrize("token", [50, 2**31 + 7])
    def test_a_token_beyond_the_vocabulary_is_named(self, token):
        windows = Windows([np.array([1, 2, token, 3, 4], np.uint32)], 2)
        with pytest.raises(InputError, match=f"data.vocab: is 50, but the data holds token {token}"):
            windows.gather(np.arange(2), 50)


class TestText:
    @given(st.binary(max_size=200))
    def test_the_seven_bit_code_loses_nothing(self, content):
        codes = text.seven_bit(content)
        assert (codes < 128).all()
        assert text.from_seven_bit(codes) == content

    def test_ascii_is_itself(self):
        assert text.seven_bit(b"def f(): pass\n").tobytes() == b"def f(): pass\n"

    def test_a_folder_is_its_text_files_in_order(self, tmp_path):
        for name, content in {"b.txt": b"second", "a/x.py": b"first", ".git/c": b"no", "d.bin": b"\0\1"}.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        data = resolve(TextData(source="text", path=str(tmp_path)))
        codes, tokens_per_byte = text.tokens(data)
        assert bytes(codes) == b"first\0second"
        assert tokens_per_byte == 1

    def test_content_names_the_data(self, tmp_path):
        def fingerprint(content):
            (tmp_path / "t").write_text(content)
            return text.fingerprint(str(tmp_path))

        assert fingerprint("one") == fingerprint("one") != fingerprint("two")

    def test_the_standard_library_is_there(self):
        data = resolve(TextData(source="text", path="python-stdlib", vocab=128))
        codes, tokens_per_byte = text.tokens(data)
        assert len(codes) > 5_000_000
        assert 1 < tokens_per_byte < 1.01

    def test_text_that_changes_is_what_it_was_where_that_is_kept_and_refused_elsewhere(
        self, tmp_path, tiny_run, monkeypatch
    ):
        (tmp_path / "t").write_text("x" * 4000)
        data = resolve(TextData(source="text", path=str(tmp_path), vocab=128))
        (tmp_path / "t").write_text("y" * 4000)
        assert set(open_source(tiny_run(data=data)).held_out(1).ravel()) == {ord("x")}
        monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "elsewhere"))
        with pytest.raises(InputError, match="has changed"):
            text.tokens(data)
        assert not list((tmp_path / "elsewhere").rglob("*.*")), "nothing half-made is left behind"

    def test_what_a_sweep_writes_below_its_text_is_not_text(self, tmp_path):
        (tmp_path / "t").write_text("text")
        before = text.fingerprint(str(tmp_path))
        for name in ("runs/1/config.json", "sweeps/a.json", "ledger.jsonl"):
            (tmp_path / "out" / "a" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "out" / "a" / name).write_text("not text")
        assert text.fingerprint(str(tmp_path)) == before
        with pytest.raises(InputError, match="is the output of a sweep"):
            text.fingerprint(str(tmp_path / "out" / "a"))

    @pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b""])
    def test_kept_tokens_that_are_cut_short_are_made_again(self, tmp_path, damage):
        (tmp_path / "t").write_text(f"text {damage}")
        data = resolve(TextData(source="text", path=str(tmp_path), vocab=256))
        whole = bytes(text.tokens(data)[0])
        kept = cache_folder() / "text" / f"{data.fingerprint}-256.bin"
        kept.write_bytes(damage(whole))
        assert bytes(text.tokens(data)[0]) == whole

    def test_tokens_are_the_same_in_pieces(self, tmp_path, monkeypatch):
        documents = ["", "grün \x0e", "…"]
        for name, content in enumerate(documents):
            (tmp_path / str(name)).write_text(content)
        monkeypatch.setattr(text, "_PIECE_BYTES", 3)
        data = resolve(TextData(source="text", path=str(tmp_path), vocab=128))
        codes, tokens_per_byte = text.tokens(data)
        content = "\0".join(documents).encode()
        assert text.from_seven_bit(codes) == content
        assert tokens_per_byte == len(codes) / len(content)

    def test_no_place_for_tokens_is_said(self, tmp_path, monkeypatch):
        (tmp_path / "t").write_text("text")
        monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "t"))
        with pytest.raises(InputError, match="NEXTSCALE_CACHE"):
            resolve(TextData(source="text", path=str(tmp_path)))

    @pytest.mark.parametrize(
        "content, says", [(None, "there is no file or folder"), ("", "holds no text"), ("tiny", "too few")]
    )
    def test_missing_or_too_little(self, tmp_path, tiny_run, content, says):
        path = tmp_path / "t"
        if content is not None:
            path.write_text(content)
        with pytest.raises(InputError, match=says):
            open_source(tiny_run(data=resolve(TextData(source="text", path=str(path), vocab=128))))


class TestTokens:
    @pytest.mark.parametrize("magic", [20240520, 20240801])
    def test_llmc_files(self, tmp_path, magic):
        file = llmc_file(tmp_path / "x.bin", [1, 2, 65535], magic)
        np.testing.assert_array_equal(Shard(place_in(file), file), [1, 2, 65535])

    def test_nanogpt_files(self, tmp_path):
        (tmp_path / "x.bin").write_bytes(np.array([7, 8, 9], np.uint16).tobytes())
        np.testing.assert_array_equal(Shard(place_in(tmp_path / "x.bin"), tmp_path / "x.bin"), [7, 8, 9])

    def test_large_vocabularies_without_a_header(self, tmp_path, tiny_run):
        """What is read as pairs of 16 bits would pass for tokens: nothing is guessed."""
        (tmp_path / "x.bin").write_bytes((np.arange(900, dtype=np.uint32) + 70_000).tobytes())
        data = TokenData(source="tokens", path=str(tmp_path / "x.bin"), vocab=128_256)
        with pytest.raises(InputError, match=r"data.dtype: data.vocab is 128256, and .*x\.bin has no header"):
            resolve(data)
        data = resolve(data.model_copy(update={"dtype": "uint32"}))
        assert {*open_source(tiny_run(data=data)).sequences(0, 100).ravel()} <= {*range(70_000, 70_900)}
        assert data.semantic()["dtype"] == "uint32", "read otherwise it would be other data"
        llmc_file(tmp_path / "y.bin", [1, 2, 100_000], magic=20240801)
        resolve(TokenData(source="tokens", path=str(tmp_path / "y.bin"), vocab=128_256))

    def test_of_many_files_those_are_opened_that_are_read(self, tmp_path, tiny_run, monkeypatch):
        for i in range(200):
            (tmp_path / f"{i:03}.bin").write_bytes(np.full(90, i, np.uint16).tobytes())
            os.utime(tmp_path / f"{i:03}.bin", (1e9, 1e9))
        data, opened, place_of = resolve(TokenData(source="tokens", path=str(tmp_path), vocab=200)), [], []
        memmap, place = np.memmap, token_files.place_in
        monkeypatch.setattr(np, "memmap", lambda file, *how, **more: opened.append(file) or memmap(file, *how, **more))
        monkeypatch.setattr(token_files, "place_in", lambda *asked: place_of.append(asked) or place(*asked))
        source = open_source(tiny_run(data=data))
        assert (opened, place_of) == ([], [])
        first = {int(token) for token in source.sequences(0, 5).ravel()}
        assert {int(Path(file).stem) for file in opened} == first
        sources._opened.cache_clear()  # as in another process of this machine
        open_source(tiny_run(data=data)).sequences(0, 5)
        assert place_of == [], "headers are read once"

    @pytest.mark.parametrize(
        "break_it, says",
        [
            (lambda f: llmc_file(f, [1, 2, 3], promised=4), "promises 4 tokens, it holds 3"),
            (lambda f: f.write_bytes(llmc_file(f, []).read_bytes()[:600]), "cut short"),
            (lambda f: llmc_file(f, [1], version=2), r"magic 20240520, version 2\); known are 20240520 version 1"),
            (lambda f: llmc_file(f, [1], magic=20240326, version=3), "no llm.c token file"),
            (lambda f: f.write_bytes(b"abc"), "not whole: 3 bytes"),
            (lambda f: f.write_bytes(b""), "not whole: 0 bytes"),
        ],
    )
    def test_a_truncated_file_is_named(self, tmp_path, break_it, says):
        file = tmp_path / "x.bin"
        break_it(file)
        with pytest.raises(InputError, match=f"{file}.*{says}"):
            resolve(TokenData(source="tokens", path=str(file), vocab=100))

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "int64", ">u2"])
    def test_numpy_files(self, tmp_path, tiny_run, dtype):
        written = np.arange(600) % 250
        np.save(tmp_path / "x.npy", written.astype(dtype))
        (tmp_path / "x.bin").write_bytes(written.astype(np.uint16).tobytes())
        of_numpy, of_bin = (
            open_source(tiny_run(data=resolve(TokenData(source="tokens", path=str(tmp_path / name), vocab=250))))
            for name in ("x.npy", "x.bin")
        )
        np.testing.assert_array_equal(of_numpy.sequences(0, 200), of_bin.sequences(0, 200))
        np.testing.assert_array_equal(of_numpy.held_out(9), of_bin.held_out(9))

    @pytest.mark.parametrize(
        "array, says",
        [
            (np.zeros((3, 4), np.uint16), r"array of shape \(3, 4\); save one row of tokens"),
            (np.asfortranarray(np.zeros((3, 4), np.uint16)), r"array of shape \(3, 4\)"),
            (np.zeros(9, np.float32), "holds float32; save tokens as one of uint8, uint16"),
            (np.array([{}, []], object), "is no whole .npy file"),
            (None, "is no whole .npy file"),
        ],
    )
    def test_an_array_that_is_no_list_of_tokens_is_refused(self, tmp_path, array, says):
        np.save(tmp_path / "x.npy", np.zeros(100, np.uint16) if array is None else array)
        if array is None:
            (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-7])
        with pytest.raises(InputError, match=says) as error:
            resolve(TokenData(source="tokens", path=str(tmp_path), vocab=100))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("token, says", [(2**32 + 5, "set data.vocab above it"), (-1, "tokens are 0 and above")])
    def test_a_wide_token_is_not_taken_for_another(self, token, says):
        with pytest.raises(InputError, match=f"holds token {token}; {says}"):
            Windows([np.array([1, 2, token, 3, 4], np.int64)], 2).gather(np.arange(2), 50)

    def test_what_is_no_int32_is_refused_whatever_the_vocabulary(self):
        with pytest.raises(InputError, match="holds token 2147483648"):
            Windows([np.array([1, 2**31, 3], np.uint32)], 2).gather(np.arange(1), 2**32)

    def test_files_of_two_kinds_are_refused(self, tmp_path):
        llmc_file(tmp_path / "x.bin", np.arange(900))
        np.save(tmp_path / "y.npy", np.arange(900))
        with pytest.raises(InputError, match="files; move those of one kind"):
            resolve(TokenData(source="tokens", path=str(tmp_path), vocab=1000))

    def test_files_named_val_are_held_out(self, tmp_path, tiny_run):
        llmc_file(tmp_path / "fineweb_train_000001.bin", np.arange(0, 900))
        llmc_file(tmp_path / "fineweb_train_000002.bin", np.arange(900, 1000))
        llmc_file(tmp_path / "fineweb_val_000000.bin", np.arange(2000, 2100))
        data = resolve(TokenData(source="tokens", path=str(tmp_path), vocab=3000, bytes_per_token=4.0))
        source = open_source(tiny_run(data=data))
        assert set(source.held_out(12)[:, 0]) == set(range(2000, 2096, 8))
        assert source.sequences(0, 300).max() < 1000
        assert source.tokens_per_byte == 0.25

    def test_only_the_word_val_holds_a_file_out(self, tmp_path):
        held_out = ["a-valid", "b.validation.0", "c_VAL_1", "val"]
        train = ["eval_0", "interval", "retrieval_000", "valley"]
        for name in held_out + train:
            (tmp_path / f"{name}.bin").write_bytes(b"")
        found = token_files.shards(str(tmp_path))
        assert [sorted(file.stem for file in files) for files in found] == [train, held_out]

    def test_batches_are_a_pure_function_of_position(self, tmp_path, tiny_run):
        file = llmc_file(tmp_path / "x.bin", np.arange(5000))
        run = tiny_run(data=resolve(TokenData(source="tokens", path=str(file), vocab=5000)))
        source = open_source(run)
        whole = source.sequences(0, 2000)
        np.testing.assert_array_equal(whole[777:800], source.sequences(777, 23))
        epoch = source.split.train_count
        assert len(np.unique(whole[:epoch, 0])) == epoch
        assert not np.array_equal(whole[:100], whole[epoch : epoch + 100])
        assert source.unique_tokens(10**9) == epoch * 8
        other_seed = open_source(run.model_copy(update={"seed": 1}))
        assert not np.array_equal(whole[:100], other_seed.sequences(0, 100))


class TestUniqueTokens:
    """Data of which only so much is read."""

    def test_of_a_corpus_so_many_are_read_from_all_over_it_again_and_again(self, tmp_path, tiny_run):
        file = llmc_file(tmp_path / "x.bin", np.arange(8000))
        data = resolve(TokenData(source="tokens", path=str(file), vocab=8000))
        whole = open_source(tiny_run(data=data))
        source = open_source(tiny_run(data=data.model_copy(update={"unique_tokens": 400})))
        epochs = source.sequences(0, 150).reshape(3, 50, -1)
        read = [{tuple(sequence) for sequence in epoch} for epoch in epochs]
        assert read[0] == read[1] == read[2]
        assert len(read[0]) == 50
        assert (epochs[0] != epochs[1]).any()
        assert np.ptp(epochs[..., 0]) > 7000
        assert source.unique_tokens(10**9) == 400
        np.testing.assert_array_equal(source.held_out(20), whole.held_out(20))

    def test_more_than_there_is_changes_nothing_but_the_name(self, tmp_path, tiny_run):
        file = llmc_file(tmp_path / "x.bin", np.arange(5000))
        data = resolve(TokenData(source="tokens", path=str(file), vocab=5000))
        runs = [tiny_run(data=data), tiny_run(data=data.model_copy(update={"unique_tokens": 10**6}))]
        np.testing.assert_array_equal(*(open_source(run).sequences(0, 1000) for run in runs))
        assert runs[0].run_id != runs[1].run_id

    def test_of_an_endless_source_too(self, tiny_run):
        data = MarkovData(source="markov", vocab=16, unique_tokens=320)
        source, fresh = open_source(tiny_run(data=data)), open_source(tiny_run())
        epochs = source.sequences(0, 80).reshape(2, 40, -1)
        first = {tuple(sequence) for sequence in fresh.sequences(0, 40)}
        assert {tuple(sequence) for sequence in epochs[0]} == {tuple(sequence) for sequence in epochs[1]} == first
        assert source.chain is fresh.chain
        assert (source.unique_tokens(64), source.unique_tokens(10**6)) == (64, 320)
        np.testing.assert_array_equal(source.held_out(20), fresh.held_out(20))
