"""`Fault`: what `nextscale verify` finds wrong."""

from __future__ import annotations

import dataclasses

from nextscale.sweeps.errors import SpecError


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong in a folder.

    Attributes:
        where: the file or folder.
        mend: how.
    """

    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.mend}"


def fault_of(error: SpecError) -> Fault:
    """The fault that an error tells of: its message is where, what, and how to mend it."""
    where, _, rest = str(error).partition(": ")
    what, _, mend = rest.partition("; ")
    return Fault(where, what, mend)
