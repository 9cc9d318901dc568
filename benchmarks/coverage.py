"""How often 90 % intervals hold: `python benchmarks/coverage.py [REPEATS]`.

Runs of a known law (5 budgets of 5 sizes over two decades of compute, relative noise .003) are fitted, and the loss of
one run at ten times the largest budget is forecast; so are the law itself there, and its constants.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import sys

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from nextscale.fit import fit
from nextscale.fit.estimate.covariance import delta_interval

NOISE, LEVEL, RESAMPLES = 0.003, 0.9, 300
LAW = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
TARGET = 1e22
PARAMS = np.sqrt(TARGET / 6 / 20)
POINT = {"params": PARAMS, "tokens": TARGET / 6 / PARAMS}


def loss(params, tokens):
    return LAW["E"] + LAW["A"] / params ** LAW["alpha"] + LAW["B"] / tokens ** LAW["beta"]


def grid(rng):
    budgets = np.repeat(1e19 * 10 ** np.arange(0, 2.5, 0.5), 5)
    params = np.sqrt(budgets / 120) * np.tile(np.geomspace(1 / 3, 3, 5), 5)
    tokens = budgets / 6 / params
    noise = np.exp(NOISE * rng.standard_normal(len(params)))
    return pd.DataFrame({"params": params, "tokens": tokens, "flops": budgets, "loss": loss(params, tokens) * noise})


def inside(seed):
    """Whether each interval of one repeat holds, by what it is of and how it is made."""
    rng = np.random.default_rng(seed)
    table = grid(rng)
    true = loss(**POINT)
    measured = true * np.exp(NOISE * rng.standard_normal())
    held = {}
    for bootstrap in ("case", "stratified", "residual"):
        found = fit(table, bootstrap=bootstrap, resamples=RESAMPLES, level=LEVEL, seed=seed)
        intervals = {"one run": (found.predict_interval(**POINT), measured)}
        intervals["the law"] = (found.confidence_interval(**POINT), true)
        intervals |= {name: (found.interval(name), LAW[name]) for name in ("E", "alpha", "beta")}
        held |= {
            (bootstrap, of): bool(np.all(low <= t) and np.all(t <= high)) for of, ((low, high), t) in intervals.items()
        }
    intervals = {
        "one run": (delta_interval(found, POINT, one_run=True), measured),
        "the law": (delta_interval(found, POINT), true),
        **{name: (delta_interval(found, name), LAW[name]) for name in ("E", "alpha", "beta")},
    }
    return held | {("delta", of): low <= t <= high for of, ((low, high), t) in intervals.items()}


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    shares = pd.DataFrame([inside(seed) for seed in range(repeats)]).mean()
    shown = Table(title=f"Share of {repeats} repeats in which a {LEVEL:.0%} interval holds, ten times beyond the runs")
    columns = ("one run", "the law", "E", "alpha", "beta")
    for heading in ("interval", *columns):
        shown.add_column(heading)
    for kind in ("case", "stratified", "residual", "delta"):
        shown.add_row(kind, *(f"{shares[kind, of]:.3f}" for of in columns))
    Console(width=100).print(shown)
