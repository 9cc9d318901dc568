"""The estimator: variable projection for starts, Levenberg-Marquardt with exact derivatives to finish, every
start and every resample at once.

It minimises Σ_i w_i · Huber_δ(log L(θ; x_i) - log L_i), the objective of Hoffmann et al. 2022, sec. 3.3, as a sum.
Given the exponents, the coefficients are a linear least-squares problem; so a grid over the exponents alone,
solved exactly at each point, replaces the usual thousands of starts over all parameters.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from nextscale.fit.laws import Law

_EXPONENTS = (0.03, 2.5)
_GRID_POINTS = 576
_STARTS = 16
_GAUSS_NEWTON_STEPS, _STEPS = 8, 200
_CACHE_FLOATS = 60_000
_TINY = np.log(1e-30)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A law on n runs, with logarithms centred so that coefficients and exponents are nearly uncorrelated.

    Attributes:
        design: n x terms x parameters, of the centred variables.
        target: log loss, n.
        delta: where Huber's loss turns from squared to absolute.
        centre: mean log of each variable.
    """

    law: Law
    design: np.ndarray
    target: np.ndarray
    delta: float
    centre: dict[str, float]

    @classmethod
    def of(cls, law: Law, variables: dict[str, np.ndarray], loss: np.ndarray, delta: float) -> Problem:
        logs = {name: np.log(variables[name]) for name in law.variables}
        centre = {name: float(log.mean()) for name, log in logs.items()}
        return cls(law, law.design({k: v - centre[k] for k, v in logs.items()}), np.log(loss), delta, centre)

    @property
    def entries(self) -> list[tuple[int, int]]:
        """Which (term, parameter) pairs of the design are not zero."""
        parameters = self.law.parameters
        return [
            (k, parameters.index(name))
            for k, term in enumerate(self.law.terms)
            for name in (term.coefficient, *term.exponents.values())
        ]

    def uncentred(self, theta: np.ndarray) -> np.ndarray:
        """Parameters of the variables themselves, from those of the centred ones (... x parameters)."""
        return theta @ self._shift(+1)

    def centred(self, theta: np.ndarray) -> np.ndarray:
        """The inverse of `uncentred`."""
        return theta @ self._shift(-1)

    def _shift(self, sign: int) -> np.ndarray:
        names = self.law.parameters
        shift = np.eye(len(names))
        for k, term in enumerate(self.law.terms):
            for variable, exponent in term.exponents.items():
                shift[names.index(exponent), k] += sign * self.centre[variable]
        return shift


@dataclasses.dataclass(frozen=True)
class Minimum:
    """The lowest point found, and what the other starts say of it.

    Attributes:
        theta: log coefficients, then exponents, of the centred variables.
        objective: the sum of Huber losses there.
        gradient_norm: of the objective by the parameters there.
        agreement: share of the starts that end within 1e-6 (relative) of the objective.
        second_basin: the lowest objective found elsewhere, or None when all starts agree.
        starts: theta of every start, before the last polish: the pool for resamples.
    """

    theta: np.ndarray
    objective: float
    gradient_norm: float
    agreement: float
    second_basin: float | None
    starts: np.ndarray


def log_sum_exp(design: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log L and the share of each term in L.

    Args:
        design: n x terms x parameters.
        theta: S x parameters.

    Returns:
        S x n, and S x n x terms.
    """
    n, K, P = design.shape
    logs = (theta @ design.reshape(n * K, P).T).reshape(-1, n, K)
    top = logs.max(axis=-1, keepdims=True)
    share = np.exp(logs - top)
    total = share.sum(axis=-1, keepdims=True)
    return (top + np.log(total))[..., 0], share / total


def huber(residual: np.ndarray, delta: float) -> np.ndarray:
    """r²/2 within delta, delta·(|r| - delta/2) beyond (Huber 1964)."""
    size = np.minimum(np.abs(residual), delta)
    return size * (np.abs(residual) - size / 2)


def minimise(problem: Problem, weights: np.ndarray) -> Minimum:
    """The global minimum of the weighted objective (weights: n)."""
    pool = projected_starts(problem, weights)
    scores = huber(log_sum_exp(problem.design, pool)[0] - problem.target, problem.delta) @ weights
    theta = pool[np.argsort(scores)[:_STARTS]]
    for wider in _wider(problem, theta[:1]):
        theta, _, _ = polish(wider, theta, weights)
    theta, objective, gradient = polish(problem, theta, weights)
    best = int(objective.argmin())
    same = objective <= objective[best] * (1 + 1e-6) + 1e-15
    return Minimum(
        theta=theta[best],
        objective=float(objective[best]),
        gradient_norm=float(np.linalg.norm(gradient[best])),
        agreement=float(same.mean()),
        second_basin=None if same.all() else float(objective[~same].min()),
        starts=np.concatenate([theta[best : best + 1], pool]),
    )


def minimise_resamples(problem: Problem, weights: np.ndarray, pool: np.ndarray, *, candidates: int = 3) -> np.ndarray:
    """The minimum of each of R resamples, given as weights: one matrix product scores every start of the pool on
    every resample, and the best few are polished.

    Args:
        weights: R x n.
        pool: S x parameters.

    Returns:
        theta of the centred variables, R x parameters.
    """
    losses = huber(log_sum_exp(problem.design, pool)[0] - problem.target, problem.delta)
    scores = weights @ losses.T
    # The optimum of all runs is a start for every resample, with the best of the rest.
    chosen = np.concatenate(
        [np.zeros((len(weights), 1), int), 1 + np.argsort(scores[:, 1:], axis=1)[:, : candidates - 1]], axis=1
    )
    theta, objective, _ = polish(problem, pool[chosen.ravel()], np.repeat(weights, candidates, axis=0), tolerance=1e-8)
    best = objective.reshape(-1, candidates).argmin(axis=1)
    return theta.reshape(len(weights), candidates, -1)[np.arange(len(weights)), best]


def _wider(problem: Problem, theta: np.ndarray) -> list[Problem]:
    """The same problem with larger deltas, falling tenfold to its own: where residuals dwarf delta the objective is all
    kinks, and is approached through smoother ones."""
    residual = np.median(np.abs(log_sum_exp(problem.design, theta)[0] - problem.target))
    steps = int(np.log10(max(residual / problem.delta, 1)))
    return [dataclasses.replace(problem, delta=problem.delta * 10.0**k) for k in range(steps, 0, -1)]


def projected_starts(problem: Problem, weights: np.ndarray) -> np.ndarray:
    """For every point of a grid over the exponents, the coefficients that fit best: three rounds of weighted
    least squares on relative error, reweighted towards Huber's loss. S x parameters."""
    law, design, target = problem.law, problem.design, problem.target
    K = len(law.terms)
    per_axis = max(3, round(_GRID_POINTS ** (1 / max(1, len(law.exponents)))))
    axis = np.geomspace(*_EXPONENTS, per_axis)
    exponents = np.array(list(itertools.product(axis, repeat=len(law.exponents))))
    basis = np.exp(np.einsum("nkp,sp->snk", design[:, :, K:], exponents) - target[:, None])
    scale = np.sqrt(np.square(basis).mean(axis=1, keepdims=True))
    basis = basis / scale
    reweighted = np.broadcast_to(weights, (len(exponents), len(weights)))
    for _ in range(3):
        weighted = basis * reweighted[..., None]
        normal = np.einsum("snk,snl->skl", weighted, basis) + 1e-12 * weights.sum() * np.eye(K)
        coefficients = np.linalg.solve(normal, weighted.sum(axis=1)[..., None])[..., 0]
        relative = np.einsum("snk,sk->sn", basis, np.maximum(coefficients, 0)) - 1
        reweighted = weights * np.minimum(1, problem.delta / np.maximum(np.abs(relative), 1e-12))
    # A coefficient that wants to be negative starts small instead.
    coefficients = np.maximum(coefficients, 1e-3) / scale[:, 0]
    return np.concatenate([np.log(coefficients), exponents], axis=1)


def polish(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, *, tolerance: float = 1e-12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levenberg-Marquardt from every start: Gauss-Newton with Huber's weights first, then the exact Hessian,
    damped in proportion to the diagonal, until two steps in a row gain less than `tolerance` (relative).

    Args:
        theta: S x parameters.
        weights: S x n, or n for all alike.

    Returns:
        theta, S x parameters; objective, S; gradient, S x parameters.
    """
    # Batches that stay in the processor's cache: twice as fast as all starts in one.
    size = max(1, _CACHE_FLOATS // problem.design[..., 0].size)
    weights = np.broadcast_to(weights, (len(theta), len(problem.target)))
    parts = [
        _polish_batch(problem, theta[i : i + size], weights[i : i + size], tolerance)
        for i in range(0, len(theta), size)
    ]
    theta, objective, gradient = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return theta, objective, gradient


def _polish_batch(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    theta, K = theta.copy(), len(problem.law.terms)
    S, _P = theta.shape
    objective, gradient, hessian = _derivatives(problem, theta, weights, exact=False)
    damping, stalled, active = np.full(S, 1e-3), np.zeros(S, int), np.arange(S)
    for step in range(_STEPS):
        exact = step >= _GAUSS_NEWTON_STEPS
        if step == _GAUSS_NEWTON_STEPS:
            objective, gradient, hessian = _derivatives(problem, theta, weights, exact=True)
            damping[:], stalled[:] = 1e-3, 0
        move = _newton_step(hessian[active], damping[active], gradient[active])
        promised = (move * gradient[active]).sum(axis=1) / np.maximum(objective[active], 1e-300)
        trial = theta[active] - np.clip(move, -3, 3)
        trial[:, :K] = np.maximum(trial[:, :K], _TINY)
        found = _derivatives(problem, trial, weights[active], exact=exact)
        better = found[0] < objective[active]
        gain = np.where(better, (objective[active] - found[0]) / np.maximum(objective[active], 1e-300), 0)
        improved = active[better]
        theta[improved], objective[improved] = trial[better], found[0][better]
        gradient[improved], hessian[improved] = found[1][better], found[2][better]
        damping[active] = np.clip(np.where(better, damping[active] / 5, damping[active] * 4), 1e-12, 1e12)
        small = np.where(better, gain, promised) < tolerance
        stalled[active] = np.where(small, stalled[active] + 1, 0)
        if exact:
            active = active[stalled[active] < 2]
        if not len(active):
            break
    return theta, objective, gradient


def _derivatives(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, *, exact: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective, gradient and Hessian (or its Gauss-Newton part, with Huber's weights) at each theta."""
    design, delta = problem.design, problem.delta
    value, share = log_sum_exp(design, theta)
    residual = value - problem.target
    size = np.abs(residual)
    objective = (weights * huber(residual, delta)).sum(axis=1)
    # Each parameter enters few terms, so slopes are summed entry by entry.
    slope = np.zeros((*theta.shape, len(residual[0])))
    for k, p in problem.entries:
        slope[:, p] += share[..., k] * design[:, k, p]
    pull = weights * np.clip(residual, -delta, delta)
    gradient = np.einsum("spn,sn->sp", slope, pull)
    if not exact:
        curvature = weights * np.minimum(1, delta / np.maximum(size, 1e-300))
        return objective, gradient, np.matmul(slope * curvature[:, None], slope.transpose(0, 2, 1))
    # The second derivative of a log-sum-exp is the covariance of its terms' slopes under their shares.
    hessian = np.matmul(slope * (weights * (size <= delta) - pull)[:, None], slope.transpose(0, 2, 1))
    for k in range(design.shape[1]):
        here = [p for term, p in problem.entries if term == k]
        pairs = design[:, k, here][:, :, None] * design[:, k, here][:, None, :]
        second = (pull * share[..., k]) @ pairs.reshape(len(pairs), -1)
        hessian[:, np.array(here)[:, None], here] += second.reshape(-1, len(here), len(here))
    return objective, gradient, hessian


def _newton_step(hessian: np.ndarray, damping: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The damped step, negative curvature turned positive, in the metric of the Hessian's diagonal."""
    diagonal = np.abs(np.diagonal(hessian, axis1=1, axis2=2))
    root = np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
    values, vectors = np.linalg.eigh(hessian / (root[:, :, None] * root[:, None, :]))
    values = np.maximum(np.abs(values), 1e-12) + damping[:, None]
    projected = np.einsum("spq,sp->sq", vectors, gradient / root) / values
    return np.einsum("spq,sq->sp", vectors, projected) / root
