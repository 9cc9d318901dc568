"""The noise of one run, estimated from runs that differ in their seed alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.runs import Runs
from nextscale.fit.table.sources import Table, as_table


@dataclasses.dataclass(frozen=True)
class SeedNoise:
    """What repeated runs tell.

    Attributes:
        noise: relative, of one run: the pooled standard deviation of log loss.
        freedom: degrees of freedom behind it: runs less configurations.
        weights: of every run, in proportion to 1 / variance.
    """

    noise: float
    freedom: int
    weights: pd.Series


def seed_noise(runs: Table | Runs, config: Sequence[str] = ("params", "tokens")) -> SeedNoise:
    """The noise that repeated runs show, where only the seed differs between them.

    Few repeats make a poor variance, so each configuration's is drawn towards that of all, by as much as their spread
    shows them to be alike (Smyth 2004, "Linear models and empirical Bayes methods", sec. 6.2); those of a single run
    take that of all. Pass the weights on: `fit(table.assign(weight=noise.weights), columns=Columns(weight="weight"))`.

    Args:
        config: the columns that are the same in repeated runs.

    Raises:
        InputError: no configuration was run twice.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    table = runs.table if isinstance(runs, Runs) else as_table(runs)
    groups = np.log(table["loss"]).groupby([table[name] for name in config])
    freedom, variance = groups.transform("size") - 1, groups.transform("var").fillna(0)
    once = groups.agg(["size", "var"]).query("size > 1")
    if once.empty:
        raise InputError(f"seeds: no two runs have the same {' and '.join(config)}")
    d = once["size"] - 1
    pooled = float((d * once["var"]).sum() / d.sum())
    # The log variances scatter by chance; what they scatter more, the configurations differ.
    z = np.log(once["var"].clip(lower=1e-6 * pooled)) - digamma(d / 2) + np.log(d / 2)
    differ = float(z.var() - polygamma(1, d / 2).mean()) if len(once) > 2 else 0.0
    prior, typical = math.inf, pooled
    if differ > polygamma(1, 1e4):
        half = float(brentq(lambda half: polygamma(1, half) - differ, 1e-2, 1e4))
        prior, typical = 2 * half, math.exp(z.mean() + digamma(half) - math.log(half))
    share = freedom / (freedom + prior)
    moderated = (1 - share) * typical + share * variance
    return SeedNoise(math.sqrt(pooled), int(d.sum()), (moderated.mean() / moderated).rename("weight"))
