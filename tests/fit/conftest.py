import numpy as np
import pandas as pd
import pytest

LAW = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


@pytest.fixture
def published(published_folder):
    """A table of published runs by file name."""
    return lambda name: pd.read_csv(published_folder / name)


def chinchilla_loss(params, tokens, law=LAW):
    return law["E"] + law["A"] / params ** law["alpha"] + law["B"] / tokens ** law["beta"]


@pytest.fixture(scope="session")
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
