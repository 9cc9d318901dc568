"""`fit_within`: one law fitted to many parts of a table at once, as backtests do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.checks import checked_fixed, checked_variables, variables_of
from nextscale.fit.estimate.solve import minima_within
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.loss import Loss
from nextscale.fit.table.runs import Runs


def fit_within(
    runs: Runs,
    law: Law,
    windows: Sequence[np.ndarray],
    *,
    losses: Sequence[Loss],
    fixed: Mapping[str, float] | None = None,
) -> list[list[np.ndarray | None]]:
    """The law's theta by each loss in each of some windows of the runs, as `fit` with `init: quick` finds it there;
    None where the window's runs cannot show the law. All are searched for at once, so that many take little longer
    than one.

    Args:
        windows: which runs are in each, n of each.
    """
    fixed = checked_fixed(law, fixed or {})
    able, weights = [], np.zeros((len(windows), len(runs)))
    for i, window in enumerate(windows):
        within = runs.where(pd.Series(window, index=runs.table.index))
        try:
            checked_variables(law, within, fixed)
        except InputError:
            continue
        weights[i, window] = within.weights
        able.append(i)
    found: list[list[np.ndarray | None]] = [[None] * len(windows) for _ in losses]
    if able:
        problem = law.problem(variables_of(law, runs), runs.table["loss"].to_numpy(), losses[0], fixed)
        distinct, of = np.unique(weights[able], axis=0, return_inverse=True)
        thetas = problem.uncentred(minima_within(problem, distinct, losses))
        for own, by_window in zip(found, thetas[:, of], strict=True):
            for i, theta in zip(able, by_window, strict=True):
                own[i] = theta if np.isfinite(theta).all() else None
    return found
