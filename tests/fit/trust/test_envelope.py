"""A lower envelope is what its runs measured, whatever sizes were tried; and two have one inverse."""

import numpy as np
import pytest

from nextscale.fit import fit
from nextscale.fit.table.runs import as_runs
from nextscale.fit.trust.envelope import Curve, Envelope, computes_for_one_loss

BUDGETS = 1e19 * 10 ** (0.5 * np.arange(5))


@pytest.mark.parametrize("sizes", [5, 6, 9])
def test_without_noise_it_is_the_lowest_loss_of_each_budget(isoflop_grid, sizes):
    grid = isoflop_grid(sizes=sizes)
    found = Envelope.of(as_runs(grid), 10)
    assert found.flops == pytest.approx(BUDGETS)
    lowest = fit(grid, resamples=0).frontier(BUDGETS)["loss"]
    assert found.log_losses[0] == pytest.approx(np.log(lowest), abs=1e-4)


def test_its_redraws_hold_what_noise_does_to_it(isoflop_grid):
    truth = np.log(fit(isoflop_grid(), resamples=0).frontier(BUDGETS)["loss"].to_numpy())
    held = 0
    for seed in range(40):
        found = Envelope.of(as_runs(isoflop_grid(noise=0.005, seed=seed)), 400)
        if len(found.flops) == len(BUDGETS):
            low, high = np.quantile(found.log_losses[1:], [0.05, 0.95], axis=0)
            held += ((low < truth) & (truth < high)).mean()
        else:
            held += 0.9  # a budget whose best run is at the end of its sizes has none
    assert 0.83 < held / 40 < 0.97


def test_runs_without_budgets_have_none(isoflop_grid):
    grid = isoflop_grid()
    for table in (
        grid[grid["budget"] < 9e19],  # two budgets
        grid.groupby("budget").head(2),  # two sizes each
        grid.groupby("budget").head(3),  # the best at the end of the sizes
        grid.groupby("budget").nth([1, 2, 3]),  # nothing tells how runs scatter
        grid[["flops", "loss"]],
    ):
        assert Envelope.of(as_runs(table, variables="C"), 10) is None


def test_the_worse_recipe_takes_the_compute_given_and_swapped_recipes_the_same():
    flops = np.geomspace(1e18, 1e22, 9)
    heights = np.stack([-0.05 * np.log(flops), -0.06 * np.log(flops)])
    worse, better = Curve.of(flops, heights), Curve.of(flops, heights - 0.05 * np.log(3))
    at = np.array([1e20, 7e20, 3e21])
    of_worse, of_better = computes_for_one_loss(worse, better, at)
    assert of_worse == pytest.approx(np.stack([at, at]))
    assert of_better[0] == pytest.approx(at / 3)
    assert (computes_for_one_loss(better, worse, at) == [of_better, of_worse]).all()
    assert (computes_for_one_loss(worse, better, np.array([2e18]))[1] == 0).all(), "less than the curve begins with"
