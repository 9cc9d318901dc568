"""Data in a bucket is the data that it would be in a folder; it is read as it is wanted, and once."""

import json
import pickle
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from nextscale.model.config.data import MixtureData, TextData, TokenData
from nextscale.model.data import token_files
from nextscale.model.data.sources import open_sets, open_source, resolve
from nextscale.model.errors import InputError
from nextscale.model.storage.bucket import Bucket
from nextscale.model.storage.cache import cache_folder

VOCAB = 50


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Token files of three kinds of header would not be one folder: raw ones, and one that is held out."""
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tokens"
    folder.mkdir()
    for seed, name in enumerate(("a.bin", "b.bin", "c.bin", "val.bin")):
        np.random.default_rng(seed).integers(0, VOCAB, 4_000).astype(np.uint16).tofile(folder / name)
    return folder


@pytest.fixture
def stored(s3):
    """Stores a folder or file in a new bucket; tells its address."""

    def store(place):
        address = f"{s3.bucket()}/below"
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                name = file.relative_to(place.parent).as_posix()
                Bucket(address).put(name, file.read_bytes())
        return f"{address}/{place.name}"

    return store


def tokens(path, **fields):
    return TokenData(source="tokens", path=str(path), vocab=VOCAB, **fields)


def requests(s3, method="GET", of=""):
    return [key for asked, key in s3.log if asked == method and of in key and "list-type" not in key]


def forget():
    """As on another machine."""
    shutil.rmtree(cache_folder())


class TestTokens:
    def test_a_run_has_the_same_name_and_reads_the_same_wherever_they_lie(self, folder, stored, tiny_run):
        here, there = (tiny_run(data=resolve(tokens(place))) for place in (folder, stored(folder)))
        assert here.run_id == there.run_id
        mine, theirs = open_source(here), open_source(there)
        np.testing.assert_array_equal(mine.sequences(0, 99), theirs.sequences(0, 99))
        np.testing.assert_array_equal(mine.held_out(50), theirs.held_out(50))

    @pytest.mark.parametrize("kind", ["nanogpt", "llmc", "npy"])
    def test_one_file_of_each_kind(self, folder, stored, kind):
        content = np.arange(300, dtype=np.uint16)
        file = folder.parent / f"x.{'npy' if kind == 'npy' else 'bin'}"
        if kind == "npy":
            np.save(file, content)
        else:
            header = np.zeros(256, np.int32)
            header[:3] = 20240520, 1, len(content)
            file.write_bytes((header.tobytes() if kind == "llmc" else b"") + content.tobytes())
        (found,) = token_files.shards(stored(file))[0]
        read = token_files.Shard(token_files.place_in(found), found)
        assert len(read) == len(content)
        np.testing.assert_array_equal(np.asarray(read), content)

    def test_only_the_files_that_are_read_are_copied_and_once(self, folder, stored, s3, tiny_run):
        run = tiny_run(data=resolve(tokens(stored(folder))))
        sent = pickle.loads(pickle.dumps(run))
        forget()
        s3.log.clear()
        source = open_source(sent)
        first = source.split.windows.gather(np.arange(5), VOCAB)
        assert {key.split("/")[-1][:5] for key in requests(s3)} == {"a.bin"}, "of the others the headers are known"
        assert [file.name for file in (cache_folder() / "objects").glob("*/*")] == ["a.bin"]
        s3.log.clear()
        np.testing.assert_array_equal(open_source(sent).split.windows.gather(np.arange(5), VOCAB), first)
        source.sequences(0, 500)
        open_source(sent).sequences(0, 500)
        assert len(requests(s3, of="a.bin")) == 0
        assert len(requests(s3, of="b.bin")) == len(requests(s3, of="c.bin")) == 1

    def test_they_are_hashed_once(self, folder, stored, s3):
        address = stored(folder)
        resolve(tokens(address))
        shutil.rmtree(cache_folder() / "objects")
        s3.log.clear()
        resolve(tokens(address))
        assert requests(s3) == []

    def test_what_was_written_to_is_not_read(self, folder, stored, tiny_run):
        address = stored(folder)
        run = tiny_run(data=resolve(tokens(address)))
        forget()
        source = open_source(run)
        Bucket(address).put("b.bin", bytes(8_000))
        source.split.windows.gather(np.arange(5), VOCAB)
        with pytest.raises(InputError, match=rf"{address}/b\.bin has changed; restore it"):
            source.sequences(0, 500)
        with pytest.raises(InputError, match=f"{address} has changed .*; restore it, or start a new sweep"):
            open_source(run)
        Bucket(address).put("b.bin", (folder / "b.bin").read_bytes())
        open_source(run).sequences(0, 500)

    @pytest.mark.parametrize("kind", ["busy", "cut", "slow", "lost"])
    def test_faults_on_the_way_are_outlasted(self, folder, stored, s3, tiny_run, kind):
        run = tiny_run(data=resolve(tokens(stored(folder))))
        expected = open_source(run).sequences(0, 99)
        forget()
        s3.fail("GET", "below/tokens", kind, times=3)
        np.testing.assert_array_equal(open_source(run).sequences(0, 99), expected)

    def test_nothing_there_is_one_line(self, s3):
        address = f"{s3.bucket()}/nothing"
        for data in (tokens(address), TextData(source="text", path=address)):
            with pytest.raises(InputError, match=f"data.path: there is no file or folder {address}; name"):
                resolve(data)


class TestText:
    @pytest.fixture
    def text(self, folder):
        text = folder.parent / "text"
        (text / "deeper").mkdir(parents=True)
        (text / "a.txt").write_text("to be or not to be " * 99)
        (text / "deeper" / "b.txt").write_text("that is the question " * 99)
        return text

    def test_a_run_has_the_same_name_and_reads_the_same(self, text, stored, tiny_run):
        datas = [TextData(source="text", path=str(place), vocab=128) for place in (text, stored(text))]
        here, there = (tiny_run(data=resolve(data)) for data in datas)
        assert here.run_id == there.run_id
        np.testing.assert_array_equal(open_source(here).sequences(0, 99), open_source(there).sequences(0, 99))

    def test_another_machine_copies_it_for_itself(self, text, stored, tiny_run):
        run = tiny_run(data=resolve(TextData(source="text", path=stored(text), vocab=128)))
        expected = open_source(run).sequences(0, 99)
        forget()
        np.testing.assert_array_equal(open_source(run).sequences(0, 99), expected)

    def test_rows_and_their_tokenizer_may_lie_there_too(self, text, stored):
        file = text.parent / "rows.jsonl"
        file.write_text("".join(json.dumps({"text": f"to be or not {i % 3}"}) + "\n" for i in range(99)))
        words = {word: i for i, word in enumerate(("<eos>", "to", "be", "or", "not", "0", "1", "2"))}
        encoder = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
        encoder.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        encoder.add_special_tokens(["<eos>"])
        encoder.save(str(text.parent / "tokenizer.json"))
        here, there = (
            resolve(TextData(source="text", path=str(rows), tokenizer=str(tokenizer), vocab=8))
            for rows, tokenizer in [
                (file, text.parent / "tokenizer.json"),
                (stored(file), stored(text.parent / "tokenizer.json")),
            ]
        )
        assert here.semantic() == there.semantic()

    def test_mixtures_and_validation_sets(self, text, folder, stored, tiny_run):
        def run(at):
            parts = {"a": TextData(source="text", path=str(at(text)), vocab=128), "b": tokens(at(folder))}
            parts["b"] = parts["b"].model_copy(update={"vocab": 128})
            mixture = MixtureData(source="mixture", sources={n: {"weight": 1, "data": d} for n, d in parts.items()})
            run = tiny_run(data=resolve(mixture))
            sets = {"c": resolve(tokens(at(folder / "val.bin")).model_copy(update={"vocab": 128}))}
            return run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"sets": sets})})

        here, there = run(str), run(stored)
        assert here.run_id == there.run_id
        mine, theirs = open_source(here), open_source(there)
        np.testing.assert_array_equal(mine.sequences(0, 50), theirs.sequences(0, 50))
        for name, one in open_sets(here, mine).items():
            np.testing.assert_array_equal(one.held_out(9), open_sets(there, theirs)[name].held_out(9))
