"""`fit(runs)`: a table of runs becomes a law with intervals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.laws import LAWS, Law
from nextscale.fit.solve import Minimum, Problem, log_sum_exp, minimise, minimise_resamples
from nextscale.fit.table import Columns, Runs, as_runs

_LARGEST_LOG = 700.0
"""exp of more is no float; a resample in which a term vanishes can ask for it."""
_VARIABLES = {"N": "params", "D": "tokens", "C": "flops"}


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law fitted to runs, and everything needed to say how sure it is.

    Attributes:
        theta: log coefficients, then exponents, in the order of `law.parameters`.
        resamples: the same for each bootstrap resample, R x parameters.
        delta: of Huber's loss.
        level: of the intervals that are given by default.
        minimum: what the search found, and how its starts agreed.
        extrapolation_error: relative error per e-fold of compute beyond the runs that a backtest found on top of
            what the resamples allow for (see `backtest.py`); widens intervals beyond the fitted compute.
        warnings: what a reader of these numbers must know, in words.
    """

    law: Law
    runs: Runs
    theta: np.ndarray
    resamples: np.ndarray
    delta: float
    level: float
    minimum: Minimum
    extrapolation_error: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, float]:
        """Coefficients and exponents by name; losses in nats per token."""
        return dict(zip(self.law.parameters, self._natural(self.theta).tolist(), strict=True))

    def interval(self, name: str, level: float | None = None) -> tuple[float, float]:
        """Percentile interval of a parameter over the resamples."""
        values = self._natural(self.resamples)[:, self.law.parameters.index(name)]
        return _percentiles(values, level or self.level)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The interval of every parameter, at `level`."""
        return {name: self.interval(name) for name in self.law.parameters}

    @property
    def objective(self) -> float:
        """Sum of Huber losses of the log loss."""
        return self.minimum.objective

    @property
    def residuals(self) -> np.ndarray:
        """log measured - log predicted loss, of each run."""
        table = self.runs.table
        return np.log(table["loss"].to_numpy()) - np.log(self.predict(table["params"], table["tokens"]))

    @property
    def noise(self) -> float:
        """Relative scatter of a run around the law: root mean square residual, corrected for the parameters spent."""
        freedom = max(1, len(self.runs) - len(self.law.parameters))
        return float(np.sqrt(np.square(self.residuals).sum() / freedom))

    def predict(self, params: Any, tokens: Any) -> np.ndarray:
        """Loss in nats per token at each (N, D)."""
        return self.losses(self.theta[None], params, tokens)[0]

    def predictive(self, params: Any, tokens: Any, flops: Any, *, seed: int = 0) -> np.ndarray:
        """Draws of the loss that a run at each (N, D) would measure, R x n: a resample's law, a residual's
        scatter, and the extrapolation error that a backtest has shown."""
        rng = np.random.default_rng(seed)
        losses = self.losses(self.resamples, params, tokens)
        residuals = self.residuals - np.median(self.residuals)
        rms = np.sqrt(np.mean(np.square(residuals))) or 1.0
        scatter = rng.choice(residuals * self.noise / rms, losses.shape)
        reach = np.maximum(np.log(np.asarray(flops, float) / self.runs.table["flops"].max()), 0)
        bias = rng.standard_normal((len(losses), 1)) * self.extrapolation_error * reach
        return losses * np.exp(scatter + bias)

    def predict_interval(
        self, params: Any, tokens: Any, flops: Any, level: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Prediction interval of the measured loss at each (N, D): low and high, n each."""
        tail = (1 - (level or self.level)) / 2
        low, high = np.quantile(self.predictive(params, tokens, flops), [tail, 1 - tail], axis=0)
        return low, high

    def losses(self, thetas: np.ndarray, params: Any, tokens: Any) -> np.ndarray:
        """Loss at each (N, D) under each of R parameter vectors, R x n."""
        logs = {"N": np.log(np.atleast_1d(np.asarray(params, float)))}
        logs["D"] = np.log(np.atleast_1d(np.asarray(tokens, float)))
        return np.exp(log_sum_exp(self.law.design(logs), thetas)[0])

    def to_dict(self) -> dict[str, Any]:
        """What a machine, or a reviewer, wants to know of this fit."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "source": self.law.source,
            "n": len(self.runs),
            "objective": self.objective,
            "delta": self.delta,
            "parameters": self.parameters,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
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
                "resamples": len(self.resamples),
                "extrapolation_error": self.extrapolation_error,
                "fitted_flops": [float(self.runs.table["flops"].min()), float(self.runs.table["flops"].max())],
                "points_dropped": len(self.runs.dropped),
            },
        }

    def __repr__(self) -> str:
        numbers = ", ".join(
            f"{name}={value:.4g} [{low:.4g}, {high:.4g}]"
            for (name, value), (low, high) in zip(self.parameters.items(), self.intervals.values(), strict=True)
        )
        return f"Fit({self.law.formula}; {numbers}; {self.level:.0%} intervals; {len(self.runs)} runs)"

    def _natural(self, theta: np.ndarray) -> np.ndarray:
        K = len(self.law.terms)
        coefficients = np.exp(np.clip(theta[..., :K], None, _LARGEST_LOG))
        return np.concatenate([coefficients, theta[..., K:]], axis=-1)


def fit(
    runs: pd.DataFrame | Runs,
    law: str | Law = "chinchilla",
    *,
    params: str = "total",
    columns: Columns = Columns(),
    delta: float = 1e-3,
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> Fit:
    """Fits a law to a table of runs.

    The objective is the sum over runs of Huber's loss of log predicted - log measured loss (Hoffmann et al. 2022,
    sec. 3.3). Intervals come from a bootstrap over runs (Efron & Tibshirani 1993), each resample minimised globally.

    Args:
        runs: one row per finished run, with `loss` (nats per token) and two of `params`, `tokens` and `flops`.
        law: a name in `LAWS`, or a `Law`.
        params: what N counts: `total`, `non_embedding` or `active`.
        columns: names of the table's columns where they are others.
        delta: where Huber's loss turns from squared to absolute, in log loss.
        resamples: bootstrap resamples; 0 for no intervals.
        level: of the intervals given by default.
        seed: of the bootstrap.

    Raises:
        InputError: the table cannot be used, has too few runs, or the law is not known.
    """
    if isinstance(law, str):
        if law not in LAWS:
            raise InputError(f"law: '{law}' is not one of {', '.join(LAWS)}")
        law = LAWS[law]
    if isinstance(runs, pd.DataFrame):
        runs = as_runs(runs, columns=columns, convention=params)
    needed = len(law.parameters) + 1
    if len(runs) < needed:
        raise InputError(
            f"runs: {law.name} has {needed - 1} parameters and needs {needed} runs or more; got {len(runs)}"
        )
    variables = {name: runs.table[_VARIABLES[name]].to_numpy() for name in law.variables}
    for name, values in variables.items():
        if np.ptp(np.log(values)) < 1e-9:
            raise InputError(f"runs: {_VARIABLES[name]} is the same in every run, so its term cannot be seen; vary it")
    problem = Problem.of(law, variables, runs.table["loss"].to_numpy(), delta)
    minimum = minimise(problem, np.ones(len(runs)))
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=resamples).astype(float)
    drawn = minimise_resamples(problem, weights, minimum.starts) if resamples else minimum.theta[None]
    found = Fit(
        law, runs, problem.uncentred(minimum.theta), problem.uncentred(drawn), delta, level, minimum, warnings=()
    )
    return dataclasses.replace(found, warnings=tuple(_warnings(found, variables)))


def _warnings(found: Fit, variables: dict[str, np.ndarray]) -> list[str]:
    """What the fit alone shows to be wrong with itself."""
    warnings = []
    values = found.parameters
    if "N" in variables and "D" in variables:
        correlation = np.corrcoef(np.log(variables["N"]), np.log(variables["D"]))[0, 1]
        if abs(correlation) > 0.995:
            warnings.append(
                f"N and D rise together (correlation of their logs {correlation:.3f}): these runs cannot tell the "
                "exponent of N from that of D; add runs of other tokens per parameter"
            )
    smallest = found.runs.table["loss"].min()
    if values["E"] < 1e-3 * smallest:
        warnings.append("E is at zero: these runs do not show an irreducible loss; forecasts far out are unreliable")
    low, high = found.interval("E")
    if high - low > 0.5 * smallest:
        warnings.append(f"E is hardly known: its {found.level:.0%} interval runs from {low:.3g} to {high:.3g}")
    if found.minimum.agreement < 0.5:
        warnings.append(
            f"only {found.minimum.agreement:.0%} of the starts end at the best minimum: the data leave several answers"
        )
    for name in found.law.exponents:
        if not 0.03 < values[name] < 2.5:
            warnings.append(f"{name} = {values[name]:.3g} is outside the range 0.03 to 2.5 of any known law")
    return warnings


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
