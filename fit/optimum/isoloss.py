"""Contours of equal loss: the sizes that come to one loss, the tokens each takes, and which of them is cheapest.

Along such a contour fewer parameters are bought with more tokens: a little more compute while the size is near the
compute-optimal one, without bound towards the size that no number of tokens brings there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.intervals import ends_around
from nextscale.fit.laws.law import Law
from nextscale.fit.optimum.frontier import TokenCost
from nextscale.fit.table.columns import column_of

_MOST_TOKENS = 1e40
_BELOW, _ABOVE = 1e6, 1e9
"""How far from the sizes fitted a size is looked for."""
_COARSE, _SECTIONS, _HALVINGS = 48, 32, 40
_ROUNDS, _CLOSE, _TINY = 60, 1e-10, 1e-300
_GOLDEN = (5**0.5 - 1) / 2


@dataclasses.dataclass(frozen=True)
class Contours:
    """Under each of R parameter vectors, the sizes and tokens of one loss.

    Attributes:
        thetas: R x parameters.
        losses: nats per token, R.
        cost: training FLOPs per token of a size.
        smallest, largest: the sizes among which the cheapest is looked for.
        others: where the law varies in more than N and D, what is held of each, by column.
    """

    law: Law
    thetas: np.ndarray
    losses: np.ndarray
    cost: TokenCost
    smallest: float
    largest: float
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, fit: Fit, losses: ArrayLike, cost: TokenCost | None = None, others: Mapping[str, float] | None = None
    ) -> Contours:
        """Those of a fit, the best first and then its resamples.

        Args:
            losses: one for each of these, or one for all.

        Raises:
            InputError: the law is not one in N and D, and what `others` gives; or the runs have no FLOPs.
        """
        held = dict(others or {})
        if set(fit.law.variables) - {name for name in fit.law.variables if column_of(name) in held} != {"N", "D"}:
            raise InputError(
                f"{fit.law.name}: to trade size against tokens a law in N and D is needed; this one is in "
                f"{', '.join(fit.law.variables)}"
            )
        if "flops" not in fit.runs.table:
            raise InputError(f"{fit.law.name}: runs without flops cannot say what a size costs per token")
        thetas, known = thetas_of(fit), fit.runs.table["params"]
        return cls(
            law=fit.law,
            thetas=thetas,
            losses=np.broadcast_to(np.asarray(losses, float), len(thetas)),
            cost=cost or TokenCost.of_runs(fit.runs),
            smallest=float(known.min()) / _BELOW,
            largest=float(known.max()) * _ABOVE,
            others=held,
        )

    def with_losses(self, losses: np.ndarray) -> Contours:
        """Those of other losses, R."""
        return dataclasses.replace(self, losses=losses)

    def losses_at(self, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """What sizes come to with so many tokens; all R x n."""
        held = {name: self.others[column_of(name)] for name in self.law.variables if column_of(name) in self.others}
        variables = {"N": params, "D": tokens} | {k: np.full(params.shape, value) for k, value in held.items()}
        with np.errstate(over="ignore", invalid="ignore"):
            return np.exp(self.law.log_losses_each(self.thetas, variables))

    def tokens(self, params: np.ndarray) -> np.ndarray:
        """The tokens with which sizes (R x n) come to the loss; infinite where none do."""

        def excess(x: np.ndarray) -> np.ndarray:
            return self.losses_at(params, np.exp(x)) - self.losses[:, None]

        low, high = np.zeros(params.shape), np.full(params.shape, np.log(_MOST_TOKENS))
        above, below = excess(low), excess(high)
        reached, below = below <= 0, np.minimum(below, -_TINY)
        with np.errstate(invalid="ignore"):
            for _ in range(_ROUNDS):
                # Ridders 1979 (IEEE Trans. Circuits Syst. 26:979): exact where one term falls with the tokens.
                middle = (low + high) / 2
                between = excess(middle)
                better = middle + (middle - low) * between / np.sqrt(between**2 - above * below)
                for x, value in ((middle, between), (better, excess(better))):
                    left, right = (value > 0) & (x > low), (value <= 0) & (x < high)
                    low, above = np.where(left, x, low), np.where(left, value, above)
                    high, below = np.where(right, x, high), np.where(right, np.minimum(value, -_TINY), below)
                if not (reached & (high - low > _CLOSE)).any():
                    break
        return np.where(reached, np.exp((low + high) / 2), np.inf)

    def flops(self, params: np.ndarray, idle_tokens: float = 0.0) -> np.ndarray:
        """Training FLOPs with which sizes (R x n) come to the loss, with `idle_tokens` more that teach nothing."""
        return self.cost(params) * (self.tokens(params) + idle_tokens)

    def cheapest(self, idle_tokens: float = 0.0) -> np.ndarray:
        """The size for which `flops` is least, R; not a number where no size comes to the loss."""
        rows = len(self.thetas)
        params, least = golden_section(lambda sizes: self.flops(sizes, idle_tokens), self.smallest, self.largest, rows)
        return np.where(np.isfinite(least), params, np.nan)

    def smallest_within(self, flops: np.ndarray, best: np.ndarray) -> np.ndarray:
        """The smallest size that comes to the loss with so many training FLOPs (R); `best` is the compute-optimal one.
        Not a number where the FLOPs do not suffice even for that."""
        low, high = np.full(len(best), np.log(self.smallest)), np.log(best)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            dear = self.flops(np.exp(middle)[:, None])[:, 0] > flops
            low, high = np.where(dear, middle, low), np.where(dear, high, middle)
        return np.where(self.flops(best[:, None])[:, 0] <= flops * (1 + 1e-9), np.exp(high), np.nan)


def golden_section(
    function: Callable[[np.ndarray], np.ndarray], low: float, high: float, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `rows` functions of a positive number is least, and what it is there: by a coarse grid in the
    logarithm, and a golden-section search between the neighbours of its best.

    Args:
        function: of rows x n numbers, the same number of values.
    """
    grid = np.linspace(np.log(low), np.log(high), _COARSE)
    values = function(np.broadcast_to(np.exp(grid), (rows, _COARSE)))
    best = np.clip(values.argmin(axis=1), 1, _COARSE - 2)
    left, right = grid[best - 1], grid[best + 1]
    inner, outer = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
    first, second = (function(np.exp(x)[:, None])[:, 0] for x in (inner, outer))
    for _ in range(_SECTIONS):
        falls = first > second
        left, right = np.where(falls, inner, left), np.where(falls, right, outer)
        new = np.where(falls, left + _GOLDEN * (right - left), right - _GOLDEN * (right - left))
        value = function(np.exp(new)[:, None])[:, 0]
        inner, outer = np.where(falls, outer, new), np.where(falls, new, inner)
        first, second = np.where(falls, second, value), np.where(falls, value, first)
    found = np.exp((left + right) / 2)
    return found, function(found[:, None])[:, 0]


def thetas_of(fit: Fit) -> np.ndarray:
    """The best parameter vector, and then that of each resample where there are any, R x parameters."""
    return np.concatenate([fit.theta[None], fit.resamples if len(fit.resamples) > 1 else fit.resamples[:0]])


def extrapolation_factors(fit: Fit, flops: float) -> np.ndarray:
    """By what factor a loss at that training compute may lie off the law, by the backtest: 1, and a draw for each
    resample."""
    reach = max(float(np.log(flops / fit.runs.table["flops"].max())), 0.0)
    if len(fit.resamples) < 2:
        return np.ones(1)
    drift = fit.law_draws(lambda thetas: np.zeros((len(thetas), 1)), np.array([reach]))
    return np.exp(np.concatenate([[0.0], drift[:, 0]]))


def interval_row(level: float, **draws: np.ndarray) -> dict[str, float]:
    """Of each quantity its value, the first of its draws, and `_low` and `_high`, the quantiles of the others: not
    numbers where there are none. A draw that is not a number counts as infinite."""
    row: dict[str, float] = {}
    for name, values in draws.items():
        known = np.where(np.isnan(values[1:]), np.inf, values[1:])
        value = float(values[0])
        low, high = ends_around(value, known, level, method="nearest") if len(known) else (np.nan, np.nan)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row
