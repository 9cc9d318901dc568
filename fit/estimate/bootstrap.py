"""How sure a fit is: what repeating the experiment could have given (bootstraps, repeated seeds), and how far each
parameter could move before the runs object (profiles, the Hessian)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.solve import descend, polish, scores_of
from nextscale.fit.laws.law import Problem
from nextscale.fit.table.columns import column_of
from nextscale.fit.table.runs import Runs

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit

Bootstrap = Literal["case", "stratified", "cluster", "residual"]

_CANDIDATES, _ROUNDS = 3, 4
_FEWEST = 3
_STEPS = 2.0 ** np.arange(-2, 8)
"""Where a profile is looked at: standard errors to either side of the best value."""
_REACH = 1e6
"""How many times larger or smaller a coefficient is tried."""
_FLAT, _DECADE = 0.005, 10.0
"""A parameter that may move by such a factor at the cost of such a share of the objective is not identified."""


@dataclasses.dataclass(frozen=True)
class Resamples:
    """R repetitions of n runs.

    Attributes:
        weights: how often each run is drawn, R x n.
        targets: log losses of their own, R x n; None where they are those measured.
    """

    weights: np.ndarray
    targets: np.ndarray | None = None


def resamples(runs: Runs, kind: Bootstrap, count: int, fitted: np.ndarray, freedom: int, seed: int) -> Resamples:
    """Bootstrap resamples (Efron & Tibshirani 1993).

    Args:
        kind: `case` draws runs; `stratified` draws them within each budget, as a designed grid would be repeated;
            `cluster` draws whole groups of runs (column `group`: a training run and its checkpoints); `residual` keeps
            the runs and redraws their distances from the law, each time with a variance that their sum of squares
            allows, for of few runs the scatter itself is hardly known (Gelman et al. 2013, "Bayesian Data Analysis",
            sec. 14.2: sum of squares / chi-squared).
        fitted: log loss by the law, n.
        freedom: degrees of freedom that the scatter is judged by.

    Raises:
        InputError: no groups to draw.
    """
    rng = np.random.default_rng(seed)
    n = len(runs)
    if kind == "case":
        return Resamples(rng.multinomial(n, np.full(n, 1 / n), size=count).astype(float))
    if kind == "stratified":
        weights = np.zeros((count, n))
        for here in _strata(runs):
            weights[:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), size=count)
        return Resamples(weights)
    if kind == "cluster":
        if "group" not in runs.table:
            raise InputError("bootstrap: cluster needs to know which rows belong together; name their column (group)")
        codes, names = pd.factorize(runs.table["group"])
        members = np.eye(len(names))[:, codes]
        if len(names) < 3:
            raise InputError(f"bootstrap: cluster needs three groups or more; got {len(names)}")
        return Resamples(rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count) @ members)
    residual = np.log(runs.table["loss"].to_numpy()) - fitted
    drawn = rng.choice(residual - residual.mean(), (count, n))
    wider = np.sqrt(n / rng.chisquare(freedom, (count, 1)))
    return Resamples(np.ones((count, n)), fitted + wider * drawn)


def _strata(runs: Runs) -> list[np.ndarray]:
    """The rows of each budget; budgets of fewer than three runs are joined with the next, for a run alone in its own
    would be drawn once in every resample."""
    strata: list[np.ndarray] = []
    here = np.array([], int)
    for budget in runs.budgets:
        here = np.append(here, np.flatnonzero(runs.table["budget"] == budget))
        if len(here) >= _FEWEST:
            strata, here = [*strata, here], np.array([], int)
    if len(here):
        strata[-1:] = [np.concatenate([*strata[-1:], here])]
    return strata


def seed_noise(runs: pd.DataFrame | Runs, config: Sequence[str] = ("params", "tokens")) -> SeedNoise:
    """The noise that repeated runs show, where only the seed differs between them.

    Few repeats make a poor variance, so each configuration's is drawn towards that of all, by as much as their spread
    shows them to be alike (Smyth 2004, "Linear models and empirical Bayes methods", sec. 6.2); those of a single run
    take that of all. Pass the weights on: `fit(table.assign(weight=noise.weights), columns=Columns(weight="weight"))`.

    Args:
        config: the columns that are the same in repeated runs.

    Raises:
        InputError: no configuration was run twice.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    table = runs.table if isinstance(runs, Runs) else runs
    groups = np.log(table["loss"]).groupby([table[name] for name in config])
    freedom, variance = groups.transform("size") - 1, groups.transform("var").fillna(0)
    once = groups.agg(["size", "var"]).query("size > 1")
    if once.empty:
        raise InputError(f"seeds: no two runs have the same {' and '.join(config)}")
    d = once["size"] - 1
    pooled = float((d * once["var"]).sum() / d.sum())
    # The log variances scatter by chance; what they scatter more, the configurations differ.
    z = np.log(once["var"].clip(lower=1e-6 * pooled)) - digamma(d / 2) + np.log(d / 2)
    differ = float(z.var() - polygamma(1, d / 2).mean()) if len(once) > 2 else 0.0
    prior, typical = math.inf, pooled
    if differ > polygamma(1, 1e4):
        half = float(brentq(lambda half: polygamma(1, half) - differ, 1e-2, 1e4))
        prior, typical = 2 * half, math.exp(z.mean() + digamma(half) - math.log(half))
    share = freedom / (freedom + prior)
    moderated = (1 - share) * typical + share * variance
    return SeedNoise(math.sqrt(pooled), int(d.sum()), (moderated.mean() / moderated).rename("weight"))


@dataclasses.dataclass(frozen=True)
class SeedNoise:
    """What repeated runs tell.

    Attributes:
        noise: relative, of one run: the pooled standard deviation of log loss.
        freedom: degrees of freedom behind it: runs less configurations.
        weights: of every run, in proportion to 1 / variance.
    """

    noise: float
    freedom: int
    weights: pd.Series


def profile(found: Fit, name: str, values: Sequence[float] | np.ndarray | None = None) -> pd.DataFrame:
    """The objective over one parameter, at its lowest over all others.

    Every value starts from the pool of the fit, and then from what its neighbours found, while any gains.

    Args:
        values: of the parameter; by default from end to end of its range, closely around the best.

    Returns:
        `value`, `objective`, and `rise`, the objective less that of the fit; below zero, the fit missed the minimum.

    Raises:
        InputError: the law has no such parameter, or it was given.
    """
    law = found.law
    if name not in law.parameters or name in found.fixed:
        raise InputError(f"profile: {law.name} has no free parameter '{name}'")
    index = law.parameters.index(name)
    tried = np.unique(_values(found, name) if values is None else np.asarray(values, float))
    there = np.log(tried) if law.on_log_scale[index] else tried
    problem = _problem(found, {name: float(tried[0])})
    pool = problem.centred(np.concatenate([found.theta[None], _problem(found).uncentred(found.minimum.starts)]))
    weights = found.runs.weights

    def lowest(starts: np.ndarray, search: Callable[..., tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """Of values x starts x parameters, each with its parameter set to the value."""
        starts[..., index] = there[:, None]
        theta, objective, _ = search(problem, starts.reshape(-1, starts.shape[2]), weights)
        objective = objective.reshape(starts.shape[:2])
        best = objective.argmin(axis=1)
        rows = np.arange(len(there))
        return theta.reshape(starts.shape)[rows, best], objective[rows, best]

    starts = []
    for value in there:
        here = pool.copy()
        here[:, index] = value
        starts.append(here[np.argsort(scores_of(problem, here, weights[None])[0])[:_CANDIDATES]])
    theta, objective = lowest(np.stack(starts), descend)
    for _ in range(_ROUNDS):
        beside = np.stack([np.roll(theta, 1, axis=0), np.roll(theta, -1, axis=0)], axis=1)
        again, lower = lowest(beside, functools.partial(polish, tolerance=1e-8))
        gained = lower < objective * (1 - 1e-6)
        if not gained.any():
            break
        theta[gained], objective[gained] = again[gained], lower[gained]
    return pd.DataFrame({"value": tried, "objective": objective, "rise": objective - found.objective})


@dataclasses.dataclass(frozen=True)
class Profiled:
    """What the profile of a parameter says.

    Attributes:
        interval: the values that the runs do not exclude; 0, or infinity, where they exclude none up to that end.
        flat: over which values the objective stays within 0.5 % of its lowest.
        identified: whether the runs determine the parameter at all.
        warning: in words, where they do not.
        table: see `profile`.
    """

    name: str
    interval: tuple[float, float]
    flat: tuple[float, float]
    identified: bool
    warning: str | None
    table: pd.DataFrame


def profiled(found: Fit, name: str, level: float | None = None) -> Profiled:
    """Profile likelihood of a parameter, and whether it is identified.

    A value is excluded where the objective rises by more than `dispersion`/2 times the quantile of F(1, n - p): the
    drop-in-dispersion test, a likelihood ratio for M-estimators (Schrader & Hettmansperger 1980, Biometrika 67:93;
    Hampel et al. 1986, sec. 7.2), scaled for runs that are not equally noisy (Kent 1982, Biometrika 69:19).
    """
    table = profile(found, name)
    threshold = _threshold(found, name, level)
    # Once more near the crossings: the root of the rise is nearly linear there (Bates & Watts 1988, sec. 6.1).
    bottom = int(table["objective"].argmin())
    for rise in (threshold, _FLAT * found.objective):
        edges = [edge for edge in _edges(table, bottom, rise) if edge is not None]
        value = table["value"].to_numpy(float)
        finer = [np.linspace(value[i], value[i + 1], 6)[1:-1] for i in edges]
        if finer:
            table = pd.concat([table, profile(found, name, np.concatenate(finer))]).sort_values("value")
            table = table.reset_index(drop=True)
            bottom = int(table["objective"].argmin())
    flat = _crossings(table, bottom, _FLAT * found.objective)
    low, high = _crossings(table, bottom, threshold)
    ends = (float(table["value"].iloc[0]), float(table["value"].iloc[-1]))
    wide = min(flat[1], ends[1]) >= _DECADE * max(flat[0], ends[0]) > 0
    if wide:
        # Where the last decade to an end hardly matters, nor does what lies beyond.
        level_off = [_levels_off(table, end, _FLAT * found.objective) for end in (0, -1)]
        low = -math.inf if level_off[0] else min(low, flat[0])
        high = math.inf if level_off[1] else max(high, flat[1])
    if low == -math.inf and ends[0] > 0:
        low = 0.0
    warning = None
    if wide:
        warning = (
            f"{name} is not identified: from {max(flat[0], ends[0]):.3g} to {min(flat[1], ends[1]):.3g} the objective "
            f"stays within {_FLAT:.1%} of its lowest"
        )
    elif open_ends := [word for word, end in (("below", low), ("above", high)) if end in (0.0, math.inf, -math.inf)]:
        warning = f"{name} is not identified: the runs give it no bound {' or '.join(open_ends)}"
    return Profiled(name, (low, high), flat, warning is None, warning, table)


def profile_interval(found: Fit, name: str, level: float | None = None) -> tuple[float, float]:
    """The values of a parameter that its profile does not exclude (see `profiled`); 0 or infinite at an open end."""
    return profiled(found, name, level).interval


def unidentified(found: Fit) -> list[Profiled]:
    """The shapes that the runs do not identify: first a look a root of ten to either side, then the whole profile."""
    flat = []
    for name, shape in found.law.shapes.items():
        if name in found.fixed or not found.parameters[name] > 0:
            continue
        aside = found.parameters[name] * np.sqrt(_DECADE) ** np.array([-1, 1])
        if shape.low > 0:
            aside = np.clip(aside, shape.low, shape.high)
        if (profile(found, name, aside)["rise"] < max(_FLAT * found.objective, _threshold(found, name))).any():
            flat.append(profiled(found, name))
    return [one for one in flat if not one.identified]


def delta_interval(
    found: Fit, at: str | Mapping[str, float], level: float | None = None, *, one_run: bool = False
) -> tuple[float, float]:
    """*Indicative* interval of a parameter, or of the loss at a point, by the delta method.

    From slopes at the optimum alone: it takes the law for linear there, and the interval for symmetric. It covers less
    often than it says; the bootstrap and the profile are what to report.

    Args:
        at: the name of a parameter; or of each variable's column the value: `{"params": 1e9, "tokens": 2e10}`.
        one_run: of what one run at the point would measure, not of the law itself.
    """
    from scipy.special import ndtri

    law, cov = found.law, covariance(found)
    if isinstance(at, str):
        found.check_name(at)
        index = law.parameters.index(at)
        centre, variance = float(found.theta[index]), float(cov[index, index])
        log = bool(law.on_log_scale[index])
    else:
        point = {name: np.array([float(at[column_of(name)])]) for name in law.variables}
        problem = law.problem(point, np.ones(1), found.loss, {})
        expansion = problem.expand(problem.centred(found.theta[None]))
        slope = problem.centred(np.eye(len(found.theta))) @ expansion.slope[0, :, 0]
        centre, variance, log = float(expansion.value[0, 0]), float(slope @ cov @ slope), True
        variance += found.noise**2 * one_run
    reach = float(ndtri((1 + (level or found.level)) / 2)) * math.sqrt(max(variance, 0))
    low, high = centre - reach, centre + reach
    return (float(np.exp(low)), float(np.exp(high))) if log else (low, high)


def covariance(found: Fit) -> np.ndarray:
    """Of theta, P x P; zero where a parameter was given. See `_sandwich`."""
    return _sandwich(found)[0]


def dispersion(found: Fit, name: str) -> float:
    """What a rise of the objective along one parameter is measured in: twice the rise over this is chi-squared. Of
    squared loss and equally noisy runs, the variance of a run."""
    index = found.law.parameters.index(name)
    cov, inverse = _sandwich(found)
    return float(cov[index, index] / max(inverse[index, index], 1e-300))


def _sandwich(found: Fit) -> tuple[np.ndarray, np.ndarray]:
    """H⁻¹ J H⁻¹, the covariance of an M-estimator, and H⁻¹ (Huber 1967): J of the pulls that each run has, or each
    group of runs where these were drawn together, and so whatever the noise of each.

    Where Huber's delta is small against the residuals, few of them, or none, show its stiffness; those within the
    bandwidth of a density estimate (Silverman 1986, eq. 3.31) stand for them.
    """
    problem, free = _problem(found), np.array([name not in found.fixed for name in found.law.parameters])
    slope = problem.expand(problem.centred(found.theta[None])).slope[0][free]
    loss, residual, weights = found.loss, -found.residuals, found.runs.weights
    quartiles = np.subtract(*np.quantile(residual, [0.75, 0.25])) / 1.34
    width = max(loss.delta, 0.9 * min(residual.std(), quartiles) * len(residual) ** -0.2)
    scale = min(1.0, loss.delta / width)
    near = dataclasses.replace(loss, delta=width).stiffness(residual) * scale
    # One stiffness for all: a Hessian of the few within delta would be noise. Where none is, as though one were.
    stiffness = max(float((weights * near).sum() / weights.sum()), scale / len(residual))
    hessian = stiffness * (slope * weights) @ slope.T
    scores = slope * weights * loss.pull(residual)
    if found.bootstrap == "cluster":
        scores = pd.DataFrame(scores.T).groupby(found.runs.table["group"].to_numpy()).sum().to_numpy().T
    root = np.sqrt(np.maximum(np.diagonal(hessian), 1e-300))
    values, vectors = np.linalg.eigh(hessian / np.outer(root, root))
    inverse = (vectors / np.maximum(values, 1e-14)) @ vectors.T / np.outer(root, root)
    # As a square, or rounding would leave variances below zero where the Hessian is all but singular.
    moved = inverse @ scores
    cov = moved @ moved.T * len(residual) / found.freedom
    back = problem.uncentred(np.eye(len(free)))[free]
    return back.T @ cov @ back, back.T @ inverse @ back


def _threshold(found: Fit, name: str, level: float | None = None) -> float:
    from scipy.special import fdtri  # of scipy.stats, which takes a second to import, this is all there is to it

    return dispersion(found, name) / 2 * float(fdtri(1, found.freedom, level or found.level))


def _problem(found: Fit, given: Mapping[str, float] | None = None) -> Problem:
    """The fit's problem, with further parameters given."""
    losses = found.runs.table["loss"].to_numpy()
    return found.law.problem(found.variables, losses, found.loss, {**found.fixed, **(given or {})})


def _values(found: Fit, name: str) -> np.ndarray:
    """Of a parameter, from end to end of its range, closely around the best."""
    index = found.law.parameters.index(name)
    log, best = bool(found.law.on_log_scale[index]), float(found.theta[index])
    around = math.sqrt(max(float(covariance(found)[index, index]), 0)) * np.concatenate([-_STEPS, [0], _STEPS]) + best
    low, high = around.min(), around.max()
    if shape := found.law.shapes.get(name):
        spread = shape.spread(np.linspace(0, 1, 17))
        spread = np.log(spread) if log else spread
        low, high = min(spread[0], best), max(spread[-1], best)
        around = np.concatenate([around, spread])
    elif log:
        low, high = best - np.log(_REACH), best + np.log(_REACH)
        around = np.concatenate([around, np.linspace(low, high, 13)])
        if name == "E":
            high = float(np.log(found.runs.table["loss"].max()))
    kept = np.unique(around[(around >= low) & (around <= high)])
    return np.exp(kept) if log else kept


def _edges(table: pd.DataFrame, bottom: int, rise: float) -> list[int | None]:
    """On either side of the lowest point, the interval of rows in which the objective has risen; None where never."""
    above = (table["objective"] - table["objective"].min()).to_numpy() > rise
    left, right = np.flatnonzero(above[:bottom]), np.flatnonzero(above[bottom:])
    # The outermost row within, so that bumps on the way are inside.
    return [
        int(np.flatnonzero(~above)[0]) - 1 if len(left) and above[0] else None,
        int(np.flatnonzero(~above)[-1]) if len(right) and above[-1] else None,
    ]


def _crossings(table: pd.DataFrame, bottom: int, rise: float) -> tuple[float, float]:
    """Where the objective has risen to either side; infinite where it never does."""
    root = np.sqrt(np.maximum((table["objective"] - table["objective"].min()).to_numpy(), 0))
    value, ends = table["value"].to_numpy(), [-math.inf, math.inf]
    for side, edge in enumerate(_edges(table, bottom, rise)):
        if edge is not None:
            pair = np.argsort(root[edge : edge + 2]) + edge
            ends[side] = float(np.interp(math.sqrt(rise), root[pair], value[pair]))
    return ends[0], ends[1]


def _levels_off(table: pd.DataFrame, end: int, rise: float) -> bool:
    value, objective = table["value"].to_numpy(), table["objective"].to_numpy()
    same_side = value * np.sign(value[end])  # a shape may run through 0: its decades are those of one sign
    last = (same_side * _DECADE * (1 + 1e-9) >= abs(value[end])) & (same_side <= _DECADE * (1 + 1e-9) * abs(value[end]))
    return bool(np.ptp(objective[last]) <= rise)
