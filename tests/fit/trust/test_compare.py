"""How much compute a recipe is worth: known multipliers come back, and equal recipes are said to be."""

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
    assert low < 1.5 < high < 1.15 * low
    assert found.verdict == "better"
    assert str(found).startswith("B is worth 1.")
    # Equal exponents: the same at every compute.
    assert np.ptp(found.table["multiplier"].astype(float)) < 0.01
    json.dumps(found.to_dict(), allow_nan=False)


def test_exactly_without_noise_in_either_variable_of_scale(recipes):
    a, b = recipes(noise=0.0)
    assert compare(a, b, resamples=20).multiplier == pytest.approx(1.5, rel=1e-3)
    by_compute = compare(envelope(a), envelope(b), resamples=20)
    assert by_compute.law == "saturating"
    assert by_compute.multiplier == pytest.approx(1.5, rel=0.01)


def test_swapped_recipes_give_the_inverse(recipes):
    a, b = recipes()
    there, back = compare(a, b, resamples=20), compare(b, a, resamples=20)
    assert there.multiplier * back.multiplier == pytest.approx(1, rel=1e-3)
    assert back.verdict == "worse"


@pytest.mark.slow
def test_a_multiplier_that_changes_with_compute_is_followed(recipes):
    a, b = recipes(noise=0.0005, law=OF_B | {"alpha": 0.37, "A": 480 * 1.4})
    equal, free = (compare(a, b, shared=shared, resamples=20) for shared in ("exponents", "asymptote"))
    assert any("the same exponents" in w for w in equal.warnings)
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


def test_the_figure_is_drawn_on_the_axes_given(recipes):
    ax = Figure().subplots()
    assert plot.multiplier(ax, compare(*recipes(), resamples=20)) is ax
    assert ax.has_data() and ax.get_ylabel()


@pytest.mark.slow
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


def test_what_a_never_reaches_is_better_and_the_other_way_round_worse(isoflop_grid):
    far = dict(OF_B, E=1.0)
    a, b = isoflop_grid(noise=0.002), isoflop_grid(noise=0.002, seed=1, law=far)
    better, worse = compare(a, b, resamples=100, shared="asymptote"), compare(b, a, resamples=100, shared="asymptote")
    assert (better.verdict, worse.verdict) == ("better", "worse")
    for told in (better, worse):
        assert "nan" not in str(told)
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
