"""Errors of a law by reach: how far beyond its runs it can be trusted, by backtests among them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.intervals import relative_half_width
from nextscale.fit.optimum.forecast import reach_warnings
from nextscale.fit.trust.candidates import Candidate
from nextscale.fit.trust.choice import REACH_BANDS, Choice, choose
from nextscale.fit.trust.consensus import Consensus, prequential_errors

_ROUNDING = 1 + 1e-9
"""Of the division by which a reach is found."""


@dataclasses.dataclass(frozen=True)
class ReachErrors:
    """What backtests missed by at each reach: at each scale / the largest scale fitted.

    Attributes:
        bands: of each step of reach `reach` (such as `3-10`), `error` (mean absolute relative error), `se`, `bias`
            (positive where runs came out above the law) and `cuts`, how many fits that is of.
        furthest: the longest reach that was scored.
        problem: why there is none.
        by_cut: of a consensus, mean absolute relative error by the largest scale that it was fitted up to.
    """

    bands: tuple[dict[str, Any], ...] = ()
    furthest: float = 1.0
    problem: str | None = None
    by_cut: Mapping[float, float] = dataclasses.field(default_factory=dict)

    def band_of(self, reach: float) -> dict[str, Any] | None:
        """The band that a reach lies in; None within the runs, and where no run lay so far beyond a cut."""
        for band in self.bands:
            low, high = self.limits_of(band)
            if low < reach <= high * _ROUNDING:
                return band
        return None

    def limits_of(self, band: Mapping[str, Any]) -> tuple[float, float]:
        """From and to which reach a step was scored."""
        low, high = map(float, band["reach"].split("-"))
        return low, min(high, self.furthest)

    def band_exceeding(self, reach: float, half_width: float) -> dict[str, Any] | None:
        """The step of a reach, or the longest shorter one that was scored, if its error is more than half of a
        forecast's interval; else None.

        Args:
            half_width: of the interval, relative to the forecast.
        """
        if reach <= 1:
            return None
        shorter = [band for band in self.bands if self.limits_of(band)[1] <= reach]
        band = self.band_of(reach) or (shorter[-1] if shorter else None)
        return band if band is not None and band["error"] > half_width else None

    @property
    def told(self) -> str:
        """How far it was tested, and what came of it, in words."""
        missed = ["{:.2%} at {:g} to {:.3g} times".format(band["error"], *self.limits_of(band)) for band in self.bands]
        told = f": they missed by {', '.join(missed)}" if missed else ""
        reached = f"backtests of this forecast reached {self.furthest:.3g} times beyond their runs"
        return f"{reached}, and say nothing of more{told}"

    def warnings(self, reach: float) -> list[str]:
        """Whether a reach is longer than any that was scored, in words."""
        if self.problem is not None or reach <= 1 or self.band_of(reach) is not None:
            return []
        return [
            f"{reach:.3g} times the largest run fitted: a backtest of this forecast among these runs tests no more "
            f"than {self.furthest:.3g} times"
        ]


def beyond_warnings(fit: Fit, flops: Sequence[float], tested: ReachErrors | None = None) -> list[str]:
    """Warnings of the compute that lies furthest beyond the runs, on either side: how far a backtest got, where it got
    less far; none of what one tested."""
    largest = float(fit.runs.table["flops"].max())
    warnings = []
    for end in sorted({min(flops), max(flops)}) if len(flops) else ():
        if tested is None or tested.band_of(end / largest) is None:
            short = [] if tested is None else tested.warnings(end / largest)
            warnings += [f"{end:.3g} FLOPs is {text}" for text in short] or reach_warnings(fit, {"flops": end})
    return warnings


def narrow_interval_warnings(tested: ReachErrors, fit: Fit, targets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Forecasts whose interval is narrower than what backtests of such a reach missed by, in words.

    An interval holds already what the forecast of the largest budget missed (see `nextscale.fit.trust.backtest`), in
    proportion to the reach; what the law of fewer and smaller runs missed may well be more.

    Args:
        targets: forecasts by how each is to be called, with `reach`, `loss` and `loss_interval`.
    """
    narrow: dict[tuple[str, float], list[tuple[str, float]]] = {}
    for name, target in targets.items():
        half = relative_half_width(target["loss"], target["loss_interval"])
        if target["reach"] is None or half is None:
            continue
        if band := tested.band_exceeding(target["reach"], half):
            tried = band is tested.band_of(target["reach"])
            shorter = "{:g} to {:.3g} times, a shorter reach,".format(*tested.limits_of(band))
            reach = "such a reach" if tried else shorter
            narrow.setdefault((reach, band["error"]), []).append((name, half))
    widened = "allows for the resamples of the law and the scatter of runs alone"
    if isinstance(fit, Consensus):
        widened = "is made of what each law missed in backtests, and that is too little"
    elif fit.extrapolation_error > 0:
        widened = "is widened already by what the forecast of the largest budget missed, and that is too little"
    return [
        f"{', '.join(name for name, _ in known)}: the interval may be too narrow: backtests of {reach} missed the loss "
        f"by {error:.2%} on average, more than the interval's ±{max(half for _, half in known):.2%}; it {widened}"
        for (reach, error), known in narrow.items()
    ]


def reach_errors(fit: Fit, choice: Choice | None = None) -> ReachErrors:
    """The law of a fit, fitted anew below rising cuts in scale and scored on the runs above each; of a consensus, what
    it would have been at each cut, by what was known then.

    Args:
        choice: where that was done already: of this law and its loss alone.
    """
    if isinstance(fit, Consensus):
        return _of_consensus(fit)
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


def _of_consensus(fit: Consensus) -> ReachErrors:
    if fit.rolling is None or not fit.rolling.cuts:
        return ReachErrors(problem="no backtest by reach: too few budgets")
    rows, by_cut = [], {}
    for cut, (reach, logs) in zip(fit.rolling.cuts, prequential_errors(fit.rolling), strict=True):
        missed = 1 - np.exp(-logs)
        by_cut[float(fit.runs.scale[fit.rolling.part < cut].max())] = float(np.abs(missed).mean())
        for low, high in itertools.pairwise(REACH_BANDS):
            here = missed[(low < reach) & (reach <= high)]
            if len(here):
                se = np.abs(here).std(ddof=1) / np.sqrt(len(here)) if len(here) > 1 else np.nan
                rows.append((f"{low:g}-{high:g}", np.abs(here).mean(), se, here.mean(), reach.max()))
    table = pd.DataFrame(rows, columns=["reach", "error", "se", "bias", "furthest"])
    by_reach = table.groupby("reach", sort=False)
    bands = by_reach[["error", "se", "bias"]].mean().assign(cuts=by_reach.size()).reset_index()
    bands = bands.sort_values("reach", key=lambda names: names.str.split("-").str[0].astype(float))
    records = [{str(key): value for key, value in row.items()} for row in bands.to_dict("records")]
    return ReachErrors(tuple(records), float(table["furthest"].max()), by_cut=by_cut)
