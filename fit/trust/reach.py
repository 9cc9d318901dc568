"""Errors of a law by reach: how far beyond its runs it can be trusted, by backtests among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.trust.candidates import Candidate
from nextscale.fit.trust.choice import Choice, choose


@dataclasses.dataclass(frozen=True)
class ReachErrors:
    """What backtests missed by at each reach: at each scale / the largest scale fitted.

    Attributes:
        bands: of each step of reach `reach` (such as `3-10`), `error` (mean absolute relative error), `se`, `bias`
            (positive where runs came out above the law) and `cuts`, how many fits that is of.
        furthest: the longest reach that was scored.
        problem: why there is none.
    """

    bands: tuple[dict[str, Any], ...] = ()
    furthest: float = 1.0
    problem: str | None = None

    def band_of(self, reach: float) -> dict[str, Any] | None:
        """The band that a reach lies in; None within the runs, and where no run lay so far beyond a cut."""
        for band in self.bands:
            low, high = self.limits_of(band)
            if low < reach <= high:
                return band
        return None

    def limits_of(self, band: Mapping[str, Any]) -> tuple[float, float]:
        """From and to which reach a step was scored."""
        low, high = map(float, band["reach"].split("-"))
        return low, min(high, self.furthest)

    def band_exceeding(self, reach: float, half_width: float) -> dict[str, Any] | None:
        """The step of a reach, or the longest that was scored where none is so long, if its error is more than half of
        a forecast's interval; else None.

        Args:
            half_width: of the interval, relative to the forecast.
        """
        if reach <= 1 or not self.bands:
            return None
        band = self.band_of(reach) or self.bands[-1]
        return band if band["error"] > half_width else None

    def warnings(self, reach: float) -> list[str]:
        """Whether a reach is longer than any that was scored, in words."""
        if self.problem is not None or reach <= 1 or self.band_of(reach) is not None:
            return []
        return [
            f"{reach:.3g} times the largest run fitted: a backtest among these runs tests no more than "
            f"{self.furthest:.3g} times"
        ]


def narrow_interval_warnings(tested: ReachErrors, fit: Fit, targets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Forecasts whose interval is narrower than what backtests of such a reach missed by, in words.

    An interval holds already what the forecast of the largest budget missed (see `nextscale.fit.trust.backtest`), in
    proportion to the reach; what the law of fewer and smaller runs missed may well be more.

    Args:
        targets: forecasts by how each is to be called, with `reach`, `loss` and `loss_interval`.
    """
    narrow: dict[tuple[str, float], list[tuple[str, float]]] = {}
    for name, target in targets.items():
        if target["reach"] is None or target["loss"] is None or None in target["loss_interval"]:
            continue
        low, high = target["loss_interval"]
        half = (high - low) / 2 / target["loss"]
        if band := tested.band_exceeding(target["reach"], half):
            tried = band is tested.band_of(target["reach"])
            shorter = "{:g} to {:.3g} times, a shorter reach,".format(*tested.limits_of(band))
            reach = "such a reach" if tried else shorter
            narrow.setdefault((reach, band["error"]), []).append((name, half))
    widened = "allows for the resamples of the law and the scatter of runs alone"
    if fit.extrapolation_error > 0:
        widened = "is widened already by what the forecast of the largest budget missed, and that is too little"
    return [
        f"{', '.join(name for name, _ in known)}: backtests of {reach} missed the loss by {error:.2%} on average, more "
        f"than the interval's ±{max(half for _, half in known):.2%}: it {widened}"
        for (reach, error), known in narrow.items()
    ]


def reach_errors(fit: Fit, choice: Choice | None = None) -> ReachErrors:
    """The law of a fit, fitted anew below rising cuts in scale and scored on the runs above each.

    Args:
        choice: where that was done already: of this law and its loss alone.
    """
    if fit.fixed:
        return ReachErrors(problem="no backtest by reach: parameters of the law are pinned")
    try:
        choice = choice or choose(fit.runs, [Candidate(fit.law, fit.loss)])
    except InputError as error:
        return ReachErrors(problem=f"no backtest by reach: {error}")
    rows = choice.summary[choice.summary["reach"] != "all"]
    bands = rows[["reach", "error", "se", "bias", "cuts"]].to_dict("records")
    furthest = float(choice.table.loc[choice.table["law"] == fit.law.name, "furthest"].max())
    return ReachErrors(tuple({str(key): value for key, value in row.items()} for row in bands), furthest)
