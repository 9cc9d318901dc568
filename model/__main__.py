"""The command line of one training run: `python -m nextscale.model CONFIG.json --out DIR`.

It is trained alone, or by this process as one of many. With several configs, one device trains them all, so many
side by side as is fastest (see `pack.py`).

| exit code | means |
|---|---|
| 0 | every run has its record |
| 2 | what was asked for cannot be done; one line says why |
| 75 | stopped by SIGTERM, and saved: the same command goes on from there (`EX_TEMPFAIL` of sysexits.h) |
| 130 | interrupted at the keyboard; it goes on from its newest checkpoint |

Any other is a failure, with its traceback.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import jax
from etils import epath
from pydantic import ValidationError

from nextscale.model.config.data import is_resolved
from nextscale.model.config.external import ExternalRun, read_run
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import Parent, RunConfig
from nextscale.model.data.sources import resolve
from nextscale.model.errors import InputError, Stopped
from nextscale.model.external import code
from nextscale.model.network.counts import counted
from nextscale.model.network.kernels import RECOMPUTE
from nextscale.model.network.processes import join
from nextscale.model.network.sharding import Layout
from nextscale.model.record import Row, RunDirectory
from nextscale.model.trained.at_end import asked_at_end
from nextscale.model.training.checkpoint import CheckpointPolicy
from nextscale.model.training.pack import train_together
from nextscale.model.training.step import MemorySaving
from nextscale.model.training.train import enable_compilation_cache, train, training

T = TypeVar("T")

EVERY = "between checkpoints, %(default)s, or more where they take over a twentieth of that to write; 0: no pause"

DONE, INPUT, STOPPED, INTERRUPTED = 0, 2, 75, 130


def main(arguments: list[str] | None = None) -> int:
    """Trains as the command line says, and prints each record as a line of JSON, the last; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    stop = threading.Event()
    try:
        results = _results(options, stop)
        if jax.process_index() == 0:
            for result in results:
                if not _failed(result):
                    print(json.dumps(result))
        # Of several failures, one that a person must mend comes before a stop, which mends itself.
        for failure in sorted(filter(_failed, results), key=lambda failure: isinstance(failure, Stopped)):
            raise failure
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return STOPPED
    except InputError as error:
        print(error, file=sys.stderr)
        return INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def _results(options: argparse.Namespace, stop: threading.Event) -> Sequence[Row | BaseException]:
    """Trains what is asked for; returns the record of each run or, where there are several, what it raised."""
    configs = [_config(file) for file in options.configs]
    if len(configs) > 1 and (options.layout or options.coordinator or options.trunk):
        raise InputError("several configs are trained on one device: leave out --layout, --coordinator and --trunk")
    if options.coordinator is not None:
        if options.processes is None or options.process is None:
            raise InputError("--coordinator: name --processes and --process too")
        join(options.coordinator, options.processes, options.process)
    # After JAX has joined, which installs a handler of its own.
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    enable_compilation_cache()
    out = RunDirectory(epath.Path(options.out))
    common: dict[str, Any] = {
        "checkpoint": CheckpointPolicy(options.every, options.keep, pinned=tuple(options.pin)),
        "memory_limit": options.memory,
        "memory_saving": MemorySaving(recompute=options.recompute),
        "stop": stop.is_set,
    }
    if len(configs) == 1:
        layout = options.layout or Layout(data=jax.device_count())
        ask = asked_at_end(configs[0], out)
        return [train(configs[0], out, trunk=options.trunk, layout=layout, ask=ask, **common)]
    folders = [RunDirectory(out.path / config.run_id) for config in configs]
    runs = [
        training(config, folder, ask=asked_at_end(config, folder), **common)
        for config, folder in zip(configs, folders, strict=True)
    ]
    return train_together(runs, max_together=options.together)


def _failed(result: Row | BaseException) -> TypeGuard[BaseException]:
    return isinstance(result, BaseException)


def _parser() -> argparse.ArgumentParser:
    policy = CheckpointPolicy()
    parser = argparse.ArgumentParser(
        "python -m nextscale.model",
        description="Trains one run, or several on one device, to their records: the last lines of what is printed, as "
        "JSON.",
        epilog="Exit codes: 0 done, 2 the input was wrong, 75 stopped by SIGTERM and saved, 130 interrupted.",
    )
    add = parser.add_argument
    add(
        "configs",
        metavar="CONFIG.json",
        type=Path,
        nargs="+",
        help="the run, as config.json of a run's directory holds it",
    )
    add(
        "--out",
        metavar="DIR",
        required=True,
        help="the run's directory, which processes share; of several their parent",
    )
    add("--together", metavar="N", type=int, default=8, help="the most runs that are tried side by side; %(default)s")
    add("--layout", type=_argument(Layout.parse), help="such as data=4,fsdp=2,tensor=1; all devices along data if open")
    add("--memory", metavar="BYTES", type=int, help="of each device; micro-batches that need more are not tried")
    add("--recompute", choices=RECOMPUTE, default="none", help="what of a block its gradient computes again")
    add("--every", metavar="SECONDS", type=float, default=policy.every_seconds, help=EVERY)
    add("--keep", metavar="N", type=int, default=policy.keep, help="newest checkpoints that are kept; %(default)s")
    add("--pin", metavar="TOKENS", type=int, nargs="*", default=[], help="positions at which a checkpoint stays")
    add("--trunk", metavar="RUN_ID:TOKENS", type=_argument(_trunk), help="a run beside this one to begin from")
    add("--coordinator", metavar="HOST:PORT", help="of process 0, where this is one process of several")
    add("--processes", metavar="N", type=int, help="how many there are")
    add("--process", metavar="I", type=int, help="which this is, from 0")
    return parser


def _argument(read: Callable[[str], T]) -> Callable[[str], T]:
    """Reads an argument; what cannot be read is told as argparse tells it."""

    def argument(text: str) -> T:
        try:
            return read(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return argument


def _trunk(text: str) -> Parent:
    run_id, _, tokens = text.partition(":")
    try:
        return Parent(run_id=run_id, tokens=int(tokens))
    except ValueError:
        raise InputError(f"{text!r}: write it as RUN_ID:TOKENS") from None


def _config(file: Path) -> RunConfig:
    try:
        config = read_run(file.read_text())
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if isinstance(config, ExternalRun):
        raise InputError(
            f"{file}: is an external trainer's run; its own command trains it ({config.trainer.command[0]})"
        )
    if config.targets:
        config = config.model_copy(update={"code": code.resolve(config.code, config.targets)})
    if isinstance(config.model, ModuleModel):
        config = config.model_copy(update={"model": counted(config.model, config.code)})
    # One that names its data's content keeps to it: other data would be another run.
    return config if is_resolved(config.data) else config.model_copy(update={"data": resolve(config.data)})


if __name__ == "__main__":
    sys.exit(main())
