"""What all runs of a folder answer: the fit to them, the first forecast of the page, and how well it was tested."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.trust.candidates import Candidate
from nextscale.fit.trust.choice import Choice, choose
from nextscale.fit.trust.consensus import Consensus, laws_for
from nextscale.fit.trust.reach import ReachErrors, reach_errors
from nextscale.sweeps.budget.targets import forecast_targets
from nextscale.sweeps.errors import USER_ERRORS

_BEYOND = 10.0
"""How far beyond the runs the first forecast is."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """
    Attributes:
        fit: to every run, held-out ones too.
        tested: what backtests say of each reach.
        choice: the backtest of its laws; None, and a `problem`, where there are too few budgets.
        asked: what it forecasts at ten times the largest run, as `forecast_targets` tells it; None where its law says
            nothing of compute.
    """

    fit: Fit
    tested: ReachErrors
    choice: Choice | None
    problem: str | None
    asked: dict[str, Any] | None

    @classmethod
    def of(cls, fit: Fit) -> Answer:
        laws = laws_for(fit.runs) if isinstance(fit, Consensus) else (fit.law,)
        choice, problem = None, None
        try:
            choice = choose(fit.runs, [Candidate(law, fit.loss) for law in laws])
        except InputError as error:  # too few budgets
            problem = f"no backtest by reach: {error}"
        tested = reach_errors(fit, choice)
        flops = float(f"{_BEYOND * fit.runs.table['flops'].max():.3g}")
        try:
            asked = forecast_targets(fit, [{"flops": flops}], backtests=tested)
        except USER_ERRORS:
            asked = None
        return cls(fit, tested, choice, tested.problem or problem, asked)

    @property
    def target(self) -> dict[str, Any] | None:
        return None if self.asked is None else self.asked["targets"][0]


def known_of(answer: Answer | None, summary: Mapping[str, Any]) -> list[str]:
    """All that is to be known of forecasts, in words, the gravest first; some of it twice."""
    choice = None if answer is None else answer.choice
    known = [choice.baseline_warning] if choice is not None and choice.baseline_warning else []
    if summary["holdout"]:
        known += summary["forecast"]["warnings"]
    elif answer is not None and answer.asked is not None:
        known += answer.asked["warnings"]
    known += [] if answer is None else answer.fit.warnings
    known += summary["warnings"]
    if answer is not None:
        known += [answer.problem] if answer.problem else [answer.tested.told] if answer.tested.bands else []
    return known
