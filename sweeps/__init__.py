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
    from nextscale.sweeps.budget import Cluster, cluster_of
    from nextscale.sweeps.design import planned_runs
    from nextscale.sweeps.forecast_frame import forecast_budget
    from nextscale.sweeps.loop import run_study
    from nextscale.sweeps.plan import Plan, plan_sweep
    from nextscale.sweeps.reading import load_spec
    from nextscale.sweeps.spec import SweepSpec
    from nextscale.sweeps.store import load, load_curves
    from nextscale.sweeps.study import Study

# Imported when first asked for: `nextscale --help` needs none of it.
_HOMES = {
    "Cluster": "budget",
    "Plan": "plan",
    "SweepSpec": "spec",
    "Study": "study",
    "cluster_of": "budget",
    "forecast_budget": "forecast_frame",
    "load": "store",
    "load_curves": "store",
    "load_spec": "reading",
    "plan_sweep": "plan",
    "planned_runs": "design",
    "run_study": "loop",
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
