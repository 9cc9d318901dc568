"""Encodes text with a Hugging Face `tokenizers` file."""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nextscale.model.data.remote import local_copy
from nextscale.model.errors import InputError, first_line
from nextscale.model.storage.address import address_of

END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
_PIECE = 1 << 20
"""Characters. A longer document is tokenised in pieces that end at a line: the memory it takes is that of a piece."""
_AT_ONCE = 1 << 21


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that adds nothing of its own and reads no special token into a text.

    Attributes:
        size: one more than its largest token.
        fingerprint: sha256 of its file.
    """

    encoder: Any
    name: str
    size: int
    fingerprint: str

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if self.size <= 2**16 else np.uint32)

    def end_token(self, end: str | None) -> str:
        """The token that ends a document: the one asked for, or the usual one that there is.

        Raises:
            InputError: there is none.
        """
        known = [end] if end is not None else END_TOKENS
        found = [token for token in known if self.encoder.token_to_id(token) is not None]
        if found:
            return found[0]
        special = [token.content for token in self.encoder.get_added_tokens_decoder().values()]
        what = f"{end} is no token of {self.name}" if end is not None else f"{self.name} has none of {', '.join(known)}"
        raise InputError(
            f"data.end: {what}; name the one that ends a document"
            + (f", one of {', '.join(special[:8])}" if special else ", or add one: it has no special tokens")
        )

    def encode(self, documents: Iterable[Iterable[str]], end: str) -> Iterator[tuple[np.ndarray, int]]:
        """Tokens of documents, each followed by `end`, and how many bytes of text they stand for; many at a time."""
        stop = self.encoder.token_to_id(end)
        pieces: list[str] = []
        ends: list[bool] = []
        held = 0
        for document in documents:
            for piece in split_document(document):
                pieces.append(piece)
                ends.append(False)
                held += len(piece)
                if held >= _AT_ONCE:
                    yield self._tokens(pieces, ends, stop)
                    pieces, ends, held = [], [], 0
            pieces.append("")
            ends.append(True)
        yield self._tokens(pieces, ends, stop)

    def _tokens(self, pieces: list[str], ends: list[bool], stop: int) -> tuple[np.ndarray, int]:
        encodings = self.encoder.encode_batch_fast(pieces, add_special_tokens=False)
        ids: list[int] = []
        for encoding, ended in zip(encodings, ends, strict=True):
            ids += [stop] if ended else encoding.ids
        return np.array(ids, self.dtype), sum(len(piece.encode()) for piece in pieces)


def load(path: str) -> Tokenizer:
    """Reads a tokenizer.json.

    Raises:
        InputError: it is not there, or is none.
    """
    import tokenizers

    address = address_of(path)
    file = Path(path).expanduser() if address is None else local_copy(address)
    try:
        content = file.read_bytes()
        encoder = tokenizers.Tokenizer.from_buffer(content)
    except OSError as error:
        raise InputError(
            f"data.tokenizer: {file} cannot be read: {error.strerror}; name the tokenizer.json of a tokenizer"
        ) from None
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(f"data.tokenizer: {file} is no tokenizer.json ({first_line(error)})") from None
    encoder.no_truncation()
    encoder.no_padding()
    # What only looks like the end of a document must not end it.
    encoder.encode_special_tokens = True
    size = max(encoder.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    return Tokenizer(encoder, path if address else str(file), size, hashlib.sha256(content).hexdigest()[:16])


def decode_utf8(content: Iterable[bytes], file: Path) -> Iterator[str]:
    """UTF-8 as text.

    Raises:
        InputError: it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in content:
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise InputError(
            f"data.path: {file} is not UTF-8, which a tokenizer reads; convert it, or leave it out"
        ) from None


def split_document(document: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of at most `_PIECE` characters, cut behind a line or before a space where it can be."""
    rest = ""
    for more in document:
        rest += more
        while len(rest) > _PIECE:
            end = rest.rfind("\n", 0, _PIECE) + 1 or max(rest.rfind(" ", 1, _PIECE), 0) or _PIECE
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest
