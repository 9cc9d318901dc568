"""The process of an external trainer: started under a guard, asked to stop, ended with all that it started."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from nextscale.model.external import guard
from nextscale.model.external.source import search_path

_BEAT = 1.0
_MARK = "NEXTSCALE_GUARDED"
"""Of the environment: whose process it is."""
_PATIENCE = 10.0
"""Seconds for processes that were killed to be gone."""


@dataclasses.dataclass(frozen=True)
class Exit:
    """How a trainer ended.

    Attributes:
        code: its exit code; below zero the signal that ended it; None where the guard itself was ended, and took the
            trainer with it.
        stderr: the last lines that it wrote there.
    """

    code: int | None
    stderr: Sequence[str] = ()

    @property
    def killed(self) -> bool:
        """Whether somebody ended it from outside; a shell tells so of what it ran by a code of its own."""
        outside = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        return self.code in (None, *(-number for number in outside), *(128 + number for number in outside))

    def __str__(self) -> str:
        if self.code is None:
            return "it was killed with its guard"
        if self.code < 0:
            with contextlib.suppress(ValueError):
                return f"it was ended by {signal.Signals(-self.code).name}"
        return f"it exited with {self.code}"


class TrainerProcess:
    """A trainer at work, with all that it starts; gone at the end of the `with` block.

    Args:
        command: program and arguments.
        folder: that it is run in.
        directory: its own; whatever an earlier attempt left at work there, on this machine, is ended first.
        output: the file that gets what it prints.
        environment: beside this process's own.
        rank: of several that work in one folder together.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: str,
        directory: Path,
        output: Path,
        environment: Mapping[str, str],
        rank: int = 0,
    ):
        end_strays(f"{directory} {rank} ")
        self._mark = f"{directory} {rank} {uuid.uuid4().hex}"  # its own: an heir's are not to be ended with it
        told = json.dumps({"command": [*command], "folder": folder, "output": str(output)})
        there = {**os.environ, "PATH": search_path(), **environment, "NEXTSCALE_DIR": str(directory), _MARK: self._mark}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=there,
        )
        self._process.wait()  # the guard has left us by then
        self._rest, self._beaten = b"", -1.0
        self._exit: Exit | None = None
        self.pid = 0
        first = self._line(_PATIENCE) or {}
        if "pid" not in first:
            self._exit = Exit(None)  # its guard was ended before it began, or told why it could not
            self.close()
        if "error" in first:
            raise OSError(None, str(first["error"]))
        self.pid = int(first.get("pid", 0))

    def wait(self, seconds: float) -> Exit | None:
        """How it ended, once it has; None after so many seconds. To be called again and again, or it is ended."""
        if self._exit is None and time.monotonic() - self._beaten > _BEAT:
            self._say(b".")
            self._beaten = time.monotonic()
        if self._exit is None and (told := self._line(seconds)) is not None:
            self._exit = Exit(told.get("code"), tuple(told.get("stderr", ())))
        return self._exit

    def terminate(self) -> None:
        """Sends it SIGTERM, and none of those that it started."""
        self._say(b"T")

    def close(self) -> None:
        """Ends it and all that it started, and waits until they are gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        told = self._line(_PATIENCE) if self._exit is None else None
        self._exit = self._exit or Exit((told or {}).get("code"))
        self._process.stdout.close()
        end_strays(self._mark)

    def __enter__(self) -> TrainerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _say(self, word: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its last line is to be read
            self._process.stdin.write(word)
            self._process.stdin.flush()

    def _line(self, seconds: float) -> dict | None:
        """The next that the guard tells, {} when it is gone; None where it tells nothing for so long."""
        assert self._process.stdout is not None
        pipe, until = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._rest:
            if not select.select([pipe], [], [], max(until - time.monotonic(), 0))[0]:
                return None
            part = os.read(pipe, 65536)
            if not part:
                return {}
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        told: dict = json.loads(line)
        return told


def end_strays(mark: str) -> None:
    """Ends the processes of this machine that were started under such a mark, or one that begins so, and are still
    there: two must never write to a folder. Whose they are their environment tells, which Linux alone lets one read."""
    until = time.monotonic() + _PATIENCE
    while (found := _strays(mark)) and time.monotonic() < until:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _strays(mark: str) -> list[int]:
    marked, found = f"{_MARK}={mark}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if int(entry.name) != os.getpid() and any(
                line.startswith(marked) for line in (entry / "environ").read_bytes().split(b"\0")
            ):
                found.append(int(entry.name))
    return found
