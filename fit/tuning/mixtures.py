"""The mixture of domains that a model should be trained on: one law for each loss, and the proportions at their lowest.

The law is additive (Shukor et al. 2025, arXiv 2507.09404), so that the best mixture is the same at every size and
length; how sure it is, resamples of the runs tell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.intervals import ends_around, interval_around
from nextscale.fit.laws.recipe_laws import mixture_law
from nextscale.fit.table.numerals import numbers_in
from nextscale.fit.table.runs import Runs

_FOLDS = 5
_SUM = 0.005
"""So far from 1 the proportions of a run may sum to, as rounded ones do."""
_EDGE = 1e-3
"""So near an end of what was tried, the best may lie beyond it."""
_LEAST = 1e-9
"""A proportion in the search for the best, whose slope at 0 may be infinite."""


@dataclasses.dataclass(frozen=True)
class BestMixture:
    """The laws of several losses in the proportions of domains, and the mixture at which their weighted mean is lowest.

    Attributes:
        fits: by loss.
        weights: of each loss in the mean, 1 in sum.
        proportions: by domain, at the lowest; and `intervals` over resamples, at `level`.
        losses: by loss, at the best mixture and the size and tokens of the largest run; and `loss_intervals`.
        held_out: of each loss `r2` and `error` (mean absolute relative error) where every mixture is forecast from
            others, and `largest_error` where the largest scale is from the rest (missing of fewer than three).
        warnings: what a reader must know, in words.
    """

    fits: Mapping[str, Fit]
    weights: Mapping[str, float]
    proportions: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    losses: Mapping[str, float]
    loss_intervals: Mapping[str, tuple[float, float]]
    held_out: pd.DataFrame
    level: float
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        held_out = self.held_out.set_index("loss").astype(object).where(lambda frame: frame.notna(), None)
        return {
            "level": self.level,
            "mixture": dict(self.proportions),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "losses": {
                name: {
                    "weight": self.weights[name],
                    "at_best": self.losses[name],
                    "interval": list(self.loss_intervals[name]),
                    "n": len(found.runs),
                    "law": found.law.formula,
                    "parameters": found.parameters,
                    "held_out": held_out.loc[name].to_dict(),
                }
                for name, found in self.fits.items()
            },
            "warnings": list(self.warnings),
        }


def check_proportions(table: pd.DataFrame, domains: Sequence[str], where: str = "runs") -> pd.DataFrame:
    """The proportions of domains in the data of each run, as numbers that sum to 1.

    Raises:
        InputError: a column is missing, or a row, which is named, holds what are no proportions.
    """
    if missing := [name for name in domains if name not in table]:
        raise InputError(
            f"{where}: there is no column '{missing[0]}'; it has {', '.join(map(str, table.columns[:12]))}"
        )
    shares = pd.DataFrame({name: numbers_in(table[name], where)[0] for name in domains})
    total = shares.sum(axis=1, skipna=False)
    for wrong, what in (
        (shares.isna().any(axis=1), "a proportion is missing"),
        ((shares < 0).any(axis=1), "a proportion is below 0"),
        ((total - 1).abs() > _SUM, "the proportions of {} sum to {:.4g}, not 1; name every domain, as shares of 1"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(f"{where}: row {row + 1}: {what.format(', '.join(domains), total.iloc[row])}")
    return shares.div(total, axis=0)


def best_mixture(
    runs: Mapping[str, Runs],
    domains: Sequence[str],
    weights: Mapping[str, float] | None = None,
    *,
    resamples: int = 200,
    level: float = 0.9,
    seed: int = 0,
) -> BestMixture:
    """Fits the loss of each column by the proportions of domains, and looks for the mixture of the lowest mean, of each
    domain no less and no more than was tried.

    Args:
        runs: by loss, with a column of each domain (`check_proportions`), and `params` and `tokens` where they vary.
        weights: of each loss in the mean; alike unless given.

    Raises:
        InputError: weights are not positive, or the runs cannot show the law.
    """
    given = dict.fromkeys(runs, 1.0) if weights is None else {name: float(weights.get(name, 1.0)) for name in runs}
    if not all(0 < weight < np.inf for weight in given.values()):
        raise InputError("weights: each loss should weigh more than 0; leave out a loss that should not count")
    shared = {name: weight / sum(given.values()) for name, weight in given.items()}
    first = next(iter(runs.values()))
    if (mixtures := len(first.table.groupby([*domains]))) <= 2 * len(domains):
        raise InputError(
            f"{first.source}: {len(domains)} domains need {2 * len(domains) + 1} mixtures or more; got {mixtures}"
        )
    law = mixture_law(domains, [variable for variable, column in _SCALE.items() if _varies(first, column)])
    fits = {
        name: fit(one, law, resamples=resamples, level=level, seed=seed, bootstrap="case", init="quick", loss="squared")
        for name, one in runs.items()
    }
    every = [np.concatenate([found.theta[None], found.resamples]) for found in fits.values()]
    shares = np.array(list(shared.values()))
    tried = first.table[[*domains]].to_numpy()
    found = np.array(
        [
            _lowest([law.natural(theta) for theta in thetas], law, domains, shares, tried)
            for thetas in zip(*every, strict=True)
        ]
    )
    best, draws = found[0], found[1:]
    low, high = interval_around(best, draws, level)
    largest = first.table.iloc[int(first.scale.to_numpy().argmax())]
    losses, loss_intervals = {}, {}
    for name, one in fits.items():
        point = {column: np.array([largest[column]]) for v, column in _SCALE.items() if v in law.variables}
        point |= {domain: best[k : k + 1] for k, domain in enumerate(domains)}
        at = np.exp(one.log_losses(np.concatenate([one.theta[None], one.resamples]), pd.DataFrame(point)))[:, 0]
        losses[name], loss_intervals[name] = float(at[0]), ends_around(float(at[0]), at[1:], level)
    return BestMixture(
        fits=fits,
        weights=shared,
        proportions={domain: float(best[k]) for k, domain in enumerate(domains)},
        intervals={domain: (float(low[k]), float(high[k])) for k, domain in enumerate(domains)},
        losses=losses,
        loss_intervals=loss_intervals,
        held_out=pd.DataFrame([{"loss": name} | _held_out(one, domains) for name, one in fits.items()]),
        level=level,
        warnings=_warnings(best, tried, domains),
    )


_SCALE = {"N": "params", "D": "tokens"}


def _varies(runs: Runs, column: str) -> bool:
    return column in runs.table and runs.table[column].nunique() > 1


def _lowest(
    parameters: Sequence[np.ndarray], law: Any, domains: Sequence[str], weights: np.ndarray, tried: np.ndarray
) -> np.ndarray:
    """The proportions, within the ranges tried, at which the weighted mean of these laws is lowest: M, 1 in sum."""
    place = [[law.parameters.index(f"{kind}[{domain}]") for domain in domains] for kind in ("C", "gamma")]
    rate, power = (np.array([values[here] for values in parameters]) for here in place)

    def mean(shares: np.ndarray) -> tuple[float, np.ndarray]:
        learnt = rate * shares**power
        total = learnt.sum(axis=1)
        return float(weights @ (1 / total)), -(weights / total**2) @ (learnt * power / shares)

    # There is one minimum where no power exceeds 1, which is the rule; the second start is for where one does.
    low, high = np.maximum(tried.min(axis=0), _LEAST), tried.max(axis=0)
    starts = np.clip(
        [tried.mean(axis=0), min(tried, key=lambda shares: mean(np.maximum(shares, _LEAST))[0])], low, high
    )
    ends = [
        minimize(
            mean,
            start,
            jac=True,
            method="SLSQP",
            bounds=[*zip(low, high, strict=True)],
            constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-10, "maxiter": 300},
        )
        for start in starts
    ]
    best = np.where((found := min(ends, key=lambda end: end.fun).x) > 2 * _LEAST, found, 0)
    return best / best.sum()


def _held_out(found: Fit, domains: Sequence[str]) -> dict[str, float]:
    """What the law of other mixtures says of each, and that of smaller scales of the largest."""
    table = found.runs.table
    mixture = table.groupby([*domains]).ngroup().to_numpy()
    fold = np.random.default_rng(0).permutation(mixture.max() + 1)[mixture] % _FOLDS
    predicted = np.full(len(table), np.nan)
    for k in range(_FOLDS):
        predicted[fold == k] = _predicted(found, fold != k)
    measured = table["loss"].to_numpy()
    missed = np.square(predicted - measured).sum() / np.square(measured - measured.mean()).sum()
    scores = {"r2": float(1 - missed), "error": float(np.abs(predicted / measured - 1).mean()), "largest_error": np.nan}
    largest = (found.runs.scale == found.runs.scale.max()).to_numpy()
    if len(found.law.variables) > len(domains) and found.runs.scale.nunique() > 2:
        scores["largest_error"] = float(np.abs(_predicted(found, ~largest) / measured[largest] - 1).mean())
    return scores


def _predicted(found: Fit, fitted: np.ndarray) -> np.ndarray:
    """The losses of the other runs by the law of these."""
    # Those that are not fitted weigh nothing: with as many rows as before nothing is compiled anew.
    weighted = dataclasses.replace(found.runs, table=found.runs.table.assign(weight=fitted.astype(float)))
    law = fit(weighted, found.law, loss=found.loss, resamples=0, init="quick")
    return np.exp(law.log_losses(law.theta[None], found.runs.table[~fitted])[0])


def _warnings(best: np.ndarray, tried: np.ndarray, domains: Sequence[str]) -> tuple[str, ...]:
    edges = ((tried.max(axis=0), "largest", "more"), (tried.min(axis=0), "least", "less"))
    return tuple(
        f"{domain}: the best proportion is the {which} that was tried, {edge[k]:.3g}: {way} of it may be better still"
        for edge, which, way in edges
        for k, domain in enumerate(domains)
        if abs(best[k] - edge[k]) < _EDGE and 0 < edge[k] < 1
    )
