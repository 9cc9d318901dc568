"""What repeating the experiment could have given: resamples of the runs."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.table import Runs

Bootstrap = Literal["case", "stratified", "cluster", "residual"]


@dataclasses.dataclass(frozen=True)
class Resamples:
    """R repetitions of n runs.

    Attributes:
        weights: how often each run is drawn, R x n.
        targets: log losses of their own, R x n; None where they are those measured.
    """

    weights: np.ndarray
    targets: np.ndarray | None = None


def resamples(runs: Runs, kind: Bootstrap, count: int, fitted: np.ndarray, seed: int) -> Resamples:
    """Bootstrap resamples (Efron & Tibshirani 1993).

    Args:
        kind: `case` draws runs; `stratified` draws them within each budget, as a designed grid would be repeated;
            `cluster` draws whole groups of runs (column `group`: a training run and its checkpoints); `residual` keeps
            the runs and redraws their distances from the law.
        fitted: log loss by the law, n.

    Raises:
        InputError: another kind, or no groups to draw.
    """
    rng = np.random.default_rng(seed)
    n = len(runs)
    if kind == "case":
        return Resamples(rng.multinomial(n, np.full(n, 1 / n), size=count).astype(float))
    if kind == "stratified":
        weights = np.zeros((count, n))
        for budget in runs.budgets:
            here = np.flatnonzero(runs.table["budget"] == budget)
            weights[:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), size=count)
        return Resamples(weights)
    if kind == "cluster":
        if "group" not in runs.table:
            raise InputError("bootstrap: cluster needs to know which rows belong together; name their column (group)")
        names = runs.table["group"].unique()
        members = (runs.table["group"].to_numpy()[None] == names[:, None]).astype(float)
        if len(names) < 3:
            raise InputError(f"bootstrap: cluster needs three groups or more; got {len(names)}")
        return Resamples(rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count) @ members)
    if kind == "residual":
        residual = np.log(runs.table["loss"].to_numpy()) - fitted
        drawn = rng.choice(residual - residual.mean(), (count, n))
        return Resamples(np.ones((count, n)), fitted + drawn)
    raise InputError(f"bootstrap: '{kind}' is not one of {', '.join(get_args(Bootstrap))}")
