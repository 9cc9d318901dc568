"""The JSON Schema of a spec as it is written: with what it extends, and its scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nextscale.sweeps.spec.sweep_spec import ExternalSpec, ModuleSpec, SweepSpec

_REFERENCE = "#/$defs/"
_PART = "PartOf"
_EXTERNAL = [{"required": ["trainer"]}, {"required": ["model"], "properties": {"model": {"required": ["kind"]}}}]
"""By what a spec shows that an external trainer trains."""
_MODULE = {
    "required": ["model"],
    "properties": {"model": {"properties": {"kind": {"const": "module"}}, "required": ["kind"]}},
}
"""By what a spec shows that it is of a module."""
_FILE = r"\.(ya?ml|json)$"
"""Of a spec that is no ready one: what it is of is not known here."""


def spec_schema() -> dict[str, Any]:
    """What a file may hold.

    One that extends another, or names a scale, may leave out what comes from there; so may each of its scales. One that
    names a trainer, or a kind of model, is of an external trainer; of the kind module, of a module.
    """
    kinds = {kind.__name__: kind.model_json_schema() for kind in (SweepSpec, ExternalSpec, ModuleSpec)}
    definitions: dict[str, Any] = {}
    for whole in kinds.values():
        definitions |= whole.pop("$defs")
    definitions |= {f"{_PART}{name}": _part(definition) for name, definition in definitions.items()}
    overlays = {f"{_PART}{name}": _part(whole) for name, whole in kinds.items()}
    definitions |= overlays
    definitions |= {
        name: whole | {"properties": whole["properties"] | _layers([name])} for name, whole in kinds.items()
    }
    return {
        "title": "SweepSpec",
        "description": kinds["SweepSpec"]["description"],
        "type": "object",
        "properties": _either([overlay["properties"] for overlay in overlays.values()]) | _layers(kinds),
        "additionalProperties": False,
        "if": {"anyOf": [{"required": ["extends"]}, {"required": ["scale"]}]},
        "then": {
            "if": {"anyOf": [*_EXTERNAL, {"required": ["extends"], "properties": {"extends": {"pattern": _FILE}}}]},
            "else": {"properties": overlays[f"{_PART}SweepSpec"]["properties"] | _layers(["SweepSpec"])},
        },
        "else": {
            "if": _MODULE,
            "then": {"$ref": f"{_REFERENCE}ModuleSpec"},
            "else": {
                "if": {"anyOf": _EXTERNAL},
                "then": {"$ref": f"{_REFERENCE}ExternalSpec"},
                "else": {"$ref": f"{_REFERENCE}SweepSpec"},
            },
        },
        "$defs": definitions,
    }


def _layers(kinds: Iterable[str]) -> dict[str, Any]:
    """How a spec of one of these kinds may be put together from others."""
    parts = [{"$ref": f"{_REFERENCE}{_PART}{name}"} for name in kinds]
    return {
        "extends": {
            "type": "string",
            "description": "a spec that this one changes: a file beside it, or the name of a ready spec",
        },
        "scale": {"type": "string", "description": "which of the scales it is"},
        "scales": {
            "type": "object",
            "description": "by name, what each changes of the spec",
            "additionalProperties": {"anyOf": [*parts, {"type": "null"}]},
        },
    }


def _either(properties: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The properties of all of these: where they differ, of any."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in properties for name in one):
        forms = [one[name] for one in properties if name in one]
        found[name] = forms[0] if all(form == forms[0] for form in forms) else {"anyOf": forms}
    return found


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
