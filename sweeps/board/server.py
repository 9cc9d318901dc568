"""What `nextscale serve` shows of a folder of sweeps: the board, and below it the live page of each."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from urllib.parse import quote

from nextscale.sweeps.board.board import Board
from nextscale.sweeps.board.found import Found, find_sweeps, stamp
from nextscale.sweeps.board.standing import standings
from nextscale.sweeps.watch.controller import ControllerWatch
from nextscale.sweeps.watch.server import Answer, Site

_SOONEST, _SHARE = 2.0, 10.0
"""Seconds between two looks at the folder: at least so many, and so many times as long as a look takes."""
_HTML = "text/html; charset=utf-8"


class BoardSite:
    """What there is to see of a folder of sweeps, by path: `/` is the board, `/NAME/` the live page of a sweep."""

    def __init__(self, folder: Path):
        top = folder.expanduser().absolute()
        self.folder = top
        self._board = Board(top.name, lambda one: f"./{quote(one.name)}/")
        self._live: dict[str, Site] = {}
        self._controllers: dict[str, ControllerWatch] = {}
        self._lock = threading.Lock()
        self._seen: list[tuple[Found, str, str]] = []
        self._page, self._tag, self._due = b"", "", 0.0

    def answer(self, path: str) -> Answer | None:
        """None where there is nothing."""
        if path == "/":
            tag, page = self._look()
            return Answer(tag, _HTML, lambda: page, "")
        for one in find_sweeps(self.folder):
            rest = path.removeprefix(f"/{one.name}")
            if rest.startswith("/") and rest != path:
                return self._site(one).answer(rest)
        return None

    def _site(self, one: Found) -> Site:
        if one.name not in self._live:
            self._live[one.name] = Site(one.root)
        return self._live[one.name]

    def _controller(self, one: Found) -> str:
        return self._controllers.setdefault(one.name, ControllerWatch(one.root)).look().state

    def _look(self) -> tuple[str, bytes]:
        """The board, made anew where something has changed, by one of all who ask."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                sweeps = find_sweeps(self.folder)
                seen = [(one, stamp(one.root), self._controller(one)) for one in sweeps]
                if seen != self._seen or not self._page:
                    self._page = self._board.page(standings(sweeps)).encode()
                    self._tag, self._seen = hashlib.sha256(self._page).hexdigest()[:16], seen
                now = time.monotonic()
                self._due = now + max(_SOONEST, _SHARE * (now - began))
            return self._tag, self._page
