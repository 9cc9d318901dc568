"""Models of another kind, from plan to a forecast that runs confirm which were held out: a module that nextscale has
never heard of, and mixtures of experts."""

import json

import pytest
import yaml

from nextscale.sweeps import load

SSM = '''\
"""A gated state-space model: each feature of a layer has states that decay at rates of its own."""

import jax
import jax.numpy as jnp
from flax import nnx


class SSM(nnx.Module):
    def __init__(self, width, depth, *, vocab, context, rngs):
        self.embedding = nnx.Embed(vocab, width, rngs=rngs)
        self.layers = nnx.List([Layer(width, context, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocab, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(self.norm(x))


class Layer(nnx.Module):
    def __init__(self, width, context, *, rngs):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.inner = nnx.Linear(width, 2 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.rate = nnx.Param(jnp.linspace(-3, 3, width))
        lag = jnp.arange(context)[:, None] - jnp.arange(context)
        self.lag, self.seen = jnp.maximum(lag, 0), lag >= 0

    def __call__(self, x):
        value, gate = jnp.split(self.inner(self.norm(x)), 2, axis=-1)
        decay = jnp.exp(jnp.log(jax.nn.sigmoid(self.rate[...])) * self.lag[..., None])
        kernel = jnp.where(self.seen[..., None], decay, 0)  # T x T x D: the recurrence, unrolled
        return self.out(jnp.einsum("tsd,bsd->btd", kernel, value) * jax.nn.silu(gate))
'''
SPEC = {
    "name": "own",
    "data": {"source": "markov", "vocab": 32, "seed": 0},
    "model": {"kind": "module", "target": "nets:SSM", "depth": 2, "context": 16},
    "training": {
        "batch_tokens": 256,
        "schedule": "linear",
        "lr": {"rule": "horizon", "base": 0.02, "reference_steps": 500, "exponent": 0.25},
    },
    "design": {
        "kind": "isoflop",
        "flops": [1.5e9, 3e9, 6e9, 1.2e10],
        "sizes": [[4, 6, 8, 12], [6, 8, 12, 16], [8, 12, 16, 24], [8, 12, 16, 24]],
    },
    "holdout": {"flops": 4.8e10, "sizes": [16, 24, 32]},
    "loggers": [],
}
LR = SPEC["training"]["lr"]
EXPERTS = SPEC | {
    "name": "experts",
    # With 32 symbols losses come near the source's entropy, and fall faster than a law of the smaller runs goes on.
    "data": SPEC["data"] | {"vocab": 64},
    "model": {"depth": 2, "heads": 2, "context": 16, "position": "alibi", "mlp": "relu2", "experts": 8},
    "training": SPEC["training"] | {"lr": LR | {"base": 0.015}},
    "design": {
        "kind": "isoflop",
        "flops": [3e9, 6e9, 1.2e10, 2.4e10],
        "widths": [[6, 8, 12, 16], [6, 8, 12, 16], [8, 12, 16, 24], [12, 16, 24, 32]],
    },
    "holdout": {"flops": 9.6e10, "widths": [16, 24, 32]},
    "forecast": {"params": "active"},
}


@pytest.mark.soak
@pytest.mark.slow
def test_a_sweep_of_another_architecture_ends_in_a_forecast_that_held_out_runs_confirm(tmp_path, nextscale):
    (tmp_path / "nets.py").write_text(SSM)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(SPEC))
    spec, out = tmp_path / "own.yaml", tmp_path / "out"
    planned = nextscale("plan", spec, "--json")
    assert planned.returncode == 0, planned.stderr
    ran = nextscale("run", spec, "--out", out, timeout=1800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table, summary = load(out), json.loads((out / "summary.json").read_text())
    plan = {run["run_id"]: run for run in json.loads(planned.stdout)["runs"]}
    assert summary["runs"] == {"done": 19, "reused": 0, "failed": 0}
    for row in table.to_dict("records"):
        asked = plan[row["run_id"]]
        assert (row["params"], row["flops"], row["width"]) == (asked["params"], asked["flops"], asked["width"])
        assert row["flops_by"] == "xla"
    assert all(run["interval"][0] <= run["measured"] <= run["interval"][1] for run in summary["holdout"])
    low, high = summary["irreducible"]["interval"]
    assert low < summary["irreducible"]["true"] < high
    assert all(run["measured"] > summary["irreducible"]["true"] for run in summary["holdout"])
    for command in ("status", "runs", "report", "verify"):
        ended = nextscale(command, out)
        assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.soak
@pytest.mark.slow
def test_a_sweep_of_mixtures_ends_in_a_forecast_that_held_out_runs_confirm(tmp_path, nextscale):
    spec, out = tmp_path / "experts.yaml", tmp_path / "out"
    spec.write_text(yaml.safe_dump(EXPERTS))
    ran = nextscale("run", spec, "--out", out, timeout=1800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table, summary = load(out), json.loads((out / "summary.json").read_text())
    assert summary["runs"] == {"done": 19, "reused": 0, "failed": 0}
    assert (table["params_active"] < 0.8 * table["params"]).all()
    assert table["expert_load"].between(1, 4).all()
    assert all(run["interval"][0] <= run["measured"] <= run["interval"][1] for run in summary["holdout"])
    low, high = summary["irreducible"]["interval"]
    assert low < summary["irreducible"]["true"] < high
    assert all(run["measured"] > summary["irreducible"]["true"] for run in summary["holdout"])
