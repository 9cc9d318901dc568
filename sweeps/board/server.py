"""What `nextscale serve` shows of a folder of sweeps: the board, and below it the live page of each."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from urllib.parse import quote

from nextscale.sweeps.board.board import Board
from nextscale.sweeps.board.found import Found, find_sweeps, stamp
from nextscale.sweeps.board.standing import Standing, standings
from nextscale.sweeps.watch.controller import ControllerWatch
from nextscale.sweeps.watch.server import Answer, Site

_SOONEST, _SHARE = 2.0, 10.0
"""Seconds between two looks at the folder: at least so many, and so many times as long as a look takes."""
_HTML = "text/html; charset=utf-8"
_PATIENCE, _AGAIN = 1.0, 2
"""Seconds that somebody waits for a board being made, before what is known is shown; and until it asks again."""
_BEING_READ = "being read"


class BoardSite:
    """What there is to see of a folder of sweeps, by path: `/` is the board, `/NAME/` the live page of a sweep."""

    def __init__(self, folder: Path):
        top = folder.expanduser().absolute()
        self.folder = top
        self._board = Board(top.name, lambda one: f"./{quote(one.name)}/")
        self._live: dict[str, Site] = {}
        self._controllers: dict[str, ControllerWatch] = {}
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._problem: Exception | None = None
        self._seen: dict[str, tuple[tuple[Found, str, str], Standing]] = {}
        self._page, self._due = b"", 0.0

    def answer(self, path: str) -> Answer | None:
        """None where there is nothing."""
        if path == "/":
            page, again = self._look()
            return Answer(hashlib.sha256(page).hexdigest()[:16], _HTML, lambda: page, "", again)
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

    def _look(self) -> tuple[bytes, int | None]:
        """The board, made anew where something has changed, by one of all who ask; and after how long to ask again for
        one that is still being made."""
        with self._lock:
            if self._reader is None and time.monotonic() >= self._due:
                self._reader = threading.Thread(target=self._read, daemon=True)
                self._reader.start()
            reader = self._reader
        if reader is not None:
            reader.join(_PATIENCE)
        with self._lock:
            if self._problem is not None:
                raise self._problem
            return self._page or self._begun(), None if self._reader is None else _AGAIN

    def _read(self) -> None:
        """Makes the board; of sweeps that have not changed by what is known of them."""
        began = time.monotonic()
        page, problem, known = self._page, None, self._seen
        try:
            sweeps = find_sweeps(self.folder)
            seen = {one.name: (one, stamp(one.root), self._controller(one)) for one in sweeps}
            fresh = [one for one in sweeps if one.name not in known or known[one.name][0] != seen[one.name]]
            made = {one.name: one for one in standings(fresh)}
            found = [made[name] if name in made else known[name][1] for name in seen]
            if fresh or not page or seen.keys() != known.keys():
                page = self._board.page(found).encode()
            known = {one.name: (seen[one.name], one) for one in found}
        except Exception as error:  # told to who asks, as it would be if it had been read then
            problem = error
        with self._lock:
            self._page, self._problem, self._seen, self._reader = page, problem, known, None
            now = time.monotonic()
            self._due = now + max(_SOONEST, _SHARE * (now - began))

    def _begun(self) -> bytes:
        """The first board while sweeps are read: which there are."""
        sweeps = [Standing(one.name, one.root, _BEING_READ) for one in find_sweeps(self.folder)]
        return self._board.page(sweeps).encode()
