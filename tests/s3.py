"""An S3 server on loopback (moto's), which does to requests what networks and services do to them."""

import dataclasses
import itertools
import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Callable

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "NO_PROXY": "127.0.0.1",
}


@dataclasses.dataclass
class Fault:
    """What befalls requests of a method on objects whose key has a text in it.

    Attributes:
        kind: `busy`: 503, nothing is done; `lost`: it is done, and the connection breaks before the answer; `cut`: half
            of the answer comes, and the connection breaks; `slow`: the answer comes half a second late.
        times, every: that it does, and of how many such requests to one.
        then: what is done as soon as half of the answer has come.
    """

    method: str
    key: str
    kind: str
    times: int
    every: int
    then: Callable[[], object] = lambda: None
    seen: int = 0

    def strikes(self, method, key):
        if not self.times or self.method != method or self.key not in key:
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.times -= 1
        return True


class Server:
    """Answers until it is closed; `log` has (method, key) of what it was asked."""

    def __init__(self):
        self.faults, self.log = [], []
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock, self._buckets = threading.Lock(), itertools.count()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.environment = ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}"}

    def bucket(self):
        """The address of a new bucket."""
        name = f"bucket-{next(self._buckets)}"
        asked = urllib.request.Request(f"{self.environment['AWS_ENDPOINT_URL']}/{name}", method="PUT")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked):
            return f"s3://{name}"

    def fail(self, method, key, kind, times=1, every=1, **more):
        self.faults.append(Fault(method, key, kind, times, every, **more))

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ, start):
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"] + "?" + environ["QUERY_STRING"]
        with self._lock:
            self.log.append((method, key))
            fault = next((one for one in self.faults if one.strikes(method, key)), None)
        kind = None if fault is None else fault.kind
        if kind == "busy":
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        if kind == "slow":
            time.sleep(0.5)
        answer = b"".join(self._app(environ, start))
        if kind == "lost":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return _half(answer, environ["werkzeug.socket"], fault.then) if kind == "cut" else [answer]


def _half(answer, connection, then):
    yield answer[: len(answer) // 2]
    then()
    connection.shutdown(socket.SHUT_RDWR)
    yield answer[len(answer) // 2 :]
