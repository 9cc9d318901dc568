"""`Fault`: what `nextscale verify` finds wrong."""

from __future__ import annotations

import dataclasses


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
