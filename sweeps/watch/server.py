"""The server of `nextscale serve`: the live page of an output folder, or others, over HTTP, for this machine alone.

It reads files, and writes none but the index of the store. Nobody is asked who they are, so by default only this
machine is answered, under its loopback names: a page elsewhere that has its own name point here (DNS rebinding) is
refused, and so is every method that could change anything.
"""

from __future__ import annotations

import errno
import hashlib
import http.server
import ipaddress
import json
import secrets
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from nextscale.sweeps.errors import USER_ERRORS, SpecError
from nextscale.sweeps.page.live import live_page
from nextscale.sweeps.store.index import file_stamp
from nextscale.sweeps.watch.snapshot import Live, figures

_SOONEST, _SHARE = 0.5, 10.0
"""Seconds between two looks at the folder: at least so many, and so many times as long as a look takes."""
_SILENT_CLIENT = 60.0
_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".csv": "text/csv; charset=utf-8"}
_HTML, _JSON = "text/html; charset=utf-8", "application/json"
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
"""Beside the report's own, which names its script."""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Answer(NamedTuple):
    """What a path stands for: `tag` changes whenever the body does, which is made only if it is asked for. `again` is
    after how many seconds a browser asks again by itself."""

    tag: str
    kind: str
    body: Callable[[], bytes]
    policy: str = "default-src 'none'; "
    again: int | None = None


class Pages(Protocol):
    """What a server has to show."""

    def answer(self, path: str) -> Answer | None:
        """None where there is nothing."""


class Site:
    """What there is to see of a folder, by path."""

    def __init__(self, out: Path):
        self.live = Live(out)
        self._page = live_page(self.live.out.name).encode()
        self._page_tag = hashlib.sha256(self._page).hexdigest()[:16]
        self._lock = threading.Lock()
        self._boot = secrets.token_hex(4)
        self._due = 0.0
        self._status: tuple[int, bytes] = 0, b""

    def answer(self, path: str) -> Answer | None:
        """None where there is nothing."""
        out = self.live.out
        if path == "/":
            return Answer(self._page_tag, _HTML, lambda: self._page, "")
        if path == "/api/status":
            version, body = self._look()
            return Answer(f"{self._boot}.{version}", _JSON, lambda: body)
        if path == "/runs.csv":
            version, _ = self._look()
            return Answer(f"{self._boot}.{version}", _TYPES[".csv"], self._runs)
        if path == "/report":
            return _file(out / "report.html", _HTML, _REPORT_POLICY)
        if path.startswith("/figures/") and (name := path.removeprefix("/figures/")) in figures(out):
            file = out / "figures" / name
            return _file(file, _TYPES[file.suffix], "default-src 'none'; style-src 'unsafe-inline'; sandbox; ")
        return None

    def _look(self) -> tuple[int, bytes]:
        """What is new is read by one of all who ask, and not before a while has passed."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                snapshot = self.live.look()
                if self.live.version != self._status[0]:
                    self._status = self.live.version, json.dumps(snapshot, allow_nan=False).encode()
                now = time.monotonic()
                self._due = now + max(_SOONEST, _SHARE * (now - began))
            return self._status

    def _runs(self) -> bytes:
        from nextscale.sweeps.show.spreadsheet import csv_of
        from nextscale.sweeps.store.store import load

        return csv_of(load(self.live.out, unreadable=True)).encode()


class Server(http.server.ThreadingHTTPServer):
    """Answers until it is shut down.

    Args:
        site: what it shows, such as `Site(out)`; that folder need not be there yet.
        host: an address or a name of this machine.
        port: 0 takes one that is free.

    Raises:
        SpecError: the address cannot be had.
    """

    def __init__(self, site: Pages, host: str = "127.0.0.1", port: int = 8420):
        self.site = site
        self.host = host
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__((str(address[0]), port), _Handler)
        except (OSError, OverflowError) as error:
            raise SpecError(_unbound(host, port, error)) from None
        self.loopback = ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks DNS for a name that nobody needs
        self.server_name, self.server_port = self.host, self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # who goes away in the middle is no fault of ours
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.server_port}/"

    def allows_host(self, host: str | None) -> bool:
        """Whether a request for such a host may be answered."""
        if not self.loopback:
            return True
        name = (host or "").rsplit(":", 1)[0] if not (host or "").endswith("]") else host or ""
        return name.lower() in {"localhost", "127.0.0.1", "[::1]", self.host.lower(), f"[{self.host.lower()}]"}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "nextscale", ""
    timeout = _SILENT_CLIENT

    def do_GET(self) -> None:
        if not self.server.allows_host(self.headers["Host"]):
            self._say(HTTPStatus.FORBIDDEN, "this server answers to localhost alone; open it under that name")
            return
        try:
            answer = self.server.site.answer(unquote(urlsplit(self.path).path))
            if answer is None:
                self._say(HTTPStatus.NOT_FOUND, "there is nothing here; / is the page")
            elif f'"{answer.tag}"' in (self.headers["If-None-Match"] or ""):
                self._send(HTTPStatus.NOT_MODIFIED, answer, b"")
            else:
                self._send(HTTPStatus.OK, answer, answer.body())
        except ConnectionError:
            raise
        except (*USER_ERRORS, OSError) as error:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    do_HEAD = do_GET

    def refuse(self) -> None:
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, "this page can be read, and nothing else", Allow="GET, HEAD")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = refuse

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name that it overrides)
        pass

    def _say(self, status: HTTPStatus, text: str, **headers: str) -> None:
        self._send(status, Answer("", "text/plain; charset=utf-8", bytes), f"{text}\n".encode(), **headers)

    def _send(self, status: HTTPStatus, answer: Answer, body: bytes, **headers: str) -> None:
        self.send_response(status)
        shown = (
            {"Content-Type": answer.kind, "ETag": f'"{answer.tag}"'} if answer.tag else {"Content-Type": answer.kind}
        )
        shown["Content-Security-Policy"] = answer.policy + "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
        if answer.again is not None:
            shown["Refresh"] = str(answer.again)
        if status != HTTPStatus.NOT_MODIFIED:
            shown["Content-Length"] = str(len(body))
        for name, value in (shown | _HEADERS | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _file(path: Path, kind: str, policy: str) -> Answer | None:
    tag = file_stamp(str(path))
    return Answer(tag, kind, path.read_bytes, policy) if tag and path.is_file() else None


def _unbound(host: str, port: int, error: Exception) -> str:
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        return f"--port {port}: is in use on {host}; name another, or 0 for one that is free"
    if code == errno.EACCES:
        return f"--port {port}: is not for users like you; name one above 1023, or 0 for one that is free"
    if isinstance(error, OverflowError):
        return f"--port {port}: is no port; name one from 0 to 65535"
    return f"--host {host}: is no address of this machine ({getattr(error, 'strerror', None) or error})"
