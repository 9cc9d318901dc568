"""A sweep of mixtures of experts, from plan to a forecast that runs confirm which were held out."""

import json

import pytest
import yaml

from nextscale.sweeps import load

SPEC = {
    "name": "experts",
    "data": {"source": "markov", "vocab": 32, "seed": 0},
    "model": {"depth": 2, "heads": 2, "context": 16, "position": "alibi", "mlp": "relu2", "experts": 8},
    "training": {
        "batch_tokens": 256,
        "schedule": "linear",
        "lr": {"rule": "horizon", "base": 0.02, "reference_steps": 500, "exponent": 0.25},
    },
    "design": {
        "kind": "isoflop",
        "flops": [1.5e9, 3e9, 6e9, 1.2e10],
        "widths": [[4, 6, 8, 12], [6, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]],
    },
    "holdout": {"flops": 4.8e10, "widths": [16, 24]},
    "forecast": {"law": "chinchilla", "params": "active"},
    "loggers": [],
}


@pytest.mark.soak
@pytest.mark.slow
def test_a_sweep_of_mixtures_ends_in_a_forecast_that_held_out_runs_confirm(tmp_path, nextscale):
    spec, out = tmp_path / "experts.yaml", tmp_path / "out"
    spec.write_text(yaml.safe_dump(SPEC))
    ran = nextscale("run", spec, "--out", out, timeout=1800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table, summary = load(out), json.loads((out / "summary.json").read_text())
    assert summary["runs"] == {"done": 18, "reused": 0, "failed": 0}
    assert (table["params_active"] < 0.8 * table["params"]).all()
    assert table["expert_load"].between(1, 4).all()
    assert all(run["interval"][0] <= run["measured"] <= run["interval"][1] for run in summary["holdout"])
    assert all(run["measured"] > summary["irreducible"]["true"] for run in summary["holdout"])
