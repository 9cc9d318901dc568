"""`fit`, which fits a scaling law to a table of runs, and `Fit`, the law with its intervals that comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.bootstrap import Bootstrap, draw_resamples
from nextscale.fit.estimate.checks import check_options, checked_fixed, checked_variables
from nextscale.fit.estimate.fit_warnings import warnings_of
from nextscale.fit.estimate.profile import unidentified
from nextscale.fit.estimate.solve import Init, Minimum, grid_starts, minimise, minimise_resamples
from nextscale.fit.laws.catalogue import law_named
from nextscale.fit.laws.law import Law, Problem
from nextscale.fit.laws.loss import Loss
from nextscale.fit.laws.sum_of_powers import SumOfPowers
from nextscale.fit.table.columns import Columns, column_of
from nextscale.fit.table.runs import Runs, as_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law fitted to runs, and everything needed to say how sure it is.

    `frontier` and `plot` are here for convenience, and call rooms above this one: the one exception to the rule that
    rooms import only from those below. They import when called, and nothing else here does so.

    Attributes:
        theta: the law's parameter vector (see `Law.natural`).
        resamples: the same for each bootstrap resample, R x parameters.
        loss: of a run's residual.
        level: of the intervals that are given by default.
        minimum: what the search found, and how its starts agreed.
        fixed: parameters that were given, not fitted.
        extrapolation_error: relative error per e-fold of scale beyond the runs that a backtest found on top of
            what the resamples allow for, or that was stated (see `backtest.py`); widens intervals beyond the fitted
            scale.
        open_intervals: of the parameters that the runs do not identify, by profile likelihood.
        warnings: what a reader of these numbers must know, in words.
    """

    law: Law
    runs: Runs
    theta: np.ndarray
    resamples: np.ndarray
    loss: Loss
    level: float
    minimum: Minimum
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bootstrap: Bootstrap = "case"
    seed: int = 0
    extrapolation_error: float = 0.0
    open_intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, float]:
        """By name; losses in nats per token."""
        return dict(zip(self.law.parameters, self.law.natural(self.theta).tolist(), strict=True))

    def interval(self, name: str, level: float | None = None) -> tuple[float, float]:
        """Percentile interval of a parameter over the resamples; open where the runs do not identify it, and not a
        number where there are no resamples.

        Raises:
            InputError: the law has no such parameter.
        """
        self.check_parameter(name)
        if len(self.resamples) < 2:
            return (np.nan, np.nan)
        if name in self.open_intervals:
            return self.open_intervals[name]
        values = self.law.natural(self.resamples)[:, self.law.parameters.index(name)]
        return _percentiles(values, level or self.level)

    def check_parameter(self, name: str) -> None:
        """
        Raises:
            InputError: the law has no such parameter.
        """
        if name not in self.law.parameters:
            raise InputError(f"{self.law.name} has no parameter '{name}'; it has {', '.join(self.law.parameters)}")

    @property
    def freedom(self) -> int:
        """Degrees of freedom that the scatter is judged by: runs less parameters spent, one at least."""
        return max(1, len(self.runs) - len(self.law.parameters) + len(self.fixed))

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The interval of every parameter, at `level`."""
        return {name: self.interval(name) for name in self.law.parameters}

    @property
    def variables(self) -> dict[str, np.ndarray]:
        """What the law takes, of each run."""
        return {name: self.runs.table[column_of(name)].to_numpy(float) for name in self.law.variables}

    @property
    def objective(self) -> float:
        """The sum over runs of the loss of their residuals."""
        return self.minimum.objective

    @property
    def residuals(self) -> np.ndarray:
        """log measured - log predicted loss, of each run."""
        table = self.runs.table
        return np.log(table["loss"].to_numpy()) - self.log_losses(self.theta[None], table)[0]

    @property
    def noise(self) -> float:
        """Relative scatter of a run around the law: root mean square residual, corrected for the parameters spent."""
        return float(np.sqrt(np.square(self.residuals).sum() / self.freedom))

    def predict(self, params: Any = None, tokens: Any = None, flops: Any = None, **others: Any) -> np.ndarray:
        """Loss in nats per token at each point: parameters, tokens, FLOPs, and what else the law varies in.

        Raises:
            InputError: a variable of the law is not given.
        """
        return np.exp(self.log_losses(self.theta[None], point(params, tokens, flops, others))[0])

    def losses(
        self, thetas: np.ndarray, params: Any = None, tokens: Any = None, flops: Any = None, **others: Any
    ) -> np.ndarray:
        """Loss at each point under each of R parameter vectors, R x n."""
        return np.exp(self.log_losses(thetas, point(params, tokens, flops, others)))

    def confidence_interval(
        self, params: Any = None, tokens: Any = None, flops: Any = None, *, level: float | None = None, **others: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Interval of the law itself at each point, for the mean of many runs there: low and high, n each."""
        return _bounds(self.losses(self.resamples, params, tokens, flops, **others), level or self.level)

    def predict_interval(
        self, params: Any = None, tokens: Any = None, flops: Any = None, *, level: float | None = None, **others: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Prediction interval at each point, for what one run there would measure: low and high, n each; not numbers
        where there are no resamples."""
        if len(self.resamples) < 2:
            nowhere = np.full(len(self.predict(params, tokens, flops, **others)), np.nan)
            return nowhere, nowhere
        return _bounds(self.predictive(params, tokens, flops, **others), level or self.level)

    def predictive(
        self, params: Any = None, tokens: Any = None, flops: Any = None, *, seed: int = 0, **others: Any
    ) -> np.ndarray:
        """Draws of the loss that a run at each point would measure, R x n: a resample's law, a residual's scatter,
        and the extrapolation error that a backtest has shown. FLOPs are 6ND where none are given."""
        at = point(params, tokens, flops, others)
        scatter, surprise = self.error_draws(len(next(iter(at.values()))), seed=seed)
        losses = np.exp(self.log_losses(self.resamples, at))
        return losses * np.exp(scatter + surprise * self.extrapolation_error * self.reach(at))

    def law_draws(self, log_losses: Callable[[np.ndarray], np.ndarray], reach: np.ndarray) -> np.ndarray:
        """Draws of what the law says so many e-folds of scale beyond the runs (n), and of its error there, R x n.

        Args:
            log_losses: of parameter vectors, R x n.
        """
        draws = np.random.default_rng(self.seed).standard_normal((len(self.resamples), 1))
        return log_losses(self.resamples) + draws * self.extrapolation_error * reach

    def reach(self, at: Mapping[str, np.ndarray]) -> np.ndarray:
        """How many e-folds each point lies beyond the largest run."""
        scale = at.get(self.runs.scale_name)
        if scale is None and self.runs.scale_name == "flops" and {"params", "tokens"} <= at.keys():
            scale = 6 * at["params"] * at["tokens"]
        return np.zeros(1) if scale is None else np.maximum(np.log(scale / self.runs.scale.max()), 0)

    def error_draws(self, points: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The random errors of `predictive`: by how much the log loss of a run scatters about the law, R x points; and
        how the law errs beyond its runs, R x 1, in units of `extrapolation_error` per e-fold."""
        rng = np.random.default_rng(seed)
        residuals = self.residuals - np.median(self.residuals)
        rms = np.sqrt(np.mean(np.square(residuals))) or 1.0
        scatter = rng.choice(residuals * self.noise / rms, (len(self.resamples), points))
        return scatter, rng.standard_normal((len(self.resamples), 1))

    def log_losses(self, thetas: np.ndarray, at: pd.DataFrame | Mapping[str, Any]) -> np.ndarray:
        """log L under each of R parameter vectors at each row of a table, R x n.

        Raises:
            InputError: a variable of the law is no column of the table.
        """
        variables = {}
        for name in self.law.variables:
            if column_of(name) not in at:
                raise InputError(f"{self.law.name}: needs {column_of(name)} to predict a loss")
            variables[name] = np.atleast_1d(np.asarray(at[column_of(name)], float))
        shape = np.broadcast_shapes(*(values.shape for values in variables.values()))
        return self.law.log_losses(thetas, {k: np.broadcast_to(v, shape) for k, v in variables.items()})

    def frontier(self, flops: Sequence[float]) -> pd.DataFrame:
        """The best size and tokens at each budget, with intervals: see `nextscale.fit.optimum.frontier.frontier`."""
        from nextscale.fit.optimum.frontier import frontier

        return frontier(self, flops)

    def plot(self, ax: Axes) -> Axes:
        """The runs and the law with its band: see `nextscale.fit.plot.law`."""
        from nextscale.fit.plot.laws import law

        return law(ax, self)

    def to_dict(self) -> dict[str, Any]:
        """What a machine, or a reviewer, wants to know of this fit."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "source": self.law.source,
            "n": len(self.runs),
            "objective": self.objective,
            "loss": self.loss.name,
            "delta": self.loss.delta,
            "tilt": self.loss.tilt,
            "fixed": dict(self.fixed),
            "parameters": self.parameters,
            "intervals": {
                name: [end if np.isfinite(end) else None for end in interval]
                for name, interval in self.intervals.items()
            },
            "level": self.level,
            "params_convention": self.runs.convention,
            "notes": list(self.runs.notes),
            "warnings": list(self.warnings),
            "diagnostics": {
                "gradient_norm": self.minimum.gradient_norm,
                "start_agreement": self.minimum.agreement,
                "second_basin_objective": self.minimum.second_basin,
                "noise": self.noise,
                "smallest_loss": float(self.runs.table["loss"].min()),
                "condition": self.minimum.condition,
                "bootstrap": self.bootstrap,
                "resamples": len(self.resamples) if len(self.resamples) > 1 else 0,
                "seed": self.seed,
                "extrapolation_error": self.extrapolation_error,
                f"fitted_{self.runs.scale_name}": [float(self.runs.scale.min()), float(self.runs.scale.max())],
                "points_dropped": len(self.runs.dropped),
            },
        }

    def __repr__(self) -> str:
        numbers = {name: f"{name}={value:.4g}" for name, value in self.parameters.items()}
        known = len(self.resamples) > 1
        if known:
            numbers = {
                name: f"{text} [{self.interval(name)[0]:.4g}, {self.interval(name)[1]:.4g}]"
                for name, text in numbers.items()
            }
        intervals = f"{self.level:.0%} intervals" if known else "no intervals"
        return f"Fit({self.law.formula}; {', '.join(numbers.values())}; {intervals}; {len(self.runs)} runs)"


def fit(
    runs: pd.DataFrame | Runs,
    law: str | Law = "chinchilla",
    *,
    params: str = "total",
    columns: Columns = Columns(),
    loss: str | Loss = "huber",
    delta: float = 1e-3,
    tilt: float = 0.9,
    fixed: Mapping[str, float] | None = None,
    bootstrap: Bootstrap = "case",
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    init: Init = "projected",
) -> Fit:
    """Fits a law to a table of runs.

    The objective is the sum over runs of a loss of log predicted - log measured loss: Huber's, unless another is asked
    for (Hoffmann et al. 2022, sec. 3.3). Intervals come from a bootstrap (see `bootstrap.py`), each resample with a
    search of its own. `columns.weight` weighs the runs: by 1/variance where the noise of each is known.

    Args:
        runs: one row per finished run, with `loss` (nats per token) and what the law varies in; of `params`, `tokens`
            and `flops` two are enough.
        law: a name in `LAWS`, or a `Law`.
        params: what N counts: `total`, `non_embedding` or `active`.
        columns: names of the table's columns where they are others.
        loss: `huber`, `l1`, `squared`, `asymmetric`, or a `Loss`.
        delta: where Huber's loss turns from squared to absolute, in log loss.
        tilt: of the asymmetric loss: the share of the weight on runs above the law.
        fixed: parameters that are given, by name.
        bootstrap: `case`, `stratified`, `cluster` or `residual`.
        resamples: of the bootstrap; 0 for no intervals.
        level: of the intervals given by default.
        seed: of the bootstrap.
        init: `projected` starts (see `solve.py`), or the usual `grid` over all parameters of a sum of powers (4500 for
            Chinchilla's), every one of them followed to its end; `quick` follows few, and does not look for
            parameters that the runs do not identify.

    Raises:
        InputError: the table cannot be used, has too few runs, or the law, loss or bootstrap is not known.
    """
    law = law_named(law)
    cost = loss if isinstance(loss, Loss) else Loss.of(loss, delta, tilt)
    fixed = checked_fixed(law, fixed or {})
    check_options(bootstrap, init, level, resamples)
    if isinstance(runs, pd.DataFrame):
        runs = as_runs(runs, columns=columns, convention=params, variables=law.variables)
    variables = checked_variables(law, runs, fixed)
    problem = law.problem(variables, runs.table["loss"].to_numpy(), cost, fixed)
    starts = _usual_grid(law, problem) if init == "grid" else None
    minimum = minimise(problem, runs.weights, starts=starts, quick=init == "quick")
    if not np.isfinite(minimum.objective):
        raise InputError(f"{runs.source}: {law.name} gives no number on these runs anywhere that was searched")
    drawn = minimum.theta[None]
    if resamples:
        drawn = _resampled(problem, minimum, runs, bootstrap, resamples, seed, candidates=2 if init == "quick" else 3)
    found = Fit(
        law=law,
        runs=runs,
        theta=problem.uncentred(minimum.theta),
        resamples=problem.uncentred(drawn),
        loss=cost,
        level=level,
        minimum=minimum,
        fixed=fixed,
        bootstrap=bootstrap,
        seed=seed,
    )
    warnings = warnings_of(found, variables)
    if resamples and init != "quick":
        loose = unidentified(found)
        warnings += [each.warning for each in loose if each.warning]
        found = dataclasses.replace(found, open_intervals={each.name: each.interval for each in loose})
    return dataclasses.replace(found, warnings=tuple(warnings))


def _resampled(
    problem: Problem, minimum: Minimum, runs: Runs, kind: Bootstrap, count: int, seed: int, candidates: int
) -> np.ndarray:
    """The parameter vectors, centred, that a bootstrap finds, resamples x parameters."""
    fitted = problem.values(minimum.theta[None])[0]
    freedom = len(runs) - len(problem.law.parameters) + len(problem.fixed)
    again = draw_resamples(runs, kind, count, fitted, freedom, seed)
    weights = again.weights * runs.weights
    return minimise_resamples(problem, weights, minimum.starts, targets=again.targets, candidates=candidates)


def _usual_grid(law: Law, problem: Problem) -> np.ndarray:
    """The starts of Hoffmann et al. 2022, app. D.3, as Besiroglu et al. 2024 spell them out."""
    if not isinstance(law, SumOfPowers):
        raise InputError(f"init: the usual grid is one for sums of powers; {law.name} is none")
    axes = {term.coefficient: np.arange(0, 26, 5) if term.powers else np.arange(-1, 1.5, 0.5) for term in law.terms}
    return grid_starts(law, problem, {**axes, **dict.fromkeys(law.shapes, np.arange(0, 2.5, 0.5))})


def point(params: Any, tokens: Any, flops: Any, others: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What is given of some points, by column."""
    given = {"params": params, "tokens": tokens, "flops": flops, **others}
    return {name: np.atleast_1d(np.asarray(v, float)) for name, v in given.items() if v is not None}


def _bounds(draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
