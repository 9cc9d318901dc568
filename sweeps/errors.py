"""Errors for the user: one line that says what is wrong, where, and how to mend it."""

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nextscale.fit.errors import InputError as FitInputError
from nextscale.model.errors import InputError as ModelInputError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What would break a line, or a terminal, when a spec or a path is quoted in a message."""


class SpecError(ValueError):
    """A spec, an option or a place that cannot be used; the message says how to mend it.

    Attributes:
        key: the path of keys in the spec that it is about.
    """

    def __init__(self, message: str, key: tuple[str | int, ...] = ()):
        super().__init__(_CONTROL.sub(lambda found: repr(found.group())[1:-1], message))
        self.key = key


USER_ERRORS = (SpecError, FitInputError, ModelInputError)
"""Everything whose message is for the user, with exit code 2 and no traceback."""


def damaged_file_error(file: Path, error: Exception | None = None) -> SpecError:
    """Of the config, the record or the scores of a run, which cannot be read.

    What another version wrote is not damaged, and nobody is advised to delete it.

    Args:
        error: that it met with.
    """
    ours = importlib.metadata.version("nextscale")
    theirs = _writer(file.with_name("record.json"))
    known = theirs not in (None, ours)
    if known or (file.name == "config.json" and isinstance(_json(file), dict)):
        who = f"nextscale {theirs}" if known else "another version, or changed by hand"
        why = f" ({'.'.join(map(str, error.errors()[0]['loc']))})" if isinstance(error, ValidationError) else ""
        return SpecError(
            f"{file}: is not for nextscale {ours} to read{why}: it was written by {who}; read this run with "
            f"{'that version' if known else 'the version that made it'}, or move it elsewhere"
        )
    if file.name == "config.json":
        return SpecError(f"{file}: is damaged; delete {file.parent} to have this run made again")
    if file.name == "tasks.json":
        return SpecError(f"{file}: is damaged; delete it, and score the run again with `nextscale model evaluate`")
    return SpecError(f"{file}: is damaged; delete it to have this run's result made again")


def _writer(record: Path) -> str | None:
    """The version that wrote a record, if it says so."""
    found = _json(record)
    versions = found.get("versions") if isinstance(found, dict) else None
    return str(versions["nextscale"]) if isinstance(versions, dict) and "nextscale" in versions else None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
