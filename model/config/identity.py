"""The base class of all configuration, and which of its fields name a run."""

from __future__ import annotations

import functools
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 2
"""Raise when a default, or the code behind a field, changes the numbers that a run gives."""

NOT_SEMANTIC = "not_semantic"
"""Marks a field that does not change what a run means."""
Path = Annotated[str, Field(min_length=1), NOT_SEMANTIC]
"""A place on some machine: where the data lies does not change what a run means."""
OptionalPath = Annotated[str | None, Field(min_length=1), NOT_SEMANTIC]
Aside = Annotated[bool, NOT_SEMANTIC]
"""Whether something is done beside the training: it changes no number of a run."""


class Config(BaseModel):
    """Frozen, and strict about names: an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def semantic(self) -> dict[str, Any]:
        """The fields that change the numbers of a run and are not at their default, as plain JSON types.

        Leaving defaults out lets a later version add an option without renaming the runs made before it.
        """
        fields: dict[str, Any] = {}
        for name, default in _defaults(type(self)):
            value = getattr(self, name)
            if value != default:
                fields[name] = _plain(value)
        return fields


@functools.cache
def _defaults(kind: type[Config]) -> list[tuple[str, Any]]:
    """Of the fields that mean something."""
    return [
        (name, info.get_default(call_default_factory=True))
        for name, info in kind.model_fields.items()
        if NOT_SEMANTIC not in info.metadata
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        # What is the same is written the same: the order of names means nothing.
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.semantic() if isinstance(value, Config) else value
