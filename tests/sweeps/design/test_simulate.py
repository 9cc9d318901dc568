"""The interval that a design is said to give, held against fits to what it could give."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit.laws.catalogue import CHINCHILLA, CHINCHILLA_TIED, LAWS
from nextscale.fit.trust.backtest import fit_backtested
from nextscale.sweeps import load_spec, planned_runs
from nextscale.sweeps.design.prior import published_prior
from nextscale.sweeps.design.simulate import expected_interval


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    """Twenty runs in four budgets, and four held out; with other values of some keys."""
    path = tmp_path_factory.mktemp("design") / "spec.yaml"
    path.write_text(
        "name: design\ndata: {source: markov, vocab: 64, seed: 0}\n"
        "model: {depth: 2, heads: 4, context: 64, position: alibi, mlp: relu2}\n"
        "training: {batch_tokens: 256, schedule: linear, lr: 0.01}\n"
        "design:\n  kind: isoflop\n  flops: [2.5e+10, 6.25e10, 1.5625e11, 3.90625e11]\n"
        "  widths: [[8, 12, 16, 24, 32], [12, 16, 24, 32, 40], [16, 24, 32, 40, 48], [24, 32, 40, 48, 64]]\n"
        "holdout: {flops: 1.5625e12, widths: [40, 48, 64, 80]}\n"
    )
    return lambda *overrides: planned_runs(load_spec(path, overrides))


def table_of(runs):
    fitted = [run for run in runs if run.role == "fit"]
    columns = ("params", "tokens", "flops", "budget")
    return pd.DataFrame([{name: float(getattr(run, name)) for name in columns} for run in fitted])


def prior_of(runs, noise):
    table = table_of(runs)
    return published_prior(table["params"].to_numpy(), table["tokens"].to_numpy(), noise)


def told(runs, noise=0.003, law=CHINCHILLA, level=0.9):
    return expected_interval(runs, law, prior_of(runs, noise), level=level)


def test_it_holds_as_often_as_it_says(design):
    for level in (0.8, 0.95):
        assert told(design(), level=level).coverage == pytest.approx(level, abs=0.07)


def test_less_noise_more_seeds_and_a_nearer_target_narrow_it(design):
    here = told(design()).half_width
    assert told(design(), noise=0.001).half_width < 0.5 * here
    assert told(design("design.seeds=[0, 1, 2]")).half_width < 0.95 * here
    assert told(design("holdout.flops=6e11")).half_width < 0.95 * here
    assert told(design(), law=CHINCHILLA_TIED).half_width < here, "one parameter less"


def test_what_one_more_seed_would_give_is_what_it_gives(design):
    seed, budget = told(design()).improvements
    assert seed["half_width"] == pytest.approx(told(design("design.seeds=[0, 1]")).half_width, rel=0.15)
    assert seed["flops"] == sum(run.flops for run in design() if run.role == "fit")
    assert budget["half_width"] < told(design()).half_width
    larger = design(
        "design.flops=[2.5e10, 6.25e10, 1.5625e11, 3.90625e11, 9.765625e11]",
        "design.widths=[[8,12,16,24,32],[12,16,24,32,40],[16,24,32,40,48],[24,32,40,48,64],[32,40,56,64,84]]",
    )
    assert budget["half_width"] == pytest.approx(told(larger).half_width, rel=0.2)


def test_without_a_holdout_four_times_the_largest_budget_is_forecast(design):
    assert told(design("holdout=null")).target["flops"] == 4 * 3.90625e11


class TestDesignsThatCannotTell:
    def test_one_ratio(self, design):
        runs = [run for run in design() if run.role == "holdout" or 30 < run.tokens / run.params < 60]
        assert told(runs).half_width is None

    def test_two_budgets_next_to_each_other(self, design):
        near = design(
            "design.flops=[1e11, 1.05e11]", "design.widths=[[24, 28, 32], [24, 28, 32]]", "holdout.flops=1e14"
        )
        assert "do not fix" in told(near, noise=0.01).problem

    def test_a_law_in_other_variables(self, design):
        assert "only laws in N and D" in told(design(), law=LAWS["data-constrained"]).problem


def test_it_is_the_same_for_the_same_design(design):
    assert told(design()) == told(design())


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("noise", [0.003, 0.001])
def test_it_is_the_interval_that_a_sweep_ends_with(design, noise):
    """Median of 40 whole analyses, bootstrap and backtest and all: within a fifth."""
    runs, rng = design(), np.random.default_rng(1)
    quick, table, prior = told(runs, noise), table_of(runs), prior_of(runs, noise)
    truth = prior.log_losses(table["params"].to_numpy(), table["tokens"].to_numpy())
    at = {name: quick.target[name] for name in ("params", "tokens", "flops")}
    widths = []
    for _ in range(40):
        table["loss"] = np.exp(truth + noise * rng.standard_normal(len(table)))
        low, high = fit_backtested(table, resamples=200)[0].predict_interval(**at)
        widths.append(np.log(high[0] / low[0]) / 2)
    assert quick.half_width == pytest.approx(np.median(widths), rel=0.2)
