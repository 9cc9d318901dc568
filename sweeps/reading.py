"""Specs from files. Every error is one line: `file:line: key: what, and how to mend it`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from nextscale.sweeps import documents
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan import check_enough
from nextscale.sweeps.spec import SweepSpec


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Reads a spec and applies `--set` overrides.

    Raises:
        SpecError: one line, `file:line: key: what, and how to mend it`.
    """
    document = documents.read(Path(path))
    for assignment in overrides:
        document.set(assignment)
    try:
        spec = SweepSpec.model_validate(document.content)
        check_enough(spec)
    except ValidationError as error:
        raise SpecError(explained(error, document, SweepSpec, "spec")) from None
    except SpecError as error:
        raise SpecError(f"{document.place(error.key)}: {error}") from None
    return spec


def explained(error: ValidationError, document: documents.Document, model: type[BaseModel], whole: str) -> str:
    """The first problem, with its place and a way out; and how many more there are.

    Args:
        model: that the document was held against.
        whole: what the document is, for a problem of no key.
    """
    schema = model.model_json_schema()
    problems = error.errors()
    # Unknown keys first: a misspelt one explains the missing one beside it.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    # pydantic names the chosen member of a union (`markov`, `float`); what was written has no such key.
    key = _written(problem["loc"], document.content, missing=problem["type"] == "missing")
    what = _what(problem, key, schema)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{document.place(key)}: {'.'.join(map(str, key)) or whole}: {what}{more}"


def _written(location: tuple[int | str, ...], content: Any, *, missing: bool) -> documents.Key:
    key: list[str | int] = []
    for i, part in enumerate(location):
        if isinstance(content, dict) and (part in content or (missing and i == len(location) - 1)):
            key.append(part)
            content = content.get(part)
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            key.append(part)
            content = content[part]
    return tuple(key)


def _what(problem: Any, key: documents.Key, schema: Any) -> str:
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
    message = message[0].lower() + message[1:]
    shown = "" if isinstance(given, dict | list) or kind == "value_error" else f", not {given!r}"
    return message.replace("input should", "should") + shown


def _known_keys(location: tuple[int | str, ...], schema: Any) -> list[str]:
    """The keys known where an unknown one was found."""
    return list(_schema_at(location[:-1], schema).get("properties", {}))


def _known_tags(location: tuple[int | str, ...], schema: Any) -> list[str]:
    """The members of the union that a location names."""
    return list(_schema_at(location, schema)["discriminator"]["mapping"])


def _schema_at(location: tuple[int | str, ...], schema: Any) -> Any:
    """The JSON Schema of what stands at a location."""
    node: Any = schema
    for part in location:
        forms = [node, *node.get("oneOf", ()), *node.get("anyOf", ())]
        named = [value for form in forms for value in form.get("patternProperties", {}).values()]
        inside = node.get("properties", {}).get(part) or node.get("items") or (named[0] if named else node)
        # A location names the chosen member of a union too; an optional has one member that is a model.
        options = inside.get("oneOf") or inside.get("anyOf") or []
        mapping = node.get("discriminator", {}).get("mapping", {})
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
