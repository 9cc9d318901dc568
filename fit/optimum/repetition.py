"""Repeated data: what another pass over it is worth, and the best model where there is not data enough.

After Muennighoff et al. 2023 (arXiv 2305.16264), sec. 3 and 5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.intervals import ends_around
from nextscale.fit.optimum.frontier import TokenCost, newton_minimum, parabola_minimum, sizes_searched
from nextscale.fit.table.runs import Runs, as_runs

FRESH_EPOCHS = 1.01
"""Up to so many epochs a run is one of fresh data."""
_RESAMPLES = 200
_FEW = 40
_GRID = 400
_TINY = 1e-12
_NEAR = 1e-3
"""Relative to the least loss, what nobody would pay for."""
_WASTE = 2.0
"""Where a budget so many times smaller comes as near as that, the rest of it is wasted."""
_HALVINGS = 40


@dataclasses.dataclass(frozen=True)
class Repetition:
    """The staged fit of the paper.

    Attributes:
        fresh: chinchilla-tied, by the runs that repeat nothing.
        law: data-constrained, by all runs, with E, A, B and alpha as `fresh` has them: its intervals are of R_D and
            R_N alone.
    """

    fresh: Fit
    law: Fit

    def worth(self, epochs: ArrayLike) -> np.ndarray:
        """How many times the unique tokens, if all were fresh, so many epochs of them are worth."""
        R_D = self.law.parameters["R_D"]
        return 1 - R_D * np.expm1((1 - np.maximum(np.asarray(epochs, float), 1)) / R_D)


def repetition(table: pd.DataFrame, *, convention: str = "total", **options: Any) -> Repetition:
    """Fits what fresh data does first, and then what is left of it when it is repeated.

    Args:
        table: one row per run, with `unique_tokens` beside what every law needs.
        options: of `nextscale.fit.fit`; 200 resamples at the most for the second stage, whose law is slow to fit.

    Raises:
        InputError: too few runs of fresh data, or none that repeats any.
    """
    runs = as_runs(table, convention=convention, variables=("N", "D", "U"))
    epochs = runs.table["tokens"] / runs.table["unique_tokens"]
    if not (epochs > FRESH_EPOCHS).any():
        raise InputError("repetition: no run saw its data more than once; lower data.unique_tokens of some")
    fresh = fit(runs.where(epochs <= FRESH_EPOCHS), "chinchilla-tied", **options)
    given = {name: fresh.parameters[name] for name in ("E", "A", "B", "alpha")}
    few = min(options.get("resamples", _RESAMPLES), _RESAMPLES)
    return Repetition(fresh, fit(runs, "data-constrained", fixed=given, **options | {"resamples": few}))


@dataclasses.dataclass(frozen=True)
class Worth:
    """What repeats are worth, beside a law of fresh data.

    Attributes:
        R_D, R_N: of tokens and of parameters, the repeats after which another is worth 1/e of a fresh one.
        basis: where they are from.
    """

    R_D: float
    R_N: float
    basis: str

    def effective(
        self, params: ArrayLike, tokens: ArrayLike, unique: float, unique_params: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """N' and D', the size and the fresh tokens that a run is worth (their eq. 5 and 6).

        Args:
            unique: tokens that there are.
            unique_params: the size that is compute-optimal on these.
        """
        return _worth(params, unique_params, self.R_N), _worth(tokens, unique, self.R_D)


PUBLISHED_WORTH = Worth(15.387756, 5.309743, "published: Muennighoff et al. 2023, R_D* and R_N* of C4")
"""Of models to 8.7B parameters and 900B tokens."""


def repetition_worth(runs: Runs) -> Worth:
    """What repeats are worth by runs of which some repeat their data; as published where these cannot say.

    Args:
        runs: with `unique_tokens`.
    """
    try:
        found = repetition(runs.table, resamples=_FEW)
    except InputError as error:
        return dataclasses.replace(PUBLISHED_WORTH, basis=f"{PUBLISHED_WORTH.basis}; these runs cannot say ({error})")
    R_D, R_N = (found.law.parameters[name] for name in ("R_D", "R_N"))
    ends = ["open" if not np.isfinite(end) else f"{end:.3g}" for end in found.law.interval("R_D")]
    basis = f"fitted to these runs: R_D {R_D:.3g} [{', '.join(ends)}], R_N {R_N:.3g}"
    return Worth(R_D, R_N, "; ".join((basis, *found.law.warnings)))


def _worth(total: ArrayLike, unique: float, R: float) -> np.ndarray:
    values = np.asarray(total, float)
    repeats = np.maximum(values / unique - 1, 0)
    return np.where(values <= unique, values, unique * (1 - R * np.expm1(-repeats / max(R, _TINY))))


@dataclasses.dataclass(frozen=True)
class DataConstrainedOptimum:
    """The best model of a budget on so much data, each figure with its interval.

    Attributes:
        flops: that it is trained with: the budget, or less where the rest would buy nothing.
        loss_interval: for what a run there would measure.
    """

    flops: float
    params: float
    params_interval: tuple[float, float]
    tokens: float
    tokens_interval: tuple[float, float]
    epochs: float
    loss: float
    loss_interval: tuple[float, float]


def best_on_limited_data(
    fit: Fit, budget: float, unique: float, unique_params: float, worth: Worth, cost: TokenCost | None = None
) -> DataConstrainedOptimum:
    """The size with the lowest loss on a budget when there are only so many tokens to see, again and again.

    Once repeats are worth next to nothing the loss falls no further, and whole ranges of sizes and of compute come to
    it. So where half the budget or less comes to within 0.1 % of it, the model is the best of the least compute that
    does.

    Intervals allow for what is not known of the law, and not of `worth`.

    Args:
        fit: of a law in N and D, of fresh data.
        budget: training FLOPs.
        unique: tokens that there are.
        unique_params: the size that is compute-optimal on these (see `nextscale.fit.optimum.inverse.compute_for`).
        cost: FLOPs per token of a size; read off the runs unless given.
    """
    per_token = cost or TokenCost.of_runs(fit.runs)

    def losses(thetas: np.ndarray, sizes: np.ndarray, flops: float) -> np.ndarray:
        return fit.losses(thetas, *worth.effective(sizes, flops / per_token(sizes), unique, unique_params))

    def least(thetas: np.ndarray, flops: float) -> tuple[np.ndarray, np.ndarray]:
        sizes = sizes_searched(fit.runs, flops, _GRID)
        return parabola_minimum(np.log(sizes), losses(thetas, sizes, flops))

    spent = _least_spent(lambda flops: float(least(fit.theta[None], flops)[1][0]), budget)
    params, _ = least(np.concatenate([fit.theta[None], fit.resamples]), spent)
    best, loss = newton_minimum(lambda at: losses(fit.theta[None], at, spent)[0], params[0])
    tokens = spent / float(per_token(np.array([best]))[0])
    # At a kink of the worth of repeats all draws have one size, which a grid meets less exactly.
    ends = np.array(ends_around(best, params[1:], fit.level))
    low, high = fit.predict_interval(*worth.effective([best], [tokens], unique, unique_params), [spent])
    shortest, longest = sorted((spent / per_token(ends)).tolist())
    return DataConstrainedOptimum(
        flops=spent,
        params=best,
        params_interval=(float(ends[0]), float(ends[1])),
        tokens=tokens,
        tokens_interval=(min(shortest, tokens), max(longest, tokens)),
        epochs=tokens / unique,
        loss=loss,
        loss_interval=(float(low[0]), float(high[0])),
    )


def _least_spent(loss: Callable[[float], float], budget: float) -> float:
    """The budget, or what of it comes as near as anybody could want, if that is far less.

    Args:
        loss: the least that so much compute comes to; it never rises.
    """
    enough = loss(budget) * (1 + _NEAR)
    if loss(budget / _WASTE) > enough:
        return budget
    low = np.log(_WASTE)  # times less, in the logarithm
    while loss(budget / np.exp(2 * low)) <= enough:
        low *= 2
    high = 2 * low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(budget / np.exp(middle)) <= enough else (low, middle)
    return float(budget / np.exp(low))


def price_of_repeats(
    fit: Fit, params: float, tokens: float, unique: float, unique_params: float, worth: Worth
) -> tuple[float, tuple[float, float]]:
    """By how much a run on repeated data comes out above one on fresh data, nats per token, with its interval."""
    thetas = np.concatenate([fit.theta[None], fit.resamples])
    repeated = fit.losses(thetas, *worth.effective([params], [tokens], unique, unique_params))
    more = (repeated - fit.losses(thetas, [params], [tokens]))[:, 0]
    return float(more[0]), ends_around(float(more[0]), more[1:], fit.level)
