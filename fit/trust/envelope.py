"""The measured lower envelope of a recipe, the loss of the best run of each budget, and its inverse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from nextscale.fit.table.runs import Runs

_BUDGETS, _SIZES, _FREEDOM = 3, 3, 3
"""Fewest budgets with a minimum, sizes of one, and runs beyond what the curves through budgets take."""
_NEAR = np.log(8)
"""How far from the best size, in log size, runs say how losses scatter there; farther out no cubic holds."""
_ONE_BUDGET = 3.0
"""Runs whose compute is farther apart than two accounts of it may be are of more than one budget."""
_POINTS = 201
"""At which a smooth curve's lowest point is looked for."""
_UNDER_LOSSES = 0.95
"""What is taken off losses is at most this much of the lowest."""
_BEYOND = np.log(1e3)
"""How far, in log compute, a redraw goes on as its envelope ends: near the ends it needs a little more than was run."""
_ROUNDING, _FALL = 1e-9, 1e-12
"""Of compute; and by how much a curve falls at least from one point to the next, that it has an inverse."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """What falls with compute.

    Attributes:
        flops: m, rising.
        heights: straight against log compute in between: a best estimate and then R draws, (1 + R) x m, falling.
    """

    flops: np.ndarray
    heights: np.ndarray

    @classmethod
    def of(cls, flops: np.ndarray, heights: np.ndarray) -> Curve:
        """Of each row its running minimum: a recipe that has a loss has it with more compute too."""
        return cls(flops, np.minimum.accumulate(heights, axis=1) - _FALL * np.arange(len(flops)))


@dataclasses.dataclass(frozen=True)
class _Minimum:
    """One budget's best run.

    Attributes:
        flops: the budget.
        log_loss: of its best run.
        smooth: log loss of the runs around it by the smooth curve through them, n.
        lowest: of that curve between the sizes.
        squares: the sum of the squared distances of the runs from it.
        freedom: runs less the curve's coefficients.
    """

    flops: float
    log_loss: float
    smooth: np.ndarray
    lowest: float
    squares: float
    freedom: int


@dataclasses.dataclass(frozen=True)
class Envelope:
    """Approach 1 of Hoffmann et al. 2022 (sec. 3.1) on designed budgets, with intervals.

    The loss of a budget is that of its best run, less what the sizes tried miss of the lowest point between them: so
    recipes of other grids compare, and without noise the lowest point itself is left. That noise favours the best of
    many runs is left to the intervals, which are moved by as much.

    Attributes:
        flops: of the budgets that have a minimum between the sizes tried, rising; n.
        log_losses: log loss (nats per token) as measured, then of R redraws of each run's noise, (1 + R) x n.
    """

    flops: np.ndarray
    log_losses: np.ndarray

    @classmethod
    def of(cls, runs: Runs, draws: int, seed: int = 0) -> Envelope | None:
        """None where fewer than three budgets have a minimum, or too few runs tell how runs scatter.

        Args:
            draws: R; each redraws every run around its budget's smooth curve, with a variance that the pooled sum of
                squares allows (Gelman et al. 2013, "Bayesian Data Analysis", sec. 14.2: sum of squares / chi-squared).
        """
        if not {"params", "flops"} <= {*runs.table}:
            return None
        found = [_minimum(budget, runs.table[runs.table["budget"] == budget]) for budget in runs.budgets]
        minima = [each for each in found if each is not None]
        freedom = sum(each.freedom for each in minima)
        if len(minima) < _BUDGETS or freedom < _FREEDOM:
            return None
        noise = np.sqrt(sum(each.squares for each in minima) / freedom)
        wider = np.sqrt(freedom / np.random.default_rng(seed).chisquare(freedom, draws))
        columns = []
        for k, each in enumerate(minima):
            scatter = noise * np.random.default_rng([seed, k]).standard_normal((draws, len(each.smooth)))
            best = each.smooth.min()
            measured = each.log_loss - (best - each.lowest)
            # By how much the best of a redraw is too low, the one measured may be as well: the truth is above it.
            columns.append(np.append(measured, measured - wider * ((each.smooth + scatter).min(axis=1) - best)))
        return cls(np.array([each.flops for each in minima]), np.stack(columns, axis=1))

    def mirrored(self) -> Envelope:
        """With the redraws in the opposite order. Two envelopes are redrawn from one seed, so that each depends on its
        own runs alone; pairs of a redraw and one in the opposite order are independent, and the same pairs whichever
        recipe comes first."""
        return dataclasses.replace(self, log_losses=np.concatenate([self.log_losses[:1], self.log_losses[:0:-1]]))

    def covers(self, flops: np.ndarray) -> np.ndarray:
        """Whether each compute lies among the budgets, to rounding."""
        return (self.flops[0] * (1 - _ROUNDING) <= flops) & (flops <= self.flops[-1] * (1 + _ROUNDING))

    def curve(self, floor: np.ndarray) -> Curve:
        """log(loss - floor): a power of compute from budget to budget, as a saturating law's is at any distance.

        Args:
            floor: of the loss, (1 + R) x 1, below every loss.
        """
        x, y = np.log(self.flops), np.log(np.exp(self.log_losses) - floor)
        y = np.minimum.accumulate(y, axis=1)
        before = y[:, 0] + _BEYOND * (y[:, 0] - y[:, 1]) / (x[1] - x[0])
        after = y[:, -1] + _BEYOND * (y[:, -1] - y[:, -2]) / (x[-1] - x[-2])
        flops = np.exp([x[0] - _BEYOND, *x, x[-1] + _BEYOND])
        return Curve.of(flops, np.column_stack([before, y, after]))


def computes_for_one_loss(a: Curve, b: Curve, at: np.ndarray) -> np.ndarray:
    """What two recipes take for the loss that the worse of them has at each compute: the worse one that compute, the
    better one less. So neither goes beyond it, and the loss is the same whichever comes first.

    Args:
        at: k, each within both curves.

    Returns:
        FLOPs of A and of B, 2 x (1 + R) x k; 0 where less than a curve's first is enough.
    """
    x = np.log(at)
    logs = [np.log(curve.flops) for curve in (a, b)]
    there = [[np.interp(x, log, row) for row in curve.heights] for curve, log in zip((a, b), logs, strict=True)]
    worse = -np.maximum(*np.array(there))
    needed = [
        [np.interp(target, -row, log, left=-np.inf) for target, row in zip(worse, curve.heights, strict=True)]
        for curve, log in zip((a, b), logs, strict=True)
    ]
    return np.exp(np.array(needed))


def multipliers_of_envelopes(
    envelopes: tuple[Envelope, Envelope], by_law: np.ndarray, floors: np.ndarray, at: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A's compute / B's for one loss at each compute; where a budget of either is wanting, that of the nearest compute
    where none is, changed from there on as a law's is.

    Args:
        envelopes: of A and of B.
        by_law: the law's multipliers, of its fit and of resamples, (1 + S) x k.
        floors: of the loss, (1 + S) x 1; lowered to stay below every loss.
        at: k, rising.
        inside: whether both recipes have runs there, k.

    Returns:
        multipliers as measured and of R redraws, (1 + R) x k, and whether each recipe's compute lies among its budgets,
        2 x k.
    """
    # The resamples of the law are fewer than the redraws of the envelopes, and are taken again and again.
    order = [0, *(1 + np.arange(len(envelopes[0].log_losses) - 1) % (len(by_law) - 1))]
    by_law, lowest = by_law[order], np.exp(np.min([each.log_losses.min(axis=1) for each in envelopes], axis=0))
    floors = np.minimum(floors[order], _UNDER_LOSSES * lowest[:, None])
    of_a, of_b = computes_for_one_loss(envelopes[0].curve(floors), envelopes[1].curve(floors), at)
    covered = np.array([each.covers(needed[0]) for each, needed in zip(envelopes, (of_a, of_b), strict=True)]) & inside
    known = np.flatnonzero(covered.all(axis=0))
    if not len(known):
        return by_law, covered
    nearest = known[np.abs(np.log(at[:, None] / at[known])).argmin(axis=1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        measured, change = (of_a / of_b)[:, nearest], by_law / by_law[:, nearest]
    # Of a law by which one recipe is out of reach of the other nothing can be said of a change.
    return measured * np.where(np.isnan(change), 1.0, change), covered


def _minimum(budget: float, rows: pd.DataFrame) -> _Minimum | None:
    """None where the best run is at the end of the sizes tried, or the sizes are too few, or the compute not one."""
    x, y = np.log(rows["params"].to_numpy(float)), np.log(rows["loss"].to_numpy(float))
    best = int(y.argmin())
    if not x.min() < x[best] < x.max() or rows["flops"].max() > _ONE_BUDGET * rows["flops"].min():
        return None
    near = np.abs(x - x[best]) <= _NEAR
    x, around = x[near] - x[best], y[near]
    sizes = len(np.unique(x))
    if sizes < _SIZES:
        return None
    degree = min(3, max(2, sizes - 2))
    design = np.vander(x, degree + 1)
    coefficients = np.linalg.lstsq(design, around, rcond=None)[0]
    smooth = design @ coefficients
    lowest = np.polyval(coefficients, np.linspace(x.min(), x.max(), _POINTS)).min()
    squares = float(np.square(around - smooth).sum())
    return _Minimum(budget, float(y[best]), smooth, float(lowest), squares, len(x) - degree - 1)
