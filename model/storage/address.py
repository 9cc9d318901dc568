"""Addresses: places in a bucket, `s3://bucket/folder` or `gs://bucket/folder`, where a path may be given too."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ADDRESS = re.compile(r"(s3|gs):/{1,2}(?=[^/])(.+)", re.DOTALL)


def address_of(path: str | os.PathLike[str]) -> str | None:
    """The address that a path stands for, without a slash at its end; None where it is a path of this machine.

    `pathlib` makes one slash of two, and so `s3:/bucket` is an address too.
    """
    found = _ADDRESS.fullmatch(os.fspath(path))
    return None if found is None else f"{found[1]}://{found[2].rstrip('/')}"


def absolute(path: str | os.PathLike[str]) -> str:
    """An address as it is; a path of this machine from its root."""
    return address_of(path) or str(Path(path).expanduser().absolute())


def sibling(address: str, name: str) -> str:
    """The place of that name beside an address."""
    return f"{address.rpartition('/')[0]}/{name}"
