"""Approach 2 of Hoffmann et al. 2022: at each budget a parabola through loss against log N, and its lowest point."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from nextscale.fit.intervals import ends_around
from nextscale.fit.table.runs import Runs

_PARABOLA = 3


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """One budget's runs and the parabola through them.

    Attributes:
        flops: the budget.
        params, tokens, loss: of its runs, by rising size.
        coefficients: of log N, highest power first; None with fewer than three sizes.
        optimum: (params, tokens, loss) at the lowest point, or None when `problem` says why there is none.
        problem: too few sizes, not convex, or the lowest point is not inside the sizes tried.
        residuals: relative, of the runs against the parabola.
    """

    flops: float
    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    coefficients: np.ndarray | None
    optimum: tuple[float, float, float] | None
    problem: str | None
    residuals: np.ndarray

    @property
    def is_budget(self) -> bool:
        """Whether it has the three sizes that a lowest point takes; else these are single runs."""
        return self.coefficients is not None

    @property
    def interior(self) -> bool:
        """Whether the lowest point lies strictly inside the sizes tried."""
        return self.optimum is not None


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = scale · C^exponent."""

    scale: float
    exponent: float

    def __call__(self, flops: ArrayLike) -> np.ndarray:
        return self.scale * np.asarray(flops, float) ** self.exponent


def isoflops(runs: Runs) -> list[IsoFlop]:
    """The isoFLOP curve of every budget, by rising budget."""
    curves = []
    for budget in runs.budgets:
        rows = runs.table[runs.table["budget"] == budget].sort_values("params")
        curves.append(_curve(budget, *(rows[name].to_numpy(float) for name in ("params", "tokens", "loss"))))
    return curves


def run_noise(curves: list[IsoFlop]) -> float | None:
    """Relative noise of one run, judged by how far runs lie from smooth curves of their own budget: no law
    across budgets enters. None when no budget has more runs than a parabola has coefficients."""
    freedom = sum(len(c.loss) - _PARABOLA for c in curves if len(c.loss) > _PARABOLA and c.coefficients is not None)
    if freedom == 0:
        return None
    squares = sum(np.square(c.residuals).sum() for c in curves if len(c.loss) > _PARABOLA)
    return float(np.sqrt(squares / freedom))


def optimum_law(curves: list[IsoFlop], quantity: str = "params") -> PowerLaw | None:
    """The power law through the optima of the budgets that have one; None with fewer than two.

    Args:
        quantity: `params` for N*(C), `tokens` for D*(C).
    """
    column = {"params": 0, "tokens": 1}[quantity]
    found = [(c.flops, c.optimum[column]) for c in curves if c.optimum is not None]
    if len(found) < 2:
        return None
    flops, values = np.log(np.array(found)).T
    exponent, intercept = np.polyfit(flops, values, 1)
    return PowerLaw(float(np.exp(intercept)), float(exponent))


def optimum_interval(
    curves: list[IsoFlop], flops: float, level: float, *, quantity: str = "params", draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """Interval of the optimum at a budget: every curve is redrawn with the noise of one run, and the power law
    through the optima refitted. None where there is no law, or no runs to judge the noise by."""
    noise = run_noise(curves)
    best = optimum_law(curves, quantity)
    if noise is None or best is None:
        return None
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        redrawn = []
        for curve in curves:
            if curve.optimum is not None:
                smooth = curve.loss / (1 + curve.residuals)
                loss = smooth * (1 + noise * rng.standard_normal(len(smooth)))
                redrawn.append(_curve(curve.flops, curve.params, curve.tokens, loss))
        law = optimum_law(redrawn, quantity)
        if law is not None:
            values.append(float(law(flops)))
    return ends_around(float(best(flops)), np.array(values), level) if values else None


def _curve(budget: float, params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> IsoFlop:
    """The parabola through runs given by rising size."""
    x = np.log(params)
    if len(np.unique(params)) < _PARABOLA:
        return IsoFlop(budget, params, tokens, loss, None, None, "fewer than three sizes", np.zeros(len(loss)))
    centre = x.mean()
    design = np.vander(x - centre, 3)
    a, b, c = np.linalg.lstsq(design, loss, rcond=None)[0]
    coefficients = np.array([a, b - 2 * a * centre, c - b * centre + a * centre**2])
    residuals = loss / (design @ (a, b, c)) - 1
    if a <= 0:
        problem = "the loss does not curve upwards over the sizes tried"
        return IsoFlop(budget, params, tokens, loss, coefficients, None, problem, residuals)
    lowest = centre - b / (2 * a)
    if not x[0] < lowest < x[-1]:
        problem = (
            f"the lowest point is not inside the sizes tried; add {'smaller' if lowest <= x[0] else 'larger'} ones"
        )
        return IsoFlop(budget, params, tokens, loss, coefficients, None, problem, residuals)
    # At one budget tokens are nearly a power of N between neighbouring sizes.
    tokens_there = float(np.exp(np.interp(lowest, x, np.log(tokens))))
    optimum = (float(np.exp(lowest)), tokens_there, float(c - b * b / (4 * a)))
    return IsoFlop(budget, params, tokens, loss, coefficients, optimum, None, residuals)
