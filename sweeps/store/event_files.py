"""TensorBoard's event files: records of protocol buffers, each with its length and two checksums.

A record is `length (8 bytes, little-endian), its masked CRC-32C, data, the data's masked CRC-32C`, as TensorFlow's
`record_writer.h` has it. The messages are tensorboardX's. Its writer takes a queue between processes and a thread for
each run, and cannot go on with a file.
"""

from __future__ import annotations

import dataclasses
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

MARK = "tfevents"
"""In the name of every event file, by which TensorBoard knows them."""
_START, _END = "_hparams_/session_start_info", "_hparams_/session_end_info"


@dataclasses.dataclass(frozen=True)
class RunEvents:
    """What the event files of a run say.

    Attributes:
        scalars: of each tag the (step, value) pairs, the newest of each step.
        hparams: what it was run with.
        ended: whether it says that it came to its end.
    """

    scalars: dict[str, list[tuple[int, float]]]
    hparams: dict[str, float | str | bool]
    ended: bool


def encoded(event: Any) -> bytes:
    """An event as it stands in a file."""
    from tensorboardX.record_writer import masked_crc32c

    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def version_event() -> Any:
    """The event that a file begins with."""
    from tensorboardX.proto.event_pb2 import Event

    return Event(wall_time=time.time(), file_version="brain.Event:2")


def scalars_event(step: int, values: Mapping[str, float]) -> Any:
    """The values at one step, as one event."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    return Event(wall_time=time.time(), step=step, summary=summary)


def restart_event(step: int) -> Any:
    """Takes back whatever was told from that step on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    return Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START))


def result_event(step: int, hparams: Mapping[str, Any], values: Mapping[str, float]) -> Any:
    """What a run was run with and what came of it, as one event: it is there, or it is not."""
    from tensorboardX.summary import hparams as summaries

    event = scalars_event(step, values)
    for part in summaries(dict(hparams), dict(values)):
        event.summary.MergeFrom(part)
    return event


def events(path: Path) -> Iterator[tuple[int, Any]]:
    """Each event of a file, and where its record ends; what a crash cut short, and whatever follows, is left out."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    with path.open("rb") as file:
        while len(head := file.read(12)) == 12:
            length, checksum = struct.unpack("<QI", head)
            if checksum != masked_crc32c(head[:8]):
                return
            data, tail = file.read(length), file.read(4)
            if len(tail) < 4 or struct.unpack("<I", tail)[0] != masked_crc32c(data):
                return
            yield file.tell(), Event.FromString(data)


def read_run(paths: Iterable[Path]) -> RunEvents:
    """What the event files of one run say together, the older first."""
    found: dict[str, dict[int, float]] = {}
    hparams: dict[str, float | str | bool] = {}
    ended = False
    for path in paths:
        for _, event in events(path):
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                found = {tag: {s: v for s, v in of.items() if s < event.step} for tag, of in found.items()}
                ended = False
            for value in event.summary.value:
                if value.tag == _START:
                    hparams = _hparams(value)
                elif value.tag == _END:
                    ended = True
                elif (number := _number(value)) is not None:
                    found.setdefault(value.tag, {})[event.step] = number
    return RunEvents({tag: sorted(of.items()) for tag, of in found.items() if of}, hparams, ended)


def _number(value: Any) -> float | None:
    """A scalar, as TensorFlow 1 and its likes write it (simple_value) or as TensorFlow 2 does (a tensor of no axes)."""
    import numpy as np

    if value.WhichOneof("value") == "simple_value":
        return float(value.simple_value)
    if value.WhichOneof("value") != "tensor" or value.metadata.plugin_data.plugin_name not in ("", "scalars"):
        return None
    tensor = value.tensor
    kinds = {1: ("float_val", "<f4"), 2: ("double_val", "<f8")}  # DT_FLOAT, DT_DOUBLE
    if tensor.dtype not in kinds or any(axis.size != 1 for axis in tensor.tensor_shape.dim):
        return None
    field, kind = kinds[tensor.dtype]
    held = getattr(tensor, field) or np.frombuffer(tensor.tensor_content, kind)
    return float(held[0]) if len(held) else None


def _hparams(value: Any) -> dict[str, float | str | bool]:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    started = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
    kinds = {name: one.WhichOneof("kind") for name, one in sorted(started.hparams.items())}
    return {name: getattr(started.hparams[name], kind) for name, kind in kinds.items() if kind}
