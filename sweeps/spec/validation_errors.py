"""Validation errors of pydantic in one line: the key, what is wrong with it, and how to mend it."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from pydantic import BaseModel, ValidationError

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec.documents import Key, dotted

_LONGEST = 100


def spec_error_of(error: ValidationError, content: Any, model: type[BaseModel], whole: str) -> SpecError:
    """The first problem, with its key and a way out; and how many more there are.

    Args:
        content: what was held against the model.
        whole: what the content is, for a problem of no key.
    """
    problems = error.errors()
    # Unknown keys first: a misspelt one explains the missing one beside it.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    # pydantic names the chosen member of a union (`markov`, `float`); what was written has no such key.
    key = _written(first["loc"], content, missing=first["type"] == "missing")
    what = _what(first, key, _schema(model))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return SpecError(f"{dotted(key) or whole}: {what}{more}", key)


@functools.cache
def _schema(model: type[BaseModel]) -> Any:
    return model.model_json_schema()


def _written(location: tuple[int | str, ...], content: Any, *, missing: bool) -> Key:
    key: list[str | int] = []
    for i, part in enumerate(location):
        if isinstance(content, dict) and (part in content or (missing and i == len(location) - 1)):
            key.append(part)
            content = content.get(part)
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            key.append(part)
            content = content[part]
    return tuple(key)


def _what(problem: Any, key: Key, schema: Any) -> str:
    kind, given = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        fields = _known_keys(problem["loc"], schema)
        close = difflib.get_close_matches(str(key[-1]), fields, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(fields)}"
        return f"unknown key; {hint}"
    if kind == "missing":
        return "is missing; add it"
    if kind == "union_tag_invalid" and problem["ctx"]["discriminator"].endswith("()"):
        tags = [tag for tag in problem["ctx"]["expected_tags"].split(", ") if tag != "'a number'"]
        return f"needs to be a number, or `rule` to be one of {', '.join(tags)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        name, known = problem["ctx"]["discriminator"].strip("'"), _known_tags(problem["loc"], schema)
        return f"needs `{name}` to be one of {', '.join(map(repr, known))}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = (message[0].lower() + message[1:]).replace("valid tuple", "valid list")
    shown = "" if isinstance(given, dict | list) or kind == "value_error" else f", not {_shown(given)}"
    return message.replace("input should", "should") + shown


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _known_keys(location: tuple[int | str, ...], schema: Any) -> list[str]:
    """The keys known where an unknown one was found."""
    return list(_schema_at(location[:-1], schema).get("properties", {}))


def _known_tags(location: tuple[int | str, ...], schema: Any) -> list[str]:
    """The members of the union that a location names."""
    return list(_members(_schema_at(location, schema)))


def _members(node: Any) -> dict[str, str]:
    """The schemas of a union by their tags; of a union in a union, those of the inner one."""
    forms = (node, *node.get("oneOf", ()), *node.get("anyOf", ()))
    return next((form["discriminator"]["mapping"] for form in forms if "discriminator" in form), {})


def _schema_at(location: tuple[int | str, ...], schema: Any) -> Any:
    """The JSON Schema of what stands at a location."""
    node: Any = schema
    for part in location:
        forms = [node, *node.get("oneOf", ()), *node.get("anyOf", ())]
        named = [value for form in forms for value in form.get("patternProperties", {}).values()]
        named += [form["additionalProperties"] for form in forms if isinstance(form.get("additionalProperties"), dict)]
        inside = node.get("properties", {}).get(part) or node.get("items") or (named[0] if named else node)
        # A location names the chosen member of a union too; an optional has one member that is a model.
        options = inside.get("oneOf") or inside.get("anyOf") or []
        mapping = _members(node)
        node = {"$ref": mapping[part]} if part in mapping else inside
        models = [schema["$defs"][_name(option)] for option in options if "$ref" in option]
        if len(models) > 1:
            models = [model for model in models if model["properties"].get("rule", {}).get("const") == part]
        if "$ref" in node:
            node = schema["$defs"][_name(node)]
        elif models:
            node = models[0]
    return node


def _name(reference: Any) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[-1]
