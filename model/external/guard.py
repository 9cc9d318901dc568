"""Guard: a process between a worker and its trainer, so that the trainer never outlives whoever answers for it.

It starts the trainer, and ends it with all that it has started when the worker is gone or silent, or when the trainer
itself has ended. It is run as a file, and imports nothing that takes time.

On its stdin the worker gives signs of life, `.`, and asks for SIGTERM, `T`. On its stdout it tells, a line of JSON
each, that the trainer is at work (`pid`, or `error`) and how it ended (`code` as `subprocess` has it, and of `stderr`
the last lines).
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO, cast

SILENCE = 12.0
"""Seconds without a sign of life after which the worker is taken for dead: less than it takes to lose a lease."""
_TAIL = 20
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LINUX = sys.platform == "linux"


def main(told: dict[str, Any]) -> None:
    """
    Args:
        told: the `command`, the `folder` that it is run in, and the file of its `output`.
    """
    if os.fork():  # a child of nobody: whoever ends the worker's children must not leave the trainer's behind
        os._exit(0)
    os.setsid()
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ended, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    with open(told["output"], "ab", buffering=0) as output:  # noqa: PTH123 (pathlib takes longer to import)
        try:
            process = subprocess.Popen(
                told["command"],
                cwd=told["folder"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                process_group=0,
                preexec_fn=_die_with(os.getpid()) if _LINUX else None,
            )
        except OSError as error:
            _tell({"error": f"{error.filename or told['command'][0]}: {error.strerror}"})
            return
        assert process.stderr is not None
        _tell({"pid": process.pid})
        errors = _Errors(process.stderr.fileno(), cast(BinaryIO, output))
        alive = _watch(process, errors, ended)
        code = process.poll()
        _end_all(process)
        errors.read()
        if alive:
            _tell({"code": process.wait() if code is None else code, "stderr": errors.tail})


class _Errors:
    """What comes out of the trainer's stderr goes to its output; the last lines are kept."""

    def __init__(self, pipe: int, output: BinaryIO):
        self.pipe, self._output = pipe, output
        self._lines: collections.deque[bytes] = collections.deque(maxlen=_TAIL)
        self._rest = b""
        os.set_blocking(pipe, False)

    def read(self) -> bool:
        """Takes what is there; tells whether more may come."""
        while True:
            try:
                part = os.read(self.pipe, 65536)
            except BlockingIOError:
                return True
            if not part:
                return False
            with contextlib.suppress(OSError):  # a full disk is no reason to end a run
                self._output.write(part)
            *lines, self._rest = (self._rest + part).split(b"\n")
            self._rest = self._rest[-4096:]
            self._lines.extend(line[-4096:] for line in lines if line.strip())

    @property
    def tail(self) -> list[str]:
        lines = [*self._lines, *([self._rest] if self._rest.strip() else [])]
        return [line.decode(errors="replace").rstrip() for line in lines]


def _watch(process: subprocess.Popen[bytes], errors: _Errors, ended: int) -> bool:
    """Waits until the trainer has ended; tells whether its worker is there to hear it."""
    heard, files = time.monotonic(), [0, ended, errors.pipe]
    while process.poll() is None:
        left = heard + SILENCE - time.monotonic()
        if left <= 0:
            return False
        ready, _, _ = select.select(files, [], [], left)
        if ended in ready:
            os.read(ended, 4096)
        if errors.pipe in ready and not errors.read():
            files.remove(errors.pipe)
        if 0 in ready:
            words = os.read(0, 4096)
            if not words:
                return False
            heard = time.monotonic()
            if b"T" in words and process.poll() is None:
                process.terminate()
    return True


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """Ends the trainer and all that it has started and left, also in sessions of their own."""
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        below = _descendants(os.getpid()) if _LINUX else []
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            process.poll()
            while process.returncode is not None and os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if process.returncode is not None and not below:
            return
        time.sleep(0.01)


def _descendants(pid: int) -> list[int]:
    """Process ids of all below one, those left: as a subreaper it gets those whose own parent is gone."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 (pathlib takes longer to import)
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    parents[int(name)] = int(parent)
    found: list[int] = []
    row = [pid]
    while row:
        row = [child for child, parent in parents.items() if parent in row]
        found += row
    return found


def _die_with(guard: int) -> Callable[[], None]:
    """What the trainer's process does before it becomes the trainer: it is killed when the guard is."""
    prctl = ctypes.CDLL(None).prctl

    def begin() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != guard:
            os._exit(1)

    return begin


def _tell(what: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
