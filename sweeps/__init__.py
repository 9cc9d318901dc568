"""What to run, and what came of it.

from nextscale.sweeps import load_spec, plan_sweep, run_study, load, load_curves, cluster_of, forecast_budget
plan_sweep(load_spec("sweep.yaml"), "out/sweep").frame()  # what it would train and cost
run_study(load_spec("sweep.yaml"), "out/sweep")
load("out/sweep")  # a DataFrame, one row per run
forecast_budget(load("out/sweep"), usd=[100], cluster=cluster_of("h100x8", utilisation=0.4))  # what money buys
load_curves("out/sweep")  # and one row per evaluation on the way; of="training": per row of the training curve
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextscale.sweeps.budget.cluster import Cluster, cluster_of
    from nextscale.sweeps.budget.frame import forecast_budget
    from nextscale.sweeps.design.expand import planned_runs
    from nextscale.sweeps.plan.plan import Plan, plan_sweep
    from nextscale.sweeps.plan.spec_files import load_spec
    from nextscale.sweeps.run.loop import run_study
    from nextscale.sweeps.spec.sweep_spec import SweepSpec
    from nextscale.sweeps.store.store import load, load_curves
    from nextscale.sweeps.study.study import Study

# Imported when first asked for: `nextscale --help` needs none of it.
_HOMES = {
    "Cluster": "budget.cluster",
    "Plan": "plan.plan",
    "SweepSpec": "spec.sweep_spec",
    "Study": "study.study",
    "cluster_of": "budget.cluster",
    "forecast_budget": "budget.frame",
    "load": "store.store",
    "load_curves": "store.store",
    "load_spec": "plan.spec_files",
    "plan_sweep": "plan.plan",
    "planned_runs": "design.expand",
    "run_study": "run.loop",
}

__all__ = [
    "Cluster",
    "Plan",
    "Study",
    "SweepSpec",
    "cluster_of",
    "forecast_budget",
    "load",
    "load_curves",
    "load_spec",
    "plan_sweep",
    "planned_runs",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nextscale.sweeps' has no attribute '{name}'")
    return getattr(importlib.import_module(f"nextscale.sweeps.{_HOMES[name]}"), name)
