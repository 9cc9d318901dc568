"""Code of one's own that a run is made of: a module, a loss, an optimiser, each named as `package.module:name`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, NamedTuple

from pydantic import Field

from nextscale.model.config.data import Factory
from nextscale.model.config.identity import NOT_SEMANTIC, Config, OptionalPath

Target = Factory
"""The name of a function or class, `package.module:name`."""


class Function(NamedTuple):
    """A function or class by its name, where it is looked for, and what its files hold."""

    target: str
    folder: str | None
    fingerprint: str


class Code(Config):
    """Where the targets of a run are found, and what they are.

    A run means the contents of their files, and of all that these import from the same folder or package, not where
    they lie.
    """

    folder: OptionalPath = Field(
        None, description="looked in first, before installed packages; that of the spec if open"
    )
    source: Annotated[list[Annotated[str, Field(min_length=1)]], NOT_SEMANTIC] = Field(
        default_factory=list, description="files and folders beside it that they rest on too, weights say: hashed"
    )
    fingerprints: dict[str, str] = Field(
        default_factory=dict, description="of each target what its files hold; read off them"
    )

    def function(self, target: str) -> Function:
        """
        Raises:
            ValueError: nobody has read what its files hold.
        """
        if target not in self.fingerprints:
            raise ValueError(f"{target} has no fingerprint yet; nextscale.model.external.code.resolve reads it")
        return Function(target, self.folder, self.fingerprints[target])

    def of(self, targets: Iterable[str]) -> Code:
        """The same, of these alone."""
        wanted = set(targets)
        kept = {name: found for name, found in sorted(self.fingerprints.items()) if name in wanted}
        return self.model_copy(update={"fingerprints": kept})


def is_target(name: object) -> bool:
    """Whether it is the name of code, not one that is known here."""
    return isinstance(name, str) and ":" in name
