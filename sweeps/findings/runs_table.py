"""The table of finished runs that findings read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.model.accounting import flops_per_token
from nextscale.model.config.run import ModelConfig, RunConfig

if TYPE_CHECKING:
    from nextscale.sweeps.design.planned_run import PlannedRun
    from nextscale.sweeps.study.study import Study


def runs_of(study: Study) -> pd.DataFrame:
    """One row per finished run, also of those that diverged, whose `loss` is missing.

    Columns are those of a run's record, with `role` (fit or holdout) and `budget`; `experts`, `parametrization`,
    `schedule` and `warmup_tokens`; `flops_kaplan`, training FLOPs as Kaplan et al. 2020 count them, without embedding
    and head; and `curve`, the run's rows of evaluations.jsonl.
    """
    rows = []
    for run in study.planned:
        record = study.store.record(run.run_id)
        if record is not None:
            rows.append(record | config_columns(run) | {"curve": study.store.run(run.run_id).evaluations()})
    return pd.DataFrame(rows)


def config_columns(run: PlannedRun) -> dict[str, Any]:
    """What a run's record does not say of what was asked."""
    told: dict[str, Any] = {"role": run.role, "budget": run.budget}
    if not isinstance(run.config, RunConfig):
        return told
    model, training = run.config.model, run.config.training
    if isinstance(model, ModelConfig):
        told |= {"flops_kaplan": flops_per_token(model, "kaplan") * run.tokens, "experts": model.experts}
    return told | {
        "parametrization": training.parametrization,
        "schedule": training.schedule,
        "warmup_tokens": training.warmup_steps * training.batch_tokens,
    }


def fitted_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs to learn from that came to a loss.

    Raises:
        InputError: there are none.
    """
    kept = runs[(runs["role"] == "fit") & runs["loss"].notna()] if len(runs) else runs
    if kept.empty:
        raise InputError("none of the runs has come to a loss")
    return kept.assign(loss=kept["loss"].astype(float)).reset_index(drop=True)
