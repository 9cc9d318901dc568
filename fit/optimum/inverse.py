"""The compute required until the best model has a given loss, size or number of tokens: forecasts inverted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.intervals import ends_around
from nextscale.fit.optimum.forecast import reach_warnings
from nextscale.fit.optimum.frontier import Optimum, TokenCost, optima, optimum

_CHEAPER, _DEARER, _PER_DECADE = 1e4, 1e12, 4
"""How far from the runs, in compute, what is asked is looked for."""
_DECADE = float(np.log(10))


@dataclasses.dataclass(frozen=True)
class ComputeFor:
    """The compute that the best model takes of which one thing is asked: its loss, its size or its tokens.

    Attributes:
        asked: `loss`, `params` or `tokens`.
        loss, params, tokens: as asked; the others those of the best model at `flops`, None where there is none.
        flops: None where the law does not get there, or is there with ten thousand times less than any run.
        interval: of it, at `level`; None for an end at which the law does not get there.
        params_interval, tokens_interval, tokens_per_param_interval: what the model is under each resample, where that
            gets there; of what was asked that alone.
        verdict: `reached` (by the runs' own compute), `forecast` or `unreachable`.
        unreachable: share of the resamples under which it is never reached.
        reason: why it is unreachable, or why there is no number.
        warnings: what a reader must know.
    """

    asked: str
    loss: float | None
    params: float | None
    tokens: float | None
    flops: float | None
    interval: tuple[float | None, float | None]
    params_interval: tuple[float | None, float | None]
    tokens_interval: tuple[float | None, float | None]
    tokens_per_param_interval: tuple[float | None, float | None]
    level: float
    verdict: str
    unreachable: float
    reason: str | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


@dataclasses.dataclass(frozen=True)
class Frontiers:
    """The frontier of a fit and of each of its resamples, on a grid of budgets: made once, and asked many times.

    Attributes:
        flops: n budgets, far beyond the runs on both sides.
        losses: of the best model, 1 + R x n, with the error of reach that a backtest has shown.
        sizes, lengths: its parameters and tokens; None of a law in C alone.
        cost: FLOPs per token of a size; None of a law in C alone.
    """

    fit: Fit
    flops: np.ndarray
    losses: np.ndarray
    sizes: np.ndarray | None
    lengths: np.ndarray | None
    cost: TokenCost | None

    @classmethod
    def of(cls, fit: Fit, cost: TokenCost | None = None) -> Frontiers:
        """
        Args:
            cost: FLOPs per token of a size; read off the runs unless given.

        Raises:
            InputError: the law takes neither C nor N and D, or the runs have no FLOPs.
        """
        if "flops" not in fit.runs.table:
            raise InputError(f"{fit.law.name}: runs without flops cannot say what compute it takes")
        alone = fit.law.variables == ("C",)
        cost = None if alone else cost or TokenCost.of_runs(fit.runs)
        known = fit.runs.table["flops"]
        first, last = known.min() / _CHEAPER, known.max() * _DEARER
        flops = np.geomspace(first, last, int(np.log10(last / first) * _PER_DECADE))
        thetas = np.concatenate([fit.theta[None], fit.resamples])
        sizes, losses = optima(fit.law, thetas, fit.runs, flops.tolist(), cost)
        reach = np.maximum(np.log(flops / known.max()), 0)

        def log_losses(thetas: np.ndarray) -> np.ndarray:
            known = (
                losses[1:] if thetas is fit.resamples else optima(fit.law, thetas, fit.runs, flops.tolist(), cost)[1]
            )
            return np.log(known)

        losses[1:] = np.exp(fit.law_draws(log_losses, reach))
        return cls(fit, flops, losses, sizes, None if sizes is None or cost is None else flops / cost(sizes), cost)

    def compute_for(
        self, loss: float | None = None, *, params: float | None = None, tokens: float | None = None
    ) -> ComputeFor:
        """See `nextscale.fit.optimum.inverse.compute_for`."""
        fit = self.fit
        given = {"loss": loss, "params": params, "tokens": tokens}
        wanted = {name: value for name, value in given.items() if value is not None}
        if len(wanted) != 1:
            raise InputError(f"compute_for: give one of {', '.join(given)}; got {' and '.join(wanted) or 'none'}")
        ((asked, value),) = wanted.items()
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{asked}: should be greater than 0, not {value}")
        needed = self._needed(asked, value)
        found, best, reason = None, None, None
        if needed[0] == 0:
            reason = f"a {1 / _CHEAPER:.0e} of the smallest run's compute gets there already"
        elif np.isinf(needed[0]):
            E = fit.parameters.get("E", 0.0)
            below = f"it is below the irreducible loss, E = {E:.4g}"
            far = f"the law does not come to it within {_DEARER:.0g} times the runs' compute"
            reason = below if asked == "loss" and value <= E else far
        else:
            best, found = self._exactly(asked, value, float(needed[0]))
            if not found.interior:
                best, found, reason = None, None, "the loss falls to the end of the sizes searched: there is no optimum"
                needed = np.full_like(needed, np.nan)
        verdict = "reached" if needed[0] == 0 else "unreachable" if best is None else "forecast"
        if best is not None and best <= fit.runs.table["flops"].max():
            verdict = "reached"
        known = found is not None and self.cost is not None
        optimal: dict[str, Any] = {name: getattr(found, name) if known else None for name in given}
        values = optimal | {asked: value} | self._shapes(asked, value, found, needed[1:])
        return ComputeFor(
            asked=asked,
            **values,
            flops=best,
            interval=self._ends(np.nan if best is None else best, needed[1:]),
            level=fit.level,
            verdict=verdict,
            unreachable=float(np.isinf(needed[1:]).mean()),
            reason=reason,
            warnings=() if best is None else tuple(reach_warnings(fit, {"flops": best})),
        )

    def _needed(self, asked: str, value: float) -> np.ndarray:
        """The compute under each parameter vector; infinite where it does not get there, 0 where it starts beyond."""
        if asked == "loss":
            return np.array([flops_at(curve, self.flops, np.array(value)) for curve in self.losses])
        rising = self.sizes if asked == "params" else self.lengths
        if rising is None:
            raise InputError(f"{self.fit.law.name}: is a law in C, and says nothing of {asked}; take one in N and D")
        return np.array([_first_at(np.log(curve), self.flops, np.log(value)) for curve in rising])

    def _exactly(self, asked: str, value: float, near: float) -> tuple[float, Optimum]:
        """The compute at which the law itself gives what is asked, and its optimum there, from near it."""
        from scipy.optimize import brentq

        fit, cost = self.fit, self.cost

        def at(x: float) -> Optimum:
            budget = float(np.exp(x))
            if cost is None:
                return Optimum(np.nan, np.nan, float(fit.predict(flops=[budget])[0]), True)
            return optimum(fit, budget, cost)

        def missed(x: float) -> float:
            return float(np.log(getattr(at(x), asked) / value))

        x = np.log(near)
        if np.sign(missed(x - _DECADE)) * np.sign(missed(x + _DECADE)) < 0:
            x = brentq(missed, x - _DECADE, x + _DECADE, xtol=1e-13, rtol=1e-14)
        return float(np.exp(x)), at(x)

    def _shapes(self, asked: str, value: float, found: Optimum | None, needed: np.ndarray) -> dict[str, Any]:
        """What the best model is under each resample, where that gets there.

        Args:
            found: what it is by the law itself.
        """
        names = ("params", "tokens", "tokens_per_param")
        if self.sizes is None or self.lengths is None:
            return {f"{name}_interval": (None, None) for name in names}
        held = [_along(curves[1:], self.flops, needed) for curves in (self.sizes, self.lengths)]
        with np.errstate(invalid="ignore"):  # where it is never reached, or at once
            held.append(held[1] / held[0])
        best = (np.nan,) * 3 if found is None else (found.params, found.tokens, found.tokens / found.params)
        ends = {f"{name}_interval": self._ends(one, draws) for name, one, draws in zip(names, best, held, strict=True)}
        return ends if asked == "loss" else ends | {f"{asked}_interval": (value, value)}

    def _ends(self, best: float, values: np.ndarray) -> tuple[float | None, float | None]:
        """An interval, around what is best where that is a number; None for an end never reached, or at once."""
        known = values[~np.isnan(values)]
        if len(known) < 2:
            return (None, None)
        middle = float(np.median(known)) if np.isnan(best) else best
        ends = ends_around(middle, known, self.fit.level, method="nearest")
        low, high = (end if np.isfinite(end) and end else None for end in ends)
        return low, high


def compute_for(
    fit: Fit,
    loss: float | None = None,
    *,
    params: float | None = None,
    tokens: float | None = None,
    cost: TokenCost | None = None,
) -> ComputeFor:
    """How much compute it takes until the best model has a loss, or a size, or so many tokens: `forecast` inverted.
    The interval is that of the law, for the mean of many runs, and of the error that a backtest has shown.

    Args:
        loss: nats per token.
        params: at which size a model is compute-optimal.
        tokens: on how many it is.
        cost: FLOPs per token of a size; read off the runs unless given.

    Raises:
        InputError: not one of the three is given or it is not positive, the law takes neither C nor N and D, or C alone
            and the loss is not what is asked, or the runs have no FLOPs.
    """
    return Frontiers.of(fit, cost).compute_for(loss, params=params, tokens=tokens)


def _along(curves: np.ndarray, flops: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Each curve (R x n) at a compute of its own (R); 0 and infinity where that is."""
    x = np.log(flops)
    with np.errstate(divide="ignore"):
        at = np.log(needed)
    values = np.array([np.exp(np.interp(one, x, np.log(curve))) for one, curve in zip(at, curves, strict=True)])
    return np.where(np.isfinite(at), values, needed)


def flops_at(curve: np.ndarray, flops: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Where a curve of losses that falls with compute comes down to each loss; infinite where it does not, and 0 where
    it starts below."""
    return _first_at(-curve, flops, -losses)


def _first_at(curve: np.ndarray, flops: np.ndarray, values: np.ndarray | float) -> np.ndarray:
    """Where a curve that rises with compute comes up to each value."""
    from scipy.interpolate import PchipInterpolator

    # Equal values at a flat end would leave no inverse.
    rising = np.maximum.accumulate(curve) + 1e-12 * np.arange(len(curve))
    with np.errstate(over="ignore"):  # of a loss that rises without bound at the least compute
        inverse = PchipInterpolator(rising, np.log(flops))
    found = np.exp(inverse(np.clip(values, rising[0], rising[-1])))
    return np.where(values > rising[-1], np.inf, np.where(values < rising[0], 0.0, found))
