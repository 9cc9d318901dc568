from pathlib import Path

import numpy as np
import pandas as pd
import pytest

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data"

LAW = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


@pytest.fixture
def published():
    """A table of published runs by file name; the test is skipped where they are not at hand."""

    def read(name):
        if not PUBLISHED.is_dir():
            pytest.skip(f"published runs are not at hand ({PUBLISHED})")
        return pd.read_csv(PUBLISHED / name)

    return read


def chinchilla_loss(params, tokens, law=LAW):
    return law["E"] + law["A"] / params ** law["alpha"] + law["B"] / tokens ** law["beta"]


@pytest.fixture
def isoflop_grid():
    """Runs of a known law: budgets x sizes around their optimum, with log-normal noise."""

    def build(noise=0.0, seed=0, budgets=5, sizes=5, first=1e19, step=10**0.5, law=LAW):
        rng = np.random.default_rng(seed)
        rows = []
        for budget in first * step ** np.arange(budgets):
            optimum = np.sqrt(budget / 6 / 20)
            for params in optimum * np.geomspace(1 / 3, 3, sizes):
                tokens = budget / 6 / params
                rows.append({"budget": budget, "params": params, "tokens": tokens, "flops": budget})
        table = pd.DataFrame(rows)
        table["loss"] = chinchilla_loss(table.params, table.tokens, law) * np.exp(
            noise * rng.standard_normal(len(table))
        )
        return table

    return build
