"""A Python module in a process of its own, that answers each line of JSON by another: who asks loads neither jax nor
anybody's code, and takes no accelerator."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any

from nextscale.model.errors import InputError

_LONGEST = 300


class AskedProcess:
    """It sees Python's modules where this process does, but for the folder that it happens to be in, and ends with it.

    Args:
        module: what it runs, `python -m`; that calls `answer_lines`.
        environment: of its own, beside that of this process.
    """

    def __init__(self, module: str, environment: Mapping[str, str]):
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        found = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            env=os.environ | dict(environment) | {"PYTHONPATH": found},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._said)

    def ask(self, question: Mapping[str, Any], what: str) -> dict[str, Any]:
        """
        Args:
            what: the process in words, for where it ends without an answer.

        Raises:
            InputError: its answer is an `error`, or there is none.
        """
        process, line = self._process, ""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line:
            code = process.wait()
            self._said.seek(0)
            said = self._said.read().strip().splitlines() or ["it says nothing"]
            raise InputError(f"{what} ended with exit {code}: {said[-1][:_LONGEST]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise InputError(answer["error"])
        return answer

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def close(self, *, at_once: bool = False) -> None:
        """Ends it, once it has answered if not at once."""
        if at_once:
            self._process.kill()
        self._finalizer()


def _end(process: subprocess.Popen[str], said: IO[str]) -> None:
    """It ends when it is sent no more."""
    for pipe in (process.stdin, process.stdout, said):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()
    process.wait()


def answer_lines(answer: Callable[[Any], Mapping[str, Any]]) -> None:
    """Answers what this process is sent until it is sent no more. Whatever else prints, none of that is an answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
