"""The minimiser of a fit: global starts by variable projection, finished by Levenberg-Marquardt.

Derivatives are exact, and every start and every resample is searched at once.

It minimises Σ_i w_i · loss(log L(θ; x_i) - log L_i), the objective of Hoffmann et al. 2022, sec. 3.3, as a sum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from nextscale.fit.estimate.starts import projected_starts
from nextscale.fit.laws.law import Problem
from nextscale.fit.laws.loss import Loss, Losses

Init = Literal["projected", "grid", "quick"]
"""Where a search begins: `projected_starts`, or the usual grid (`starts.py`); `quick`, a quarter of the projected
starts are followed, which finds the same minimum but says less of others: for backtests, which fit many times."""

_STARTS, _QUICK_STARTS, _REFINED = 16, 4, 32
_GAUSS_NEWTON_STEPS, _STEPS, FEW_STEPS = 8, 192, 24
"""Before the exact Hessian is used, and after it: at most, and where only a start for another search is wanted."""
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
    quick: bool = False,
) -> Minimum:
    """The global minimum of the weighted objective (weights: n).

    Args:
        starts: polish all of these, S x parameters, instead of the best of the projected ones.
        quick: polish fewer, and to fewer digits.
    """
    if starts is not None:
        pool, scores = starts, scores_of(problem, starts, weights[None])[0]
    else:
        pools, scored = projected_starts(problem, weights[None], [problem.loss])
        known = np.isfinite(scored[0, 0]) if np.isfinite(scored).any() else slice(None)
        pool, scores = pools[0, 0][known], scored[0, 0][known]
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


def minima_within(problem: Problem, weights: np.ndarray, losses: Sequence[Loss]) -> np.ndarray:
    """The minimum of each of L losses under each of W rows of weights, many of them 0, by a quick search each (see
    `Init`): as if each were a problem of its own of the runs that it weighs, and all are polished together.

    Args:
        weights: W x n.

    Returns:
        theta in the coordinates of the problem, L x W x parameters; not numbers where the law gives none.
    """
    pools, scores = projected_starts(problem, weights, losses, _REFINED)
    L, W, _, P = pools.shape
    theta = np.take_along_axis(pools, scores.argsort(axis=2)[..., :_QUICK_STARTS, None], axis=2).reshape(-1, P)
    each = Losses.of([loss for loss in losses for _ in range(len(theta) // L)])
    of = np.tile(np.repeat(weights, len(theta) // (L * W), axis=0), (L, 1))
    # See `descend`; here all go through wider losses, each by its own residuals.
    residual = np.abs(problem.values(theta) - problem.target)
    typical = np.nanmedian(np.where(of > 0, residual, np.nan), axis=1)
    widenings = np.rint(np.log10(np.maximum(np.nan_to_num(typical / each.delta[:, 0], posinf=1.0), 1)))
    for k in range(int(widenings.max()), 0, -1):
        rows = np.flatnonzero(widenings >= k)
        wider = each.rows(rows).wider(10.0**k)
        theta[rows], _, _ = polish(problem, theta[rows], of[rows], tolerance=1e-4, loss=wider, steps=FEW_STEPS)
    theta, objective, _ = polish(problem, theta, of, tolerance=_QUICK_TOLERANCE, loss=each)
    objective = objective.reshape(L * W, -1)
    best, rows = objective.argmin(axis=1), np.arange(L * W)
    found = theta.reshape(L * W, -1, P)[rows, best]
    return np.where(np.isfinite(objective[rows, best])[:, None], found, np.nan).reshape(L, W, P)


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


@np.errstate(over="ignore", invalid="ignore")
def scores_of(problem: Problem, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The objective of every theta under every row of weights, R x S; infinite where it is not a number."""
    scores = weights @ problem.loss(problem.values(theta) - problem.target).T
    return np.where(np.isfinite(scores), scores, np.inf)


def descend(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, tolerance: float = _TOLERANCE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`polish`, from starts that may lie far off, best first: straight, and through wider losses, whichever ends lower.
    Only the second crosses kinks, but it leads every start to the same of the many minima that they make."""
    straight = polish(problem, theta, weights, tolerance=tolerance)
    # Where residuals dwarf delta the objective is all kinks, and is approached through smoother ones.
    residual = np.median(np.abs(problem.values(theta[:1])[0] - problem.target))
    widenings = int(np.log10(max(residual / problem.loss.delta, 1))) if np.isfinite(residual) else 0
    if not widenings:
        return straight
    for k in range(widenings, 0, -1):
        theta, _, _ = polish(problem, theta, weights, tolerance=tolerance, loss=problem.loss.wider(10.0**k))
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
    loss: Loss | Losses | None = None,
    steps: int = _STEPS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levenberg-Marquardt from every start: Gauss-Newton with the loss's weights first, then the exact Hessian,
    damped in proportion to the diagonal, until two steps in a row gain less than `tolerance` (relative).

    Args:
        theta: S x parameters.
        weights: S x n, or n for all alike.
        targets: S x n, where starts have log losses of their own.
        loss: other than the problem's, or one for each start.
        steps: at most so many by the exact Hessian.

    Returns:
        theta, S x parameters; objective, S; gradient, S x parameters.
    """
    aims, loss = problem.target if targets is None else targets, problem.loss if loss is None else loss
    search = _Search(problem, theta, weights, aims, loss, tolerance)
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
        on = rows[(search.stalled[rows] < 2) & (search.steps[rows] < steps)]
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

    def __init__(
        self,
        problem: Problem,
        theta: np.ndarray,
        weights: np.ndarray,
        aims: np.ndarray,
        loss: Loss | Losses,
        tolerance: float,
    ):
        self.problem, self.loss, self.tolerance, self.theta = problem, loss, tolerance, theta.copy()
        (S, P), n = theta.shape, len(problem.target)
        self.weights, self.aims = np.broadcast_to(weights, (S, n)), np.broadcast_to(aims, (S, n))
        self.objective, self.gradient, self.hessian = np.empty(S), np.empty((S, P)), np.empty((S, P, P))
        self.damping, self.stalled, self.steps = np.empty(S), np.zeros(S, int), np.zeros(S, int)

    def begin(self, rows: np.ndarray, *, exact: bool) -> None:
        found = self._derivatives(rows, self.theta[rows], exact=exact)
        self.objective[rows], self.gradient[rows], self.hessian[rows] = found
        self.damping[rows], self.stalled[rows], self.steps[rows] = 1e-3, 0, 0

    @np.errstate(invalid="ignore")
    def step(self, rows: np.ndarray, *, exact: bool) -> None:
        objective, gradient = self.objective[rows], self.gradient[rows]
        move = _newton_step(self.hessian[rows], self.damping[rows], gradient)
        promised = (move * gradient).sum(axis=1) / np.maximum(objective, 1e-300)
        trial = self.theta[rows] - np.clip(move, -3, 3)
        K = len(self.problem.law.coefficients)
        trial[:, :K] = np.maximum(trial[:, :K], _TINY)
        found = self._derivatives(rows, trial, exact=exact)
        better = found[0] < objective
        gain = np.where(better, (objective - found[0]) / np.maximum(objective, 1e-300), 0)
        improved = rows[better]
        self.theta[improved], self.objective[improved] = trial[better], found[0][better]
        self.gradient[improved], self.hessian[improved] = found[1][better], found[2][better]
        self.damping[rows] = np.clip(np.where(better, self.damping[rows] / 5, self.damping[rows] * 4), 1e-12, 1e12)
        small = np.where(better, gain, promised) < self.tolerance
        self.stalled[rows] = np.where(small, self.stalled[rows] + 1, 0)
        self.steps[rows] += 1

    def _derivatives(
        self, rows: np.ndarray, theta: np.ndarray, *, exact: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = self.weights[rows], self.aims[rows], self.loss.rows(rows)
        return derivatives(self.problem, theta, *at, exact=exact)


@np.errstate(over="ignore", invalid="ignore")
def derivatives(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, aims: np.ndarray, loss: Loss | Losses, *, exact: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective, gradient and Hessian (or its Gauss-Newton part, with the loss's weights) at each theta, by the free
    parameters; infinite where the law gives no number."""
    cells = problem.cells
    distinct = problem if cells is None else cells.distinct
    at = distinct.expand(theta)
    residual = (at.value if cells is None else at.value[:, cells.of]) - aims

    def summed(values: np.ndarray) -> np.ndarray:
        return values if cells is None else cells.sums(values)

    objective = (weights * loss(residual)).sum(axis=1)
    pull = summed(weights * loss.pull(residual))
    gradient = np.einsum("spn,sn->sp", at.slope, pull)
    if exact:
        bent, stiffness = pull, weights * loss.stiffness(residual)
        # Where no run lies within delta the loss has no curvature, and that of the parabolas that touch it is taken.
        flat = ~stiffness.any(axis=1)
        if flat.any():
            bent = np.where(flat[:, None], 0, bent)
            stiffness = np.where(flat[:, None], weights * loss.weight(residual), stiffness)
        hessian = distinct.hessian(theta, at, bent, summed(stiffness))
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
    _, _, hessian = derivatives(problem, theta[None], weights[None], problem.target[None], problem.loss, exact=False)
    free = problem.free
    if not free.any():
        return 1.0
    values = np.linalg.eigvalsh(_unit_diagonal(hessian[:, free][:, :, free])[0])[0]
    return float(values[-1] / max(values[0], 1e-300))
