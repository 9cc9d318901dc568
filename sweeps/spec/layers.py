"""Reads a spec from its layers: the specs it extends, the chosen scale, `--set`, and environment variables.

None of them is part of what a run means: a spec is what they come to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.spec import documents
from nextscale.sweeps.spec.documents import Document, Key, dotted

LAYERS = ("extends", "scale", "scales")
"""Keys that say how a spec is put together."""

_KINDS = ("kind", "source", "rule")
"""Where two mappings differ in one of these they are of different things, with different keys."""

_VARIABLE = re.compile(r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?")


def read(path: Path, overrides: Sequence[str] = ()) -> Document:
    """A spec as it is meant, with the place of every key in the file that it comes from.

    From the least to the most that has a say: what is extended, each file before its own part of the chosen scale; then
    `--set`. Last, variables of the environment are put in.

    Raises:
        SpecError: a file cannot be read, they extend each other in a circle, there is no such scale, an override is
            not of the right form, or a variable is not set.
    """
    chain = _chain(path)
    later = []
    for assignment in overrides:
        first = assignment.partition("=")[0].partition(".")[0]
        if first == "extends":
            raise SpecError(f"--set {assignment}: what a spec extends is written in its file")
        if first in LAYERS:
            chain[0].set(assignment)
        else:
            later.append(assignment)
    scale = _chosen(chain)
    whole = Document(str(path), {}, {})
    for document in reversed(chain):
        whole = _merged(whole, document, {k: v for k, v in document.content.items() if k not in LAYERS}, ())
        overlay = _scales(document).get(scale) if scale is not None else None
        if overlay is not None:
            whole = _merged(whole, document, overlay, ("scales", str(scale)))
    for assignment in later:
        whole.set(assignment)
    whole.content = _filled(whole.content, (), whole)
    return whole


def ready_specs() -> dict[str, Path]:
    """The specs that ship, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))}


def ready_spec(name: str) -> Path:
    """The file of a ready spec.

    Raises:
        SpecError: none has that name.
    """
    specs = ready_specs()
    if name.replace("-", "_") not in specs:
        raise SpecError(f"{name}: there is no such file, nor ready spec; those are {', '.join(specs)}")
    return specs[name.replace("-", "_")]


def _chain(path: Path) -> list[Document]:
    """A spec, the one that it extends, the one that this extends, and so on."""
    if not path.exists() and path.name == str(path) and not path.suffix:
        path = ready_spec(path.name)
    chain = [documents.read(path)]
    seen = [path.resolve()]
    while "extends" in chain[-1].content:
        document, base = chain[-1], chain[-1].content["extends"]
        place = f"{document.place(('extends',))}: extends"
        if not isinstance(base, str) or not base:
            raise SpecError(f"{place}: is a file, such as base.yaml, or one of {', '.join(ready_specs())}")
        base = _filled(base, ("extends",), document)
        found = _found(base, Path(document.name))
        if found is None:
            raise SpecError(
                f"{place}: {base} is no file beside this one and no ready spec; those are {', '.join(ready_specs())}"
            )
        if found.resolve() in seen:
            names = " → ".join(one.name for one in [*seen, found.resolve()])
            raise SpecError(f"{place}: goes in a circle, {names}; leave one of them out")
        seen.append(found.resolve())
        try:
            chain.append(documents.read(found))
        except SpecError as error:
            raise SpecError(f"{place}: {error}") from None
    return chain


def _found(base: str, extending: Path) -> Path | None:
    file = extending.parent / Path(base).expanduser()
    try:
        if file.exists():
            return file
    except (OSError, ValueError):  # too long a name, or a null in it
        return None
    return ready_specs().get(base.replace("-", "_"))


def _scales(document: Document) -> dict[str, Any]:
    """The overlays of a file by name, checked."""
    scales = document.content.get("scales") or {}
    if not isinstance(scales, dict):
        key: Key = ("scales",)
        raise SpecError(f"{document.place(key)}: scales: holds names, and for each what it changes of the spec")
    for name, overlay in scales.items():
        key = ("scales", name)
        if overlay is not None and not isinstance(overlay, dict):
            raise SpecError(f"{document.place(key)}: {dotted(key)}: holds what it changes of the spec, key by key")
        for layer in LAYERS:
            if layer in (overlay or {}):
                key = ("scales", name, layer)
                raise SpecError(f"{document.place(key)}: {dotted(key)}: belongs to the top of a spec; move it there")
    return scales


def _chosen(chain: Sequence[Document]) -> str | None:
    """The scale that the spec names, or else the nearest of those that it extends."""
    known = list(dict.fromkeys(name for document in chain for name in _scales(document)))
    for document in chain:
        if document.content.get("scale") is None:
            continue
        scale = _filled(document.content["scale"], ("scale",), document)
        if scale in known:
            return str(scale)
        options = f"is none of `scales`, {', '.join(known)}" if known else "is chosen, and there are no `scales`"
        raise SpecError(f"{document.place(('scale',))}: scale: {scale!r} {options}")
    return None


def _merged(base: Document, document: Document, overlay: Mapping[str, Any], at: Key) -> Document:
    """A document with what stands in another at a key laid over it."""
    replaced: set[Key] = set()
    content = _over(base.content, overlay, (), replaced)
    kept = {
        key: place for key, place in base.places.items() if not any(key[:n] in replaced for n in range(len(key) + 1))
    }
    new = {key[len(at) :]: place for key, place in document.places.items() if key[: len(at)] == at and key != at}
    return Document(base.name, content, kept | {key: place for key, place in new.items() if key[0] not in LAYERS})


def _over(base: Any, overlay: Any, key: Key, replaced: set[Key]) -> Any:
    both = isinstance(base, Mapping) and isinstance(overlay, Mapping)
    if not both or any(name in base and name in overlay and base[name] != overlay[name] for name in _KINDS):
        replaced.add(key)
        return overlay
    laid = {k: _over(base[k], v, (*key, k), replaced) if k in base else v for k, v in overlay.items()}
    return {**base, **laid}


def _filled(value: Any, key: Key, document: Document) -> Any:
    """A value with `${NAME}` and `${NAME:-default}` in all its strings replaced; `$${` stays `${`."""
    if isinstance(value, Mapping):
        return {k: _filled(inner, (*key, k), document) for k, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, (*key, i), document) for i, inner in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def put(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        if found[0] == "$${":
            return "${"
        place = f"{document.place(key)}: {dotted(key)}"
        if name is None:
            raise SpecError(f"{place}: write a variable as ${{NAME}} or ${{NAME:-default}}, and ${{ itself as $${{")
        if default is not None:
            return os.environ.get(name) or default
        if name not in os.environ:
            raise SpecError(f"{place}: the variable {name} is not set; set it, or write ${{{name}:-default}}")
        return os.environ[name]

    return _VARIABLE.sub(put, value)
