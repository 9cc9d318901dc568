"""Code of one's own, found without running it, hashed with all that it imports beside it, and loaded."""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from nextscale.model.config.code import Code, Function
from nextscale.model.errors import InputError, describe_error, first_line
from nextscale.model.external.source import digest

_NOT_OURS = ("site-packages", "dist-packages")
_contents: dict[Path, str] = {}
"""Of each file that was loaded from here what it held."""


def resolve(code: Code | None, targets: Iterable[str]) -> Code:
    """The same with its folder as an absolute path and the fingerprint of each target, so that runs of them can be
    named.

    Raises:
        InputError: there is no such module or nothing of that name in it, a source is not there, or the files are not
            those of a fingerprint that is given.
    """
    code = code or Code()
    folder = str(Path(code.folder or ".").expanduser().absolute())
    code = code.model_copy(update={"folder": folder})
    found = {target: fingerprint(code, target) for target in sorted(set(targets))}
    for target, known in code.fingerprints.items():
        if found.get(target, known) != known:
            raise InputError(
                f"code: the files of {target} are not what they were ({found[target]}, was {known}); restore them, or "
                "leave out code.fingerprints to take them as they are now"
            )
    for target in found:
        check_name(target, folder)
    return code.model_copy(update={"fingerprints": code.fingerprints | found})


def check_name(target: str, folder: str | None) -> None:
    """
    Raises:
        InputError: its file names nothing so, as far as can be told without running it.
    """
    module, _, path = target.partition(":")
    spec = _found(module, folder)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return
    named: set[str] = set()
    for node in ast.walk(_tree(Path(spec.origin))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            named.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            named.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            named |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    name = path.partition(".")[0]
    if name not in named and not named & {"*", "__getattr__"}:
        raise InputError(f"code: {target}: there is no {name} in {module}{_hint(name, named)}")


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [*known], n=1)
    return f"; did you mean {close[0]}?" if close else "; name a function or a class of it"


def check_unchanged(code: Code) -> None:
    """To be asked before a run is begun, on the machine that trains it.

    Raises:
        InputError: the files are not those that the run was planned on, or are not there.
    """
    here = f" on {socket.gethostname()}"
    if code.folder is not None and not Path(code.folder).is_dir():
        raise InputError(f"code.folder: {code.folder} is not{here}; keep spec and code where all workers see them")
    for target, known in code.fingerprints.items():
        if (found := fingerprint(code, target)) != known:
            raise InputError(
                f"code: the files of {target} have changed{here} since the run was planned ({found}, was {known}); "
                "restore them, or run the sweep again, which plans its runs anew"
            )


def fingerprint(code: Code, target: str) -> str:
    """Of the contents of a target's files, whatever these are called: 12 hex digits.

    Raises:
        InputError: there is no such module, or a file of it or of `code.source` cannot be read.
    """
    digests = [digest(path) for path in files_of(target, code.folder).values()]
    for i, name in enumerate(code.source):
        path = Path(code.folder or ".") / Path(name).expanduser()
        try:
            digests.append(digest(path))
        except OSError as error:
            raise InputError(
                f"code.source.{i}: {path} cannot be read ({error.strerror}); name it from the spec"
            ) from None
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()[:12]


def files_of(target: str, folder: str | None) -> dict[str, Path]:
    """The file of each module that a target is made of: its own, and those that it imports from the same folder or
    package, at its head or later.

    Raises:
        InputError: there is no such module, or one of them is no Python.
    """
    importlib.invalidate_caches()
    name = target.partition(":")[0]
    top, root = name.partition(".")[0], None if folder is None else Path(folder).resolve()
    found: dict[str, Path] = {}
    left, looked_at = [name], set[str]()
    if _found(name, folder) is None:
        where = f"in {folder} or installed" if folder else "on the path"
        raise InputError(
            f"code: {target}: there is no module {name} {where}; put its file beside the spec, or install it"
        )
    while left:
        name = left.pop()
        for prefix in _prefixes(name):
            if prefix in looked_at:
                continue
            looked_at.add(prefix)
            spec = _found(prefix, folder)
            if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
                continue
            path = Path(spec.origin).resolve()
            if prefix.partition(".")[0] != top and not _is_beside(path, root):
                continue
            found[prefix] = path
            left += _imports(prefix, path)
    return found


def _prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _is_beside(path: Path, root: Path | None) -> bool:
    """Whether a file lies in the folder of the code, and is not of what is installed there."""
    return root is not None and path.is_relative_to(root) and not set(path.relative_to(root).parts) & set(_NOT_OURS)


def _found(name: str, folder: str | None) -> ModuleSpec | None:
    """Where a module is, without running it or its packages."""
    search: Sequence[str] = [*([] if folder is None else [folder]), *sys.path]
    spec = None
    for prefix in _prefixes(name):
        # By its last name: by the whole it would look into packages, of folders alone, that were never imported.
        spec = PathFinder.find_spec(prefix.rpartition(".")[2], search)
        if spec is None and "." not in prefix:
            try:  # of one that is installed to be edited
                spec = importlib.util.find_spec(prefix)
            except (ValueError, ImportError):
                spec = None
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or [])
    return spec


def _imports(name: str, path: Path) -> Iterator[str]:
    """What a file imports, wherever in it; each may be a module, or what is in one."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            if module:
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)


def _tree(path: Path) -> ast.Module:
    """
    Raises:
        InputError: it is no Python.
    """
    try:
        return ast.parse(path.read_bytes())
    except OSError as error:
        raise InputError(f"code: {path} cannot be read ({error.strerror})") from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        what = error.msg if isinstance(error, SyntaxError) else first_line(error)
        raise InputError(f"code: {path}{f':{line}' if line else ''} is no Python: {what}") from None


@functools.lru_cache
def load(function: Function, where: str) -> Callable[..., Any]:
    """The function or class itself, of the files as they are: those that were loaded before they changed are loaded
    again.

    Args:
        where: the key of the spec that names it.

    Raises:
        InputError: it cannot be imported, or is nothing to be called.
    """
    module, _, path = function.target.partition(":")
    files = files_of(function.target, function.folder)
    held = {file: digest(file) for file in files.values()}
    if any(_is_another(name, file, held[file]) for name, file in files.items()):
        for name in files:
            sys.modules.pop(name, None)
    if function.folder is not None:  # before that of any other, which may have modules of the same names
        sys.path[:] = [function.folder, *(path for path in sys.path if path != function.folder)]
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise InputError(f"{where}: {function.target} cannot be imported: {describe_error(error)}") from error
    _contents.update(held)
    for part in path.split("."):
        if not hasattr(found, part):
            raise InputError(f"{where}: there is no {part} in {module}{_hint(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{where}: {function.target} is a {type(found).__name__}; name a function or a class")
    result: Callable[..., Any] = found
    return result


def check_call(function: Callable[..., Any], what: str, called: str, *arguments: Any, **named: Any) -> None:
    """
    Args:
        what: the function, and the key of the spec that names it.
        called: with what it is, in words.

    Raises:
        InputError: by what it says of its arguments it cannot be called with these.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it does not say
        return
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        raise InputError(f"{what} is called with {called} ({error})") from None


def _is_another(name: str, file: Path, held: str) -> bool:
    """Whether a module that is loaded is not the one in a file, as it is now."""
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    if module is None or origin is None:
        return False
    return Path(origin).resolve() != file or _contents.get(file, held) != held
