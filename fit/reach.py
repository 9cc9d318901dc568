"""How far beyond the runs a law can be trusted, by what it missed when it was fitted to the smaller of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from nextscale.fit.choice import Candidate, choose
from nextscale.fit.errors import InputError
from nextscale.fit.estimate import Fit


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
            low, high = map(float, band["reach"].split("-"))
            if low < reach <= min(high, self.furthest):
                return band
        return None

    def warnings(self, reach: float) -> list[str]:
        if self.problem is not None or reach <= 1 or self.at(reach) is not None:
            return []
        return [
            f"{reach:.3g} times the largest run fitted: a backtest among these runs tests no more than "
            f"{self.furthest:.3g} times"
        ]


def backtested_reach(found: Fit) -> Reach:
    """The law of a fit, fitted anew below rising cuts in scale and scored on the runs above each."""
    if found.fixed:
        return Reach(problem="no backtest by reach: parameters of the law are pinned")
    try:
        choice = choose(found.runs, [Candidate(found.law, found.loss)])
    except InputError as error:
        return Reach(problem=f"no backtest by reach: {error}")
    rows = choice.summary[choice.summary["reach"] != "all"]
    bands = rows[["reach", "error", "se", "bias", "cuts"]].to_dict("records")
    furthest = float(choice.table.loc[choice.table["law"] == found.law.name, "furthest"].max())
    return Reach(tuple({str(key): value for key, value in row.items()} for row in bands), furthest)
