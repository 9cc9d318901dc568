"""What a user can mend: one line that says what, where and how."""

from nextscale.fit.errors import InputError as FitInputError
from nextscale.model.errors import InputError as ModelInputError


class SpecError(ValueError):
    """A spec, an option or a place that cannot be used; the message says how to mend it.

    Attributes:
        key: the path of keys in the spec that it is about.
    """

    def __init__(self, message: str, key: tuple[str | int, ...] = ()):
        super().__init__(message)
        self.key = key


MENDABLE = (SpecError, FitInputError, ModelInputError)
"""Everything whose message is for the user, with exit code 2 and no traceback."""
