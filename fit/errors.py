"""`InputError`: an error that a user can mend, in one line that says what is wrong, where, and how to mend it.

What mends it is an option on the command line, and an argument in Python: messages are written with options, and told
in the words of whoever reads them.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
from collections.abc import Iterator

_AS_ARGUMENTS = (
    (r"--(params|tokens|flops|loss|weight|group)-column(?: NAME)?", r"columns={'\1': ...}"),
    (r"--column (\w+)=(\w+)", r"columns={'\1': '\2'}"),
    (r"--(law|rows) (\w[\w-]*)", r"\1='\2'"),
    (r"--fix (\w+)=([-\d.]+)", r"fixed={'\1': \2}"),
    (r"--as-is", "as_runs(..., as_is=True)"),
    (r"--keep-unfinished", "keep_unfinished=True"),
    (r"--drop-outliers", "drop_outliers=True"),
    (r"--add-to-loss (\w+)", r"add_to_loss=\1"),
    (r"--with '([^']*)'", r"table.eval('\1')"),
    (r"--with", "table.eval"),
    (r"--where", "table.query"),
)
_by_options = contextvars.ContextVar("by_options", default=False)


class InputError(ValueError):
    """The runs or options given cannot be used; the message says how to mend them."""

    def __init__(self, message: str) -> None:
        super().__init__(told(message))


def told(text: str) -> str:
    """A message that names options, with arguments in their place unless a command tells it."""
    if _by_options.get() or "--" not in text:
        return text
    for option, argument in _AS_ARGUMENTS:
        text = re.sub(option, argument, text)
    return text


@contextlib.contextmanager
def options_are_told() -> Iterator[None]:
    """Within it messages name the options of commands."""
    token = _by_options.set(True)
    try:
        yield
    finally:
        _by_options.reset(token)
