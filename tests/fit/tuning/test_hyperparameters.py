"""Best learning rates and batches: known rules recovered, no optimum where the runs show none."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import InputError
from nextscale.fit.tuning.hyperparameters import cell_optima, fit_rule

RATES = np.geomspace(2e-4, 3e-3, 8)


def grid(noise=0.0, seed=0, rates=RATES):
    rng = np.random.default_rng(seed)
    rows = []
    for params in (1e8, 4e8, 1.6e9):
        for tokens in (2e9, 1e10, 5e10):
            best_lr, best_batch = 1.8 * params**-0.71 * tokens**0.31, 0.58 * tokens**0.57
            for lr in rates * best_lr / 8e-4:
                for batch in np.geomspace(0.2, 5, 6) * best_batch:
                    u, v = np.log(lr / best_lr), np.log(batch / best_batch)
                    loss = 2.5 * np.exp(0.004 * (u * u - 0.8 * u * v + v * v) + noise * rng.standard_normal())
                    rows.append({"params": params, "tokens": tokens, "lr": lr, "batch_tokens": batch, "loss": loss})
    return pd.DataFrame(rows)


def test_a_known_rule_is_recovered():
    found = cell_optima(grid())
    assert len(found) == 9
    assert found.problem.isna().all()
    lr = fit_rule(found, "lr", ["params", "tokens"], resamples=50)
    assert lr.scale == pytest.approx(1.8, rel=1e-6)
    assert lr.exponents == pytest.approx({"params": -0.71, "tokens": 0.31}, rel=1e-6)
    batch = fit_rule(found, "batch", ["tokens"], resamples=50)
    assert batch.exponents == pytest.approx({"tokens": 0.57}, rel=1e-6)
    assert batch(tokens=1e12) == pytest.approx(0.58 * 1e12**0.57)


@pytest.mark.slow
def test_intervals_hold_the_truth_under_noise():
    held = 0
    for seed in range(20):
        low, high = fit_rule(cell_optima(grid(0.0005, seed)), "lr", ["params", "tokens"]).intervals["tokens"]
        held += low <= 0.31 <= high
    assert held >= 14


def test_a_minimum_outside_of_what_was_tried_is_none():
    found = cell_optima(grid(rates=np.geomspace(1e-5, 1e-4, 8)))
    assert found.lr.isna().all()
    assert found.problem.str.contains("not inside|runs near the best|not curve upwards").all()
    with pytest.raises(InputError, match="0 cells have an optimum; 3 or more are needed"):
        fit_rule(found, "lr", ["tokens"])


def test_what_does_not_vary_has_no_exponent():
    found = cell_optima(grid())
    with pytest.raises(InputError, match="do not vary params and tokens apart"):
        fit_rule(pd.concat([found[found.params == 1e8]] * 2), "lr", ["params", "tokens"])
    with pytest.raises(InputError, match="no column 'rate'"):
        cell_optima(grid(), lr="rate")


def test_the_published_dense_rule_holds_for_sparse_models(published):
    """Li et al. 2025: lr 1.797·N^-.713·D^.307, batch .581·D^.571 tokens, said to hold for mixtures of experts too."""
    runs = published("lr_batch_steplaw_moe.csv").rename(columns={"N": "params", "D": "tokens"})
    found = cell_optima(runs.assign(batch_tokens=runs.bs * 2048), ("params", "Na", "tokens"), loss="smooth loss")
    assert len(found) == 16
    assert found.problem.isna().all()
    assert np.median(found.batch / (0.581 * found.tokens**0.571)) == pytest.approx(1, abs=0.2)
    assert np.median(found.lr / (1.797 * found.params**-0.713 * found.tokens**0.307)) == pytest.approx(1, abs=0.25)
    low, high = fit_rule(found, "batch", ["tokens"]).intervals["tokens"]
    assert low < 0.571 < high
