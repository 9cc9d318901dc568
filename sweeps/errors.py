"""Errors for the user: one line that says what is wrong, where, and how to mend it."""

import re
from pathlib import Path

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


def damaged_file_error(file: Path) -> SpecError:
    """Of the config or the record of a run, which cannot be read."""
    if file.name == "config.json":
        return SpecError(f"{file}: is damaged; delete {file.parent} to have this run made again")
    return SpecError(f"{file}: is damaged; delete it to have this run's result made again")
