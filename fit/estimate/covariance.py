"""Covariance of a fit's parameters by the slopes at its optimum (sandwich estimator), and delta-method intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nextscale.fit.laws.law import Problem
from nextscale.fit.table.columns import column_of

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit


def delta_interval(
    fit: Fit, at: str | Mapping[str, float], level: float | None = None, *, one_run: bool = False
) -> tuple[float, float]:
    """*Indicative* interval of a parameter, or of the loss at a point, by the delta method.

    From slopes at the optimum alone: it takes the law for linear there, and the interval for symmetric. It covers less
    often than it says; the bootstrap and the profile are what to report.

    Args:
        at: the name of a parameter; or of each variable's column the value: `{"params": 1e9, "tokens": 2e10}`.
        one_run: of what one run at the point would measure, not of the law itself.
    """
    from scipy.special import ndtri

    law, cov = fit.law, covariance(fit)
    if isinstance(at, str):
        fit.check_parameter(at)
        index = law.parameters.index(at)
        centre, variance = float(fit.theta[index]), float(cov[index, index])
        log = bool(law.on_log_scale[index])
    else:
        point = {name: np.array([float(at[column_of(name)])]) for name in law.variables}
        problem = law.problem(point, np.ones(1), fit.loss, {})
        expansion = problem.expand(problem.centred(fit.theta[None]))
        slope = problem.centred(np.eye(len(fit.theta))) @ expansion.slope[0, :, 0]
        centre, variance, log = float(expansion.value[0, 0]), float(slope @ cov @ slope), True
        variance += fit.noise**2 * one_run
    reach = float(ndtri((1 + (level or fit.level)) / 2)) * math.sqrt(max(variance, 0))
    low, high = centre - reach, centre + reach
    return (float(np.exp(low)), float(np.exp(high))) if log else (low, high)


def covariance(fit: Fit) -> np.ndarray:
    """Of theta, P x P; zero where a parameter was given. See `_sandwich`."""
    return _sandwich(fit)[0]


def dispersion(fit: Fit, name: str) -> float:
    """What a rise of the objective along one parameter is measured in: twice the rise over this is chi-squared. Of
    squared loss and equally noisy runs, the variance of a run."""
    index = fit.law.parameters.index(name)
    cov, inverse = _sandwich(fit)
    return float(cov[index, index] / max(inverse[index, index], 1e-300))


def problem_of(fit: Fit, given: Mapping[str, float] | None = None) -> Problem:
    """The fit's problem, with further parameters given."""
    losses = fit.runs.table["loss"].to_numpy()
    return fit.law.problem(fit.variables, losses, fit.loss, {**fit.fixed, **(given or {})})


def _sandwich(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """H⁻¹ J H⁻¹, the covariance of an M-estimator, and H⁻¹ (Huber 1967): J of the pulls that each run has, or each
    group of runs where these were drawn together, and so whatever the noise of each.

    Where Huber's delta is small against the residuals, few of them, or none, show its stiffness; those within the
    bandwidth of a density estimate (Silverman 1986, eq. 3.31) stand for them.
    """
    problem, free = problem_of(fit), np.array([name not in fit.fixed for name in fit.law.parameters])
    slope = problem.expand(problem.centred(fit.theta[None])).slope[0][free]
    loss, residual, weights = fit.loss, -fit.residuals, fit.runs.weights
    quartiles = np.subtract(*np.quantile(residual, [0.75, 0.25])) / 1.34
    width = max(loss.delta, 0.9 * min(residual.std(), quartiles) * len(residual) ** -0.2)
    scale = min(1.0, loss.delta / width)
    near = dataclasses.replace(loss, delta=width).stiffness(residual) * scale
    # One stiffness for all: a Hessian of the few within delta would be noise. Where none is, as though one were.
    stiffness = max(float((weights * near).sum() / weights.sum()), scale / len(residual))
    hessian = stiffness * (slope * weights) @ slope.T
    scores = slope * weights * loss.pull(residual)
    if fit.bootstrap == "cluster":
        scores = pd.DataFrame(scores.T).groupby(fit.runs.table["group"].to_numpy()).sum().to_numpy().T
    root = np.sqrt(np.maximum(np.diagonal(hessian), 1e-300))
    values, vectors = np.linalg.eigh(hessian / np.outer(root, root))
    inverse = (vectors / np.maximum(values, 1e-14)) @ vectors.T / np.outer(root, root)
    # As a square, or rounding would leave variances below zero where the Hessian is all but singular.
    moved = inverse @ scores
    cov = moved @ moved.T * len(residual) / fit.freedom
    back = problem.uncentred(np.eye(len(free)))[free]
    return back.T @ cov @ back, back.T @ inverse @ back
