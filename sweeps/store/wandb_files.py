"""Reads the local files of Weights & Biases, `run-ID.wandb`, in which its client keeps a run before sending it.

A file is a LevelDB log: after 7 bytes of its own, blocks of 32 KiB of records, each `checksum (4 bytes), length (2),
kind (1), data`; kinds are whole, first, middle and last part of a message. Messages are the client's protocol buffers.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nextscale.sweeps.errors import SpecError

SUFFIX = ".wandb"
_HEAD, _BLOCK, _ENTRY = 7, 2**15, struct.Struct("<IHB")
_WHOLE, _LAST = 1, 4


@dataclasses.dataclass(frozen=True)
class WandbRun:
    """What the files of one run say.

    Attributes:
        history: each step's values, in the order in which they were logged.
        summary: the newest value of each.
        exit_code: of its process; None while it has not ended.
    """

    run_id: str
    project: str
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int | None


def read_runs(paths: Iterable[Path]) -> list[WandbRun]:
    """Each run of some files, the older files first: one that was resumed has several.

    Raises:
        SpecError: the client, whose messages these are, is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise SpecError("wandb: reading its folders needs its client; pip install 'nextscale[wandb]'")
    from wandb.proto.wandb_internal_pb2 import Record

    runs: dict[str, WandbRun] = {}
    for path in paths:
        run_id = ""
        for message in _messages(path.read_bytes()):
            record = Record.FromString(message)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run_id = record.run.run_id
                known = runs.get(run_id) or WandbRun(run_id, record.run.project, {}, [], {}, None)
                config = known.config | _values(record.run.config.update)
                runs[run_id] = dataclasses.replace(known, config=config, exit_code=None)
            elif kind == "history":
                runs[run_id].history.append(_values(record.history.item))
            elif kind == "summary":
                runs[run_id].summary.update(_values(record.summary.update))
            elif kind == "exit":
                runs[run_id] = dataclasses.replace(runs[run_id], exit_code=record.exit.exit_code)
    return list(runs.values())


def _messages(content: bytes) -> Iterator[bytes]:
    """Those that are whole; what a crash cut short is left out."""
    at, message = _HEAD, b""
    while at + _ENTRY.size <= len(content):
        rest = _BLOCK - at % _BLOCK
        if rest < _ENTRY.size:
            at += rest
            continue
        checksum, length, kind = _ENTRY.unpack_from(content, at)
        at += _ENTRY.size
        part = content[at : at + length]
        if zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            return
        at, message = at + length, message + part
        if kind in (_WHOLE, _LAST):
            yield message
            message = b""


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
