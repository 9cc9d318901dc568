"""Runs that lie far off the law of the others: gross errors, such as a loss of another unit or a run that diverged."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit.errors import told
from nextscale.fit.estimate.covariance import problem_of
from nextscale.fit.estimate.solve import FEW_STEPS, Minimum, minimise, polish
from nextscale.fit.laws.law import Problem
from nextscale.fit.laws.loss import Loss
from nextscale.fit.table.runs import Runs

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit

_SUSPICIOUS, _FAR, _APART = 0.02, 0.1, 4.0
"""A residual from which runs are looked for; and how far off such a run is at least, in log loss and in times the
farthest of all others."""
_SHARE = 4
"""At most one in so many: of more, nobody could tell which are the others."""
_SPARE = 2
"""Runs beyond the parameters that must be left."""
_POOL, _DRAWN_ROWS, _MOST_DRAWN, _BEST = 16, 2000, 100, 8
"""Starts of the search from the pool of a fit, and from few runs that are drawn: so many rows of these in all; and how
many are followed."""
_WIDE, _ROUNDS, _ROUGH = 0.02, 3, 1e-4
"""The search is by Huber's loss of so large a delta, which has no kinks at the scatter of runs."""
_CHANCE, _SINGULAR = 0.01, 1e-10
"""That a run of a table without any is taken for one; and slopes that rounding alone tells from none."""
_NAMED = 8


@dataclasses.dataclass(frozen=True)
class FarOff:
    """Runs far off the law of the others.

    Attributes:
        rows: their places in the table.
        names: their `run_id`.
        off: measured / predicted loss - 1 of each, by the law of the others.
        parameters: of the law of all, and of that of the others.
        of: how many runs there are.
    """

    rows: tuple[int, ...]
    names: tuple[str, ...]
    off: tuple[float, ...]
    parameters: dict[str, tuple[float, float]]
    of: int

    @property
    def warning(self) -> str:
        """In words: which, how far, and what changes without them."""
        changes = ", ".join(f"{name} {b:.3g} in place of {a:.3g}" for name, (a, b) in self.parameters.items())
        lie = "lies" if len(self.rows) == 1 else "lie"
        return told(
            f"{len(self.rows)} of {self.of} runs {lie} far off the law of the others: {self.listing}; without: "
            f"{changes}; check what was measured there, or leave out what is far off with --drop-outliers"
        )

    def without(self, runs: Runs) -> Runs:
        """The others, with a note."""
        many = "1 run" if len(self.rows) == 1 else f"{len(self.rows)} runs"
        note = f"{many} far off the law of the others left out: {self.listing}"
        others = runs.where(~runs.table.index.to_series().isin(self.rows))
        return dataclasses.replace(others, notes=(*runs.notes, note))

    @property
    def listing(self) -> str:
        each = [f"{name} ({off:+.0%})" for name, off in zip(self.names, self.off, strict=True)]
        return ", ".join(each[:_NAMED]) + (f" and {len(each) - _NAMED} more" if len(each) > _NAMED else "")

    def to_dict(self) -> dict[str, Any]:
        without = {name: b for name, (_, b) in self.parameters.items()}
        return {"runs": list(self.names), "off": list(self.off), "parameters_without": without}


def far_off_runs(fit: Fit) -> FarOff | None:
    """Looks for them where a residual is suspicious: a fit to the three quarters of the runs that agree best (least
    trimmed objective by concentration, Rousseeuw & Van Driessen 2006, "Computing LTS regression"), to which the others
    are added from the nearest on, with the fit made anew (forward search, Atkinson & Riani 2000), until the next is
    far off."""
    problem, minimum, runs = problem_of(fit), fit.minimum, fit.runs
    n, free = len(runs), int(problem.free.sum())
    most = min(n // _SHARE, n - free - _SPARE)
    if most < 1 or np.abs(fit.residuals).max() <= _SUSPICIOUS:
        return None
    wide = dataclasses.replace(problem, loss=Loss(max(_WIDE, problem.loss.delta)))
    theta, kept = _trimmed(wide, minimum, runs.weights, most, free)
    while True:
        off = np.abs(_residuals(wide, theta)[0])
        near = np.flatnonzero(~kept & (off <= max(_FAR, _APART * off[kept].max())))
        if not len(near):
            break
        kept[near[off[near].argsort()[: max(1, most // 8)]]] = True
        theta, _, _ = polish(wide, theta, runs.weights * kept, tolerance=_ROUGH)
    if kept.all():
        return None
    without = minimise(problem, runs.weights * kept, quick=True).theta[None]
    others_too = kept | ~_beyond_chance(problem, without, runs.weights, kept)
    if others_too.all():
        return None
    if (others_too != kept).any():
        kept = others_too
        without = minimise(problem, runs.weights * kept, quick=True).theta[None]
    rows, others = np.flatnonzero(~kept), fit.law.natural(problem.uncentred(without[0])).tolist()
    return FarOff(
        rows=tuple(rows.tolist()),
        names=tuple(runs.table["run_id"].astype(str).iloc[rows]),
        off=tuple(np.expm1(_residuals(problem, without)[0, rows]).tolist()),
        parameters={name: (value, b) for (name, value), b in zip(fit.parameters.items(), others, strict=True)},
        of=n,
    )


def _beyond_chance(problem: Problem, theta: np.ndarray, weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Whether each run lies further off than scatter allows, n: by the outlier test of Cook & Weisberg 1982 (sec.
    2.2.2), which knows how surely the law of those kept tells what the others would be."""
    from scipy.stats import t as student

    slope, off = problem.expand(theta).slope[0][problem.free], _residuals(problem, theta)[0]
    freedom = int(kept.sum()) - len(slope)
    known = slope[:, kept] * np.sqrt(weights[kept])
    leverage = np.square(np.linalg.pinv(known, rcond=_SINGULAR) @ slope).sum(axis=0)
    noise = np.sqrt((weights * np.square(off))[kept].sum() / freedom)
    return np.abs(off) > student.isf(_CHANCE / 2 / len(off), freedom) * noise * np.sqrt(1 / weights + leverage)


def _trimmed(
    problem: Problem, minimum: Minimum, weights: np.ndarray, most: int, free: int
) -> tuple[np.ndarray, np.ndarray]:
    """The fit of the least objective without the `most` runs that lie farthest off it, 1 x parameters, and the rest."""
    n, rng = len(weights), np.random.default_rng(0)
    pool = minimum.starts
    drawn = min(_DRAWN_ROWS // n, _MOST_DRAWN)
    few = np.zeros((drawn, n))
    for row in few:
        row[rng.choice(n, free + 1, replace=False)] = 1
    scores = _objective(problem, pool, weights, most)
    theta = pool[scores.argsort()[:_POOL]]
    if drawn:
        begun = theta[rng.integers(len(theta), size=drawn)]
        begun, _, _ = polish(problem, begun, few * weights, tolerance=_ROUGH, steps=FEW_STEPS)
        theta = np.concatenate([theta, begun])
    for _ in range(_ROUNDS):
        theta = theta[_objective(problem, theta, weights, most).argsort()[:_BEST]]
        theta, _, _ = polish(problem, theta, weights * _nearest(problem, theta, most), tolerance=_ROUGH)
    best = theta[[int(_objective(problem, theta, weights, most).argmin())]]
    return best, _nearest(problem, best, most)[0]


def _objective(problem: Problem, theta: np.ndarray, weights: np.ndarray, most: int) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        losses = weights * problem.loss(_residuals(problem, theta))
        sums = np.where(_nearest(problem, theta, most), losses, 0).sum(axis=1)
    return np.where(np.isfinite(sums), sums, np.inf)


def _nearest(problem: Problem, theta: np.ndarray, most: int) -> np.ndarray:
    """Which runs are not among the farthest off, S x n."""
    off = np.nan_to_num(np.abs(_residuals(problem, theta)), nan=np.inf)
    return np.asarray(off.argsort(axis=1).argsort(axis=1) < off.shape[1] - most)


def _residuals(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """log measured - log predicted loss, S x n."""
    return problem.target - problem.values(theta)
