"""A run as one row of the table: its config, its result and its cost.

Which columns there are, and of what kind, does not depend on the runs: `COLUMNS` always, and a column for each
validation set and each source of a mixture. Text, and what is true or false, is in columns of objects, None where it
is missing; numbers are whole where none is missing, else floats.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from nextscale.cluster.controller.accounts import RESTORE, row_problem
from nextscale.model.accounting import (
    Convention,
    active_parameters,
    flops_per_token,
    non_embedding_parameters,
    parameter_groups,
    parameters,
)
from nextscale.model.config.external import AnyRun, ExternalRun
from nextscale.model.config.module import ModuleModel
from nextscale.model.config.run import ModelConfig
from nextscale.model.network.kernels import recompute_of
from nextscale.model.record import Row, RunDirectory, is_number, read_rows
from nextscale.sweeps.errors import SpecError

_TEXT = (
    *("run_id", "folder", "status", "reason", "sweep", "role", "sweeps", "schedule", "optimizer", "parametrization"),
    *("parent", "trunk", "data", "device", "pool", "accelerator", "recompute", "versions"),
)
_WHOLE = (
    *("params", "params_non_embedding", "params_active", "params_embedding", "params_position", "params_attention"),
    *("params_mlp", "params_experts", "params_router", "params_norm", "params_head"),
    *("tokens", "tokens_done", "unique_tokens", "width", "depth", "heads", "experts"),
    *("context", "vocab", "steps", "batch_tokens", "seed", "skipped_steps", "evaluation_tokens", "attempts"),
    "micro_batches",
)
COLUMNS = (
    *("run_id", "folder", "status", "reason", "sweep", "role", "budget", "sweeps"),
    *("params", "params_non_embedding", "params_active", "params_embedding", "params_position", "params_attention"),
    *("params_mlp", "params_experts", "params_router", "params_norm", "params_head"),
    *("tokens", "tokens_done", "unique_tokens", "epochs"),
    *("flops", "flops_palm", "flops_chinchilla", "flops_kaplan", "flops_6nd"),
    *("loss", "bits_per_byte", "in_context_learning", "evaluation_tokens", "skipped_steps"),
    *("width", "depth", "heads", "experts", "context", "vocab"),
    *("steps", "batch_tokens", "lr", "weight_decay", "schedule", "optimizer", "parametrization", "seed"),
    *("parent", "trunk", "data"),
    *("attempts", "seconds", "device_hours", "device_hours_wasted", "usd", "usd_wasted", "flops_kept", "flops_lost"),
    *("utilisation", "device", "pool", "accelerator", "micro_batches", "recompute", "versions"),
)
"""Those that every table has, in their order; what each means: docs/runs.md."""
_SETTINGS = (
    *(
        "width",
        "depth",
        "heads",
        "experts",
        "context",
        "vocab",
        "lr",
        "weight_decay",
        "schedule",
        "optimizer",
        "parametrization",
    ),
)
_NUMBERS = ("loss_", "bits_per_byte_", "epochs_")
"""What columns of further numbers begin with."""
RESULTS = ("done", "diverged")
NO_TRUNK = ""
"""Of a run that was begun at its first token; where nothing is said, what its sweep planned holds."""
UNREADABLE = "unreadable"
"""The status of a run that this version cannot read."""
_NOT_COLUMNS = ("loss_by_position",)
_LARGEST = 2**53
"""Beyond it a float is not every whole number."""


def config_columns(config: AnyRun) -> Row:
    """What follows of a run from what was asked."""
    counts = _counts(config)
    if isinstance(config, ExternalRun):
        return _free_columns(config) | counts
    model, training = config.model, config.training
    return counts | {
        **{f"params_{name}": count for name, count in parameter_groups(model).items()},
        **_built(model, config.tokens),
        **{name: getattr(training, name) for name in ("lr", "weight_decay")},
        **{name: getattr(training, name) for name in ("schedule", "optimizer", "parametrization")},
        "parent": None if config.parent is None else f"{config.parent.run_id}@{config.parent.tokens}",
        "data": _in_words(config.data.semantic()),
    }


def _built(model: ModelConfig | ModuleModel, tokens: int) -> Row:
    """What its model tells: of a module who counted its FLOPs, and of its arguments those that are plain values."""
    if isinstance(model, ModuleModel):
        free = {name: value for name, value in model.arguments.items() if _is_free(name, value)}
        return free | {"context": model.context, "vocab": model.vocab, "flops_by": model.counted.flops_by}
    others = [convention for convention in typing.get_args(Convention) if convention != "exact"]
    counts = {f"flops_{name}": flops_per_token(model, name) * tokens for name in others}
    return counts | {name: getattr(model, name) for name in ("width", "depth", "heads", "experts", "context", "vocab")}


def _counts(config: AnyRun) -> Row:
    model = config.model
    return {
        "params": parameters(model),
        "params_non_embedding": non_embedding_parameters(model),
        "params_active": active_parameters(model),
        "tokens": config.tokens,
        "flops": flops_per_token(model) * config.tokens,
        "steps": config.training.steps,
        "batch_tokens": config.training.batch_tokens,
        "seed": config.seed,
    }


def _free_columns(config: ExternalRun) -> Row:
    """Of an external trainer's keys those that are plain values; its data is told with what it rests on, for laws over
    runs of different trainers hold for none."""
    data = _in_words({"trainer": config.trainer.fingerprint} | config.data.semantic())
    keys = config.training.written | config.model.written
    return {name: value for name, value in keys.items() if _is_free(name, value)} | {"data": data}


def _is_free(name: str, value: Any) -> bool:
    """Whether a key of an external trainer's, or an argument of a module, is a column: one of its own, or a setting
    that every table has."""
    if name in COLUMNS:
        return name in _SETTINGS and (isinstance(value, str) if name in _TEXT else is_number(value))
    return isinstance(value, str | int | float)


def run_row(run: RunDirectory) -> Row:
    """All that a run's own directory says of it.

    Raises:
        ValueError: its config or its record is damaged.
        FileNotFoundError: it has no config.
    """
    row: Row = {"run_id": run.path.name} | config_columns(run.config())
    record, attempts = run.record(), run.attempts()
    if record is None:
        failed = bool(attempts) and attempts[-1]["status"] not in ("lost", "stopped", "uprooted")
        row["status"] = "failed" if failed else "unfinished"
        row["reason"] = str(attempts[-1].get("message")) if attempts else None
    else:
        _check_record(record)
        row |= {
            key: value
            for key, value in record.items()
            if key not in _NOT_COLUMNS and not isinstance(value, list | dict)
        }
        if "recompute" in record:
            row["recompute"] = recompute_of(record["recompute"])
        row["versions"] = _in_words(record.get("versions") or {})
        row |= {name: value for name, value in run.task_scores().items() if name not in COLUMNS and name not in row}
    if row["status"] == "done":
        row["tokens_done"] = row["tokens"]
    else:
        row["tokens_done"] = max((one["tokens"] for one in run.metrics()), default=0)
    if starts := [one["start"] for one in attempts if "start" in one]:
        row["trunk"] = str(starts[-1].get("run_id")) if isinstance(starts[-1], dict) else NO_TRUNK
    return row | {"run_id": run.path.name, "attempts": len(attempts)}


def _check_record(record: Row) -> None:
    """
    Raises:
        ValueError: it is none that can be shown: of another status, or with something else where a number is to be.
    """
    if record["status"] not in RESULTS:
        raise ValueError(f"status is {record['status']!r}")
    for name, value in record.items():
        number = (name in COLUMNS and name not in _TEXT) or name.startswith(_NUMBERS) or type(value) is int
        if number and name not in _NOT_COLUMNS and value is not None and not is_number(value):
            raise ValueError(f"{name} is no number")


def run_costs(accounts: Path, on_damage: Callable[[str], None] | None = None) -> dict[str, Row]:
    """What the attempts at each run have cost together, by `accounts.jsonl`; those that have not ended are not in it.

    Wasted is of an attempt that left nothing all of it, else the share of its FLOPs that were lost; of one that
    finished its run without a step, nothing.

    Args:
        on_damage: is told of each row that is damaged, which is then left out.

    Raises:
        SpecError: a row is damaged, and nobody is to be told of it.
    """
    found: dict[str, Row] = {}
    for line, row in enumerate(read_rows(epath.Path(accounts)), 1):
        if (problem := row_problem(row)) is not None:
            text = f"{accounts}: row {line} is damaged: {problem}; {RESTORE}"
            if on_damage is None:
                raise SpecError(text)
            on_damage(text)
        elif row["kind"] == "settled":
            _add_cost(found, row)
    for cost in found.values():
        timed, used = cost.pop("timed"), cost.pop("used")
        cost["utilisation"] = used / timed if timed else None
    return found


def _add_cost(found: dict[str, Row], row: Row) -> None:
    sums = ("device_hours", "device_hours_wasted", "usd", "usd_wasted", "flops_kept", "flops_lost", "timed", "used")
    cost = found.setdefault(row["run_id"], dict.fromkeys(sums, 0))
    flops, hours = row["flops_kept"] + row["flops_lost"], row["device_us"] / 3.6e9
    wasted = row["flops_lost"] / flops if flops else float(row["outcome"] != "finished")
    cost["device_hours"] += hours
    cost["device_hours_wasted"] += hours * wasted
    cost["usd"] += row["usd"]
    cost["usd_wasted"] += row["usd"] * wasted
    cost["flops_kept"] += row["flops_kept"]
    cost["flops_lost"] += row["flops_lost"]
    if row["utilisation"] is not None:
        cost["timed"] += hours
        cost["used"] += hours * row["utilisation"]
    cost |= {"pool": row["pool"], "accelerator": row["accelerator"]}


def with_standard_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the columns that every table has, each of its kind; others follow by name, unless empty."""
    others = sorted(name for name in table.columns if name not in COLUMNS and table[name].notna().any())
    missing = pd.Series([None] * len(table), index=table.index, dtype=object)
    columns = {name: _of_its_kind(name, table.get(name, missing)) for name in (*COLUMNS, *others)}
    return pd.DataFrame(columns, index=table.index)


def untyped_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table, as they come: `with_standard_columns` gives each column its kind."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names})


def _of_its_kind(name: str, column: pd.Series) -> pd.Series:
    if name not in _TEXT:
        try:
            numbers = column.astype(float)
        except (TypeError, ValueError):  # of a table from elsewhere: whatever it is, it is kept
            pass
        else:
            if name not in _WHOLE or numbers.isna().any() or not numbers.abs().lt(_LARGEST).all():
                return numbers
            return numbers.astype(np.int64)
    return column.astype(object).where(column.notna(), None)


def _in_words(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())
