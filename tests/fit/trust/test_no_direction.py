"""Where nothing changes no direction is said, and where a law cannot be had the line names one that can."""

import numpy as np
import pandas as pd
import pytest

from nextscale.fit import InputError, fit
from nextscale.fit.optimum.approaches import akima, approaches, envelope, parabola
from nextscale.fit.trust.compare import compare
from nextscale.fit.trust.trend import trend


def nine(worth=1.0):
    """Nine runs of a law, without noise but for the rounding of what is printed."""
    sizes = [(2e7, 2e9), (5e7, 8e8), (1.25e8, 3.2e8), (5e7, 5e9), (1.25e8, 2e9), (3.1e8, 8e8), (1.25e8, 1.25e10)]
    params, tokens = np.array([*sizes, (3.1e8, 5e9), (7.75e8, 2e9)]).T
    loss = 1.8 + 480 / params**0.35 / worth + 2100 / tokens**0.37 / worth
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})


@pytest.mark.slow
@pytest.mark.parametrize("worth", [1.0, 1.1])
def test_a_constant_multiplier_neither_grows_nor_shrinks(worth):
    found = compare(nine(), nine(worth), resamples=100)
    assert found.growth is not None
    assert found.growth.verdict == "unknown"
    assert "No sign that it changes" in found.answer
    assert found.verdict == ("not distinguishable" if worth == 1 else "better")


def test_runs_on_the_law_to_rounding_are_no_trend(isoflop_grid):
    table = isoflop_grid(noise=0.0, budgets=6, sizes=5)
    table["loss"] *= np.exp(1e-9 * np.random.default_rng(0).standard_normal(len(table)))
    newest = table["flops"] == table["flops"].max()
    later = table[newest].assign(loss=lambda rows: rows["loss"] * (1 + 1e-6))
    found = trend(fit(table[~newest], resamples=100), later)
    assert {*found.runs["verdict"]} == {"continues"}
    assert found.flattening is not None
    assert found.flattening.verdict == "continues"


def one_budget(noise=0.0):
    params = np.geomspace(1e7, 3.2e8, 7)
    loss = 1.8 + 480 / params**0.35 + 2100 / (1e18 / 6 / params) ** 0.37
    loss *= np.exp(noise * np.random.default_rng(0).standard_normal(7))
    return pd.DataFrame({"params": params, "tokens": 1e18 / 6 / params, "loss": loss})


def test_one_budget_has_its_minimum_and_no_law():
    runs = fit(nine(), resamples=0).runs
    alone = type(runs)(one_budget(0.001).assign(flops=1e18, budget=1e18, run_id="x"), runs.convention)
    table = approaches(alone, None, [1e18, 1e20])
    here, far = (table[table["flops"] == flops] for flops in (1e18, 1e20))
    best = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (1e18 / 6) ** (0.37 / 0.72)
    row = here[here["approach"] == "parabola"].iloc[0]
    assert row["params"] == pytest.approx(best, rel=0.1)
    assert row["params_low"] < row["params"] < row["params_high"]
    assert here["exponent"].isna().all()
    assert far["params"].isna().all()
    assert far["problem"].str.contains("one makes no law").all()


@pytest.mark.parametrize("kind", [envelope, parabola, akima])
def test_minima_need_no_redraws(isoflop_grid, kind):
    runs = fit(isoflop_grid(noise=0.001), resamples=0).runs
    assert kind(runs, draws=0).law.exponent == pytest.approx(kind(runs).law.exponent, rel=0.1)


def test_few_resamples_give_sizes_without_intervals_of_exponents(isoflop_grid):
    found = fit(isoflop_grid(noise=0.001), resamples=4, level=0.5)
    rows = approaches(found.runs, found, [1e21])
    assert rows.loc[rows["approach"] == "parametric", "exponent_low"].isna().all()


@pytest.mark.parametrize(("held", "law"), [("tokens", "saturating-n"), ("params", "saturating-d")])
def test_a_constant_variable_names_the_law_of_the_other(held, law):
    varied = "params" if held == "tokens" else "tokens"
    table = pd.DataFrame({held: 1e9, varied: np.geomspace(1e7, 1e10, 7)})
    table["loss"] = 1.8 + 480 / table["params"] ** 0.35 + 2100 / table["tokens"] ** 0.37
    with pytest.raises(InputError, match=f"is the same in every run.*{law}"):
        fit(table)
    assert fit(table, law, resamples=0).noise < 1e-6
    # A power law without an irreducible loss is the same with none.
    other = fit(table, law, fixed={"E": 0}, resamples=20)
    assert other.parameters["E"] == 0
    assert other.interval("E") == (0, 0)
    kaplan = fit(table, f"kaplan-{law[-1]}", resamples=0)
    assert other.objective == pytest.approx(kaplan.objective, rel=1e-6)
