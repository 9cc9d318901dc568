"""The minimiser of a fit: global starts by variable projection, finished by Levenberg-Marquardt.

Derivatives are exact, and every start and every resample is searched at once.

It minimises Σ_i w_i · loss(log L(θ; x_i) - log L_i), the objective of Hoffmann et al. 2022, sec. 3.3, as a sum.
Given the shapes, the other parameters are a linear least-squares problem; so points over the shapes alone, solved
exactly at each, replace the usual thousands of starts over all parameters.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

import numpy as np

from nextscale.fit.laws.law import Law, Problem

Init = Literal["projected", "grid", "quick"]
"""Where a search begins: `projected_starts` or `grid_starts`; `quick`, a quarter of the projected starts are followed,
which finds the same minimum but says less of others: for backtests, which fit hundreds of times."""

_POINTS = 576
_STARTS, _QUICK_STARTS, _REFINED = 16, 4, 32
_GAUSS_NEWTON_STEPS, _STEPS = 8, 192
_TOLERANCE, _QUICK_TOLERANCE = 1e-12, 1e-9
"""Of the objective, relative; parameters are then known to a millionth of their scatter, and to a thirty thousandth."""
_MANY = 600
_TINY = np.log(1e-30)


@dataclasses.dataclass(frozen=True)
class Minimum:
    """The lowest point found, and what the other starts say of it.

    Attributes:
        theta: in the coordinates of the problem.
        objective: the sum of losses there.
        gradient_norm: of the objective by the free parameters there.
        condition: of the Hessian there, scaled to a unit diagonal.
        polished: how many starts were followed to their end.
        agreement: the share of these that end within 1e-6 (relative) of the objective.
        second_basin: the lowest objective found elsewhere, or None when all starts agree.
        starts: theta of every start, after the best: the pool for resamples.
    """

    theta: np.ndarray
    objective: float
    gradient_norm: float
    condition: float
    polished: int
    agreement: float
    second_basin: float | None
    starts: np.ndarray


def minimise(
    problem: Problem,
    weights: np.ndarray,
    *,
    starts: np.ndarray | None = None,
    pool: np.ndarray | None = None,
    quick: bool = False,
) -> Minimum:
    """The global minimum of the weighted objective (weights: n).

    Args:
        starts: polish all of these, S x parameters, instead of the best of the projected ones.
        pool: what to choose from in place of these, S x parameters.
        quick: polish fewer, and to fewer digits.
    """
    pool = pool if starts is None else starts
    if pool is None:
        pools, scored = projected_starts(problem, weights[None])
        pool, scores = pools[0], scored[0]
    else:
        scores = scores_of(problem, pool, weights[None])[0]
    if starts is None and np.isfinite(scores).any():
        pool, scores = pool[np.isfinite(scores)], scores[np.isfinite(scores)]
    followed = None if starts is not None else _QUICK_STARTS if quick else _STARTS
    theta = pool[np.argsort(scores)[:followed]]
    theta, objective, gradient = descend(problem, theta, weights, _QUICK_TOLERANCE if quick else _TOLERANCE)
    best = int(objective.argmin())
    same = objective <= objective[best] * (1 + 1e-6) + 1e-15
    return Minimum(
        theta=theta[best],
        objective=float(objective[best]),
        gradient_norm=float(np.linalg.norm(gradient[best])),
        condition=_condition(problem, theta[best], weights),
        polished=len(theta),
        agreement=float(same.mean()),
        second_basin=None if same.all() else float(objective[~same].min()),
        starts=np.concatenate([theta[best : best + 1], pool]),
    )


def minima_within(problem: Problem, weights: np.ndarray) -> np.ndarray:
    """The minimum under each of W rows of weights, many of them 0, by a quick search each (see `Init`): as if each
    were a problem of its own of the runs that it weighs, and all are polished together.

    Args:
        weights: W x n.

    Returns:
        theta in the coordinates of the problem, W x parameters; not numbers where the law gives none.
    """
    pools, scores = projected_starts(problem, weights, _REFINED)
    starts = np.take_along_axis(pools, scores.argsort(axis=1)[:, :_QUICK_STARTS, None], axis=1)
    widest = np.array([_widenings(problem, own[:1], row > 0) for own, row in zip(starts, weights, strict=True)])
    found = np.full((len(weights), starts.shape[2]), np.nan)
    for widenings in np.unique(widest):
        here = np.flatnonzero(widest == widenings)
        each = np.repeat(weights[here], _QUICK_STARTS, axis=0)
        theta, objective, _ = descend(
            problem, starts[here].reshape(len(each), -1), each, _QUICK_TOLERANCE, widenings=widenings
        )
        best = objective.reshape(len(here), _QUICK_STARTS).argmin(axis=1)
        rows = np.arange(len(here))
        lowest = objective.reshape(len(here), _QUICK_STARTS)[rows, best]
        within = theta.reshape(len(here), _QUICK_STARTS, -1)[rows, best]
        found[here] = np.where(np.isfinite(lowest)[:, None], within, np.nan)
    return found


def minimise_resamples(
    problem: Problem, weights: np.ndarray, pool: np.ndarray, *, targets: np.ndarray | None = None, candidates: int = 3
) -> np.ndarray:
    """The minimum of each of R resamples, given as weights: one matrix product scores every start of the pool on
    every resample, and the best few are polished.

    Args:
        weights: R x n.
        pool: S x parameters.
        targets: R x n, where resamples have log losses of their own.

    Returns:
        theta in the coordinates of the problem, R x parameters.
    """
    # The optimum of all runs is a start for every resample, with the best of the rest.
    many = len(problem.target) > _MANY
    scores = scores_of(problem, pool[1:], weights)
    rest = np.argsort(scores, axis=1)[:, : min(candidates, 2 if many else candidates) - 1]
    chosen = np.concatenate([np.zeros((len(weights), 1), int), 1 + rest], axis=1)
    count = chosen.shape[1]
    # Of many runs, what is best half-way is best at the end, and that alone is followed there.
    theta, objective, _ = polish(
        problem,
        pool[chosen.ravel()],
        np.repeat(weights, count, axis=0),
        targets=None if targets is None else np.repeat(targets, count, axis=0),
        tolerance=1e-3 if many else 1e-8,
    )
    best = objective.reshape(-1, count).argmin(axis=1)
    found = theta.reshape(len(weights), count, -1)[np.arange(len(weights)), best]
    return polish(problem, found, weights, targets=targets, tolerance=1e-8)[0] if many else found


def grid_starts(law: Law, problem: Problem, per_axis: Mapping[str, np.ndarray]) -> np.ndarray:
    """Every combination of the given values of each parameter of the law, as the usual grids of starts have them.

    Args:
        per_axis: by parameter, values on the scale that is optimised (logarithms of coefficients).
    """
    grid = itertools.product(*(per_axis[name] for name in law.parameters))
    return problem.centred(np.array(list(grid), float))


@np.errstate(over="ignore", invalid="ignore")
def projected_starts(problem: Problem, weights: np.ndarray, best: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """At points spread over the shapes, the linear parameters that fit best: three rounds of weighted least squares,
    reweighted towards the loss.

    Args:
        weights: W x n.
        best: only so many points of each row, those that the first round leaves nearest.

    Returns:
        theta for each row of weights, W x S x parameters; and their objectives, W x S, infinite where they are no
        numbers.
    """
    law = problem.law
    names, linear = law.parameters, len(law.coefficients) + len(law.log_linear)
    shapes = _shape_points(problem)
    given = np.array([name in problem.fixed for name in names[:linear]], bool)
    known = np.array([problem.fixed.get(name, 0.0) for name in names[:linear]])
    basis, zero = problem.basis(shapes)
    zero = zero + np.einsum("k,skn->sn", known[given], basis[:, given])
    basis = basis[:, ~given]
    aim = (problem.target - zero) if law.log_linear else 1 - zero
    for array in (basis, aim):
        if not np.isfinite(array).all():
            np.nan_to_num(array, copy=False, posinf=0.0, neginf=0.0)
    S = min(best or len(shapes), len(shapes))
    theta, scores = np.empty((len(weights), S, len(names))), np.empty((len(weights), S))
    for i, row in enumerate(weights):
        here = slice(None) if row.all() else np.flatnonzero(row)
        rows, found, scores[i] = _linear_parameters(problem, basis[..., here], aim[:, here], row[here], S)
        inner = np.empty((S, linear))
        inner[:, ~given], inner[:, given] = found, known[given]
        theta[i, :, :linear], theta[i, :, linear:] = inner if law.log_linear else np.log(inner), shapes[rows]
    return theta, np.where(np.isfinite(scores), scores, np.inf)


def _linear_parameters(
    problem: Problem, basis: np.ndarray, aim: np.ndarray, weights: np.ndarray, best: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What brings a basis, S x K x n, nearest to an aim, S x n, at the best so many of S points: which these are, their
    linear parameters, x K, and their objectives."""
    log_linear = bool(problem.law.log_linear)
    rows: np.ndarray = np.arange(len(basis))
    scale = np.sqrt(np.square(basis).mean(axis=2, keepdims=True))
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    basis = basis / scale

    def objective(residual: np.ndarray) -> np.ndarray:
        return np.asarray(problem.loss(residual if log_linear else np.log1p(residual)) @ weights)

    def beside(found: np.ndarray) -> np.ndarray:
        return np.asarray(np.matmul(found[:, None], basis)[:, 0] - aim)

    found = np.zeros(basis.shape[:2])
    if basis.shape[1]:
        reweighted = np.broadcast_to(weights, aim.shape)
        for last in (False, False, True):
            weighted = basis * reweighted[:, None]
            normal = np.matmul(weighted, basis.transpose(0, 2, 1)) + 1e-12 * weights.sum() * np.eye(basis.shape[1])
            found = np.linalg.solve(normal, np.matmul(weighted, aim[..., None]))[..., 0]
            if not last:
                residual = beside(found if log_linear else np.maximum(found, 0))
                if best < len(rows):
                    kept = np.argsort(np.nan_to_num(objective(residual), nan=np.inf))[:best]
                    rows, scale, residual = rows[kept], scale[kept], residual[kept]
                    basis, aim = basis[kept], aim[kept]
                reweighted = weights * problem.loss.weight(residual)
    # A coefficient that wants to be negative starts small instead.
    found = found if log_linear else np.maximum(found, 1e-3)
    return rows[:best], (found / scale[..., 0])[:best], objective(beside(found))[:best]


def _shape_points(problem: Problem) -> np.ndarray:
    """Points over the ranges of the shapes, on the scale that is optimised: a grid of up to two, else a sequence."""
    law = problem.law
    open_ = [name for name in law.shapes if name not in problem.fixed]
    if len(open_) <= 2:
        per_axis = round(_POINTS ** (1 / max(1, len(open_))))
        axes = [law.shapes[name].spread(np.linspace(0, 1, per_axis)) for name in open_]
        points = np.array(list(itertools.product(*axes)), float).reshape(per_axis ** len(open_), len(open_))
    else:
        shares = _spread_evenly(1 << (9 + len(open_) // 3), len(open_))
        points = np.stack([law.shapes[name].spread(shares[:, i]) for i, name in enumerate(open_)], axis=1)
    shapes = np.empty((len(points), len(law.shapes)))
    for i, (name, shape) in enumerate(law.shapes.items()):
        values = points[:, open_.index(name)] if name in open_ else np.full(len(points), problem.fixed[name])
        shapes[:, i] = np.log(values) if shape.positive else values
    return shapes


def _spread_evenly(count: int, dimensions: int) -> np.ndarray:
    """Points of the unit cube that leave no large gaps, count x dimensions: an additive recurrence by powers of the
    generalised golden ratio (Roberts 2018, "The unreasonable effectiveness of quasirandom sequences"). Those of
    `scipy.stats` are no better here, and take a second to import."""
    ratio = 1.5
    for _ in range(50):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = ratio ** -np.arange(1.0, dimensions + 1)
    return (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1


@np.errstate(over="ignore", invalid="ignore")
def scores_of(problem: Problem, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The objective of every theta under every row of weights, R x S; infinite where it is not a number."""
    scores = weights @ problem.loss(problem.values(theta) - problem.target).T
    return np.where(np.isfinite(scores), scores, np.inf)


def _widenings(problem: Problem, theta: np.ndarray, of: np.ndarray | slice = slice(None)) -> int:
    """How many times ten deltas fit into the median residual, of some runs, at 1 x parameters."""
    residual = np.median(np.abs(problem.values(theta)[0] - problem.target)[of])
    return int(np.log10(max(residual / problem.loss.delta, 1))) if np.isfinite(residual) else 0


def descend(
    problem: Problem,
    theta: np.ndarray,
    weights: np.ndarray,
    tolerance: float = _TOLERANCE,
    *,
    widenings: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`polish`, from starts that may lie far off, best first: straight, and through wider losses, whichever ends lower.
    Only the second crosses kinks, but it leads every start to the same of the many minima that they make.

    Args:
        widenings: through how many, of deltas that fall tenfold to its own: where residuals dwarf delta the objective
            is all kinks, and is approached through smoother ones. By the best start, unless given.
    """
    straight = polish(problem, theta, weights, tolerance=tolerance)
    widenings = _widenings(problem, theta[:1]) if widenings is None else widenings
    if not widenings:
        return straight
    for k in range(widenings, 0, -1):
        wider = dataclasses.replace(problem.loss, delta=problem.loss.delta * 10.0**k, scale=1.0)
        theta, _, _ = polish(dataclasses.replace(problem, loss=wider), theta, weights, tolerance=tolerance)
    through = polish(problem, theta, weights, tolerance=tolerance)
    lower = through[1] < straight[1]
    theta, gradient = (np.where(lower[:, None], through[i], straight[i]) for i in (0, 2))
    return theta, np.minimum(through[1], straight[1]), gradient


def polish(
    problem: Problem,
    theta: np.ndarray,
    weights: np.ndarray,
    *,
    targets: np.ndarray | None = None,
    tolerance: float = _TOLERANCE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levenberg-Marquardt from every start: Gauss-Newton with the loss's weights first, then the exact Hessian,
    damped in proportion to the diagonal, until two steps in a row gain less than `tolerance` (relative).

    Args:
        theta: S x parameters.
        weights: S x n, or n for all alike.
        targets: S x n, where starts have log losses of their own.

    Returns:
        theta, S x parameters; objective, S; gradient, S x parameters.
    """
    search = _Search(problem, theta, weights, problem.target if targets is None else targets, tolerance)
    last, together = len(theta), problem.at_once
    for first in range(0, last, together):
        rows = np.arange(first, min(first + together, last))
        search.begin(rows, exact=False)
        for _ in range(_GAUSS_NEWTON_STEPS):
            search.step(rows, exact=False)
        search.begin(rows, exact=True)
    # Whoever comes to an end makes room for the next.
    rows = np.arange(min(together, last))
    waiting = len(rows)
    while len(rows):
        search.step(rows, exact=True)
        on = rows[(search.stalled[rows] < 2) & (search.steps[rows] < _STEPS)]
        rows = np.concatenate([on, np.arange(waiting, min(waiting + together - len(on), last))])
        waiting += len(rows) - len(on)
    return search.theta, search.objective, search.gradient


class _Search:
    """Starts on their way down; each goes its own way, whichever others are moved together with it.

    Attributes:
        theta, objective, gradient, hessian: where each is, and what is known there.
        damping: of its next step.
        stalled: how many steps in a row gained too little.
        steps: how many were made since it began.
    """

    def __init__(self, problem: Problem, theta: np.ndarray, weights: np.ndarray, aims: np.ndarray, tolerance: float):
        self.problem, self.tolerance, self.theta = problem, tolerance, theta.copy()
        (S, P), n = theta.shape, len(problem.target)
        self.weights, self.aims = np.broadcast_to(weights, (S, n)), np.broadcast_to(aims, (S, n))
        self.objective, self.gradient, self.hessian = np.empty(S), np.empty((S, P)), np.empty((S, P, P))
        self.damping, self.stalled, self.steps = np.empty(S), np.zeros(S, int), np.zeros(S, int)

    def begin(self, rows: np.ndarray, *, exact: bool) -> None:
        at = self.theta[rows], self.weights[rows], self.aims[rows]
        self.objective[rows], self.gradient[rows], self.hessian[rows] = derivatives(self.problem, *at, exact=exact)
        self.damping[rows], self.stalled[rows], self.steps[rows] = 1e-3, 0, 0

    @np.errstate(invalid="ignore")
    def step(self, rows: np.ndarray, *, exact: bool) -> None:
        objective, gradient = self.objective[rows], self.gradient[rows]
        move = _newton_step(self.hessian[rows], self.damping[rows], gradient)
        promised = (move * gradient).sum(axis=1) / np.maximum(objective, 1e-300)
        trial = self.theta[rows] - np.clip(move, -3, 3)
        K = len(self.problem.law.coefficients)
        trial[:, :K] = np.maximum(trial[:, :K], _TINY)
        found = derivatives(self.problem, trial, self.weights[rows], self.aims[rows], exact=exact)
        better = found[0] < objective
        gain = np.where(better, (objective - found[0]) / np.maximum(objective, 1e-300), 0)
        improved = rows[better]
        self.theta[improved], self.objective[improved] = trial[better], found[0][better]
        self.gradient[improved], self.hessian[improved] = found[1][better], found[2][better]
        self.damping[rows] = np.clip(np.where(better, self.damping[rows] / 5, self.damping[rows] * 4), 1e-12, 1e12)
        small = np.where(better, gain, promised) < self.tolerance
        self.stalled[rows] = np.where(small, self.stalled[rows] + 1, 0)
        self.steps[rows] += 1


@np.errstate(over="ignore", invalid="ignore")
def derivatives(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, aims: np.ndarray, *, exact: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective, gradient and Hessian (or its Gauss-Newton part, with the loss's weights) at each theta, by the free
    parameters; infinite where the law gives no number."""
    loss, cells = problem.loss, problem.cells
    distinct = problem if cells is None else cells.distinct
    at = distinct.expand(theta)
    residual = (at.value if cells is None else at.value[:, cells.of]) - aims

    def summed(values: np.ndarray) -> np.ndarray:
        return values if cells is None else cells.sums(values)

    objective = (weights * loss(residual)).sum(axis=1)
    pull = summed(weights * loss.pull(residual))
    gradient = np.einsum("spn,sn->sp", at.slope, pull)
    if exact:
        hessian = distinct.hessian(theta, at, pull, summed(weights * loss.stiffness(residual)))
    else:
        slopes = at.slope * summed(weights * loss.weight(residual))[:, None]
        hessian = np.matmul(slopes, at.slope.transpose(0, 2, 1))
    sound = np.isfinite(objective) & np.isfinite(gradient).all(axis=1) & np.isfinite(hessian).all(axis=(1, 2))
    if not sound.all():
        objective = np.where(sound, objective, np.inf)
        gradient, hessian = np.where(sound[:, None], gradient, 0), np.where(sound[:, None, None], hessian, 0)
    if problem.fixed:
        given = ~problem.free
        gradient[:, given] = 0
        hessian[:, given], hessian[:, :, given] = 0, 0
        hessian[:, given, given] = 1
    return objective, gradient, hessian


def _newton_step(hessian: np.ndarray, damping: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The damped step, negative curvature turned positive, in the metric of the Hessian's diagonal."""
    scaled, root = _unit_diagonal(hessian)
    values, vectors = np.linalg.eigh(scaled)
    values = np.maximum(np.abs(values), 1e-12) + damping[:, None]
    projected = np.einsum("spq,sp->sq", vectors, gradient / root) / values
    return np.einsum("spq,sq->sp", vectors, projected) / root


def _unit_diagonal(hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    diagonal = np.abs(np.diagonal(hessian, axis1=1, axis2=2))
    root = np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
    return hessian / (root[:, :, None] * root[:, None, :]), root


def _condition(problem: Problem, theta: np.ndarray, weights: np.ndarray) -> float:
    """Of the Gauss-Newton Hessian: how much better the best-known direction is known than the worst."""
    _, _, hessian = derivatives(problem, theta[None], weights[None], problem.target[None], exact=False)
    free = problem.free
    if not free.any():
        return 1.0
    values = np.linalg.eigvalsh(_unit_diagonal(hessian[:, free][:, :, free])[0])[0]
    return float(values[-1] / max(values[0], 1e-300))
