"""Sees before runs are begun whether the functions of one's own that they name can be trained with.

The steps of a small one are traced, not computed: in a process of its own, so that who plans needs no jax and runs
nobody's code.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable

from nextscale.model.accounting import parameters
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import ModelConfig, RunConfig
from nextscale.model.external.asked import AskedProcess
from nextscale.model.storage.cache import cache_folder

_CHANGES_TRACES = ("nextscale", "jax", "flax", "optax")
"""The packages whose versions they depend on."""


def check_functions(runs: Iterable[RunConfig]) -> None:
    """Of each choice of functions of one's own (loss, optimiser, activation, position) the smallest run. What was seen
    to be well is not traced again by this user, until its files change. (A module is called when it is counted.)

    Raises:
        InputError: one takes other arguments than it is given, fails, or gives something else.
    """
    smallest: dict[object, RunConfig] = {}
    for run in sorted(runs, key=lambda run: parameters(run.model)):
        called = [run.model.target] if isinstance(run.model, ModuleModel) else []
        gated = isinstance(run.model, ModelConfig) and run.model.mlp_gated
        if functions := tuple(name for name in run.targets if name not in called):
            smallest.setdefault((functions, gated, run.training.weight_decay > 0), run)
    versions = [importlib.metadata.version(name) for name in _CHANGES_TRACES]
    process = None
    try:
        for run in smallest.values():
            meaning = hashlib.sha256(json.dumps([run.run_id, versions]).encode()).hexdigest()[:24]
            well = cache_folder() / "traced" / meaning
            if well.exists():
                continue
            process = process or AskedProcess("nextscale.model.ahead.tracing", {"JAX_PLATFORMS": "cpu"})
            process.ask({"config": run.model_dump(mode="json")}, f"code: tracing {', '.join(run.targets)}")
            with contextlib.suppress(OSError):  # without it the next plan traces again
                well.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                well.touch()
    finally:
        if process is not None:
            process.close()
