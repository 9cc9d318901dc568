"""How fast each kind of source gives batches, on one core: `python benchmarks/data.py`.

Files are written to a temporary folder first (250 MB) and read from memory: a cold disk gives what it gives. Last, how
fast a tokenizer turns text into tokens, which is done once per text.
"""

import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["RAYON_NUM_THREADS"] = "1"  # the threads of tokenizers
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
from rich.console import Console

from nextscale.model.config.data import TextData
from nextscale.model.config.run import ModelFamily, RunConfig
from nextscale.model.data import text
from nextscale.model.data.sources import open_source, resolve
from nextscale.sweeps.show.formats import count
from nextscale.sweeps.show.tables import Table

TOKENS, VOCAB = 100_000_000, 50_257
READ_TOKENS, REPEATS = 1 << 20, 9
BPE_VOCAB, TOKENISED_BYTES = 8_192, 8_000_000


class Batches:
    """What a grain dataset looks like from outside: one sequence an item, from an array in memory."""

    def __init__(self, path, context):
        self.tokens, self.context = np.load(path, mmap_mode="r"), context

    def __len__(self):
        return (len(self.tokens) - 1) // self.context

    def __getitem__(self, i):
        return {"tokens": np.asarray(self.tokens[i * self.context : (i + 1) * self.context + 1])}


def files(folder):
    """The same tokens as .bin and .npy, and parts of them."""
    tokens = np.random.default_rng(0).integers(0, VOCAB, TOKENS, dtype=np.uint16)
    tokens.tofile(folder / "tokens.bin")
    np.save(folder / "part.npy", tokens[: TOKENS // 4])
    for i, name in enumerate("abc"):
        tokens[i * TOKENS // 8 : (i + 1) * TOKENS // 8].tofile(folder / f"{name}.bin")


def of_tokens(path):
    return {"source": "tokens", "path": str(path), "vocab": VOCAB}


def rate(data, context):
    """Tokens a second, the best of several reads."""
    model = ModelFamily(heads=1, context=context).at(8, data.get("vocab", VOCAB))
    run = RunConfig(data=data, model=model, training={"batch_tokens": context, "steps": 1, "lr": 0.01})
    source = open_source(run.model_copy(update={"data": resolve(run.data)}))
    sequences, best = READ_TOKENS // context, float("inf")
    for i in range(REPEATS):
        start = time.perf_counter()
        source.sequences(i * sequences, sequences)
        best = min(best, time.perf_counter() - start)
    return sequences * context / best


def tokenising(folder):
    """Bytes a second, and tokens, of a byte-level BPE over the Python library's source."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    codes, _ = text.tokens(resolve(TextData(source="text", path=text.STDLIB)))
    content = bytes(codes[:TOKENISED_BYTES]).decode(errors="replace")
    rows = [{"text": document} for document in content.split("\0") if document]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder = Tokenizer(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=BPE_VOCAB, special_tokens=special, show_progress=False)
    encoder.train_from_iterator((row["text"] for row in rows[:300]), trainer)
    encoder.save(str(folder / "tokenizer.json"))
    asked = TextData(
        source="text", path=str(folder / "corpus.jsonl"), tokenizer=str(folder / "tokenizer.json"), vocab=BPE_VOCAB
    )
    start = time.perf_counter()
    found, tokens_per_byte = text.tokens(resolve(asked))
    seconds = time.perf_counter() - start
    return len(found) / tokens_per_byte / seconds, len(found) / seconds


def main(folder):
    files(folder)
    parts = {
        name: {"weight": weight, "data": of_tokens(folder / f"{name}.bin")}
        for name, weight in zip("abc", (6, 3, 1), strict=True)
    }
    mixture = {"source": "mixture", "sources": parts}
    dataset = {
        "source": "dataset",
        "fingerprint": "1",
        "factory": "batches:make",
        "held_out": "batches:make",
        "vocab": VOCAB,
    }
    kinds = [
        *(("tokens, .bin", of_tokens(folder / "tokens.bin"), context) for context in (64, 1024, 4096)),
        ("tokens, .npy", of_tokens(folder / "part.npy"), 1024),
        *(("mixture of three .bin", mixture, context) for context in (64, 1024)),
        ("text, bytes", {"source": "text", "path": text.STDLIB, "vocab": 256}, 1024),
        ("dataset, one sequence an item", dataset, 1024),
        ("markov", {"source": "markov", "vocab": 64}, 1024),
    ]
    sys.modules["batches"] = batches = type(sys)("batches")
    rows = []
    for name, data, context in kinds:
        batches.make = functools.partial(Batches, folder / "part.npy", context)
        rows.append([name, str(context), count(rate(data, context))])
    size, tokens = tokenising(folder)
    rows.append([f"tokenising, once ({size / 1e6:.1f} MB/s)", "", count(tokens)])
    Console(width=100).print(Table("Tokens a second, one core", ["source", "context", "tokens/s"], rows).rich())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEXTSCALE_CACHE"] = str(Path(folder) / "kept")
        main(Path(folder))
