"""Configuration of the data of a run: a Markov chain, text, token files, a dataset, or a mixture of these."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, PrivateAttr, ValidationInfo, field_validator, model_validator

from nextscale.model.config.identity import Config, OptionalPath, Path

SetName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
MIN_SHARE = 1e-4
"""Of a source in a mixture; one of less would not be read once in ten thousand sequences."""


def _is_a_function(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", name):
        raise ValueError(f"write it as package.module:function, not {name!r}")
    return name


Factory = Annotated[str, AfterValidator(_is_a_function)]


class Pack(Config):
    """What is done where a sequence holds parts of several documents."""

    mask: Literal["documents"] | None = Field(
        None, description="each token sees its own document alone, and none is predicted from another document"
    )
    shuffle: Literal["documents"] | None = Field(
        None,
        description="documents are shuffled, and sequences cut from them as they come; else sequences are",
    )
    end: int | None = Field(None, ge=0, description="the token that ends a document; of a text read off its tokens")

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.mask is None and self.shuffle is None:
            raise ValueError("says nothing to do; give mask: documents, shuffle: documents, or both")
        return self


def _is_of_sequences(count: int | None, info: ValidationInfo) -> int | None:
    if count is not None and (pack := info.data.get("pack")) is not None and pack.shuffle is not None:
        raise ValueError("are whole sequences, one set in every epoch, which shuffled documents are not; leave one out")
    return count


UniqueTokens = Annotated[
    int | None,
    Field(ge=1, description="train on so many distinct tokens at the most, again and again; on all there are if open"),
    AfterValidator(_is_of_sequences),
]


class MarkovData(Config):
    """An order-2 Markov source whose entropy rate, the irreducible loss, is known exactly.

    `P(k|i,j) = softmax_k(-zipf·log(k+1) + first·G1[j,k] + second·G2[i,j,k])`, `j` the previous token,
    `i` the one before it, `G1` and `G2` standard normal draws from `numpy.random.default_rng(seed)`.
    """

    source: Literal["markov"]
    vocab: int = Field(64, ge=2, le=256)
    seed: int = Field(0, ge=0)
    zipf: float = Field(1.2, ge=0)
    first: float = Field(1.5, ge=0)
    second: float = Field(1.5, ge=0)
    unique_tokens: UniqueTokens = None


class TextData(Config):
    """A file, or a folder of files, of text: bytes, or tokens of a `tokenizer`. `python-stdlib` names this Python's
    own library.

    A text file is a document; so is each row of a .jsonl (or .jsonl.gz) or .parquet file, whose text is in `column`.

    `vocab` 256 takes bytes as they are. `vocab` 128 is a lossless seven-bit code: ASCII is itself, and a
    byte above 127 becomes a shift-out mark and its low seven bits. With a tokenizer, `vocab` is its own or larger.
    """

    source: Literal["text"]
    path: Path
    column: str | None = Field(None, min_length=1, description="field of each row; `text` where files hold rows")
    tokenizer: OptionalPath = Field(None, description="a tokenizer.json of Hugging Face tokenizers; bytes if open")
    vocab: int = Field(256, ge=2, le=2**31, validate_default=True)
    end: str | None = Field(
        None, min_length=1, description="the tokenizer's token after each document; a usual name of it if open"
    )
    pack: Pack | None = Field(None, description="what is done where a sequence holds parts of several documents")
    unique_tokens: UniqueTokens = None
    fingerprint: str | None = Field(None, description="sha256 of the content; read off the data")
    tokenizer_fingerprint: str | None = Field(None, description="sha256 of the tokenizer; read off its file")

    @field_validator("vocab")
    @classmethod
    def _is_of_bytes(cls, vocab: int, info: ValidationInfo) -> int:
        if info.data.get("tokenizer") is None and vocab not in (128, 256):
            raise ValueError(f"should be 128 or 256, not {vocab}, unless `tokenizer` names a tokenizer.json")
        return vocab

    @field_validator("end")
    @classmethod
    def _is_of_a_tokenizer(cls, end: str | None, info: ValidationInfo) -> str | None:
        if end is not None and info.data.get("tokenizer") is None:
            raise ValueError("is a token of a `tokenizer`, and none is named; name one, or leave it out")
        return end


class TokenData(Config):
    """Token files as nanoGPT (without a header), llm.c (256 x int32 header) and `numpy.save` write them.

    `path` is one `.bin` or `.npy` file, or a folder of them; in a folder, files with the word `val`, `valid` or
    `validation` in their name are the held-out split. `bytes_per_token`, where known, gives bits per byte.
    """

    source: Literal["tokens"]
    path: Path
    vocab: int = Field(ge=2, le=2**32)
    dtype: Literal["uint16", "uint32"] = Field("uint16", description="of tokens in .bin files without a header")
    bytes_per_token: float | None = Field(None, gt=0)
    pack: Pack | None = Field(None, description="what is done where a sequence holds parts of several documents")
    unique_tokens: UniqueTokens = None
    fingerprint: str | None = Field(None, description="digest of the files; read off the data")
    _stamp: str | None = PrivateAttr(None)

    @field_validator("pack")
    @classmethod
    def _ends_documents(cls, pack: Pack | None, info: ValidationInfo) -> Pack | None:
        if pack is None:
            return None
        if pack.end is None:
            raise ValueError("end: is missing: token files do not say which token ends a document; name its number")
        if pack.end >= info.data.get("vocab", 2**32):
            raise ValueError(f"end: {pack.end} is no token of a vocab of {info.data['vocab']}")
        return pack

    @property
    def stamp(self) -> str | None:
        """Sizes and times of change with which the files had that fingerprint (see `nextscale.model.data.manifest`),
        where it is known. It goes to workers with the config, and into no file: it is of these files, not of the data.
        """
        return self._stamp

    def stamped(self, stamp: str) -> Self:
        data = self.model_copy()
        data._stamp = stamp
        return data


class DatasetData(Config):
    """Any object whose `ds[i]` is a sequence of context + 1 tokens, or a batch of them: a grain dataset, say.

    `factory` names a function that makes it when called with `arguments`, `held_out` one that makes what is measured.
    Only you can say which data that is: change `fingerprint` whenever it changes.
    """

    source: Literal["dataset"]
    factory: Factory = Field(description="package.module:function; its data trains")
    held_out: Factory = Field(description="package.module:function; its data is held out")
    fingerprint: str = Field(min_length=1, description="a name of this version of the data")
    vocab: int = Field(ge=2, le=2**31)
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="of factory, by name")
    held_out_arguments: dict[str, JsonValue] = Field(default_factory=dict, description="of held_out, by name")
    key: str | None = Field(None, min_length=1, description="of the tokens, where ds[i] is a dict of several arrays")
    bytes_per_token: float | None = Field(None, gt=0)


SingleData = Annotated[MarkovData | TextData | TokenData | DatasetData, Field(discriminator="source")]
"""Of one kind: what a mixture is made of, and what can be a validation set."""


class MixturePart(Config):
    """A source and its weight: its share of the sequences, relative to the others'."""

    weight: float = Field(gt=0, le=1e6)
    data: SingleData


class MixtureData(Config):
    """Several sources by name, read in proportion to their weights, of one vocabulary.

    Each is held out from as it would be alone, and its own loss is measured under its name.
    """

    source: Literal["mixture"]
    sources: dict[SetName, MixturePart] = Field(min_length=1)

    @property
    def vocab(self) -> int:
        return next(iter(self.sources.values())).data.vocab

    @property
    def weights(self) -> dict[str, float]:
        """Shares of the sequences, by name and in order of name: the order they are written in means nothing."""
        total = sum(self.sources[name].weight for name in sorted(self.sources))
        return {name: self.sources[name].weight / total for name in sorted(self.sources)}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if "by_position" in self.sources:
            raise ValueError("sources: the loss of by_position would write over the loss by position; rename it")
        (first, one), *others = self.sources.items()
        for name, part in others:
            if part.data.vocab != one.data.vocab:
                raise ValueError(
                    f"sources.{name}.data.vocab: is {part.data.vocab}, and that of {first} {one.data.vocab}; "
                    "a mixture is of one vocabulary"
                )
        name, least = min(self.weights.items(), key=lambda item: item[1])
        if least < MIN_SHARE:
            raise ValueError(f"sources.{name}.weight: is {least:.2g} of all; make it {MIN_SHARE:g} or more")
        return self


DataConfig = Annotated[MarkovData | TextData | TokenData | DatasetData | MixtureData, Field(discriminator="source")]


def single_sources(data: DataConfig) -> dict[str, SingleData]:
    """The sources of a mixture by name; any other as it is, without one."""
    return {name: part.data for name, part in data.sources.items()} if isinstance(data, MixtureData) else {"": data}


def packs(data: DataConfig) -> list[Pack | None]:
    """How each of its sources packs documents."""
    return [getattr(part, "pack", None) for part in single_sources(data).values()]


def is_resolved(data: DataConfig) -> bool:
    """Whether all that names the data's content is known."""
    return all(pack is None or pack.end is not None for pack in packs(data)) and all(
        getattr(part, "fingerprint", "") is not None
        and (getattr(part, "tokenizer", None) is None or getattr(part, "tokenizer_fingerprint", "") is not None)
        for part in single_sources(data).values()
    )
