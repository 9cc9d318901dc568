"""Leaving: the first Ctrl-C or SIGTERM lets all runs save themselves, a second Ctrl-C does not wait for that."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SAVING = 60.0
"""Seconds that runs have to save themselves, once a signal asked for it."""


class Leaving:
    """Within its `with` block signals are requests; called, it tells what is asked for: within how many seconds all is
    to have saved itself, or None.

    Args:
        say: is called, once, with what is about to happen, in words.
        within: seconds that runs have to save themselves.
    """

    def __init__(self, say: Callable[[str], None], within: float = SAVING):
        self._say, self._within = say, within
        self._said = self._impatient = False
        self._before: dict[signal.Signals, Any] = {}
        self._asked_by: str | None = None

    def __call__(self) -> float | None:
        if self._asked_by is None:
            return None
        if not self._said:  # not said by the handler, which may interrupt whoever is just writing
            self._said = True
            self._say(f"{self._asked_by}: runs save themselves, within {self._within:.0f} s; Ctrl-C leaves at once")
        return self._within

    @property
    def orderly(self) -> bool:
        """Whether a signal asked for it, and nobody has lost patience."""
        return self._asked_by is not None and not self._impatient

    def __enter__(self) -> Leaving:
        if threading.current_thread() is threading.main_thread():  # no other may say what signals do
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a shell
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked_by is None:
            self._asked_by = signal.Signals(number).name
        elif number == signal.SIGINT:
            self._impatient = True
            raise KeyboardInterrupt
