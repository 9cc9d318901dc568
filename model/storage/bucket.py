"""`Bucket`: what is read from object storage, and written to it, by the protocols of S3 and Google Cloud Storage.

obstore speaks them. It tries again what fails on its way; what fails for good is one line. A request may also do its
work and lose its answer: repeating it must then be harmless. Reading, deleting and overwriting are; `create` notices.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import contextlib
import dataclasses
import datetime
import errno
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from nextscale.model.errors import InputError, first_line
from nextscale.model.storage.address import address_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

T = TypeVar("T")
R = TypeVar("R")

RETRIES: RetryConfig = {"max_retries": 10, "retry_timeout": datetime.timedelta(minutes=3)}
TIMEOUTS: ClientConfig = {"timeout": "10 min", "read_timeout": "30 s", "connect_timeout": "10 s"}
"""Of one request; `read_timeout` of the time in which not a byte comes."""
_BREAKS = 5
"""Times that is asked for what breaks off."""
_PIECE_BYTES = 1 << 25
_AT_ONCE = 16
_MOST_PARTS = 9_000
"""Of a large object; S3 takes 10,000 (its API reference, CompleteMultipartUpload)."""
_SHOWN = 200


class BucketError(OSError):
    """A bucket cannot be read or written, though it was tried again; says where and why."""

    def __init__(self, address: str, why: str):
        super().__init__(errno.EIO, why, address)


class _BrokenOffError(BucketError):
    """An answer that did not come to its end."""


@dataclasses.dataclass(frozen=True)
class Object:
    """An object in the state in which it was listed.

    Attributes:
        name: below the address that was asked.
        size: in bytes.
        etag: another whenever its content is written; empty where it is written but once, and that is of no interest.
        modified: when it was written, in seconds since the epoch, by the clock of the service.
    """

    name: str
    size: int
    etag: str
    modified: float = 0.0


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A place in a bucket; names are below it.

    Raises, wherever the bucket is asked:
        BucketError: it cannot be read or written.
        FileNotFoundError: there is no such object.
        InputError: obstore is not installed, or there is no such bucket.
    """

    address: str

    def get(self, name: str) -> bytes:
        return self._whole(name, lambda: bytes(_obstore().get(self._store, name).bytes()))

    def read(self, one: Object, start: int, size: int) -> bytes:
        """Bytes of an object in the state that is named.

        Raises:
            FileNotFoundError: it is gone, or in another state.
        """
        if size == 0:
            return b""
        options = {"range": (start, start + size)} | ({"if_match": one.etag} if one.etag else {})
        return self._whole(one.name, lambda: bytes(_obstore().get(self._store, one.name, options=options).bytes()))

    def pieces(self, one: Object) -> Iterator[bytes]:
        """All of an object in the state that is named; see `read`."""
        for start in range(0, one.size, _PIECE_BYTES):
            yield self.read(one, start, min(_PIECE_BYTES, one.size - start))

    def put(self, name: str, content: bytes | Iterator[bytes], size: int = 0) -> None:
        """Writes an object, whole or not at all.

        Args:
            size: of content that comes in pieces.
        """
        with self._asked(name):
            _obstore().put(self._store, name, content, chunk_size=max(1 << 23, size // _MOST_PARTS + 1))

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object unless there is one of that name; tells whether the one that is there then is ours.

        Args:
            content: nobody else's; after an answer that was lost, it tells that it was written.
        """
        try:
            with self._asked(name):
                _obstore().put(self._store, name, content, mode="create")
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                return self.get(name) == content
            return False
        return True

    def list(self, under: str = "") -> list[Object]:
        """All objects whose names begin with `under`, which ends with a slash or is empty, in order of name."""

        def listed() -> builtins.list[Object]:
            pages = _obstore().list(self._store, under or None)
            return [_object(one["path"], one) for page in pages for one in page]

        objects = self._whole(under, listed)
        return sorted(objects, key=lambda one: one.name)

    def folders(self) -> builtins.list[str]:
        """The names right below the address that further names are below."""
        found = self._whole("", lambda: _obstore().list_with_delimiter(self._store)["common_prefixes"])
        return sorted(one.strip("/").rpartition("/")[2] for one in found)

    def head(self, name: str) -> Object | None:
        """An object as it is now; None where there is none."""
        try:
            with self._asked(name):
                found = _obstore().head(self._store, name)
        except FileNotFoundError:
            return None
        return _object(name, found)

    def delete(self, names: Sequence[str]) -> None:
        """Deletes objects; those that are not there are no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._whole(name, functools.partial(_obstore().delete, self._store, name))

    @property
    def _store(self) -> Any:
        return _opened(self.address)

    def _whole(self, name: str, ask: Callable[[], T]) -> T:
        """What is asked for, to its end. Of answers that break off obstore goes on with those of an object alone, and
        only while nobody has overwritten it."""
        for _ in range(_BREAKS - 1):
            with contextlib.suppress(_BrokenOffError), self._asked(name):
                return ask()
        with self._asked(name):
            return ask()

    @contextlib.contextmanager
    def _asked(self, name: str) -> Iterator[None]:
        """What obstore raises, as our own."""
        errors = _obstore().exceptions
        try:
            yield
        except FileNotFoundError as error:
            self._check_bucket(error)
            raise FileNotFoundError(errno.ENOENT, "is not there", f"{self.address}/{name}") from None
        except errors.AlreadyExistsError:
            raise FileExistsError(errno.EEXIST, "is there already", f"{self.address}/{name}") from None
        except errors.PreconditionError:
            raise FileNotFoundError(errno.ENOENT, "has changed", f"{self.address}/{name}") from None
        except errors.BaseError as error:
            self._check_bucket(error)
            # It asks for the rest of an object on condition that this is as it was.
            broken_off = any(sign in str(error) for sign in ("response body", "status code: 412"))
            kind = _BrokenOffError if broken_off else BucketError
            raise kind(f"{self.address}/{name}".rstrip("/"), _why(error)) from None

    def _check_bucket(self, error: Exception) -> None:
        if "NoSuchBucket" in str(error):
            raise InputError(f"{self.address}: there is no such bucket; make it first, or mend its name") from None


def _object(name: str, found: Any) -> Object:
    return Object(name, found["size"], found["e_tag"] or "", found["last_modified"].timestamp())


def in_parallel(work: Callable[[T], R], these: Iterable[T]) -> list[R]:
    """Many requests at once; the results in order."""
    todo = [*these]
    if len(todo) < 2:
        return [work(one) for one in todo]
    with concurrent.futures.ThreadPoolExecutor(min(_AT_ONCE, len(todo))) as pool:
        return list(pool.map(work, todo))


def _why(error: Exception) -> str:
    """One line of what obstore says, which goes on with requests and settings."""
    said = str(error)
    if (code := re.search(r"status code: (\d+)", said)) is not None:
        details = [found[1] for tag in ("Code", "Message") if (found := re.search(f"<{tag}>(.*?)</{tag}>", said))]
        return f"the server says {': '.join([code[1], *details])}"[:_SHOWN]
    return first_line(Exception(said.rpartition(" - ")[2]))[:_SHOWN]


def _obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise InputError(
            "s3:// and gs:// addresses need obstore, which is not installed; run pip install 'nextscale[cloud]'"
        ) from None
    return obstore


@functools.lru_cache(maxsize=64)
def _opened(address: str) -> Any:
    from obstore.store import from_url

    assert address_of(address) == address, address
    named = [os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")]
    unencrypted = any(one.startswith("http://") for one in named)  # somebody says so
    return from_url(address, client_options={**TIMEOUTS, "allow_http": unencrypted}, retry_config=RETRIES)
