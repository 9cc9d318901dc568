"""Head of a Ray cluster: whether it is there, and what follows when it is gone."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time

from nextscale.cluster.controller.backend import LOST, ClusterLost

_PAUSE = 2.0
"""Seconds between two looks at it."""
_SILENCE, _GRACE = 40.0, 10.0
"""Seconds without an answer after which it is taken for dead, and those after which a process that still waits for its
answer is ended. Ray itself ends it after 60, with 1."""


SILENT = "something that says nothing"
_FRAME, _SETTINGS = 9, b"\x04"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00" + _SETTINGS + b"\x00" * 5


class Head:
    """The head of a cluster, asked again and again by a thread whether it is there, until it is closed.

    A call to Ray that needs the head does not return while that is gone. Whoever is not in one hears by `check`; where
    all wait for such a call the process ends, as Ray would have it, but with the exit code that says why.

    Args:
        address: as host:port.
    """

    def __init__(self, address: str):
        self._address, self._heard = address, time.monotonic()
        self._closed = threading.Event()
        self.lost = False
        threading.Thread(target=self._watch, daemon=True).start()

    def silent_for(self) -> float:
        """Seconds since it last answered."""
        return time.monotonic() - self._heard

    def check(self) -> None:
        """
        Raises:
            ClusterLost: it has not answered for long.
        """
        if self.silent_for() > _SILENCE:
            self.lost = True
            self.close()
            raise ClusterLost(self._farewell())

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(_PAUSE):
            if answers(self._address):
                self._heard = time.monotonic()
            elif self.silent_for() > _SILENCE + _GRACE and not self._closed.is_set():
                print(f"nextscale: {self._farewell()}", file=sys.stderr, flush=True)
                os._exit(LOST)

    def _farewell(self) -> str:
        text = f"the head of the Ray cluster, {self._address}, has not answered for {_SILENCE:.0f} s: taken for dead"
        return f"{text}; what is saved is kept, and the same command goes on from here"


def answers(address: str) -> bool:
    """Whether anything listens there: Ray itself would go on asking for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return True  # a word such as `auto`, for Ray to understand
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def stranger_at(address: str) -> str | None:
    """What answers at an address where it is no head, in words: Ray would go on asking it for minutes.

    A head speaks gRPC, so it answers HTTP/2's preface with a frame of settings (RFC 9113, 3.4). What is `SILENT` may be
    one that is stopped, overwhelmed or about to end.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit() or os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return None
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as link:
        link.sendall(_PREFACE)
        try:
            said = link.recv(64)
        except TimeoutError:
            return SILENT
        if said[3:4] == _SETTINGS and len(said) >= _FRAME:
            return None
        if said.startswith(b"HTTP/"):
            return "a web server, such as Ray's dashboard"
        return f"something that says {said[:20]!r}" if said else SILENT
    return None


def named(address: str) -> str:
    """An address and where it was given."""
    return f"{'RAY_ADDRESS' if os.environ.get('RAY_ADDRESS') == address else '--address'} {address}"
