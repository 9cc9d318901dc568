"""Rolling errors: every contender fitted below each of the last cuts in scale, and what it missed above each by."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.checks import variables_of
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.estimate.windows import fit_within
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.loss import Loss
from nextscale.fit.table.runs import Runs
from nextscale.fit.trust.backtest import parts_of

CUTS = 4
"""As many are looked at, the newest."""
REACH_POWER, NEAREST = 0.75, 0.5
"""Errors grow with so much of a power of the e-folds of scale between a run and the largest fitted; nearer than the
second, they are what they are there. Of 19 public suites, 0.5 and 1 do as well."""
_NEWER = 1 / 3
"""The next older cut counts so much less: laws come to hold as runs grow."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """A law, the loss that it is fitted by, and from where on: a share of the steps of scale is left out."""

    law: Law
    loss: Loss
    left_out: float = 0.0

    def rows(self, part: np.ndarray, below: int) -> np.ndarray | None:
        """Which runs it is fitted to below a step; None where nothing is left out that it claims to leave out."""
        first = int(below * self.left_out)
        if self.left_out and first == 0:
            return None
        return (first <= part) & (part < below)


@dataclasses.dataclass(frozen=True)
class Rolling:
    """What contenders missed by.

    Attributes:
        contenders: K, those that could be fitted at every cut and to all runs.
        part: the step of scale of each run, n.
        log_scale: of each run, n.
        cuts: the first step above each, rising; fewer than `CUTS` where runs are few.
        errors: log measured - log predicted loss of every run by each contender below each cut, K x cuts x n; of runs
            below the cut as well.
        newest: the contenders fitted to all runs.
    """

    contenders: tuple[Contender, ...]
    part: np.ndarray
    log_scale: np.ndarray
    cuts: tuple[int, ...]
    errors: np.ndarray
    newest: tuple[Fit, ...]

    def evidence(self, before: int | None = None) -> float:
        """How many cuts there are, an older one counting less.

        Args:
            before: see `rates`.
        """
        cuts = sum(before is None or cut < before for cut in self.cuts)
        return float(sum(_NEWER**age for age in range(cuts)))

    def reach(self, cut: int, of: np.ndarray) -> np.ndarray:
        """e-folds from the largest run below a cut to each of some runs."""
        return np.maximum(self.log_scale[of] - self.log_scale[self.part < cut].max(), 0)

    @property
    def furthest(self) -> float:
        """The longest reach that was tested, in e-folds."""
        if not self.cuts:
            return 0.0
        return float(self.reach(self.cuts[0], self.part >= self.cuts[0]).max())

    def rates(self, before: int | None = None) -> np.ndarray:
        """Root mean square error of each contender per unit of `growth`, K: every step above a cut alike, and newer
        cuts before older ones. Not numbers where there is no cut.

        Args:
            before: what was known when runs had come to this step, none of its own.
        """
        before = int(self.part.max()) + 1 if before is None else before
        squares, weights = [], []
        for i, cut in enumerate(self.cuts):
            steps = range(cut, before)
            for step in steps:
                here = self.part == step
                scaled = self.errors[:, i, here] / growth(self.reach(cut, here))
                squares.append(np.square(scaled).mean(axis=1))
                weights.append(_NEWER ** (len(self.cuts) - 1 - i) / len(steps))
        if not squares:
            return np.full(len(self.contenders), np.nan)
        return np.sqrt(np.average(squares, axis=0, weights=weights))


def growth(reach: np.ndarray, tested: float = np.inf) -> np.ndarray:
    """By what errors grow with e-folds of reach: in proportion to it beyond what was tested."""
    far = np.maximum(reach, NEAREST)
    near = np.minimum(far, max(tested, NEAREST))
    return np.asarray(near**REACH_POWER * far / near)


def roll(runs: Runs, contenders: Sequence[Contender], **options: Any) -> Rolling:
    """Fits every contender to all runs and below each of the newest cuts that every law can be fitted at.

    Args:
        options: passed to `fit`.

    Raises:
        InputError: no contender can be fitted to all runs; the reason is the first one's.
    """
    alone = all(contender.law.variables == ("C",) for contender in contenders)
    part = parts_of(runs, fewest=1 if alone else 3).to_numpy()
    last = int(part.max()) + 1
    options = {**options, "resamples": 0, "init": "quick"}
    problem: InputError | None = None
    newest: dict[Contender, Fit] = {}
    for contender in contenders:
        try:
            newest[contender] = _fitted(runs, contender, part, last, options)
        except InputError as error:
            problem = problem or error
    if not newest:
        assert problem is not None
        raise problem
    able = [*newest]
    errors: dict[int, dict[Contender, np.ndarray]] = {}
    cuts = range(last - 1, 0, -1)[:CUTS]
    below = _below_cuts(runs, able, part, cuts, options.get("fixed"))
    for cut in cuts:
        found = {contender: below[contender, cut] for contender in able if (contender, cut) in below}
        # For a second cut a window may be given up, but no law that has a cut; for a third, nothing.
        kept = {c.law.name for c in found} == {c.law.name for c in able} if len(errors) < 2 else len(found) == len(able)
        if not found or (errors and not kept):
            break
        able, errors[cut] = [*found], found
    by_cut = [[errors[cut][contender] for cut in sorted(errors)] for contender in able]
    return Rolling(
        contenders=tuple(able),
        part=part,
        log_scale=np.log(runs.scale.to_numpy()),
        cuts=tuple(sorted(errors)),
        errors=np.array(by_cut).reshape(len(able), len(errors), len(runs)),
        newest=tuple(newest[contender] for contender in able),
    )


def _below_cuts(
    runs: Runs,
    contenders: Sequence[Contender],
    part: np.ndarray,
    cuts: Sequence[int],
    fixed: Mapping[str, float] | None,
) -> dict[tuple[Contender, int], np.ndarray]:
    """log measured - log predicted loss of every run, n, by each contender fitted below each cut; without those that
    what lies below cannot show."""
    logs = np.log(runs.table["loss"].to_numpy())
    windows: dict[tuple[Law, Loss], dict[tuple[Contender, int], np.ndarray]] = {}
    for contender, cut in itertools.product(contenders, cuts):
        if (rows := contender.rows(part, cut)) is not None:
            windows.setdefault((contender.law, contender.loss), {})[contender, cut] = rows
    errors = {}
    for (law, loss), own in windows.items():
        (thetas,) = fit_within(runs, law, [*own.values()], losses=[loss], fixed=fixed)
        variables = variables_of(law, runs)
        for key, theta in zip(own, thetas, strict=True):
            if theta is not None:
                errors[key] = logs - law.log_losses(theta[None], variables)[0]
    return errors


def _fitted(runs: Runs, contender: Contender, part: np.ndarray, below: int, options: dict[str, Any]) -> Fit:
    rows = contender.rows(part, below)
    if rows is None:
        raise InputError(f"{contender.law.name}: nothing to leave out")
    window = runs.where(pd.Series(rows, index=runs.table.index))
    return fit(window, contender.law, loss=contender.loss, **options)
