"""Modules of one's own, counted in a process of their own: who plans needs no jax, and runs nobody's code."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from etils import epath

from nextscale.model.config.code import Code, Function
from nextscale.model.config.module import Counts, ModuleModel
from nextscale.model.errors import InputError
from nextscale.model.external.asked import AskedProcess
from nextscale.model.external.code import check_name, fingerprint
from nextscale.model.record import write_atomically
from nextscale.model.storage.cache import cache_folder

_COMPILES_QUICKLY = "--xla_backend_optimization_level=0"
_CHANGES_COUNTS = ("nextscale", "jax", "flax")
"""The packages whose versions they depend on."""


def counted(model: ModuleModel, code: Code | None) -> ModuleModel:
    """The same model with its counts. They are kept, for this user, by the contents of its files.

    Raises:
        InputError: it cannot be made, called or counted.
    """
    if model.counts is not None:
        return model
    code = code or Code()
    if model.target not in code.fingerprints:
        check_name(model.target, code.folder)
    known = code.fingerprints.get(model.target) or fingerprint(code, model.target)
    folder = None if code.folder is None else str(Path(code.folder).expanduser().absolute())
    function = Function(model.target, folder, known)
    meaning = json.dumps([model.key, known, *map(importlib.metadata.version, _CHANGES_COUNTS)])
    kept = cache_folder() / "counts" / f"{hashlib.sha256(meaning.encode()).hexdigest()[:24]}.json"
    try:
        return model.model_copy(update={"counts": Counts.model_validate_json(kept.read_text())})
    except (OSError, ValueError):  # not counted yet, or damaged
        pass
    if code.fingerprints.get(model.target, known) != fingerprint(code, model.target):
        raise InputError(f"code: the files of {model.target} have changed since they were planned on; restore them")
    counts = Counts.model_validate(_ask(function, model))
    with contextlib.suppress(OSError):  # without it the next plan counts again
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(epath.Path(kept), counts.model_dump_json())
    return model.model_copy(update={"counts": counts})


def _ask(function: Function, model: ModuleModel) -> dict[str, Any]:
    """
    Raises:
        InputError: the module cannot be counted, or takes the process down with it.
    """
    counter = _counter()
    try:
        answer = counter.ask(
            {"function": function, "model": model.model_dump()}, f"model.target: counting {function.target}"
        )
    finally:
        if counter.ended:
            _counter.cache_clear()
    found: dict[str, Any] = answer["counts"]
    return found


@functools.cache
def _counter() -> AskedProcess:
    """A process that counts modules, one after the other, and sees CPUs alone."""
    return AskedProcess("nextscale.model.network.counting", {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": _COMPILES_QUICKLY})
