"""Text to a model's tokens and back, as its data has them; and the same as a file that Hugging Face libraries read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nextscale.model.config.data import DataConfig, TextData, single_sources
from nextscale.model.data import text, tokenizer
from nextscale.model.errors import InputError

END_CHARACTER = "\ufdd0"
"""Stands for the byte 0, which ends a document, in a tokenizer of bytes: a character that is none (Unicode 23.7)."""


class Codec(Protocol):
    """Text as the tokens of a model.

    Attributes:
        start: the token that stands before a document, where another has ended.
        end: the token that ends one; None where it may be part of a character as well.
    """

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int | None: ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; nothing is added."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; what is none becomes the replacement character."""

    def tokenizer(self) -> Any:
        """The same as a `tokenizers.Tokenizer`."""


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Bytes, or their seven-bit code (see `nextscale.model.data.text`)."""

    seven_bit: bool
    start: int = 0

    @property
    def end(self) -> int | None:
        return None if self.seven_bit else 0

    def encode(self, text_: str) -> list[int]:
        content = text_.encode(errors="surrogatepass")
        return text.seven_bit(content).tolist() if self.seven_bit else list(content)

    def decode(self, tokens: Sequence[int]) -> str:
        if not self.seven_bit:
            return bytes(tokens).decode(errors="replace")
        codes = np.asarray(tokens, np.uint8)
        return text.from_seven_bit(codes).decode(errors="replace")

    def tokenizer(self) -> Any:
        return _bytes_tokenizer(self.seven_bit)


@dataclasses.dataclass(frozen=True)
class Subwords:
    """The tokens of a tokenizer.json."""

    loaded: tokenizer.Tokenizer
    end: int

    @property
    def start(self) -> int:
        return self.end

    def encode(self, text_: str) -> list[int]:
        return self.loaded.encoder.encode(text_, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        # A vocabulary may be larger than its tokenizer's; what it has beyond stands for no text.
        known = [token for token in tokens if token < self.loaded.size]
        return self.loaded.encoder.decode(known, skip_special_tokens=False)

    def tokenizer(self) -> Any:
        import tokenizers

        return tokenizers.Tokenizer.from_file(self.loaded.name)


def codec_of(data: DataConfig) -> Codec | None:
    """How the data's text becomes tokens; None where its tokens are not known to be text, or not all of one kind.

    Raises:
        InputError: its tokenizer is not what it was.
    """
    parts = list(single_sources(data).values())
    kinds = {(one.vocab, one.tokenizer_fingerprint, one.end) for one in parts if isinstance(one, TextData)}
    if len(kinds) != 1 or not all(isinstance(one, TextData) for one in parts):
        return None
    (first, *_) = parts
    assert isinstance(first, TextData)
    if first.tokenizer is None:
        return Bytes(seven_bit=first.vocab == 128)
    loaded = tokenizer.load(first.tokenizer)
    if loaded.fingerprint != first.tokenizer_fingerprint:
        raise InputError(
            f"{first.tokenizer}: is not the tokenizer that the run was trained on ({loaded.fingerprint}, was "
            f"{first.tokenizer_fingerprint}); restore it"
        )
    return Subwords(loaded, loaded.encoder.token_to_id(loaded.end_token(first.end)))


def _bytes_tokenizer(seven_bit: bool) -> Any:
    """A `tokenizers.Tokenizer` of the tokens of `Bytes`.

    Each byte is a character of its own (the table of Radford et al. 2019's byte-level BPE), and each character a token:
    no merges. The seven-bit code is spelled out before, and read back after, one replacement for each byte; a text with
    ASCII's SO or DLE in it is encoded as it should be, and not always decoded so.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    characters = _byte_characters()
    if seven_bit:
        # Marks come first, for what a mark is put before must not be marked again. Read back, bytes whose low bits are
        # marks themselves come first: else those would be taken for marks.
        marks = [
            (characters[mark], characters[text.ESCAPE] + characters[mark]) for mark in (text.ESCAPE, text.SHIFT_OUT)
        ]
        bytes_ = sorted(range(128, 256), key=lambda byte: byte & 127 not in (text.SHIFT_OUT, text.ESCAPE))
        spelled = [(characters[byte], characters[text.SHIFT_OUT] + characters[byte & 127]) for byte in bytes_]
        written, read = [*marks, *spelled], [(codes, byte) for byte, codes in spelled]
        vocab = {characters[byte]: byte for byte in range(128)}
    else:
        written, read = [(characters[0], END_CHARACTER)], [(END_CHARACTER, characters[0])]
        vocab = {END_CHARACTER: 0} | {characters[byte]: byte for byte in range(1, 256)}
    made = Tokenizer(models.BPE(vocab, merges=[]))
    made.normalizer = normalizers.Sequence([normalizers.ByteLevel(), *(normalizers.Replace(*one) for one in written)])
    made.decoder = decoders.Sequence([decoders.Fuse(), *(decoders.Replace(*one) for one in read), decoders.ByteLevel()])
    if not seven_bit:
        made.add_special_tokens([AddedToken(END_CHARACTER, special=True, normalized=False)])
    return made


def _byte_characters() -> list[str]:
    """A printable character for each byte: itself where it is one, else one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
