"""Runs of a known law, a fit to them, and a cluster."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit.trust.backtest import fit_backtested
from nextscale.sweeps.budget.cluster import cluster_of


def _simulated(seed=0, noise=0.002):
    rng = np.random.default_rng(seed)
    flops = np.repeat([1e19, 3e19, 1e20, 3e20, 1e21], 5)
    params = np.sqrt(flops / 120) * np.tile(np.geomspace(1 / 3, 3, 5), 5)
    tokens = flops / 6 / params
    loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * np.exp(noise * rng.standard_normal(25))
    return pd.DataFrame({"params": params, "tokens": tokens, "flops": flops, "loss": loss})


@pytest.fixture(scope="session")
def simulated():
    """Runs of a known law, five budgets of five sizes each: `simulated(seed=0, noise=0.002)`."""
    return _simulated


@pytest.fixture(scope="module")
def found():
    return fit_backtested(_simulated(), resamples=100)[0]


@pytest.fixture(scope="module")
def cluster():
    return cluster_of("h100x64", utilisation=0.4)


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "runs.csv"
    _simulated().to_csv(path, index=False)
    return path
