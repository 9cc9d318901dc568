"""Sweeps of every kind of design through to their report, trained here without a cluster."""

import pytest
from etils import epath

from nextscale.model.record import RunDirectory
from nextscale.model.training.train import train
from nextscale.sweeps import SweepSpec, load
from nextscale.sweeps.run.loop import run_study
from nextscale.sweeps.study.study import Study

pytestmark = pytest.mark.slow

SHARED = {
    "data": {"source": "markov", "vocab": 16, "seed": 1},
    "model": {"depth": 1, "heads": 2, "context": 16, "position": "alibi", "mlp": "relu2"},
    "training": {"batch_tokens": 64, "lr": 0.02, "schedule": "linear"},
    "evaluation": {"tokens": 2048},
    "forecast": {"resamples": 100},
}


def run(out, **keys):
    """A sweep whose runs are trained one after the other."""
    spec = SweepSpec(**SHARED | keys)
    for planned in Study(spec, out).planned:
        train(planned.config, RunDirectory(epath.Path(out / "runs" / planned.config.run_id)))
    return run_study(spec, out)


def test_a_ladder_is_fitted_and_forecasts_by_tokens_per_parameter(tmp_path):
    design = {"kind": "ladder", "widths": [4, 8, 12], "tokens_per_param": [20, 40, 80]}
    holdout = {"tokens_per_param": 100, "widths": [16]}
    summary = run(tmp_path, name="ladder", design=design, holdout=holdout)
    assert summary["runs"]["done"] == 10
    assert summary["law"]["n"] == 9
    assert summary["interior_minima"] == []
    (target,) = summary["holdout"]
    assert target["measured"] is not None
    assert target["tokens_per_param"] == pytest.approx(100, rel=0.01)
    assert summary["optimal_params"]["flops"] == pytest.approx(target["flops"], rel=0.01)
    assert summary["optimal_params"]["measured"] is None
    assert (tmp_path / "report.html").exists()
    assert set(load(tmp_path)["role"]) == {"fit", "holdout"}


def test_a_grid_of_sizes_and_budgets_has_isoflop_curves(tmp_path):
    axes = {"model.width": [4, 8, 12], "flops": [1e8, 2e8], "seed": [0]}
    summary = run(tmp_path, name="grid", design={"kind": "grid", "axes": axes})
    assert summary["runs"]["done"] == 6
    assert len(summary["interior_minima"]) == 2
    assert (tmp_path / "report.html").exists()


def test_a_grid_over_data_has_no_one_entropy(tmp_path):
    axes = {"model.width": [4, 8, 12], "tokens": [2e4, 4e4, 8e4], "data.seed": [1, 2]}
    summary = run(tmp_path, name="sources", design={"kind": "grid", "axes": axes})
    assert summary["runs"]["done"] == 18
    assert summary["irreducible"]["true"] is None
    assert summary["interior_minima"] == []
