"""`InputError`: an error that a user can mend, in one line that says what is wrong, where, and how to mend it."""


class InputError(ValueError):
    """The runs or options given cannot be used; the message says how to mend them."""
