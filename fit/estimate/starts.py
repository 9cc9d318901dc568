"""Where a search for the minimum of a fit begins.

Given the shapes, the other parameters are a linear least-squares problem; so points over the shapes alone, solved
exactly at each, replace the usual thousands of starts over all parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.laws.law import Problem
from nextscale.fit.laws.loss import Loss
from nextscale.fit.laws.sum_of_powers import SumOfPowers

_POINTS = 576


def usual_grid(problem: Problem) -> np.ndarray:
    """The starts of Hoffmann et al. 2022, app. D.3, as Besiroglu et al. 2024 spell them out.

    Raises:
        InputError: the law is no sum of powers.
    """
    law = problem.law
    if not isinstance(law, SumOfPowers):
        raise InputError(f"init: the usual grid is one for sums of powers; {law.name} is none")
    axes = {term.coefficient: np.arange(0, 26, 5) if term.powers else np.arange(-1, 1.5, 0.5) for term in law.terms}
    axes |= dict.fromkeys(law.shapes, np.arange(0, 2.5, 0.5))
    grid = itertools.product(*(axes[name] for name in law.parameters))
    return problem.centred(np.array(list(grid), float))


@np.errstate(over="ignore", invalid="ignore")
def projected_starts(
    problem: Problem, weights: np.ndarray, losses: Sequence[Loss], best: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """At points spread over the shapes, the linear parameters that fit best: three rounds of weighted least squares,
    reweighted towards each loss.

    Args:
        weights: W x n.
        best: only so many points of each row, those that the first round leaves nearest.

    Returns:
        theta for each of L losses and row of weights, L x W x S x parameters; and their objectives, L x W x S, infinite
        where they are no numbers.
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
    theta = np.empty((len(losses), len(weights), S, len(names)))
    scores = np.empty(theta.shape[:3])
    for i, row in enumerate(weights):
        here = slice(None) if row.all() else np.flatnonzero(row)
        nearest = _linear_parameters(basis[..., here], aim[:, here], row[here], losses, S, bool(law.log_linear))
        for k, (rows, found, own) in enumerate(nearest):
            inner = np.empty((S, linear))
            inner[:, ~given], inner[:, given] = found, known[given]
            theta[k, i, :, :linear], theta[k, i, :, linear:] = inner if law.log_linear else np.log(inner), shapes[rows]
            scores[k, i] = own
    return theta, np.where(np.isfinite(scores), scores, np.inf)


def _linear_parameters(
    basis: np.ndarray, aim: np.ndarray, weights: np.ndarray, losses: Sequence[Loss], best: int, log_linear: bool
) -> Iterator[tuple[np.ndarray | slice, np.ndarray, np.ndarray]]:
    """What brings a basis, S x K x n, nearest to an aim, S x n, by each loss at the best so many of S points: which
    these are, their linear parameters, x K, and their objectives."""
    scale = np.sqrt(np.square(basis).mean(axis=2, keepdims=True))
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    basis = basis / scale
    ridge = 1e-12 * weights.sum()
    # The first round is the same for every loss.
    first = _least_squares(basis, aim, np.broadcast_to(weights, aim.shape), ridge)
    beside = _residuals(first if log_linear else np.maximum(first, 0), basis, aim)
    logs = beside if log_linear else np.log1p(beside)
    rows: np.ndarray | slice = slice(None)
    for loss in losses:
        if best < len(basis):
            rows = np.argsort(np.nan_to_num(loss(logs) @ weights, nan=np.inf))[:best]
        own, goal = basis[rows], aim[rows]
        found = _least_squares(own, goal, weights * loss.weight(beside[rows]), ridge)
        nearer = _residuals(found if log_linear else np.maximum(found, 0), own, goal)
        found = _least_squares(own, goal, weights * loss.weight(nearer), ridge)
        # A coefficient that wants to be negative starts small instead.
        found = found if log_linear else np.maximum(found, 1e-3)
        residual = _residuals(found, own, goal)
        yield rows, found / scale[rows, :, 0], loss(residual if log_linear else np.log1p(residual)) @ weights


def _least_squares(basis: np.ndarray, aim: np.ndarray, weights: np.ndarray, ridge: float) -> np.ndarray:
    """The linear parameters of each of S points, S x K; weights are S x n."""
    if not basis.shape[1]:
        return np.zeros(basis.shape[:2])
    weighted = basis * weights[:, None]
    normal = np.matmul(weighted, basis.transpose(0, 2, 1)) + ridge * np.eye(basis.shape[1])
    return np.asarray(np.linalg.solve(normal, np.matmul(weighted, aim[..., None]))[..., 0])


def _residuals(found: np.ndarray, basis: np.ndarray, aim: np.ndarray) -> np.ndarray:
    return np.asarray(np.matmul(found[:, None], basis)[:, 0] - aim)


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
