"""Backtests on the largest budget: a law is fitted to the budgets below, and forecasts it.

How well it does chooses the law and its window of runs, and widens its intervals beyond the runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.estimate.outliers import FarOff, far_off_runs
from nextscale.fit.laws.catalogue import law_named
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.sum_of_powers import SumOfPowers
from nextscale.fit.optimum.isoflop import isoflops, run_noise
from nextscale.fit.table.columns import column_of
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.table.sources import Table

_RESAMPLES = 200
_PARTS = 12
"""At most; of runs in many budgets, neighbouring ones are joined."""
_REACH = 1.5
"""How far above the rest the runs to be forecast must lie, for their forecast to be one."""
MISFIT, POOR = 1.5, 3.0
"""In-sample error this many times the noise of a run is the law's own, not the runs'; and so many times, most of it."""
_WORTH = 2.0
"""Leaving out the cheapest runs costs precision. It must be called for, by a law that misfits with them, and worth it,
by an error of the backtest this many times smaller."""


@dataclasses.dataclass(frozen=True)
class Backtest:
    """How a law, fitted from one budget on, forecast the largest budget from those before it.

    Attributes:
        law: its name.
        first_flops: the cheapest run that it is fitted on.
        error: median absolute relative error over the runs of the largest budget.
        bias: mean relative error, positive where the runs came out above the forecast.
        misfit: how far its own runs lie from it / how far runs of one budget scatter; 1 where they cannot say.
        excess: root mean square of the relative error beyond what its resamples expect, per e-fold of compute.
    """

    law: str
    first_flops: float
    error: float
    bias: float
    misfit: float
    excess: float


def backtest(
    runs: Table | Runs, laws: Sequence[str | Law] = ("chinchilla",), *, starts: int | None = None, **options: Any
) -> list[Backtest]:
    """Scores every law, started at every budget, on the largest budget; best first.

    Budgets of fewer than three runs are joined with their neighbours.

    Args:
        starts: at so many budgets, from the smallest; at every one if None.
        options: passed to `fit`.

    Returns:
        nothing where there are too few runs below the largest budget (two for each parameter of a law), or where they
        reach to within a factor 1.5 of its compute.
    """
    runs = _as_runs(runs, options)
    part = parts_of(runs)
    newest = runs.where(part == part.max())
    older = runs.scale[part < part.max()]
    if older.empty or newest.scale.max() < _REACH * older.max():
        return []
    options = {**options, "resamples": min(_RESAMPLES, options.get("resamples", _RESAMPLES))}
    scores = []
    for law in map(law_named, laws):
        # What a look at outliers and at what is not identified costs a law by autodiff, times each start, is minutes.
        how = options if isinstance(law, SumOfPowers) else {"init": "quick", **options}
        for first in range(min(part.max(), starts or part.max())):
            window = runs.where(part.between(first, part.max() - 1))
            if len(window) < 2 * len(law.parameters):
                break
            try:
                scores.append(_score(fit(window, law, **how), newest))
            except InputError:
                continue  # what this window holds cannot show the law
    return sorted(scores, key=lambda score: score.error)


def fit_backtested(
    runs: Table | Runs, laws: Sequence[str | Law] = ("chinchilla",), *, drift: float = 0.0, **options: Any
) -> tuple[Fit, list[Backtest]]:
    """The law, and the budget to start from, that forecast the largest budget best, now fitted with it.

    Small runs often bend the curve that larger ones follow; whether to leave them out is for a forecast inside the
    runs to say: all are kept unless the law misfits with them and half the error can be had without.
    What the chosen forecast missed by, beyond what it allows for, widens the intervals of this fit.

    Args:
        drift: what the law is taken to be off by per e-fold of compute beyond the runs, relative: a backtest that
            missed by less, or is not to be had, does not show that the law is right.
        options: passed to `fit`; runs that `drop_outliers` leaves out are left out of the backtest as well.

    Returns:
        the fit, and every score; with too few runs for a backtest all are fitted, and a warning says so.

    Raises:
        InputError: see `fit`.
    """
    runs = _as_runs(runs, options)
    if options.pop("drop_outliers", False) and (outliers := outliers_by(runs, laws[0], options)) is not None:
        runs = outliers.without(runs)
    scores = backtest(runs, laws, **options)
    if not scores:
        found = fit(runs, laws[0], **options)
        allowed = f"a drift of {drift:.2%} per e-fold that is taken for granted" if drift else "scatter alone"
        warning = "too few runs well below the largest budget to backtest a forecast of it: "
        warning += f"the intervals allow for {allowed}"
        return dataclasses.replace(found, extrapolation_error=drift, warnings=(*found.warnings, warning)), []
    good = [s for s in scores if s.misfit <= MISFIT or s.error <= _WORTH * scores[0].error]
    best = min(good, key=lambda score: (score.first_flops, score.error))
    chosen = next(law for law in map(law_named, laws) if law.name == best.law)
    window = runs.where(runs.scale >= best.first_flops)
    if left_out := len(runs) - len(window):
        note = f"{left_out} runs below {best.first_flops:.3g} left out: a backtest forecasts better without them"
        window = dataclasses.replace(window, notes=(*window.notes, note))
    found = fit(window, chosen, **options)
    found = dataclasses.replace(found, extrapolation_error=max(best.excess, drift), backtested=True)
    return dataclasses.replace(found, warnings=(*found.warnings, *misfit_warnings(found))), scores


def outliers_by(runs: Runs, law: str | Law, options: Mapping[str, Any]) -> FarOff | None:
    """The runs far off the law of the others (see `far_off_runs`), of a law with these of the options of `fit`."""
    how = {name: options[name] for name in ("loss", "delta", "tilt", "fixed") if name in options}
    try:
        return far_off_runs(fit(runs, law, resamples=0, init="quick", **how))
    except InputError:
        return None  # what follows says why it cannot be fitted


def with_extrapolation_error(fit: Fit) -> Fit:
    """The same fit, its intervals widened by what its law missed when the largest budget was forecast from all others
    (see `Fit.extrapolation_error`): by nothing where there are too few runs for that."""
    how: dict[str, Any] = {"loss": fit.loss, "fixed": fit.fixed, "bootstrap": fit.bootstrap, "seed": fit.seed}
    scores = backtest(fit.runs, (fit.law,), starts=1, level=fit.level, **how)
    return dataclasses.replace(fit, extrapolation_error=scores[0].excess if scores else 0.0)


def misfit_warnings(fit: Fit) -> list[str]:
    """Signs that the law is not the one that the runs follow, in words."""
    warnings = []
    misfit, noise = misfit_of(fit)
    if (grade := fit_grade(misfit)) != "good":
        chance = f"{misfit:.1f} times what chance explains ({noise:.2%})" if noise else "and chance explains none of it"
        warnings.append(
            f"{grade} fit: the runs lie {fit.noise:.2%} off the law, {chance}: their curve has another shape than the "
            "law's, and a forecast may miss by more than its interval says"
        )
    newest = fit.residuals[(fit.runs.table["budget"] == fit.runs.budgets[-1]).to_numpy()]
    # Three land on one side by chance one time in four: by less than twice the error of their mean it says nothing.
    beyond = np.abs(newest.mean()) > 2 * noise / np.sqrt(len(newest))
    if len(newest) >= 3 and (np.all(newest > 0) or np.all(newest < 0)) and beyond:
        side = "above" if newest[0] > 0 else "below"
        warnings.append(
            f"all {len(newest)} of the newest runs lie {side} the law, by {np.abs(newest).mean():.2%} on average: "
            f"the trend is changing, and the next scale will likely lie {side} the forecast too"
        )
    return warnings


def _score(fit: Fit, target: Runs) -> Backtest:
    table = target.table
    error = np.log(table["loss"].to_numpy()) - fit.log_losses(fit.theta[None], table)[0]
    at: dict[str, Any] = {name: table[name] for name in {*map(column_of, fit.law.variables), target.scale_name}}
    draws = np.log(fit.predictive(**at))
    square, expected = float(np.mean(np.square(error))), float(draws.var(axis=0).mean())
    reach = np.log(target.scale.max() / fit.runs.scale.max())
    return Backtest(
        law=fit.law.name,
        first_flops=float(fit.runs.scale.min()),
        error=float(np.median(np.abs(error))),
        bias=float(error.mean()),
        misfit=misfit_of(fit)[0],
        excess=float(np.sqrt(max(0.0, square - expected)) / reach),
    )


def fit_grade(misfit: float) -> str:
    """How well a law fits its runs: `good`, `fair` or `poor`; see `misfit_of`."""
    return "good" if misfit <= MISFIT else "fair" if misfit <= POOR else "poor"


def misfit_of(fit: Fit) -> tuple[float, float]:
    """How many times the scatter of runs around their own budget's curve the law misses them by, and that scatter."""
    budgeted = {"params", "tokens"} <= {*fit.runs.table} and fit.runs.along is None
    noise = run_noise(isoflops(fit.runs)) if budgeted else None
    return (1.0, fit.noise) if noise is None else (fit.noise / noise if noise else np.inf, noise)


def _as_runs(runs: Table | Runs, options: dict[str, Any]) -> Runs:
    if isinstance(runs, Runs):
        return runs
    given = {name: options.pop(name) for name in ("columns",) if name in options}
    return as_runs(runs, convention=options.pop("params", "total"), **given)


def parts_of(runs: Runs, fewest: int = 3) -> pd.Series:
    """Which step of rising scale each run belongs to, from 0: budgets, from the largest down, joined until each part
    has runs enough, so many at least."""
    enough = max(fewest, len(runs) // _PARTS)
    parts: list[list[float]] = [[]]
    count = 0
    for budget in reversed(runs.budgets):
        if count >= enough:
            parts.append([])
            count = 0
        parts[-1].append(budget)
        count += int((runs.table["budget"] == budget).sum())
    if count < enough and len(parts) > 1:
        parts[-2:] = [parts[-2] + parts[-1]]
    place = {budget: len(parts) - 1 - i for i, part in enumerate(parts) for budget in part}
    return runs.table["budget"].map(place)
