"""What an external trainer's meaning rests on: the files that it names, hashed; its command, found."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from nextscale.model.config.external import Trainer
from nextscale.model.errors import InputError

_LEFT_OUT = ("__pycache__",)
_CHUNK = 1 << 20
PLACES = ("{config}", "{dir}")
"""What is put into a command."""


def resolve(trainer: Trainer) -> Trainer:
    """The same with its folder as an absolute path and its fingerprint, so that its runs can be named.

    Raises:
        InputError: a source or the command is not there, the command has a place that nobody fills, or the sources are
            not those of the fingerprint that is given.
    """
    folder = Path(trainer.folder or ".").expanduser().absolute()
    trainer = trainer.model_copy(update={"folder": str(folder)})
    _check_places(trainer)
    found = fingerprint(trainer)
    if trainer.fingerprint not in (None, found):
        raise InputError(
            f"trainer.source: is not what it was ({found}, was {trainer.fingerprint}); restore it, or leave out "
            "trainer.fingerprint to take it as it is now"
        )
    program(trainer)
    return trainer.model_copy(update={"fingerprint": found})


def check_unchanged(trainer: Trainer) -> None:
    """To be asked before a run is begun, on the machine that trains it.

    Raises:
        InputError: the sources are not those that the run was planned on, or are not there, or the command is not.
    """
    here = f" on {socket.gethostname()}"
    if trainer.folder is None or not Path(trainer.folder).is_dir():
        raise InputError(
            f"trainer.folder: {trainer.folder} is not{here}; keep spec and trainer where all workers see them"
        )
    if (found := fingerprint(trainer)) != trainer.fingerprint:
        raise InputError(
            f"trainer.source: has changed{here} since the run was planned ({found}, was {trainer.fingerprint}); "
            "restore it, or run the sweep again, which plans its runs anew"
        )
    program(trainer)


def fingerprint(trainer: Trainer) -> str:
    """Of the contents of its sources, whatever these are called: 12 hex digits.

    Raises:
        InputError: one is not there, or cannot be read.
    """
    digests = []
    for i, name in enumerate(trainer.source):
        path = Path(trainer.folder or ".") / Path(name).expanduser()
        try:
            digests.append(digest(path))
        except FileNotFoundError:
            raise InputError(f"trainer.source.{i}: {path} is not there; name it relative to the spec") from None
        except OSError as error:
            raise InputError(f"trainer.source.{i}: {path} cannot be read ({error.strerror})") from None
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()[:12]


def program(trainer: Trainer) -> str:
    """Where the program of its command is.

    Raises:
        InputError: it is not there, or is no program.
    """
    name = trainer.command[0]
    folder = Path(trainer.folder or ".")
    if os.sep in name:
        path = folder / Path(name).expanduser()
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
        what = "is not there" if not path.exists() else "is no program; make it one (chmod +x), or name its interpreter"
        raise InputError(f"trainer.command.0: {path} {what}")
    found = shutil.which(name, path=search_path())
    if found is None:
        hint = f"; a file beside the spec is ./{name}" if (folder / name).exists() else ""
        raise InputError(f"trainer.command.0: there is no program {name} on {socket.gethostname()}{hint}")
    return found


def search_path() -> str:
    """Where programs are looked for: as a shell does, and then beside this Python."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def _check_places(trainer: Trainer) -> None:
    for i, word in enumerate(trainer.command):
        for part in word.split("{")[1:]:
            name = f"{{{part.partition('}')[0]}}}"
            if "}" in part and name not in PLACES and (near := get_close_matches(name, PLACES, n=1, cutoff=0.7)):
                raise InputError(f"trainer.command.{i}: {name} is no place that is filled; did you mean {near[0]}?")


def digest(path: Path) -> str:
    """Of a file its content; of a folder the names and contents of all files below."""
    if not path.is_dir():
        return _of_file(path)
    whole = hashlib.sha256()
    for file in _files(path):
        whole.update(f"{file.relative_to(path)} {_of_file(file)}\n".encode())
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _LEFT_OUT:
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _of_file(path: Path) -> str:
    content = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest()
