"""The sweeps below a folder, and what changes whenever one of them does."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.page.provenance import written_by
from nextscale.sweeps.store.index import ORDER, file_stamp

_MARKS = ("runs", "imports", "ledger.jsonl", "accounts.jsonl", "summary.json")
"""Of an output folder two or more are there, or the order of its specs, though what it held may be broken since."""
_READ = ("ledger.jsonl", "ledger.head", "accounts.jsonl", "sequence.jsonl", "summary.json")
_FOLDERS = ("sweeps", "imports")


@dataclasses.dataclass(frozen=True)
class Found:
    """An output folder of `nextscale run`.

    Attributes:
        name: its path below the folder that was searched, in characters that can be shown.
        root: where it is.
    """

    name: str
    root: Path


def find_sweeps(folder: Path) -> list[Found]:
    """The output folders at or below a folder, by name; not those whose names begin with a dot.

    Raises:
        SpecError: there is no such folder.
    """
    top = folder.expanduser().absolute()
    if not top.is_dir():
        raise SpecError(f"{folder}: is no folder; name one that holds the --out of several `nextscale run`")
    if _is_sweep(top):
        return [Found(_shown(top.name), top)]
    found: dict[str, Path] = {}
    for here, folders, _ in os.walk(top):
        roots = [name for name in folders if _is_sweep(Path(here, name))]
        folders[:] = sorted(name for name in folders if name not in roots and not name.startswith("."))
        for root in (Path(here, name) for name in sorted(roots) if not name.startswith(".")):
            name = _shown(str(root.relative_to(top)))
            while name in found:  # two names that look alike
                name += "'"
            found[name] = root
    return [Found(name, found[name]) for name in sorted(found)]


def stamp(root: Path) -> str:
    """What changes whenever anything does that a page of the folder is made from, the package that makes it too.

    Sizes and times, and no inodes: a folder that was copied with its times is the same.
    """
    folders = [str(root / name) for name in _FOLDERS] + _listed(root / "runs")
    digest = hashlib.sha256(written_by().encode())
    for path in [*(str(root / name) for name in _READ), *(file for folder in folders for file in _listed(folder))]:
        digest.update(os.fsencode(f"{os.path.relpath(path, root)} {file_stamp(path, copied=True)}\n"))
    return digest.hexdigest()


def _is_sweep(folder: Path) -> bool:
    return (folder / "sweeps" / ORDER).exists() or sum((folder / mark).exists() for mark in _MARKS) > 1


def _listed(folder: str | Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.name != "checkpoints")
    except OSError:
        return []


def _shown(name: str) -> str:
    return "".join(one if one.isprintable() else "\ufffd" for one in name)
