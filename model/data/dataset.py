"""Data from any object with `ds[i]`, such as a grain dataset, checked as it is read."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nextscale.model.errors import InputError, describe_error


class Dataset:
    """Sequences of an object whose `ds[i]` is one of context + 1 tokens, or b of them.

    Sequence n is `ds[n // b][n % b]`; beyond the end of an object that has a length, it begins again.

    Attributes:
        count: sequences there are; None where the object has no length.

    Args:
        where: the key of the spec that names the object, for messages.
    """

    def __init__(self, items: Any, context: int, vocab: int, key: str | None, where: str):
        self._items, self._context, self._vocab, self._key, self._where = items, context, vocab, key, where
        # Batches may be larger than what is read at once.
        self._item = functools.lru_cache(maxsize=2)(self._read)
        self._length = _length(items)
        if self._length == 0:
            raise InputError(f"data.{where}: what it returns is empty")
        self._batch = len(self._item(0))
        self.count = None if self._length is None else self._length * self._batch
        if self._length is not None:
            self._item(self._length - 1)  # an incomplete last batch is found now, not after days

    def sequences(self, first: int, count: int) -> np.ndarray:
        """Sequences `first` to `first + count`: int32, count x (context + 1).

        Raises:
            InputError: an item is no sequence, nor a batch, of context + 1 tokens.
        """
        tokens = np.empty((count, self._context + 1), np.int32)
        done = 0
        while done < count:
            number, row = divmod(first + done, self._batch)
            item = self._item(number if self._length is None else number % self._length)
            rows = item[row : row + count - done]
            tokens[done : done + len(rows)] = rows
            done += len(rows)
        return tokens

    def _read(self, i: int) -> np.ndarray:
        try:
            item = self._items[i]
        except Exception as error:
            raise self._wrong(i, f"cannot be read: {describe_error(error)}") from error
        if isinstance(item, Mapping):
            item = self._array_of(item, i)
        try:
            array = np.asarray(item)
        except Exception as error:
            raise self._wrong(i, f"is no array: {describe_error(error)}") from error
        T1 = self._context + 1
        if array.ndim not in (1, 2) or array.shape[-1] != T1 or not array.size:
            raise self._wrong(i, f"has shape {array.shape}; give {T1} tokens (model.context + 1), or batches of them")
        if array.dtype.kind not in "iu":
            raise self._wrong(i, f"holds {array.dtype.name}; give whole numbers")
        if array.max() >= self._vocab or array.min() < 0:
            worst = array.max() if array.max() >= self._vocab else array.min()
            raise InputError(f"data.vocab: is {self._vocab}, but ds[{i}] of data.{self._where} holds token {worst}")
        batch = np.atleast_2d(array)
        if i and len(batch) != self._batch:
            raise self._wrong(i, f"holds {len(batch)} sequences and ds[0] {self._batch}; drop an incomplete last batch")
        return batch

    def _array_of(self, item: Mapping[str, Any], i: int) -> Any:
        if self._key is not None:
            if self._key not in item:
                raise InputError(f"data.key: ds[{i}] of data.{self._where} has no {self._key}; it has {_names(item)}")
            return item[self._key]
        if len(item) != 1:
            raise InputError(
                f"data.key: ds[{i}] of data.{self._where} has {_names(item)}; name that of the context + 1 tokens"
            )
        return next(iter(item.values()))

    def _wrong(self, i: int, what: str) -> InputError:
        return InputError(f"data.{self._where}: ds[{i}] {what}")


def import_factory(name: str, where: str) -> Callable[..., Any]:
    """The function of the name `package.module:function`.

    Raises:
        InputError: there is none.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise InputError(
            f"data.{where}: {name} cannot be imported: {describe_error(error)}; "
            "install it, or put its folder on PYTHONPATH"
        ) from error
    if not callable(found):
        raise InputError(f"data.{where}: {name} is no function, but {type(found).__name__}; name one that returns it")
    return found


def call_factory(name: str, arguments: Mapping[str, Any], where: str) -> Any:
    """What a factory returns.

    Raises:
        InputError: it fails, or returns no object with `ds[i]`.
    """
    make = import_factory(name, where)
    try:
        found = make(**arguments)
    except Exception as error:
        raise InputError(f"data.{where}: {name} failed: {describe_error(error)}") from error
    if not hasattr(found, "__getitem__"):
        raise InputError(f"data.{where}: {name} returns {type(found).__name__}, which has no ds[i]")
    return found


def _length(items: Any) -> int | None:
    """None too for one that repeats without end, which grain gives the largest length there is."""
    try:
        length = len(items)
    except (TypeError, AttributeError, OverflowError):
        return None
    return length if length < sys.maxsize else None


def _names(item: Mapping[str, Any]) -> str:
    return ", ".join(map(str, item)) or "nothing"
