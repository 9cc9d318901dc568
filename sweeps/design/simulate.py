"""Simulates a design before a run is trained: how wide the interval of its forecast will be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from nextscale.fit.estimate.solve import minimise, polish
from nextscale.fit.laws.catalogue import CHINCHILLA
from nextscale.fit.laws.law import COLLINEAR, Law
from nextscale.fit.laws.loss import Loss
from nextscale.sweeps.design.planned_run import PlannedRun
from nextscale.sweeps.design.prior import Prior

_SIMULATIONS, _FEWEST = 400, 80
_NUMBERS = 100_000
"""Runs times simulations, about: in larger designs there are fewer of these, and each scatters less."""
_COEFFICIENT, _EXPONENT = 3.0, 1.0  # as `nextscale.fit.trust.next_run` has them
_LOOSER, _SAME = 2.0, 1.25
"""A forecast that widens by the second when what is known beforehand is loosened by the first leans on that alone."""
_BEYOND = 4.0


@dataclasses.dataclass(frozen=True)
class ExpectedInterval:
    """The interval that a design will give its forecast.

    Attributes:
        target: what is forecast: `flops`, `params`, `tokens`.
        level: of the interval.
        half_width: of the interval / the loss, median over the simulations; None where the design cannot fix the law.
        coverage: the share of simulations in which the interval held what was then measured.
        simulations: how many.
        noise: of a run, relative.
        prior: the law that is taken for true, in words.
        problem: why there is no number.
        improvements: `what`, `flops` that it costs more, and `half_width` with it.
    """

    target: dict[str, float]
    level: float
    half_width: float | None
    coverage: float | None
    simulations: int
    noise: float
    prior: str
    problem: str | None = None
    improvements: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def expected_interval(
    planned: Sequence[PlannedRun],
    law: Law,
    prior: Prior,
    *,
    level: float,
    convention: str = "total",
    drift: float = 0.0,
    seed: int = 0,
) -> ExpectedInterval:
    """Simulates a design: losses by the prior with the scatter of a run, the law fitted to them as `fit` does, the
    held-out run forecast, its interval held against what that run measures.

    The interval of each simulation is that of the linearised fit (slopes at its own optimum), widened as a backtest on
    its largest budget widens it. Without a holdout, four times the largest budget is forecast.

    Args:
        drift: by which the interval is widened at least (see `nextscale.fit.trust.backtest.fit_backtested`).
    """
    fitted = [run for run in planned if run.role == "fit"]
    design = np.array([[run.size(convention), run.tokens, run.flops] for run in fitted], float)
    target = _target(planned, prior, convention)
    result = ExpectedInterval(target, level, None, None, 0, prior.noise, prior.description)
    if problem := _unfit(design, law):
        return dataclasses.replace(result, problem=problem)
    at = np.array([[target["params"], target["tokens"], target["flops"]]])
    lines = _Lines.of(law, design, at, prior)
    if lines.leans_on_nothing:
        return dataclasses.replace(
            result,
            problem=f"the runs do not fix {law.formula}: what it says of the target is hardly less open with them than "
            "without; spread sizes and tokens wider, or add budgets",
        )
    half, coverage, count = _simulated(law, design, at, prior, level, drift, seed)
    more = [("every run with one more seed", design)]
    if (budget := _next_budget(fitted, design, target["flops"])) is not None:
        more.append((f"one more budget, {budget[0, 2]:.3g} FLOPs", budget))
    now = lines.spread()
    improvements = [
        {"what": what, "flops": float(rows[:, 2].sum()), "half_width": half * lines.spread(rows) / now}
        for what, rows in more
    ]
    return dataclasses.replace(result, half_width=half, coverage=coverage, simulations=count, improvements=improvements)


def _unfit(design: np.ndarray, law: Law) -> str | None:
    """Why no law can be fitted, where that shows without trying."""
    if not {"N", "D"} >= set(law.variables) and set(law.variables) != {"C"}:
        return f"{law.name} takes {', '.join(law.variables)}; only laws in N and D, or in C, are simulated"
    if len(design) <= len(law.parameters):
        return f"{len(design)} runs cannot fix the {len(law.parameters)} parameters of {law.name}; add runs"
    logs = np.log(design[:, :2]).T
    if "N" in law.variables and (np.ptp(logs, axis=1).min() < 1e-9 or abs(np.corrcoef(logs)[0, 1]) > COLLINEAR):
        return "one of N and D is a power of the other in every run, so no law can tell them apart; vary their ratio"
    return None


def _target(planned: Sequence[PlannedRun], prior: Prior, convention: str) -> dict[str, float]:
    """The held-out run that is best by the prior; or twice the middle of the largest budget's sizes and tokens."""
    held_out = [run for run in planned if run.role == "holdout"]
    if held_out:
        sizes = np.array([run.size(convention) for run in held_out], float)
        best = held_out[int(prior.log_losses(sizes, np.array([float(run.tokens) for run in held_out])).argmin())]
        return {"flops": best.flops, "params": float(best.size(convention)), "tokens": float(best.tokens)}
    largest = max(run.budget for run in planned)
    newest = [run for run in planned if run.budget == largest]
    grown = math.sqrt(_BEYOND)
    middle = np.exp(np.mean(np.log([[run.size(convention), run.tokens] for run in newest]), axis=0)) * grown
    return {"flops": _BEYOND * largest, "params": float(middle[0]), "tokens": float(middle[1])}


def _variables(law: Law, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: rows[:, "NDC".index(name)] for name in law.variables}


@dataclasses.dataclass(frozen=True)
class _Lines:
    """The law as it is where the prior has it, linear in its parameters: what each run tells of them.

    Attributes:
        slopes: of log L by each parameter, at each run.
        towards: the same at the target.
        beforehand: standard deviation of each parameter before any run.
        noise: of a run, as the estimator has to pay for it.
    """

    law: Law
    theta: np.ndarray
    slopes: np.ndarray
    towards: np.ndarray
    beforehand: np.ndarray
    noise: float
    scatter: float

    @classmethod
    def of(cls, law: Law, design: np.ndarray, at: np.ndarray, prior: Prior) -> _Lines:
        theta = _nearest(law, design, prior)
        scale = [_COEFFICIENT] * (len(law.coefficients) + len(law.log_linear)) + [_EXPONENT] * len(law.shapes)
        noise = prior.noise * math.sqrt(_price(Loss().delta / prior.noise))
        rows = _slopes(law, theta, np.concatenate([design, at]))
        return cls(law, theta, rows[:-1], rows[-1], np.array(scale), noise, prior.noise)

    def spread(self, more: np.ndarray | None = None) -> float:
        """Of what a run at the target measures about its forecast: standard deviation, with further runs."""
        slopes = self.slopes if more is None else np.concatenate([self.slopes, _slopes(self.law, self.theta, more)])
        return math.hypot(self._of_law(slopes, 1.0), self.scatter)

    @property
    def leans_on_nothing(self) -> bool:
        return self._of_law(self.slopes, _LOOSER) > _SAME * self._of_law(self.slopes, 1.0)

    def _of_law(self, slopes: np.ndarray, looser: float) -> float:
        beforehand = looser * self.beforehand
        scaled = slopes * beforehand / self.noise
        covariance = np.linalg.inv(np.eye(len(beforehand)) + scaled.T @ scaled)
        towards = self.towards * beforehand
        return math.sqrt(max(float(towards @ covariance @ towards), 0.0))


def _nearest(law: Law, design: np.ndarray, prior: Prior) -> np.ndarray:
    """The law's own parameters where it comes closest to the prior on these runs."""
    if law is CHINCHILLA:
        return law.theta(prior.parameters)
    cells, counts = np.unique(design, axis=0, return_counts=True)
    problem = law.problem(_variables(law, cells), np.exp(prior.log_losses(cells[:, 0], cells[:, 1])), Loss(), {})
    return problem.uncentred(minimise(problem, counts.astype(float)).theta)


def _slopes(law: Law, theta: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of log L by each of the law's own parameters (those uncentred), rows x parameters."""
    problem = law.problem(_variables(law, rows), np.ones(len(rows)), Loss(), {})
    slope = problem.expand(problem.centred(theta[None])).slope[0]
    return (problem.centred(np.eye(len(theta))) @ slope).T


def _price(ratio: float) -> float:
    """Variance of Huber's estimator / that of least squares where noise is normal and delta so many standard deviations
    (Huber 1964, sec. 6): E ψ² / (E ψ')²."""
    inside = math.erf(ratio / math.sqrt(2))
    square = inside - 2 * ratio * math.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi) + ratio**2 * (1 - inside)
    return square / inside**2


def _simulated(
    law: Law, design: np.ndarray, at: np.ndarray, prior: Prior, level: float, drift: float, seed: int
) -> tuple[float, float, int]:
    """Median half-width, coverage, and of how many simulations."""
    rng = np.random.default_rng(seed)
    count = int(np.clip(_NUMBERS / len(design), _FEWEST, _SIMULATIONS))
    start = _nearest(law, design, prior)
    losses = prior.log_losses(design[:, 0], design[:, 1]) + prior.noise * rng.standard_normal((count, len(design)))
    forecast, variance = _forecasts(law, design, losses, start, at)
    centre, spread = forecast[:, 0], variance[:, 0]
    spread += np.square(
        np.maximum(_drift(law, design, losses, start), drift) * math.log(max(at[0, 2] / design[:, 2].max(), 1))
    )
    half = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(spread)
    measured = prior.log_losses(at[:, 0], at[:, 1])[0] + prior.noise * rng.standard_normal(count)
    return float(np.median(half)), float(np.mean(np.abs(centre - measured) <= half)), count


def _forecasts(
    law: Law, design: np.ndarray, losses: np.ndarray, start: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of the law fitted to each of R repetitions of n runs: log loss at each of m targets, and the variance of a run
    there about it, R x m each."""
    problem = law.problem(_variables(law, design), np.exp(losses[0]), Loss(), {})
    starts = np.repeat(problem.centred(start)[None], len(losses), axis=0)
    theta, _, _ = polish(problem, starts, np.ones(len(design)), targets=losses, tolerance=1e-6)
    fitted = problem.expand(theta)
    freedom = max(1, len(design) - len(law.parameters))
    noise = np.sqrt(np.square(fitted.value - losses).sum(axis=1) / freedom)
    price = np.array([_price(Loss().delta / max(one, 1e-12)) for one in noise])
    there = law.problem(_variables(law, at), np.ones(len(at)), Loss(), {})
    expansion = there.expand(there.centred(problem.uncentred(theta)))
    # By the coordinates of the runs' problem, which are well conditioned.
    eye = np.eye(theta.shape[1])
    turned = problem.uncentred(eye) @ there.centred(eye)
    slopes = np.einsum("pq,sqm->spm", turned, expansion.slope)
    information = fitted.slope @ fitted.slope.transpose(0, 2, 1)
    scale = np.sqrt(np.maximum(np.diagonal(information, axis1=1, axis2=2), 1e-300))
    inverse = np.linalg.pinv(information / (scale[:, :, None] * scale[:, None, :]), rcond=1e-10, hermitian=True)
    scaled = slopes / scale[:, :, None]
    of_law = np.einsum("spm,spq,sqm->sm", scaled, inverse, scaled)
    return expansion.value, np.square(noise)[:, None] * (price[:, None] * of_law + 1)


def _drift(law: Law, design: np.ndarray, losses: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Of each repetition the error per e-fold of compute that a backtest finds on the dearest runs, beyond what the law
    of the rest allows for (see `nextscale.fit.trust.backtest`); nothing where the rest are too few for one."""
    dearest = design[:, 2] > 0.9 * design[:, 2].max()
    older = design[~dearest]
    if len(older) < 2 * len(law.parameters) or design[dearest, 2].max() < 1.5 * older[:, 2].max():
        return np.zeros(len(losses))
    forecast, variance = _forecasts(law, older, losses[:, ~dearest], start, design[dearest])
    square = np.square(forecast - losses[:, dearest]).mean(axis=1)
    beyond = math.log(design[dearest, 2].max() / older[:, 2].max())
    return np.sqrt(np.maximum(square - variance.mean(axis=1), 0)) / beyond


def _next_budget(fitted: Sequence[PlannedRun], design: np.ndarray, target: float) -> np.ndarray | None:
    """The largest budget once more, as far above itself as it is above the one below it but short of the target, with
    sizes and tokens growing alike; None where runs have no budgets."""
    budgets = sorted({run.budget for run in fitted})
    newest = design[[run.budget == budgets[-1] for run in fitted]]
    if len(budgets) < 2 or len(newest) < 2:
        return None
    grown = min(budgets[-1] / budgets[-2], target / budgets[-1])
    if grown < 1.2:
        return None
    return newest * np.array([math.sqrt(grown), math.sqrt(grown), grown])
