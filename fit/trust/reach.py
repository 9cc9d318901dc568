"""How far beyond the runs a law can be trusted, by what it missed when it was fitted to the smaller of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.trust.choice import Candidate, Choice, choose


@dataclasses.dataclass(frozen=True)
class Reach:
    """What a backtest says of each reach: of scale / the largest scale fitted.

    Attributes:
        bands: of each step of reach `reach` (such as `3-10`), `error` (mean absolute relative error), `se`, `bias`
            (positive where runs came out above the law) and `cuts`, how many fits that is of.
        furthest: the longest reach that was scored.
        problem: why there is none.
    """

    bands: tuple[dict[str, Any], ...] = ()
    furthest: float = 1.0
    problem: str | None = None

    def at(self, reach: float) -> dict[str, Any] | None:
        """What it says of a reach; None within the runs, and where no run lay so far beyond a cut."""
        for band in self.bands:
            low, high = self.ends(band)
            if low < reach <= high:
                return band
        return None

    def ends(self, band: Mapping[str, Any]) -> tuple[float, float]:
        """From and to which reach a step was scored."""
        low, high = map(float, band["reach"].split("-"))
        return low, min(high, self.furthest)

    def exceeds(self, reach: float, half: float) -> dict[str, Any] | None:
        """The step of a reach, or the longest that was scored where none is so long, if its error is more than half of
        a forecast's interval; else None.

        Args:
            half: relative to the forecast.
        """
        if reach <= 1 or not self.bands:
            return None
        band = self.at(reach) or self.bands[-1]
        return band if band["error"] > half else None

    def warnings(self, reach: float) -> list[str]:
        if self.problem is not None or reach <= 1 or self.at(reach) is not None:
            return []
        return [
            f"{reach:.3g} times the largest run fitted: a backtest among these runs tests no more than "
            f"{self.furthest:.3g} times"
        ]


def narrow_warnings(tested: Reach, fit: Fit, targets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whose interval is narrower than what backtests of such a reach missed by, in words.

    An interval holds already what the forecast of the largest budget missed (see `nextscale.fit.trust.backtest`), in
    proportion to the reach; what the law of fewer and smaller runs missed may well be more.

    Args:
        targets: forecasts by how each is to be called, with `reach`, `loss` and `loss_interval`.
    """
    narrow: dict[tuple[str, float], list[tuple[str, float]]] = {}
    for name, told in targets.items():
        if told["reach"] is None or told["loss"] is None or None in told["loss_interval"]:
            continue
        low, high = told["loss_interval"]
        half = (high - low) / 2 / told["loss"]
        if band := tested.exceeds(told["reach"], half):
            tried = band is tested.at(told["reach"])
            shorter = "{:g} to {:.3g} times, a shorter reach,".format(*tested.ends(band))
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


def backtested_reach(fit: Fit, choice: Choice | None = None) -> Reach:
    """The law of a fit, fitted anew below rising cuts in scale and scored on the runs above each.

    Args:
        choice: where that was done already: of this law and its loss alone.
    """
    if fit.fixed:
        return Reach(problem="no backtest by reach: parameters of the law are pinned")
    try:
        choice = choice or choose(fit.runs, [Candidate(fit.law, fit.loss)])
    except InputError as error:
        return Reach(problem=f"no backtest by reach: {error}")
    rows = choice.summary[choice.summary["reach"] != "all"]
    bands = rows[["reach", "error", "se", "bias", "cuts"]].to_dict("records")
    furthest = float(choice.table.loc[choice.table["law"] == fit.law.name, "furthest"].max())
    return Reach(tuple({str(key): value for key, value in row.items()} for row in bands), furthest)
