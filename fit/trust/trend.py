"""Trend tests: whether new runs, and the newest budgets, continue the law or break it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.optimum.forecast import forecast
from nextscale.fit.table.columns import column_of
from nextscale.fit.table.runs import Runs, as_runs
from nextscale.fit.table.sources import Table
from nextscale.fit.trust.answers import trend_answer
from nextscale.fit.trust.backtest import with_extrapolation_error

ALARM = 0.05
"""The default rate of false alarms."""
_ROUNDING = 1e-5
"""Of log losses: runs without noise are off their law by as much, to either side."""
_RESAMPLES = 400
_BEYOND = 10.0
_SPARE = 2
"""Runs below the newest budgets for each parameter of the law, or their forecast says nothing."""


@dataclasses.dataclass(frozen=True)
class Flattening:
    """Whether the newest budgets lie where those before them say.

    Attributes:
        first_flops: the cheapest of the newest budgets.
        runs: how many lie there, and `older`, how many forecast them.
        shift: mean relative distance of their losses from that forecast; positive where they are worse.
        z: the same in standard deviations of the forecast's own error.
        p: how often chance alone is as far off, to either side.
        verdict: `flattening` (above), `steepening` (below) or `continues`.
        budgets: those that are tested.
        detectable: the smallest shift that would not have been said to continue.
    """

    first_flops: float
    runs: int
    older: int
    shift: float
    z: float
    p: float
    verdict: str
    budgets: tuple[float, ...]
    detectable: float


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What the newest budgets change of the forecast at a larger one.

    The intervals allow for the error that a backtest shows, each among the runs of its own law.

    Attributes:
        without: the loss of the best model there and its interval, by the law of the budgets before.
        following: the same by the law refitted to all, which bends as far as its form lets it.
        level: of the intervals.
    """

    flops: float
    without: tuple[float, tuple[float, float]]
    following: tuple[float, tuple[float, float]]
    level: float

    def to_dict(self) -> dict[str, Any]:
        losses = {
            name: {"loss": loss, "interval": list(ends)}
            for name, (loss, ends) in (("without", self.without), ("following", self.following))
        }
        return {"flops": self.flops, "level": self.level} | losses


@dataclasses.dataclass(frozen=True)
class Trend:
    """New runs against a law, and the newest budgets against those before.

    Attributes:
        runs: a row per new run: `run_id`, what the law varies in, `loss`, `predicted`, `low` and `high` (the
            prediction interval of level 1 - alarm), `surprise` (standard deviations of the prediction), `p` and
            `verdict`: `above`, `below` or `continues`.
        shift, z, p: of all the new runs together; their forecasts share the law's error. None without new runs.
        flattening: of the newest budgets of all runs; None where too few lie below them.
        alarm: how often a run that continues the law, or budgets that do, are said not to.
        warnings: what a reader must know.
        scale: what budgets are of: flops, or params where the table knows no FLOPs.
        outlook: what follows from the newest budgets at a larger one; None where they are not tested, or the law
            forecasts no loss from FLOPs.
    """

    law: str
    runs: pd.DataFrame
    shift: float | None
    z: float | None
    p: float | None
    flattening: Flattening | None
    alarm: float
    warnings: tuple[str, ...]
    scale: str
    outlook: Outlook | None

    @property
    def answer(self) -> str:
        """Is it flattening? In words."""
        return trend_answer(self)

    def to_dict(self) -> dict[str, Any]:
        return {
            "answer": self.answer,
            "law": self.law,
            "alarm": self.alarm,
            "runs": self.runs.to_dict("records"),
            "together": None if self.z is None else {"shift": self.shift, "z": self.z, "p": self.p},
            "flattening": None if self.flattening is None else dataclasses.asdict(self.flattening),
            "outlook": None if self.outlook is None else self.outlook.to_dict(),
            "warnings": list(self.warnings),
        }


def trend(
    fit: Fit,
    new_runs: Table | Runs | None = None,
    *,
    newest: int = 1,
    alarm: float = ALARM,
    flops: float | None = None,
    seed: int = 0,
) -> Trend:
    """Scores new runs by a law fitted without them, and tests the newest budgets of all runs for flattening.

    A surprise is how many standard deviations a log loss lies from its prediction, which allows for the law's own
    uncertainty (bootstrap), a run's scatter, and (of a new run) the error that a backtest has shown; its p comes from
    Student's t with the degrees of freedom that the scatter is judged by. The test for flattening fits the law again
    below the newest budgets, and asks the same of the mean distance of the runs there. Stated at 5 %, of 353 simulated
    sweeps that held (5 x 5 isoFLOP grid, noise .003) 5.1 % had a run three times beyond said to break the law, and
    2.0 % were said to flatten or steepen: the wide intervals of few budgets err on the careful side.

    Args:
        fit: a law with resamples, fitted without the new runs.
        new_runs: with columns as `as_runs` wants them; None to test the newest budgets alone.
        newest: how many budgets, the largest, are tested for flattening.
        alarm: false-alarm rate of each verdict.
        flops: where the loss is forecast with and without the newest budgets; ten times the largest if None.

    Raises:
        InputError: the fit has no resamples, or the new runs lack what its law varies in.
    """
    if len(fit.resamples) < 100:
        raise InputError("trend: needs a fit with 100 resamples or more, to know how sure its forecast is")
    if not 0 < alarm < 1:
        raise InputError(f"alarm: should lie between 0 and 1, not {alarm}")
    everything, warnings = fit.runs, []
    rows: list[dict[str, Any]] = []
    shift: float | None = None
    z: float | None = None
    p: float | None = None
    if new_runs is not None:
        new = new_runs if isinstance(new_runs, Runs) else _as_runs(new_runs, fit)
        # A run that the law has seen cannot surprise it.
        seen = _seen(new, fit)
        if seen.all():
            raise InputError("new runs: the law was fitted to every one of them")
        if seen.any():
            warnings.append(f"{seen.sum()} of the new runs left out: the law was fitted to them")
            new = new.where(~seen)
        rows = _surprises(fit, new, alarm, seed)
        shift, z, p, _ = _mean_surprise(fit, new, seed)
        everything = _pooled(fit.runs, new)
    older, late = _split(fit, everything, newest)
    again = None if older is None else _refitted(fit, older, seed)
    flattening, outlook = None, None
    if again is not None and older is not None:
        flattening = _flattening(again, older, late, alarm, seed)
        outlook = _outlook(again, _refitted(fit, everything, seed), flops or _BEYOND * float(everything.scale.max()))
    else:
        warnings.append(f"too few runs below the newest {newest} budgets to forecast them: no test for flattening")
    return Trend(
        fit.law.name,
        pd.DataFrame(rows),
        shift,
        z,
        p,
        flattening,
        alarm,
        tuple(warnings),
        fit.runs.scale_name,
        outlook,
    )


def _seen(new: Runs, fit: Fit) -> pd.Series:
    """Which runs the law was fitted to: those of a name that it knows, or of the very same numbers."""
    named = new.table["run_id"].isin(fit.runs.table["run_id"]) & ~new.table["run_id"].str.startswith("row ")
    numbers = ["loss", *_columns(fit)]
    known = set(fit.runs.table[numbers].itertuples(index=False, name=None))
    same = [row in known for row in new.table[numbers].itertuples(index=False, name=None)]
    return named | pd.Series(same, index=named.index)


def _surprises(fit: Fit, new: Runs, alarm: float, seed: int) -> list[dict[str, Any]]:
    draws = _log_draws(fit, new, seed)
    measured = np.log(new.table["loss"].to_numpy(float))
    predicted = fit.log_losses(fit.theta[None], new.table)[0]
    spread = _spread(fit, draws)
    reach = t_distribution.isf(alarm / 2, fit.freedom)
    rows = []
    for i, row in enumerate(new.table.to_dict("records")):
        z = float((measured[i] - predicted[i]) / spread[i])
        p = _two_sided(fit, z)
        rows.append(
            {
                **{name: row[name] for name in ("run_id", *dict.fromkeys(("flops", *_columns(fit)))) if name in row},
                "loss": row["loss"],
                "predicted": float(np.exp(predicted[i])),
                "low": float(np.exp(predicted[i] - reach * spread[i])),
                "high": float(np.exp(predicted[i] + reach * spread[i])),
                "surprise": z,
                "p": p,
                "verdict": "continues" if p >= alarm else "above" if z > 0 else "below",
            }
        )
    return rows


def _mean_surprise(fit: Fit, new: Runs, seed: int) -> tuple[float, float, float, float]:
    """Mean distance of the runs from the law, relative; in standard deviations; its p; and that standard deviation, of
    log losses."""
    draws = _log_draws(fit, new, seed).mean(axis=1, keepdims=True)
    predicted = fit.log_losses(fit.theta[None], new.table)[0]
    shift = float(np.mean(np.log(new.table["loss"].to_numpy(float)) - predicted))
    spread = float(_spread(fit, draws)[0])
    z = shift / spread
    return float(np.expm1(shift)), z, _two_sided(fit, z), spread


def _split(fit: Fit, runs: Runs, newest: int) -> tuple[Runs | None, Runs]:
    """The runs below the newest budgets, None where they are too few to forecast them, and those."""
    budgets = runs.budgets
    if not 0 < newest < len(budgets):
        return None, runs
    above = runs.table["budget"] >= budgets[-newest]
    older, late = runs.where(~above), runs.where(above)
    enough = len(older) >= _SPARE * (len(fit.law.parameters) - len(fit.fixed))
    return older if enough else None, late


def _refitted(fitted: Fit, runs: Runs, seed: int) -> Fit | None:
    """The same law of other runs; without the error that a backtest has shown, which was measured on the newest budgets
    and would excuse them in a test of these."""
    how: dict[str, Any] = {"loss": fitted.loss, "fixed": fitted.fixed, "bootstrap": fitted.bootstrap, "seed": seed}
    try:
        return fit(runs, fitted.law, resamples=_RESAMPLES, level=fitted.level, **how)
    except InputError:
        return None


def _flattening(again: Fit, older: Runs, late: Runs, alarm: float, seed: int) -> Flattening:
    shift, z, p, spread = _mean_surprise(again, late, seed)
    return Flattening(
        first_flops=float(late.scale.min()),
        runs=len(late),
        older=len(older),
        shift=shift,
        z=z,
        p=p,
        verdict="continues" if p >= alarm else "flattening" if z > 0 else "steepening",
        budgets=tuple(late.budgets),
        detectable=float(np.expm1(spread * t_distribution.isf(alarm / 2, again.freedom))),
    )


def _outlook(without: Fit, following: Fit | None, flops: float) -> Outlook | None:
    if following is None or set(without.law.variables) not in ({"C"}, {"N", "D"}) or "flops" not in without.runs.table:
        return None
    forecasts = []
    for each in map(with_extrapolation_error, (without, following)):
        (target,) = forecast(each, [flops])["targets"]
        low, high = target["loss_interval"]
        forecasts.append((float(target["loss"]), (float(low), float(high))))
    return Outlook(flops, forecasts[0], forecasts[1], without.level)


def _log_draws(fit: Fit, new: Runs, seed: int) -> np.ndarray:
    """log loss that each new run would measure, draws x runs."""
    at = {name: new.table[name].to_numpy(float) for name in {*_columns(fit), fit.runs.scale_name} & {*new.table}}
    return np.log(fit.predictive(**at, seed=seed))


def _spread(fit: Fit, draws: np.ndarray) -> np.ndarray:
    """Standard deviation of each column, by its middle 90 %: resamples that lost the law are no part of it."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    # Of few runs the draws are of Student's t already.
    reach = t_distribution.isf(0.05, fit.freedom) if fit.bootstrap == "normal" else 1.6449
    return np.asarray(np.maximum((high - low) / (2 * reach), _ROUNDING))


def _two_sided(fit: Fit, z: float) -> float:
    return float(2 * t_distribution.sf(abs(z), fit.freedom))


def _columns(fit: Fit) -> list[str]:
    return [column_of(name) for name in fit.law.variables]


def _as_runs(table: Table, fit: Fit) -> Runs:
    convention = fit.runs.convention
    known = convention in ("total", "non_embedding", "active")
    return as_runs(table, convention=convention if known else "total", variables=fit.law.variables, where="new runs")


def _pooled(runs: Runs, new: Runs) -> Runs:
    """All runs; a new one of a budget that is known, within a tenth, belongs to it."""
    budgets = np.array(runs.budgets)
    nearest = budgets[np.abs(np.log(new.scale.to_numpy()[:, None] / budgets)).argmin(axis=1)]
    near = np.abs(np.log(new.scale.to_numpy() / nearest)) < np.log(1.1)
    table = new.table.assign(budget=np.where(near, nearest, new.table["budget"]))
    return dataclasses.replace(runs, table=pd.concat([runs.table, table], ignore_index=True))
