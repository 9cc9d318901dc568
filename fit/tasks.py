"""Downstream tasks: an accuracy forecast through the loss and straight from compute, whichever backtests trust."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.intervals import ends_around
from nextscale.fit.table.names import meaning_of
from nextscale.fit.table.numerals import numbers_in
from nextscale.fit.table.runs import Runs
from nextscale.fit.trust.backtest import parts_of
from nextscale.fit.trust.consensus import Consensus, prequential_errors
from nextscale.fit.trust.rolling import CUTS, growth

_SLOPES, _MIDDLES = np.geomspace(0.5, 30, 24), np.linspace(-0.5, 3, 57)
"""Of the sigmoids that are tried, in units of the range of what they rise with, and from its low end."""
_ZOOMS, _RESAMPLES = 4, 400
_CHANCE = 0.01
"""Of a rank correlation where there is none."""
_FEWEST, _SPENT, _FLAT = 6, 4, 1e-9
"""Runs with a score at least; parameters of a curve; and what is flat beside everything."""
_ROUNDING = 1e-6
_LOSS = re.compile(r"(?i)(?<![a-z])(loss(es)?|ppl|perplexity|bpb|nll|entropy)(?![a-z])")
_USUAL_RATE, _FREEDOM = 0.03, 2
"""The error of a share per unit of growth that is usual, and as how many cuts of a backtest it counts."""


@dataclasses.dataclass(frozen=True)
class Sigmoids:
    """Shares of right answers that rise with x: floor + gain / (1 + exp(-slope (x - middle))), the logistic curve that
    Bhagia et al. 2024 (OLMo ladder, eq. 3) fit over the loss. S of them, each attribute S."""

    floor: np.ndarray
    gain: np.ndarray
    slope: np.ndarray
    middle: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """Of each its share at each x (S x n, or n for all alike), S x n."""
        return self.floor[:, None] + self.gain[:, None] * _logistic(self.slope[:, None] * (x - self.middle[:, None]))

    @classmethod
    def fitted(cls, x: np.ndarray, share: np.ndarray, weights: np.ndarray) -> Sigmoids:
        """By least squares, of each row of weights (R x n): slope and middle on a grid that closes in, floor and top by
        linear least squares between 0 and 1."""
        low, span = x.min(), np.ptp(x) or 1.0
        slopes, middles = (each.ravel() for each in np.meshgrid(_SLOPES / span, low + span * _MIDDLES))
        found = cls._best(x, share, weights, slopes, middles)
        if len(weights) == 1:
            wide_slope, wide_middle = np.log(_SLOPES[1] / _SLOPES[0]), span * (_MIDDLES[1] - _MIDDLES[0])
            for _ in range(_ZOOMS):
                shares = np.linspace(-1, 1, 9)
                slopes, middles = (
                    each.ravel()
                    for each in np.meshgrid(
                        found.slope[0] * np.exp(wide_slope * shares), found.middle[0] + wide_middle * shares
                    )
                )
                found = cls._best(x, share, weights, slopes, middles)
                wide_slope, wide_middle = wide_slope / 4, wide_middle / 4
        return found

    @classmethod
    def _best(
        cls, x: np.ndarray, share: np.ndarray, weights: np.ndarray, slopes: np.ndarray, middles: np.ndarray
    ) -> Sigmoids:
        """Of S slopes and middles those that fit each row of weights best."""
        curve = _logistic(slopes[:, None] * (x - middles[:, None]))
        total, squares = weights.sum(axis=1)[:, None], weights @ np.square(share)
        of_curve, of_share = weights @ curve.T, (weights @ share)[:, None]
        curves, both = weights @ np.square(curve).T, weights @ (curve * share).T
        best_error, best = np.full(len(weights), np.inf), np.zeros((2, len(weights)))
        chosen = np.zeros(len(weights), int)
        spread = np.maximum(total * curves - np.square(of_curve), _FLAT * np.square(total))
        free_gain = (total * both - of_curve * of_share) / spread
        from_zero = both / np.maximum(curves, _FLAT * total)
        rest = np.maximum(total - 2 * of_curve + curves, _FLAT * total)
        to_one = (of_share - of_curve - both + curves) / rest
        # Floor and top as they fit best; a floor of 0; a top of 1; and both.
        for floor, gain in (
            ((of_share - free_gain * of_curve) / total, free_gain),
            (np.zeros_like(from_zero), from_zero),
            (to_one, 1 - to_one),
            (np.zeros_like(from_zero), np.ones_like(from_zero)),
        ):
            fits = (floor >= 0) & (gain >= 0) & (floor + gain <= 1 + 1e-9)
            error = (
                squares[:, None]
                + floor * (floor * total + 2 * gain * of_curve - 2 * of_share)
                + gain * (gain * curves - 2 * both)
            )
            error = np.where(fits, error, np.inf)
            k = error.argmin(axis=1)
            rows = np.arange(len(weights))
            better = error[rows, k] < best_error
            best_error = np.where(better, error[rows, k], best_error)
            best = np.where(better, [floor[rows, k], gain[rows, k]], best)
            chosen = np.where(better, k, chosen)
        return cls(best[0], best[1], slopes[chosen], middles[chosen])


@dataclasses.dataclass(frozen=True)
class TaskForecast:
    """What a run will score on a task.

    Attributes:
        task: its column.
        value: the share of right answers, as the column has it; of a column that falls with scale, such as an error
            rate, that.
        interval: of what the run would score.
        by: `loss`, through the loss that is forecast; or `compute`, straight from it.
        tested: of either way what backtests missed by, mean absolute, with its `bias` and number of `cuts`; and of
            `newest`, the mean of the newest runs below each cut, which takes no trend.
        reach: scale / the largest of the runs that have a score.
        warnings: what a reader must know.
        at: where: `flops`, and `params` and `tokens` where the law takes them.
    """

    task: str
    value: float
    interval: tuple[float, float]
    level: float
    by: str
    tested: dict[str, dict[str, float]]
    reach: float
    warnings: tuple[str, ...]
    at: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class TaskForecaster:
    """Forecasts a task from runs that were scored on it.

    Attributes:
        task: the name of its column.
        by: see `TaskForecast`.
        tested: see `TaskForecast`.
        note: how many runs have a score, and as what it was read.
    """

    def __init__(self, law: Fit, scores: Sequence[float] | np.ndarray, task: str, *, seed: int = 0):
        """
        Args:
            law: of the loss of the runs.
            scores: of each run of the law, in order, a share or in percent; missing where it was not scored.

        Raises:
            InputError: these are no shares, too few, or do not rise or fall with the runs' scale.
        """
        values = np.asarray(scores, float)
        known = np.isfinite(values)
        self.task, self._law, self._seed = task, law, seed
        self._whole = _whole(values[known], task)
        kind = "shares of 1" if self._whole == 1 else "percent"
        self.note = f"{task}: {known.sum()} of {len(known)} runs have a score, read as {kind}"
        self._runs = law.runs.where(pd.Series(known))
        share = values[known] / self._whole
        self._x = {"loss": -self._runs.table["loss"].to_numpy(), "compute": np.log(self._runs.scale.to_numpy())}
        self._falls = _direction(self._x, share, task, self._runs.source) < 0
        self._share = 1 - share if self._falls else share
        part, rolled = _rolled(law)
        self._part = part[known]
        cuts = [(cut, losses[known]) for cut, losses in rolled]
        errors = {way: [*self._rolling(way, cuts)] for way in ("loss", "compute", "newest")}
        self.tested = {way: _summed_up(found, self._whole, self._falls) for way, found in errors.items()}
        ways = [way for way in ("loss", "compute") if errors[way]]
        self.by = min(ways, key=lambda way: self.tested[way]["error"], default="loss")
        self._cuts = len(errors[self.by])
        x = self._x[self.by]
        rng = np.random.default_rng(seed)
        case = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=_RESAMPLES).astype(float)
        self._best = Sigmoids.fitted(x, self._share, np.ones((1, len(x))))
        self._resampled = Sigmoids.fitted(x, self._share, case)
        spent = np.sqrt(len(x) / max(len(x) - _SPENT, 1))
        self._residuals = spent * (self._share - self._best.at(x)[0])
        noise = np.square(self._residuals).mean()
        scaled = [((np.square(miss) - noise) / np.square(growth(reach))).mean() for reach, miss in errors[self.by]]
        usual = _FREEDOM * _USUAL_RATE**2
        self._drift = np.sqrt((usual + np.maximum(scaled, 0).sum()) / (_FREEDOM + len(scaled)))
        self._furthest = max((float(reach.max()) for reach, _ in errors[self.by]), default=0.0)

    def forecast(
        self, params: float | None = None, tokens: float | None = None, flops: float | None = None
    ) -> TaskForecast:
        """What a run there would score; FLOPs are 6ND where none are given."""
        given = {"params": params, "tokens": tokens, "flops": flops}
        at: dict[str, Any] = {name: np.array([float(value)]) for name, value in given.items() if value is not None}
        if "flops" not in at and {"params", "tokens"} <= at.keys():
            at["flops"] = 6 * at["params"] * at["tokens"]
        scale = float(at[self._runs.scale_name][0])
        reach = max(np.log(scale / self._runs.scale.max()), 0.0)
        rng = np.random.default_rng([self._seed, 1])
        if self.by == "loss":
            x, drawn = -self._law.predict(**at), -self._law.predictive(**at)[:, 0]
            drawn = drawn[rng.integers(len(drawn), size=_RESAMPLES)]
        else:
            x, drawn = np.log([scale]), np.full(_RESAMPLES, np.log(scale))
        value = float(self._best.at(x)[0, 0])
        draws = self._resampled.at(drawn[:, None])[:, 0] + rng.choice(self._residuals, _RESAMPLES)
        draws += (
            rng.standard_t(_FREEDOM + self._cuts, _RESAMPLES) * self._drift * growth(np.array([reach]), self._furthest)
        )
        low, high = ends_around(value, np.clip(draws, 0, 1), self._law.level)
        if len(self._law.resamples) < 2:
            low, high = np.nan, np.nan
        ends = (1 - high, 1 - low) if self._falls else (low, high)
        return TaskForecast(
            task=self.task,
            value=(1 - value if self._falls else value) * self._whole,
            interval=(ends[0] * self._whole, ends[1] * self._whole),
            level=self._law.level,
            by=self.by,
            tested=self.tested,
            reach=scale / float(self._runs.scale.max()),
            warnings=tuple(self._warnings(reach)),
            at={name: float(value[0]) for name, value in at.items()},
        )

    def _warnings(self, reach: float) -> Iterator[str]:
        if self._cuts and reach > self._furthest + _ROUNDING:
            yield (
                f"{self.task}: {np.exp(reach):.3g} times the largest run that has a score: backtests of it test no "
                f"more than {np.exp(self._furthest):.3g} times"
            )
        if not self._cuts:
            yield f"{self.task}: too few budgets for a backtest: the interval allows for an error that nothing tested"
        elif self.tested[self.by]["error"] >= self.tested["newest"]["error"]:
            missed, newest = (f"{self.tested[way]['error']:.3g}" for way in (self.by, "newest"))
            yield (
                f"{self.task}: backtests missed by {missed}, and the mean of the newest runs, which takes no trend, by "
                f"{newest}: no trend here forecasts it"
            )

    def _rolling(self, way: str, cuts: Sequence[tuple[int, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each cut the reach of the runs above in e-folds, and measured - forecast share.

        Args:
            cuts: see `_rolled`.
        """
        logs = np.log(self._runs.scale.to_numpy())
        for cut, losses in cuts:
            below, above = self._part < cut, self._part >= cut
            if below.sum() < _FEWEST or not above.any():
                continue
            reach = np.maximum(logs[above] - logs[below].max(), 0)
            if way == "newest":
                expected = np.full(above.sum(), self._share[self._part == self._part[below].max()].mean())
            else:
                x = self._x[way]
                curve = Sigmoids.fitted(x[below], self._share[below], np.ones((1, int(below.sum()))))
                expected = curve.at(-losses[above] if way == "loss" else x[above])[0]
            yield reach, self._share[above] - expected


def _rolled(law: Fit) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """The step of scale of each run; and of each of the newest cuts, newest first, the losses of runs above that were
    forecast from below (those of runs below as measured)."""
    measured = np.log(law.runs.table["loss"].to_numpy())
    found: list[tuple[int, np.ndarray]] = []
    if isinstance(law, Consensus):
        assert law.rolling is not None
        for cut, (_, missed) in zip(law.rolling.cuts, prequential_errors(law.rolling), strict=True):
            logs = measured.copy()
            logs[law.rolling.part >= cut] -= missed
            found.insert(0, (cut, np.exp(logs)))
        return law.rolling.part, found
    part = parts_of(law.runs).to_numpy()
    for cut in range(part.max(), 0, -1)[:CUTS]:
        try:
            how: dict[str, Any] = {"loss": law.loss, "fixed": law.fixed, "resamples": 0, "init": "quick"}
            below = fit(law.runs.where(pd.Series(part < cut)), law.law, **how)
        except InputError:
            break
        found.append((cut, np.exp(below.log_losses(below.theta[None], law.runs.table)[0])))
    return part, found


def _summed_up(errors: Sequence[tuple[np.ndarray, np.ndarray]], whole: float, falls: bool) -> dict[str, float]:
    """As the column has it; positive where runs scored above the forecast."""
    if not errors:
        return {"error": np.nan, "bias": np.nan, "cuts": 0}
    error, bias = (np.mean([of(miss) for _, miss in errors]) for of in (lambda miss: np.abs(miss).mean(), np.mean))
    return {"error": whole * float(error), "bias": whole * float(bias) * (-1 if falls else 1), "cuts": len(errors)}


def _logistic(x: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(x))


def _whole(values: np.ndarray, task: str) -> float:
    """What all answers right are in a column: 1, or 100."""
    if len(values) < _FEWEST:
        raise InputError(f"{task}: {len(values)} runs have a score, and a forecast needs {_FEWEST}")
    if values.min() < 0 or values.max() > 100:
        raise InputError(
            f"{task}: runs from {values.min():.4g} to {values.max():.4g}, and a score is a share from 0 to 1, or in "
            "percent; of a loss on the task name its column as the loss"
        )
    return 1.0 if values.max() <= 1 else 100.0


def _direction(x: Mapping[str, np.ndarray], share: np.ndarray, task: str, source: str) -> float:
    """1 where the score rises as runs get better, and -1 where it falls."""
    from scipy.stats import spearmanr

    if np.ptp(share) == 0:
        raise InputError(f"{source}: {task} is the same in every run: it does not scale here, and there is no forecast")
    found = {way: spearmanr(values, share) for way, values in x.items() if np.ptp(values) > 0}
    best = min(found.values(), key=lambda one: one.pvalue)
    if best.pvalue > _CHANCE:
        signs = {"loss": -1, "compute": 1}
        told = " and ".join(f"{signs[way] * one.statistic:+.2f} with {way}" for way, one in found.items())
        raise InputError(
            f"{source}: {task} does not scale in these {len(share)} runs: its rank correlations, {told}, are no more "
            "than chance makes, so there is nothing to forecast; take larger runs, or a task with a finer score"
        )
    return float(np.sign(best.statistic))


def scores_of(runs: Runs, table: pd.DataFrame, task: str) -> np.ndarray:
    """The column of a task, of each run that was read from a table.

    Raises:
        InputError: there is no such column, it is one of losses, or its cells are no numbers.
    """
    if task not in table:
        raise InputError(f"{runs.source}: there is no column '{task}'; it has {', '.join(map(str, table))}")
    if len(runs.rows) != len(runs):
        raise InputError(
            f"{runs.source}: its runs do not say which rows of a table they are of; read them from the table"
        )
    if meaning_of(task) is not None or _LOSS.search(task):
        raise InputError(f"{task}: is no column of scores by its name; of a loss name it as --loss-column")
    return numbers_in(table[task], runs.source)[0].to_numpy(float)[runs.rows]
