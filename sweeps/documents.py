"""YAML with the line of every key, numbers as people write them, and no key twice."""

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

    def set(self, assignment: str) -> None:
        """Applies `a.b=value`, the value read as YAML.

        Raises:
            SpecError: it is not of that form, or passes through something that holds no keys.
        """
        path, equals, text = assignment.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise SpecError(f"--set {assignment}: write it as key.key=value")
        here = self.content
        for depth, key in enumerate(keys[:-1]):
            here = here.setdefault(key, {}) if isinstance(here, dict) else None
            if not isinstance(here, dict):
                raise SpecError(f"--set {assignment}: {'.'.join(keys[: depth + 1])} holds no keys")
        here[keys[-1]] = _parse(text, f"--set {assignment}").content
        self.places = {k: v for k, v in self.places.items() if k[: len(keys)] != tuple(keys)}
        self.places[tuple(keys)] = f"--set {assignment}"


class _Loader(yaml.SafeLoader):
    """Safe, and with numbers as in YAML 1.2: 1e18 and 2.5e10 are numbers, `no` and `on` are words, 010 is ten."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))


_OURS = ("int", "float", "bool", "timestamp")

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] not in _OURS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*([eE][-+]?\d+)|\d[\d_]*\.[\d_]*|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|nan))$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+(_\d+)*$"), list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$", re.IGNORECASE), list("tTfF"))


def read(path: Path) -> Document:
    """A YAML file.

    Raises:
        SpecError: it cannot be read, is not YAML, or is not a mapping of keys.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from None
    document = _parse(text, str(path))
    if not isinstance(document.content, dict):
        raise SpecError(f"{path}:1: a spec is a mapping of keys, such as `name: my-sweep`")
    return document


def _parse(text: str, name: str) -> Document:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        places: dict[Key, str] = {}
        if node is not None:
            _walk(node, (), name, places, set())
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"{name}{line}: not valid YAML: {problem}") from None
    except SpecError:
        raise
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    finally:
        if loader is not None:
            loader.dispose()
    return Document(name, content, places)


def _walk(node: yaml.Node, path: Key, name: str, places: dict[Key, str], above: set[int]) -> None:
    """Notes the line of every key below a node."""
    if id(node) in above:
        raise SpecError(f"{name}:{node.start_mark.line + 1}: an alias that contains itself")
    if len(places) > _MOST_KEYS:
        raise SpecError(f"{name}: holds more than {_MOST_KEYS} keys; no spec does")
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"{name}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError(f"{line}: a key is a word, not a list or a mapping")
            if key.value in seen:
                raise SpecError(f"{line}: {'.'.join(map(str, (*path, key.value)))}: is here twice; keep one")
            seen.add(key.value)
            places[(*path, key.value)] = line
            _walk(value, (*path, key.value), name, places, above)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            places[(*path, i)] = f"{name}:{item.start_mark.line + 1}"
            _walk(item, (*path, i), name, places, above)
