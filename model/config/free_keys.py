"""Keys whose meaning is somebody else's: of an external trainer, or the arguments of a module."""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import ConfigDict, JsonValue, model_validator

from nextscale.model.config.identity import Config


class FreeKeys(Config):
    """Keys that somebody else's code knows and nobody here does: any plain values, passed on as they are."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    @property
    def written(self) -> dict[str, Any]:
        """All of them, as plain JSON; what is open is left out."""
        own = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return own | (self.__pydantic_extra__ or {})

    def semantic(self) -> dict[str, Any]:
        return {name: _same(value) for name, value in sorted(self.written.items())}

    @model_validator(mode="after")
    def _is_json(self) -> Self:
        for name, value in (self.__pydantic_extra__ or {}).items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise ValueError(f"{name}: holds a number that is none (NaN or infinite); JSON has no such") from None
        return self


def _same(value: Any) -> Any:
    """A whole number is the same with or without a point."""
    if isinstance(value, dict):
        return {key: _same(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_same(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
