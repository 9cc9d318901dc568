"""YAML documents with the line of every key, numbers as people write them, and no key twice."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from nextscale.sweeps.errors import SpecError

Key = tuple[str | int, ...]
_MOST_KEYS = 100_000
"""More come from aliases of aliases alone."""
_DEEPEST = 40


def dotted(key: Key) -> str:
    return ".".join(map(str, key))


@dataclasses.dataclass
class Document:
    """The content of a YAML file, and where each of its keys stands.

    Attributes:
        places: `file:line` of each key path, and of what `--set` put there.
    """

    name: str
    content: Any
    places: dict[Key, str]

    def place(self, key: Key) -> str:
        """Where a key stands, or the nearest thing around it that is there."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, self.name)

    def with_place(self, error: SpecError) -> SpecError:
        """The same error, beginning with the place of its key."""
        return SpecError(f"{self.place(error.key)}: {error}", error.key)

    def set(self, assignment: str) -> None:
        """Applies `a.b=value`, the value read as YAML; a number in the path is an item of a list.

        Raises:
            SpecError: it is not of that form, or passes through something that holds no keys.
        """
        path, equals, text = assignment.partition("=")
        words = path.split(".")
        if not equals or not all(words):
            raise SpecError(f"--set {assignment}: write it as key.key=value")
        value = parse(text, f"--set {assignment}").content
        here: Any = self.content
        key: Key = ()
        while words:
            if isinstance(here, list):
                word = words.pop(0)
                if word not in map(str, range(len(here))):
                    raise SpecError(f"--set {assignment}: {dotted(key)} has {len(here)} items, numbered from 0")
                part: str | int = int(word)
            elif isinstance(here, dict):
                part = _longest(words, here)
                del words[: part.count(".") + 1]
            else:
                raise SpecError(f"--set {assignment}: {dotted(key)} holds no keys")
            key = (*key, part)
            if not words:
                here[part] = value
            else:
                here = here.setdefault(part, {}) if isinstance(here, dict) else here[part]
        self.places = {k: v for k, v in self.places.items() if k[: len(key)] != key}
        self.places[key] = f"--set {assignment}"


def _longest(words: list[str], mapping: dict[str, Any]) -> str:
    """The key that a path goes on with: one that is there, though it may hold dots itself; else the next word."""
    known = (".".join(words[:n]) for n in range(len(words), 1, -1))
    return next((key for key in known if key in mapping), words[0])


class _Loader(yaml.SafeLoader):
    """Safe, and with numbers as in YAML 1.2: 1e18 and 2.5e10 are numbers, `no` and `on` are words, 010 is ten. A key is
    a word, whatever it looks like."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        try:
            return int(self.construct_scalar(node))
        except ValueError:
            raise _odd(node, "a whole number of at most 4300 digits") from None

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        try:
            return super().construct_yaml_float(node)
        except ValueError:
            raise _odd(node, "a number") from None

    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        word = str(self.construct_scalar(node)).lower()
        if word not in ("true", "false"):
            raise _odd(node, "true or false")
        return word == "true"

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:  # type: ignore[override]
        self.flatten_mapping(node)
        return {str(key.value): self.construct_object(value, deep=deep) for key, value in node.value}


def _odd(node: yaml.ScalarNode, wanted: str) -> yaml.YAMLError:
    shown = node.value if len(node.value) <= 40 else f"{node.value[:40]}…"
    return yaml.constructor.ConstructorError(None, None, f"{shown} is not {wanted}", node.start_mark)


_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_OURS = ("int", "float", "bool", "timestamp")

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] not in _OURS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|nan))$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^[-+]?\d+(_\d+)*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(true|false)$", re.IGNORECASE), list("tTfF"))
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Loader.add_constructor(f"{_TAG}float", _Loader.construct_yaml_float)
_Loader.add_constructor(f"{_TAG}bool", _Loader.construct_yaml_bool)


def read(path: Path) -> Document:
    """A YAML file.

    Raises:
        SpecError: it cannot be read, is not YAML, or is not a mapping of keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from None
    document = parse(text, str(path))
    if not isinstance(document.content, dict):
        raise SpecError(f"{path}:1: a spec is a mapping of keys, such as `name: my-sweep`")
    return document


def parse(text: str, name: str) -> Document:
    """The content of a YAML text; `name` says in errors whose it is.

    Raises:
        SpecError: it is not YAML, or not of plain numbers, words, lists and mappings.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        places: dict[Key, str] = {}
        if node is not None:
            _walk(node, (), name, places, frozenset())
        content = None if node is None else _unshared(loader.construct_document(node))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"{name}{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise SpecError(f"{name}: is nested deeper than {_DEEPEST} levels; no spec is") from None
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    finally:
        if loader is not None:
            loader.dispose()
    return Document(name, content, places)


def _unshared(value: Any) -> Any:
    """What two places share by an alias is two things from here on: one may be changed."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _walk(node: yaml.Node, path: Key, name: str, places: dict[Key, str], above: frozenset[int]) -> None:
    """Notes the line of every key below a node, and refuses what no spec holds."""
    line = f"{name}:{node.start_mark.line + 1}"
    if id(node) in above:
        raise SpecError(f"{line}: an alias that contains itself")
    if len(places) > _MOST_KEYS:
        raise SpecError(f"{name}: holds more than {_MOST_KEYS} keys; no spec does")
    if len(above) > _DEEPEST:
        raise SpecError(f"{line}: is nested deeper than {_DEEPEST} levels; no spec is")
    if node.tag not in _PLAIN:
        raise SpecError(f"{line}: not valid YAML: the tag {node.tag.replace(_TAG, '!!')}; a spec holds plain values")
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"{name}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError(f"{line}: a key is a word, not a list or a mapping")
            if key.value in seen:
                raise SpecError(f"{line}: {dotted((*path, key.value))}: is here twice; keep one")
            seen.add(key.value)
            if key.tag == f"{_TAG}merge":
                _walk_merged(value, path, name, places, above)
                continue
            places[(*path, key.value)] = line
            _walk(value, (*path, key.value), name, places, above)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            places[(*path, i)] = f"{name}:{item.start_mark.line + 1}"
            _walk(item, (*path, i), name, places, above)


def _walk_merged(node: yaml.Node, path: Key, name: str, places: dict[Key, str], above: frozenset[int]) -> None:
    """Of `<<: *other` and `<<: [*some, *others]`: what stands beside it, or came first, goes before."""
    for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        inner: dict[Key, str] = {}
        _walk(one, path, name, inner, above)
        for key, line in inner.items():
            places.setdefault(key, line)
        if len(places) > _MOST_KEYS:
            raise SpecError(f"{name}: holds more than {_MOST_KEYS} keys; no spec does")
