"""The result of an external trainer: its result.json as the record of a run."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
from pathlib import Path
from typing import Any

from nextscale.model.accounting import active_parameters, flops_per_token, non_embedding_parameters, parameters
from nextscale.model.config.external import ExternalRun
from nextscale.model.errors import InputError
from nextscale.model.record import Row, is_number

RESULT = "result.json"
_WHOLE = ("params", "params_active", "params_non_embedding", "tokens")
_ABOVE_ZERO = (*_WHOLE, "flops", "bits_per_byte")
"""What a trainer may say beside the loss; what it says of its size and length goes before what was planned."""
_OURS = (
    *("run_id", "status", "reason", "notes", "versions", "seed", "steps", "batch_tokens", "seconds", "sweep", "role"),
    *("budget", "sweeps", "folder", "trunk", "parent", "attempts", "device_hours", "device_hours_wasted", "usd"),
    *("usd_wasted", "flops_kept", "flops_lost", "utilisation", "pool", "accelerator", "tokens_done", "data", "trainer"),
)
"""Columns that are not the trainer's to fill."""


def record_of(config: ExternalRun, file: Path) -> Row:
    """The result of a run as one flat row, by what its trainer left. `notes` say in what it is not what was asked for.

    Raises:
        InputError: there is no result, or none that can be used; the message says how to mend it.
    """
    told = _read(file)
    if "loss" not in told:
        raise InputError(f"{RESULT}: has no loss; write it in nats per token, as a number")
    loss = told["loss"]
    if loss is not None and (not isinstance(loss, int | float) or isinstance(loss, bool)):
        raise InputError(f"{RESULT}: loss is {loss!r:.40}, no number; write it in nats per token, as a number")
    diverged = loss is None or not _finite(loss)
    if loss is not None and loss <= 0 and not diverged:
        raise InputError(f"{RESULT}: loss is {loss}; a loss in nats per token is above 0")
    planned = _planned(config)
    stated = {name: _number(name, told[name]) for name in _ABOVE_ZERO if told.get(name) is not None}
    if "tokens" in stated and "flops" not in stated:
        stated["flops"] = config.model.flops_per_token * stated["tokens"]
    notes = [
        f"{name} is {stated[name]:.6g} in its {RESULT}, and {planned[name]:.6g} was asked for: the first counts"
        for name in (*_WHOLE, "flops")
        if stated.get(name) is not None and planned[name] is not None and not _same(stated[name], planned[name])
    ]
    row = planned | stated
    refused = [name for name in told if name in _OURS and _finite(told[name]) and told[name] != row.get(name)]
    notes += [f"{name} of its {RESULT} is not taken over: this column is not the trainer's" for name in refused]
    others = {name: told[name] for name in told if name not in (*_OURS, *_ABOVE_ZERO, "loss") and _finite(told[name])}
    return (
        row
        | others
        | {
            "status": "diverged" if diverged else "done",
            "reason": f"its loss is {'null' if loss is None else loss}, no number" if diverged else None,
            "loss": None if loss is None or diverged else float(loss),
            "notes": notes,
        }
    )


@functools.cache
def _version() -> str:
    return importlib.metadata.version("nextscale")


def _read(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"the trainer exited with 0 and left no {RESULT} in its folder; write one") from None
    except (ValueError, RecursionError):
        raise InputError(f"{RESULT}: is no JSON, or was cut short; write it whole before the trainer exits") from None
    except OSError as error:
        raise InputError(f"{RESULT}: cannot be read ({error.strerror})") from None
    if not isinstance(told, dict):
        raise InputError(f'{RESULT}: is no object of names and values, such as {{"loss": 2.5}}')
    return told


def _planned(config: ExternalRun) -> Row:
    model = config.model
    return {
        "run_id": config.run_id,
        "params": parameters(model),
        "params_non_embedding": non_embedding_parameters(model),
        "params_active": active_parameters(model),
        "tokens": config.tokens,
        "flops": flops_per_token(model) * config.tokens,
        "bits_per_byte": None,
        "steps": config.training.steps,
        "batch_tokens": config.training.batch_tokens,
        "seed": config.seed,
        "versions": {"nextscale": _version()},
    }


def _number(name: str, value: Any) -> float:
    if not _finite(value) or value <= 0 or (name in _WHOLE and value != int(value)):
        what = "a whole number above 0" if name in _WHOLE else "a number above 0"
        raise InputError(f"{RESULT}: {name} is {value!r:.40}; it should be {what}, or left out")
    return int(value) if name in _WHOLE else float(value)


def _finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9)
