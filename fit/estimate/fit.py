"""`fit`, which fits a scaling law to a table of runs, and `Fit`, the law with its intervals that comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.bootstrap import Bootstrap, draw_resamples, spreads, usual_bootstrap
from nextscale.fit.estimate.checks import ZERO, check_options, checked_fixed, checked_variables, variables_of
from nextscale.fit.estimate.fit_html import fit_html
from nextscale.fit.estimate.fit_warnings import warnings_of
from nextscale.fit.estimate.outliers import FarOff, far_off_runs
from nextscale.fit.estimate.profile import unidentified
from nextscale.fit.estimate.solve import Init, Minimum, minimise, minimise_resamples
from nextscale.fit.estimate.starts import usual_grid
from nextscale.fit.intervals import ends_around, interval_around
from nextscale.fit.laws.catalogue import law_named
from nextscale.fit.laws.law import Law, Problem
from nextscale.fit.laws.loss import Loss
from nextscale.fit.table.columns import Columns, column_of
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.table.sources import Table

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
        backtested: whether a backtest among the runs had a say in that, and of a consensus more than one.
        open_intervals: of the parameters that the runs do not identify, by profile likelihood.
        outliers: runs far off the law of the others, which are fitted all the same; None where there are none.
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
    backtested: bool = False
    open_intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    outliers: FarOff | None = None
    warnings: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, float]:
        """By name; losses in nats per token."""
        values = dict(zip(self.law.parameters, self.law.natural(self.theta).tolist(), strict=True))
        return values | {name: 0.0 for name, value in self.fixed.items() if value == ZERO}

    def interval(self, name: str, level: float | None = None) -> tuple[float, float]:
        """Percentile interval of a parameter over the resamples, which holds its value; open where the runs do not
        identify it, and not a number where there are no resamples.

        Raises:
            InputError: the law has no such parameter.
        """
        self.check_parameter(name)
        if len(self.resamples) < 2:
            return (np.nan, np.nan)
        if name in self.fixed:
            return (self.parameters[name], self.parameters[name])
        if name in self.open_intervals:
            return self.open_intervals[name]
        index = self.law.parameters.index(name)
        return ends_around(self.parameters[name], self.law.natural(self.resamples)[:, index], level or self.level)

    def check_parameter(self, name: str) -> None:
        """
        Raises:
            InputError: the law has no such parameter.
        """
        if name not in self.law.parameters:
            raise InputError(f"{self.law.name} has no parameter '{name}'; it has {', '.join(self.law.parameters)}")

    @property
    def tested(self) -> float | None:
        """The longest reach of its backtests, in e-folds; None of one law, which keeps none."""
        return None

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
        return variables_of(self.law, self.runs)

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
        with np.errstate(over="ignore"):  # a resample that lost the law may be infinite far away
            return np.asarray(np.exp(self.log_losses(thetas, point(params, tokens, flops, others))))

    def confidence_interval(
        self, params: Any = None, tokens: Any = None, flops: Any = None, *, level: float | None = None, **others: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Interval of the law itself at each point, for the mean of many runs there: low and high, n each."""
        best = self.predict(params, tokens, flops, **others)
        return interval_around(best, self.losses(self.resamples, params, tokens, flops, **others), level or self.level)

    def predict_interval(
        self, params: Any = None, tokens: Any = None, flops: Any = None, *, level: float | None = None, **others: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Prediction interval at each point, for what one run there would measure: low and high, n each; not numbers
        where there are no resamples."""
        best = self.predict(params, tokens, flops, **others)
        if len(self.resamples) < 2:
            return np.full(len(best), np.nan), np.full(len(best), np.nan)
        return interval_around(best, self.predictive(params, tokens, flops, **others), level or self.level)

    def predictive(
        self, params: Any = None, tokens: Any = None, flops: Any = None, *, seed: int = 0, **others: Any
    ) -> np.ndarray:
        """Draws of the loss that a run at each point would measure, R x n: a resample's law, a residual's scatter,
        and the extrapolation error that a backtest has shown. FLOPs are 6ND where none are given."""
        at = point(params, tokens, flops, others)
        scatter, surprise = self.error_draws(len(next(iter(at.values()))), seed=seed)
        errors = scatter + surprise * self.extrapolation_error * self.reach(at)
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.log_losses(self.resamples, at) + errors))

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
        rng, R = np.random.default_rng(seed), len(self.resamples)
        if self.bootstrap == "normal":
            scatter = self.noise * spreads(self.freedom, R, self.seed)[:, None] * rng.standard_normal((R, points))
            return scatter, rng.standard_normal((R, 1))
        residuals = self.residuals - np.median(self.residuals)
        rms = np.sqrt(np.mean(np.square(residuals))) or 1.0
        scatter = rng.choice(residuals * self.noise / rms, (R, points))
        return scatter, rng.standard_normal((R, 1))

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

    def frontier(self, flops: float | Sequence[float]) -> pd.DataFrame:
        """The best size and tokens at each budget, with intervals: see `nextscale.fit.optimum.frontier.frontier`."""
        from nextscale.fit.optimum.frontier import frontier

        return frontier(self, np.atleast_1d(flops).tolist())

    def plot(self, ax: Axes | None = None) -> Axes:
        """The runs and the law with its band (see `nextscale.fit.plot.law`), on axes of their own unless given."""
        from nextscale.fit.plot.laws import law

        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.figure().add_subplot()
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
            "outliers": None if self.outliers is None else self.outliers.to_dict(),
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

    def _repr_html_(self) -> str:
        return fit_html(self)


def fit(
    runs: Table | Runs,
    law: str | Law = "chinchilla",
    *,
    params: str = "total",
    columns: Columns | Mapping[str, str] = Columns(),
    loss: str | Loss = "huber",
    delta: float = 1e-3,
    tilt: float = 0.9,
    fixed: Mapping[str, float] | None = None,
    bootstrap: Bootstrap | None = None,
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    init: Init = "projected",
    drop_outliers: bool = False,
) -> Fit:
    """Fits a law to a table of runs.

    The objective is the sum over runs of a loss of log predicted - log measured loss: Huber's, unless another is asked
    for (Hoffmann et al. 2022, sec. 3.3). Intervals come from a bootstrap (`bootstrap.py`), each resample with a
    search of its own. `columns.weight` weighs the runs: by 1/variance where the noise of each is known.

    Args:
        runs: one row per finished run, with `loss` (nats per token) and what the law varies in; of `params`, `tokens`
            and `flops` two are enough. A frame, the path of a file, a dict of columns, a list of rows, or `as_runs` of
            one of these with what that has to be told.
        law: a name in `LAWS`, or a `Law`.
        params: what N counts: `total`, `non_embedding` or `active`.
        columns: names of the table's columns where they are others.
        loss: `huber`, `l1`, `squared`, `asymmetric`, or a `Loss`.
        delta: where Huber's loss turns from squared to absolute, in log loss.
        tilt: of the asymmetric loss: the share of the weight on runs above the law.
        fixed: parameters that are given, by name.
        bootstrap: see `draw_resamples`; `normal` unless given where runs are at most eight more than parameters, and
            else `case`.
        resamples: of the bootstrap; 0 for no intervals.
        level: of the intervals given by default.
        seed: of the bootstrap.
        init: `projected` starts (see `starts.py`), or the usual `grid` over all parameters of a sum of powers (4500 for
            Chinchilla's), every one followed to its end; `quick` follows few, without a look at what is not identified.
        drop_outliers: leave out runs far off the law of the others (`outliers.py`), of which else a warning tells.

    Raises:
        InputError: the table cannot be used, has too few runs, or the law, loss or bootstrap is not known.
    """
    law = law_named(law)
    cost = loss if isinstance(loss, Loss) else Loss.of(loss, delta, tilt)
    fixed = checked_fixed(law, fixed or {})
    check_options(bootstrap, init, level, resamples)
    if not isinstance(runs, Runs):
        runs = as_runs(runs, columns=columns, convention=params, variables=law.variables)
    variables = checked_variables(law, runs, fixed)
    problem = law.problem(variables, runs.table["loss"].to_numpy(), cost, fixed)
    quick = init == "quick"
    starts = usual_grid(problem) if init == "grid" else None
    minimum = minimise(problem, runs.weights, starts=starts, quick=quick)
    if not np.isfinite(minimum.objective):
        raise InputError(f"{runs.source}: {law.name} gives no number on these runs anywhere that was searched")
    found = Fit(
        law=law,
        runs=runs,
        theta=problem.uncentred(minimum.theta),
        resamples=problem.uncentred(minimum.theta[None]),
        loss=cost,
        level=level,
        minimum=minimum,
        fixed=fixed,
        bootstrap=bootstrap or usual_bootstrap(len(runs) - int(problem.free.sum())),
        seed=seed,
    )
    outliers = far_off_runs(found) if drop_outliers or not quick else None
    if drop_outliers and outliers is not None:
        options: dict[str, Any] = {"bootstrap": bootstrap, "resamples": resamples, "level": level, "seed": seed}
        return fit(outliers.without(runs), law, loss=cost, fixed=fixed, init="quick" if quick else init, **options)
    drawn = _resampled(found, problem, resamples, 2 if quick else 3) if resamples else found.resamples
    found = dataclasses.replace(found, outliers=outliers, resamples=drawn)
    loose = [] if quick or not resamples else unidentified(found)
    warnings = (*warnings_of(found, variables), *(each.warning for each in loose if each.warning))
    return dataclasses.replace(found, warnings=warnings, open_intervals={each.name: each.interval for each in loose})


def resampled(found: Fit, count: int, level: float) -> Fit:
    """The same fit with so many resamples, of a quick search each.

    Raises:
        InputError: they are too few for intervals at that level.
    """
    check_options(None, None, level, count)
    problem = found.law.problem(found.variables, found.runs.table["loss"].to_numpy(), found.loss, found.fixed)
    return dataclasses.replace(found, resamples=_resampled(found, problem, count, 2), level=level)


def _resampled(found: Fit, problem: Problem, count: int, candidates: int) -> np.ndarray:
    """The parameter vectors that a bootstrap finds, resamples x parameters."""
    fitted = problem.values(found.minimum.theta[None])[0]
    again = draw_resamples(found.runs, found.bootstrap, count, fitted, found.freedom, found.seed)
    weights, starts = again.weights * found.runs.weights, found.minimum.starts
    return problem.uncentred(minimise_resamples(problem, weights, starts, targets=again.targets, candidates=candidates))


def point(params: Any, tokens: Any, flops: Any, others: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What is given of some points, by column."""
    given = {"params": params, "tokens": tokens, "flops": flops, **others}
    return {name: np.atleast_1d(np.asarray(v, float)) for name, v in given.items() if v is not None}
