"""How much compute a recipe is worth: known multipliers come back, equal recipes are said to be, and what runs measured
stands before what a law says of them."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from nextscale.fit import plot
from nextscale.fit.errors import InputError
from nextscale.fit.trust.compare import compare

OF_B = {"E": 1.8, "A": 480 / 1.5**0.175, "B": 2100 / 1.5**0.185, "alpha": 0.35, "beta": 0.37}
"""The law of the tests with parameters and tokens each worth √1.5 times as much: 1.5 times the compute."""


def envelope(table):
    return table.groupby("flops", as_index=False)["loss"].min()


@pytest.fixture
def recipes(isoflop_grid):
    def build(seed=0, noise=0.003, law=OF_B):
        return isoflop_grid(noise=noise, seed=2 * seed), isoflop_grid(noise=noise, seed=2 * seed + 1, law=law)

    return build


def test_a_known_multiplier_comes_back(recipes):
    found = compare(*recipes(), resamples=200)
    low, high = found.interval
    assert low < 1.5 < high < 1.35 * low
    assert (found.verdict, found.by) == ("better", "envelope")
    assert str(found).startswith("B is worth 1.")
    json.dumps(found.to_dict(), allow_nan=False)


def test_exactly_without_noise_in_either_variable_of_scale(recipes):
    a, b = recipes(noise=0.0)
    assert compare(a, b, resamples=20).multiplier == pytest.approx(1.5, rel=1e-3)
    by_compute = compare(envelope(a), envelope(b), resamples=20)
    assert by_compute.law == "saturating"
    assert by_compute.multiplier == pytest.approx(1.5, rel=0.01)


@pytest.mark.slow
def test_swapped_recipes_give_the_inverse(recipes):
    tables = recipes()
    for a, b in (tables, [envelope(table) for table in tables]):
        there, back = compare(a, b, resamples=20), compare(b, a, resamples=20)
        assert there.by == back.by == ("envelope" if "params" in a else "law")
        np.testing.assert_allclose(there.table["multiplier"] * back.table["multiplier"], 1, rtol=1e-8)
        assert there.saves == pytest.approx(-back.saves)
        assert back.verdict == "worse"
    there, back = compare(*recipes(), resamples=200), compare(*reversed(recipes()), resamples=200)
    assert np.multiply(there.interval, back.interval[::-1]) == pytest.approx(1, rel=1e-2)


def test_a_recipe_is_worth_itself_at_every_compute(recipes):
    a, _ = recipes()
    for table in (a, envelope(a)):
        found = compare(table, table, flops=1e22, resamples=100)
        np.testing.assert_allclose(found.table["multiplier"], 1, rtol=1e-9)
        assert (found.table["multiplier_low"] < 1).all() and (found.table["multiplier_high"] > 1).all()
        assert found.verdict == "not distinguishable"
        assert found.growth.verdict == "unknown"


@pytest.mark.parametrize("noise, sizes", [(0.0, 5), (0.003, 5), (0.003, 9)])
def test_a_constant_multiplier_is_constant_wherever_both_have_runs(isoflop_grid, noise, sizes):
    """Of grids of the same and of other sizes."""
    more = OF_B | {"A": 480 / 2.5**0.175, "B": 2100 / 2.5**0.185}
    a, b = isoflop_grid(noise=noise, seed=2), isoflop_grid(noise=noise, seed=3, sizes=sizes, law=more)
    found = compare(a, b, resamples=200)
    inside = found.table[found.table["inside"]]
    within = inside["multiplier_low"].lt(2.5) & inside["multiplier_high"].gt(2.5)
    assert within.all()
    assert inside["multiplier"].to_numpy() == pytest.approx(2.5, rel=0.15 if noise else 1e-3)
    assert found.growth.verdict == "unknown" and found.growth.by == "envelope"
    assert not any("misfits" in warning or "exponents" in warning for warning in found.warnings)


class TestMarin:
    """Published isoFLOP sweeps of two mixtures, which no law with shared exponents follows."""

    @pytest.fixture
    def marin(self, published):
        table = published("isoflop_open_athena.csv")
        return [table[table["suite"] == f"marin-{name}"].drop(columns="suite") for name in ("comma", "nemotron")]

    @pytest.mark.parametrize("flops, worth", [(3e19, 3.30), (9e19, 3.63), (1.8e20, 3.56), (3e20, 3.75)])
    def test_what_the_lower_envelopes_measure(self, marin, flops, worth):
        """Read off the best run of each budget (shared/data/README.md)."""
        found = compare(*marin, flops=flops, resamples=100)
        low, high = found.interval
        assert found.by == "envelope"
        assert found.multiplier == pytest.approx(worth, rel=0.05)
        assert low < worth < high

    def test_that_the_law_misfits_is_said_and_it_does_not_stand_for_the_runs(self, marin):
        found = compare(*marin, flops=1e21, resamples=100)
        (misfit,) = [warning for warning in found.warnings if "misfits" in warning]
        assert "at 3e+20 FLOPs it gives 2.9" in misfit and "times the scatter" in misfit and "\n" not in misfit
        assert any("1e+21 FLOPs the loss compared lies beyond the budgets of A and B" in w for w in found.warnings)
        by = found.table.set_index("flops")["by"]
        assert (by[1e21], by[3e20], by.iloc[0]) == ("law", "envelope", "law")
        last = found.table[found.table["by"] == "envelope"].iloc[-1]
        assert found.multiplier == pytest.approx(last["multiplier"], rel=1e-2), "it goes on where the runs end"
        assert found.growth.verdict == "grows" and found.growth.multiplier > found.multiplier

    def test_a_budget_of_the_better_recipe_alone_is_wanting(self, marin):
        """What A has at its smallest budget, B has with less than its own."""
        found = compare(*marin, flops=4e18, resamples=100)
        assert found.by == "law"
        assert any("beyond the budgets of B" in warning for warning in found.warnings)


@pytest.mark.slow
def test_a_multiplier_that_changes_with_compute_is_followed(recipes):
    a, b = recipes(noise=0.0005, law=OF_B | {"alpha": 0.37, "A": 480 * 1.4})
    equal, free = (compare(a, b, shared=shared, resamples=20) for shared in ("exponents", "asymptote"))
    assert any("misfits" in w for w in equal.warnings)
    scattered = (a.groupby("budget").head(2), b.groupby("budget").head(2))
    assert any("the same exponents" in w for w in compare(*scattered, resamples=20).warnings)
    worth = free.table["multiplier"].astype(float).to_numpy()
    assert worth[-1] > 1.1 * worth[0]
    assert free.parameters["more_alpha"] == pytest.approx(0.02, abs=0.005)


def test_no_compute_in_common_is_said(isoflop_grid):
    a, b = isoflop_grid(noise=0.001), isoflop_grid(noise=0.001, seed=1, first=1e22)
    assert any("no compute in common" in w for w in compare(a, b, resamples=20).warnings)


def test_what_cannot_be_compared_is_refused(isoflop_grid):
    table = isoflop_grid(noise=0.001)
    with pytest.raises(InputError, match="not one of exponents, asymptote"):
        compare(table, table, shared="all")
    with pytest.raises(InputError, match="needs params, tokens"):
        compare(table, envelope(table), "chinchilla")
    with pytest.raises(InputError, match="flops: should be greater than 0"):
        compare(table, table, flops=-1e20)
    with pytest.raises(InputError, match="resamples"):
        compare(table, table, resamples=-1)


def test_the_figure_is_drawn_on_the_axes_given(recipes):
    ax = Figure().subplots()
    assert plot.multiplier(ax, compare(*recipes(), resamples=20)) is ax
    assert ax.has_data() and ax.get_ylabel()


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("law, worth", [(OF_B, 1.5), (None, 1.0)])
def test_intervals_cover_and_equal_recipes_are_not_distinguishable(recipes, law, worth):
    """A 90 % interval, 60 repeats: within three standard errors of it."""
    given = {} if law is None else {"law": law}
    a_law = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
    inside = indistinct = 0
    for seed in range(60):
        found = compare(*recipes(seed, **(given or {"law": a_law})), resamples=200)
        inside += found.interval[0] <= worth <= found.interval[1]
        indistinct += found.verdict == "not distinguishable"
    assert inside >= 47
    assert indistinct == (0 if worth > 1 else inside)


@pytest.mark.slow
def test_what_takes_a_thousandth_is_better_and_the_other_way_round_worse(isoflop_grid):
    far = dict(OF_B, E=0.5)
    a, b = isoflop_grid(noise=0.002), isoflop_grid(noise=0.002, seed=1, law=far)
    better, worse = compare(a, b, resamples=100), compare(b, a, resamples=100)
    assert (better.verdict, worse.verdict) == ("better", "worse")
    for told in (better, worse):
        assert "nan" not in str(told) and "nan" not in told.answer
        assert "with a thousandth of the compute" in told.answer
        json.dumps(told.to_dict(), allow_nan=False)


def test_runs_off_their_best_size_do_not_make_a_recipe_worse(isoflop_grid):
    """The same law, of a grid of sizes and of runs that are all near the best: only compute tells them apart."""
    grid = isoflop_grid(noise=0.002)
    best = isoflop_grid(noise=0.002, seed=1, sizes=3, budgets=9, step=10**0.25)
    best = best[np.isclose(best.tokens / best.params, 20, rtol=0.01)]
    told = compare(grid, best, resamples=200)
    assert told.law == "saturating"
    assert told.verdict == "not distinguishable"
    assert any("of each budget the best run stands for all" in warning for warning in told.warnings)
