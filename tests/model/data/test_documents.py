"""Documents keep their text and their ends, are tokenised once, and are kept whole or not at all."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from nextscale.model.config.data import TextData
from nextscale.model.data import text, tokenizer
from nextscale.model.data.sources import open_source, resolve
from nextscale.model.errors import InputError
from nextscale.model.storage.cache import cache_folder

DOCUMENTS = [
    "def f():\n    return 1\n",
    "Grün ist die Heide.",
    "not the end: <|endoftext|> it goes on",
    "日本語\n\n" * 9,
]


def bpe(path, *, end="<|endoftext|>", corpus=DOCUMENTS, size=300, **trained):
    model = Tokenizer(models.BPE())
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [end] if end else []
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False, **trained
    )
    model.train_from_iterator(corpus, trainer)
    model.enable_truncation(4)
    model.enable_padding(length=8)
    model.save(str(path))
    return str(path)


def written(folder, form, documents=DOCUMENTS, column="text"):
    """The documents in one file of this form."""
    file = folder / f"corpus.{form}"
    lines = "".join(json.dumps({"id": i, column: one}) + "\n" for i, one in enumerate(documents)).encode()
    if form == "parquet":
        parquet.write_table(pa.table({"id": range(len(documents)), column: documents}), file)
    else:
        file.write_bytes(lines if form == "jsonl" else gzip.compress(lines))
    return str(file)


def documents_of(data, encoder):
    """The documents that kept tokens decode to."""
    codes, _ = text.tokens(data)
    ids, end = codes.tolist(), encoder.token_to_id(data.end)
    found, start = [], 0
    for i, token in enumerate(ids):
        if token == end:
            found.append(encoder.decode(ids[start:i], skip_special_tokens=False))
            start = i + 1
    assert start == len(ids), "the last document ends too"
    return found


class TestRows:
    @pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet"])
    @pytest.mark.parametrize("column", ["text", "content"])
    def test_bytes_of_rows(self, tmp_path, form, column):
        asked = TextData(
            source="text", path=written(tmp_path, form, column=column), column=None if column == "text" else column
        )
        data = resolve(asked)
        codes, tokens_per_byte = text.tokens(data)
        assert bytes(codes) == "\0".join(DOCUMENTS).encode()
        assert tokens_per_byte == 1
        assert data.column == column

    def test_forms_in_one_folder(self, tmp_path):
        for i, form in enumerate(["jsonl", "jsonl.gz", "parquet"]):
            written(tmp_path, form, [DOCUMENTS[i]])
        (tmp_path / "README.md").write_text("about the rows")
        codes, _ = text.tokens(resolve(TextData(source="text", path=str(tmp_path))))
        assert bytes(codes) == "\0".join(DOCUMENTS[:3]).encode()

    def test_rows_among_other_text_are_read_where_their_field_is_named(self, tmp_path):
        written(tmp_path, "jsonl", ["a row"])
        (tmp_path / "x.py").write_text("pass")
        as_text, as_rows = (resolve(TextData(source="text", path=str(tmp_path), column=c)) for c in (None, "text"))
        assert b'"a row"' in bytes(text.tokens(as_text)[0])
        assert bytes(text.tokens(as_rows)[0]) == b"a row"
        assert as_text.fingerprint != as_rows.fingerprint

    def test_a_field_is_part_of_what_data_is(self, tmp_path, tiny_run):
        file = tmp_path / "x.jsonl"
        file.write_text(json.dumps({"text": "a" * 500, "code": "b" * 500}) + "\n")
        one, other = (resolve(TextData(source="text", path=str(file), vocab=128, column=c)) for c in ("text", "code"))
        assert tiny_run(data=one).run_id != tiny_run(data=other).run_id
        assert set(open_source(tiny_run(data=other)).held_out(2).ravel()) == {ord("b")}

    def test_what_was_named_before_rows_were_known_is_what_it_was(self, tmp_path):
        path = written(tmp_path, "jsonl")
        data = TextData(source="text", path=path, fingerprint=text.fingerprint(path))
        assert text.tokens(resolve(data))[0][:1] == ord("{")

    def test_empty_rows_are_passed_over_and_half_characters_replaced(self, tmp_path):
        file = tmp_path / "x.jsonl"
        file.write_text('{"text": "a"}\n\n{"text": ""}\n{"text": null}\n{"text": "b\\ud800"}\n')
        codes, _ = text.tokens(resolve(TextData(source="text", path=str(file))))
        assert bytes(codes).decode() == "a\0b\ufffd"

    @pytest.mark.parametrize(
        "content, says",
        [
            ('{"text": "a"}\n{"txt": "b"}', "data.column: line 2 of .* has no text; it has txt"),
            ("[1]", "data.column: line 1 of .* has no text; it has list"),
            ('{"text": 3}', "data.column: text of line 1 of .* is int, not text"),
            ('{"text": "a"', "data.path: line 1 of .* is no JSON"),
            ("\xff", "data.path: line 1 of .* is no JSON"),
            ('{"text": ""}', "data.column: no row of .* has text in text"),
            ("", "holds no text"),
        ],
    )
    def test_broken_lines(self, tmp_path, content, says):
        file = tmp_path / "x.jsonl"
        file.write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=says) as error:
            resolve(TextData(source="text", path=str(file)))
        assert "\n" not in str(error.value)
        assert not list((cache_folder() / "text").glob(".*"))

    @pytest.mark.parametrize("form", ["jsonl.gz", "parquet"])
    def test_files_that_are_cut_short(self, tmp_path, form):
        file = tmp_path / f"corpus.{form}"
        content = (written(tmp_path, form), file.read_bytes())[1]
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"data\.path: .* is broken after") as error:
            resolve(TextData(source="text", path=str(file)))
        assert "\n" not in str(error.value)

    def test_a_missing_field_is_told_with_those_there_are(self, tmp_path):
        path = written(tmp_path, "parquet", column="content")
        with pytest.raises(InputError, match=r"data\.column: .* has no text; it has id, content"):
            resolve(TextData(source="text", path=path))
        (tmp_path / "x.txt").write_text("text")
        with pytest.raises(InputError, match=r"data\.column: names a field of rows"):
            resolve(TextData(source="text", path=str(tmp_path / "x.txt"), column="content"))


class TestTokenizer:
    @pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "txt"])
    def test_documents_come_back(self, tmp_path, form):
        path, documents = tmp_path / "a.txt", DOCUMENTS
        if form == "txt":
            documents = ["\n\n".join(DOCUMENTS)]
            path.write_text(documents[0])
        else:
            path = written(tmp_path, form)
        name = bpe(tmp_path / "tokenizer.json")
        data = resolve(TextData(source="text", path=str(path), tokenizer=name, vocab=300))
        assert data.end == "<|endoftext|>"
        assert documents_of(data, Tokenizer.from_file(name)) == documents
        codes, tokens_per_byte = text.tokens(data)
        assert tokens_per_byte == len(codes) / sum(len(one.encode()) for one in documents)
        assert codes.dtype == np.uint16

    @given(st.lists(st.text(max_size=12), max_size=3), st.integers(1, 5))
    def test_pieces_of_a_document_are_the_document(self, pieces, limit):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokenizer, "_PIECE", limit)
            found = list(tokenizer.split_document(pieces))
        assert "".join(found) == "".join(pieces)
        assert all(0 < len(piece) <= limit for piece in found)

    def test_a_long_document_is_read_in_pieces(self, tmp_path, monkeypatch):
        monkeypatch.setattr(text, "_PIECE_BYTES", 7)
        monkeypatch.setattr(tokenizer, "_PIECE", 10)
        monkeypatch.setattr(tokenizer, "_AT_ONCE", 20)
        (tmp_path / "a.txt").write_text("".join(DOCUMENTS))
        name = bpe(tmp_path / "tokenizer.json")
        data = resolve(TextData(source="text", path=str(tmp_path / "a.txt"), tokenizer=name, vocab=300))
        assert documents_of(data, Tokenizer.from_file(name)) == ["".join(DOCUMENTS)]

    def test_a_large_vocabulary_takes_four_bytes(self, tmp_path):
        words = {"<eos>": 0, "<unk>": 1, "far": 70_000, "near": 69_999}
        model = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        model.pre_tokenizer = pre_tokenizers.Whitespace()
        model.save(str(tmp_path / "t.json"))
        path = written(tmp_path, "jsonl", ["far near", "near"])
        data = resolve(TextData(source="text", path=path, tokenizer=str(tmp_path / "t.json"), vocab=70_001))
        assert text.tokens(data)[0].tolist() == [70_000, 69_999, 0, 69_999, 0]

    def test_where_a_tokenizer_lies_means_nothing_and_what_it_is_does(self, tmp_path, tiny_run):
        path = written(tmp_path, "jsonl", DOCUMENTS * 30)
        names = [bpe(tmp_path / f"{n}.json", size=size) for n, size in (("a", 300), ("b", 300), ("c", 290))]
        one, same, other = (
            tiny_run(data=resolve(TextData(source="text", path=path, tokenizer=name, vocab=300))) for name in names
        )
        assert one.run_id == same.run_id != other.run_id
        with pytest.raises(ValueError, match="fingerprint"):
            tiny_run(data=one.data.model_copy(update={"tokenizer_fingerprint": None})).run_id  # noqa: B018
        Path(names[0]).unlink()
        assert open_source(one).sequences(0, 9).shape == (9, 9), "what was tokenised needs no tokenizer"

    def test_bits_per_byte_follow_from_the_bytes_of_the_text(self, tmp_path, tiny_run):
        path = written(tmp_path, "jsonl", DOCUMENTS * 30)
        name = bpe(tmp_path / "t.json")
        source = open_source(tiny_run(data=resolve(TextData(source="text", path=path, tokenizer=name, vocab=300))))
        assert 0.2 < source.tokens_per_byte < 0.9
        assert source.unique_tokens(10**9) == source.split.train_count * 8

    @pytest.mark.parametrize(
        "asked, end, says",
        [
            ({"vocab": 299}, "<|endoftext|>", r"data\.vocab: is 299, and .* has 300 tokens; set data\.vocab to 300"),
            ({"end": "</d>"}, "<|endoftext|>", r"data\.end: </d> is no token of .*, one of <\|endoftext\|>"),
            ({}, "<stop>", r"data\.end: .* has none of .*; name the one .* <stop>"),
            ({}, None, r"data\.end: .* has none of .*, or add one: it has no special tokens"),
            ({"tokenizer": "none.json"}, None, r"data\.tokenizer: none\.json cannot be read: No such file"),
        ],
    )
    def test_what_does_not_fit_is_told(self, tmp_path, asked, end, says):
        name = bpe(tmp_path / "t.json", end=end)
        path = written(tmp_path, "jsonl")
        with pytest.raises(InputError, match=says):
            resolve(TextData(**{"source": "text", "path": path, "tokenizer": name, "vocab": 300} | asked))

    def test_any_token_can_be_the_end(self, tmp_path):
        name = bpe(tmp_path / "t.json", end="<stop>")
        data = resolve(
            TextData(source="text", path=written(tmp_path, "jsonl"), tokenizer=name, vocab=300, end="<stop>")
        )
        assert documents_of(data, Tokenizer.from_file(name)) == DOCUMENTS

    def test_no_tokenizer_and_no_utf8_are_told(self, tmp_path):
        (tmp_path / "no.json").write_text("{}")
        (tmp_path / "x.txt").write_bytes(b"abc\xff")
        asked = TextData(source="text", path=str(tmp_path / "x.txt"), tokenizer=str(tmp_path / "no.json"))
        with pytest.raises(InputError, match=r"data\.tokenizer: .* is no tokenizer\.json"):
            resolve(asked)
        asked = asked.model_copy(update={"tokenizer": bpe(tmp_path / "t.json"), "vocab": 300})
        with pytest.raises(InputError, match=r"data\.path: .*x\.txt is not UTF-8"):
            resolve(asked)

    def test_a_tokenizer_that_changed_is_refused(self, tmp_path, monkeypatch):
        data = resolve(
            TextData(source="text", path=written(tmp_path, "jsonl"), tokenizer=bpe(tmp_path / "t.json"), vocab=300)
        )
        bpe(tmp_path / "t.json", size=290)
        monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "elsewhere"))
        with pytest.raises(InputError, match=r"data\.tokenizer: .* has changed"):
            text.tokens(data)


TOKENISE = """
import sys
from nextscale.model.data import text
from nextscale.model.config.data import TextData
print("ready", flush=True)
sys.stdin.readline()
data = text.resolved(TextData(source="text", path=sys.argv[1], tokenizer=sys.argv[2], vocab=300))
print(text.tokens(data)[0].sum())
"""


class TestKept:
    @pytest.fixture
    def tokenise(self, tmp_path):
        """Starts a process that tokenises when it is told to."""
        started = []

        def start(path, name, code=TOKENISE):
            environment = os.environ | {"NEXTSCALE_CACHE": str(tmp_path / "kept")}
            process = subprocess.Popen(
                [sys.executable, "-c", code, path, name],
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.append(process)
            return process

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def test_several_processes_at_once(self, tmp_path, tokenise):
        path, name = written(tmp_path, "jsonl", DOCUMENTS * 2000), bpe(tmp_path / "t.json")
        encoded = "encode = text._encode\ntext._encode = lambda *args: (print('encoded'), encode(*args))\nprint("
        processes = [tokenise(path, name, TOKENISE.replace("print(", encoded, 1)) for _ in range(2)]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
        sums = [process.communicate("go\n", timeout=60)[0] for process in processes]
        assert sums[0].split()[-1] == sums[1].split()[-1]
        assert "".join(sums).count("encoded") == 1, "one does the work, the other waits for it"
        assert sorted(file.suffix for file in (tmp_path / "kept" / "text").iterdir()) == [".bin", ".json"]

    def test_a_kill_leaves_nothing_that_is_read(self, tmp_path, tokenise, monkeypatch):
        path, name = written(tmp_path, "jsonl", DOCUMENTS * 50), bpe(tmp_path / "t.json")
        stuck = TOKENISE.replace(
            "print(",
            "encoded = text.tokenizer.Tokenizer._tokens\n"
            "def stopped(self, *args):\n    print('in the middle', flush=True); import time; time.sleep(60)\n"
            "text.tokenizer.Tokenizer._tokens = stopped\nprint(",
            1,
        )
        process = tokenise(path, name, stuck)
        process.stdin.write("go\n")
        process.stdin.flush()
        while process.stdout.readline() != "in the middle\n":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        folder = tmp_path / "kept" / "text"
        (left,) = folder.iterdir()
        assert left.name.startswith(".")
        monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "kept"))
        os.utime(left, (time.time() - 7200,) * 2)
        data = resolve(TextData(source="text", path=path, tokenizer=name, vocab=300))
        assert len(documents_of(data, Tokenizer.from_file(name))) == 200
        assert not left.exists(), "what the dead left is cleared away"

    def test_a_full_disk_leaves_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "kept"))

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"cannot be kept: .*No space left on device; make room"):
            resolve(TextData(source="text", path=written(tmp_path, "jsonl")))
        assert not list((tmp_path / "kept" / "text").iterdir())

    def test_a_text_written_to_meanwhile_is_not_kept(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "kept"))
        path, rows = written(tmp_path, "jsonl"), text.rows

        def changed(file, column):
            yield from rows(file, column)
            file.write_text('{"text": "another"}')

        monkeypatch.setattr(text, "rows", changed)
        with pytest.raises(InputError, match="has changed"):
            resolve(TextData(source="text", path=path))
        assert not list((tmp_path / "kept" / "text").iterdir())

    def test_how_far_it_has_come_is_told(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(text, "_REPORT_SECONDS", 0)
        resolve(TextData(source="text", path=written(tmp_path, "jsonl", ["told"])))
        assert "tokenising" in capsys.readouterr().err
