"""Bootstrap resamples of a table of runs: case, stratified, cluster, residual and normal."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.runs import Runs

Bootstrap = Literal["case", "stratified", "cluster", "residual", "normal"]
"""Kinds of resampling, see `draw_resamples`."""
_FEW = 8
"""Degrees of freedom up to which runs are too few to be drawn: of 3, 4 and 6 that show two parameters, intervals of
90 % by `case` hold 67, 78 and 86 %."""
_FEWEST = 3
"""Runs of a stratum, and groups of a cluster bootstrap."""


@dataclasses.dataclass(frozen=True)
class Resamples:
    """R repetitions of n runs.

    Attributes:
        weights: how often each run is drawn, R x n.
        targets: log losses of their own, R x n; None where they are those measured.
    """

    weights: np.ndarray
    targets: np.ndarray | None = None


def usual_bootstrap(freedom: int) -> Bootstrap:
    """The kind where none is asked for: `case`, and `normal` of few runs."""
    return "normal" if freedom <= _FEW else "case"


def spreads(freedom: int, count: int, seed: int) -> np.ndarray:
    """Scatters of a run that a measured one allows, as multiples of it: the root of its degrees of freedom /
    chi-squared, and so what is drawn by them is of Student's t (Gelman et al. 2013, sec. 3.2)."""
    return np.asarray(np.sqrt(freedom / np.random.default_rng([seed, freedom]).chisquare(freedom, count)))


def draw_resamples(runs: Runs, kind: Bootstrap, count: int, fitted: np.ndarray, freedom: int, seed: int) -> Resamples:
    """Bootstrap resamples (Efron & Tibshirani 1993).

    Args:
        kind: `case` draws runs; `stratified` draws them within each budget, as a designed grid would be repeated;
            `cluster` draws whole groups of runs (column `group`: a training run and its checkpoints); `residual` keeps
            the runs and redraws their distances from the law, each time with a variance that their sum of squares
            allows, for of few runs the scatter itself is hardly known (Gelman et al. 2013, "Bayesian Data Analysis",
            sec. 14.2: sum of squares / chi-squared); `normal` draws the distances too, for few runs do not show how
            they are distributed, and those that a law passes through show none.
        fitted: log loss by the law, n.
        freedom: degrees of freedom that the scatter is judged by.

    Raises:
        InputError: no groups to draw.
    """
    rng = np.random.default_rng(seed)
    n = len(runs)
    if kind == "case":
        return Resamples(rng.multinomial(n, np.full(n, 1 / n), size=count).astype(float))
    if kind == "stratified":
        weights = np.zeros((count, n))
        for here in _strata(runs):
            weights[:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), size=count)
        return Resamples(weights)
    if kind == "cluster":
        if "group" not in runs.table:
            raise InputError("bootstrap: cluster needs to know which rows belong together; name their column (group)")
        codes, names = pd.factorize(runs.table["group"])
        members = np.eye(len(names))[:, codes]
        if len(names) < _FEWEST:
            raise InputError(f"bootstrap: cluster needs three groups or more; got {len(names)}")
        return Resamples(rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count) @ members)
    residual = np.log(runs.table["loss"].to_numpy()) - fitted
    if kind == "normal":
        noise = np.sqrt(np.square(residual).sum() / freedom)
        scatter = noise * spreads(freedom, count, seed)[:, None]
        return Resamples(np.ones((count, n)), fitted + scatter * rng.standard_normal((count, n)))
    drawn = rng.choice(residual - residual.mean(), (count, n))
    wider = np.sqrt(n / rng.chisquare(freedom, (count, 1)))
    return Resamples(np.ones((count, n)), fitted + wider * drawn)


def _strata(runs: Runs) -> list[np.ndarray]:
    """The rows of each budget; budgets of fewer than three runs are joined with the next, for a run alone in its own
    would be drawn once in every resample."""
    strata: list[np.ndarray] = []
    here = np.array([], int)
    for budget in runs.budgets:
        here = np.append(here, np.flatnonzero(runs.table["budget"] == budget))
        if len(here) >= _FEWEST:
            strata, here = [*strata, here], np.array([], int)
    if len(here):
        strata[-1:] = [np.concatenate([*strata[-1:], here])]
    return strata
