"""What a user can mend: one line that says what, where and how."""


class InputError(ValueError):
    """The runs or options given cannot be used; the message says how to mend them."""
