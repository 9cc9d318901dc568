"""The JSON Schema of a spec as it is written: with what it extends, and its scales."""

from __future__ import annotations

from typing import Any

from nextscale.sweeps.spec.sweep_spec import SweepSpec

_REFERENCE = "#/$defs/"
_PART = "PartOf"


def spec_schema() -> dict[str, Any]:
    """What a file may hold.

    One that extends another, or names a scale, may leave out what comes from there; so may each of its scales.
    """
    whole = SweepSpec.model_json_schema()
    definitions = whole.pop("$defs")
    parts = {f"{_PART}{name}": _part(definition) for name, definition in definitions.items()}
    overlay = _part(whole)
    layers = {
        "extends": {
            "type": "string",
            "description": "a spec that this one changes: a file beside it, or the name of a ready spec",
        },
        "scale": {"type": "string", "description": "which of the scales it is"},
        "scales": {
            "type": "object",
            "description": "by name, what each changes of the spec",
            "additionalProperties": {"anyOf": [{"$ref": f"{_REFERENCE}{_PART}SweepSpec"}, {"type": "null"}]},
        },
    }
    definitions |= parts | {
        "SweepSpec": whole | {"properties": whole["properties"] | layers},
        f"{_PART}SweepSpec": overlay,
    }
    return {
        "title": "SweepSpec",
        "description": whole["description"],
        "type": "object",
        "properties": overlay["properties"] | layers,
        "additionalProperties": False,
        "if": {"anyOf": [{"required": ["extends"]}, {"required": ["scale"]}]},
        "else": {"$ref": f"{_REFERENCE}SweepSpec"},
        "$defs": definitions,
    }


def _part(schema: Any) -> Any:
    """The schema of a part of what another is of: with nothing required."""
    if isinstance(schema, list):
        return [_part(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: _part(inner) for name, inner in value.items()}
        elif key == "$ref":
            found[key] = f"{_REFERENCE}{_PART}{value.removeprefix(_REFERENCE)}"
        elif key not in ("required", "discriminator"):
            # Without the key that tells them apart, several may fit.
            found["anyOf" if key == "oneOf" else key] = _part(value)
    return found
