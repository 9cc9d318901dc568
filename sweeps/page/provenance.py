"""By what a page was written, and of which spec and data it is."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from nextscale.sweeps.store.index import spec_files

_PATIENCE = 5.0
_DIGITS = 12


@functools.cache
def written_by() -> str:
    """The version of nextscale and, where it is known, the commit: of a checkout or of an installation from git."""
    version = f"nextscale {importlib.metadata.version('nextscale')}"
    commit = _installed_from() or _checked_out(Path(__file__))
    return version if commit is None else f"{version}, commit {commit}"


def of_what(root: Path, data: Iterable[str]) -> str:
    """Of which spec and data an output folder is, in words.

    Args:
        data: of each of its runs.
    """
    specs, known = spec_names(root), sorted(set(data))
    told = []
    if specs:
        name, _, digest = specs[-1].rpartition("-")
        told.append(f"Spec {name} (digest {digest})")
    if known:
        of = [one if one.startswith("imported") else f"trained on {_data_in_words(one)}" for one in known]
        told.append(" and ".join(of))
    return ", ".join(told)


def _data_in_words(data: str) -> str:
    """`source=markov vocab=16 seed=1` as `markov (vocab 16, seed 1)`; what is written otherwise as it is."""
    source, *others = data.split(" ")
    if not source.startswith("source=") or not all("=" in one for one in others):
        return data
    more = ", ".join(one.replace("=", " ", 1) for one in others)
    return source.removeprefix("source=") + (f" ({more})" if more else "")


def spec_names(root: Path) -> list[str]:
    """The specs of an output folder, each by its name and digest, the one that was run last the last."""
    return [path.stem for path, _ in spec_files(root / "sweeps")]


def _installed_from() -> str | None:
    """The commit that pip installed (PEP 610); None where it was no commit."""
    told = json.loads(importlib.metadata.distribution("nextscale").read_text("direct_url.json") or "{}")
    commit = told.get("vcs_info", {}).get("commit_id")
    return None if commit is None else str(commit)[:_DIGITS]


def _checked_out(file: Path) -> str | None:
    """The commit of the checkout that has this file: a repository around an installation is another's."""
    known = _git(file, "ls-files", "--error-unmatch", file.name)
    if known is None:
        return None
    return _git(file, "describe", "--always", "--exclude=*", f"--abbrev={_DIGITS}", "--dirty= with changes")


def _git(file: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(file.parent), *arguments]
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
