"""Errors of a run that a user can mend: one line that says what, where and how."""


class InputError(ValueError):
    """The data or configuration asked for cannot be used; the message says how to mend it."""


class CorruptCheckpoint(InputError):
    """A checkpoint cannot be read back, or what it holds is not what was saved."""


class UnreadableCheckpoint(OSError):
    """A checkpoint that cannot be read now: whether it is whole is not known, and it stays as it is."""


class TooLarge(InputError):
    """The steps of a run do not fit into the memory of these devices, however little of it they are made to need."""


class Stopped(Exception):
    """The run was asked to stop. It has saved itself, and goes on from there when it is trained again."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def describe_error(error: BaseException) -> str:
    """The kind of an error that somebody else's code raised, and the first line of what it says."""
    said = first_line(error)
    return said if said == type(error).__name__ else f"{type(error).__name__}: {said}"
