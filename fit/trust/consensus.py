"""The consensus of laws, which forecasts where no law is named: laws weighed by what each missed in backtests.

How it is made is told, with what it came to on public runs, in docs/statistics.md.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit, point, resampled
from nextscale.fit.intervals import ends_around
from nextscale.fit.laws.catalogue import CHINCHILLA, CHINCHILLA_TIED, DATA_SIZE, SATURATING, SIZE_DATA
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.loss import Loss
from nextscale.fit.laws.mixture import Mixture
from nextscale.fit.table.runs import Runs
from nextscale.fit.trust.candidates import weigh_repeats_as_one
from nextscale.fit.trust.rolling import CUTS, NEAREST, Contender, Rolling, growth, roll

CONSENSUS = "consensus"
_IN_SIZE_AND_DATA, _IN_COMPUTE = (CHINCHILLA, SIZE_DATA, DATA_SIZE, CHINCHILLA_TIED), (SATURATING,)
"""Each has an irreducible loss: what falls without end wins near the runs and loses far beyond them."""
_WINDOWS = (0.0, 1 / 3, 1 / 2)
"""Shares of the steps of scale that are left out, from the smallest: small runs often bend the curve that larger ones
follow."""
_OF_ALL_RUNS = (CHINCHILLA_TIED,)
"""Laws that are fitted to all runs alone: those for few runs that scatter, of which none can be spared."""
_USUAL_RATE, _USUAL_WEIGHT, _UNTESTED_RATE = 0.0035, 4.0, 0.012
"""The error per unit of growth that laws usually have, over public suites; as how many cuts of a backtest that counts;
and the usual one of a law that no backtest has chosen."""
_NOISE_FOR_CUT = 0.5
"""For each cut that a backtest lacks the usual error is at least that many times the scatter of the runs about the law:
a few cuts choose a lucky law, and by how much runs scatter is known from few."""
_SHARPNESS = 5.0
"""A law's weight is its rate to minus this many times the evidence: twice the error, a thirty-second of the weight by
one cut, and a hundred and seventieth by four."""
_FEWEST_DRAWS = 10
"""A law of fewer draws than that is left out."""
_LIMIT_DRAWS = 100
"""Of each law's irreducible loss."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One law of a consensus.

    Attributes:
        law: its name.
        first: the scale of the smallest run that it is fitted to.
        runs: of how many.
        weight: its share, all of a consensus sum to 1.
        rate: root mean square of what it missed in backtests, relative, at e-folds of reach to the power of
            `nextscale.fit.trust.rolling.REACH_POWER`; None where there was none.
        parameters: by name.
    """

    law: str
    first: float
    runs: int
    weight: float
    rate: float | None
    parameters: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Consensus(Fit):
    """Laws weighed by what each missed in backtests, as a fit of their `Mixture`.

    What a run at a scale will measure is the weighted mean of their logarithms; its interval is that of the laws
    themselves, each with an error drawn from Student's t, of the size that its rolling errors and those usual over
    public suites have together, growing with reach. The resamples say how sure sizes are.

    The interval of the irreducible loss is over all laws alike, whatever their weights: a backtest over a few e-folds
    of compute tells nothing of their limits, which lie apart by more than any resample.

    Attributes:
        members: by falling weight.
        centres: for each draw the law that it is of, as fitted to all runs, R x parameters.
        surprises: its error per unit of growth, R.
        rolling: the backtests.
    """

    members: tuple[Member, ...] = ()
    centres: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 0)))
    surprises: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    rolling: Rolling | None = None

    @property
    def leading(self) -> Fit:
        """The law of most weight, erring beyond its runs as is reckoned here: for what needs the slopes of one law."""
        return dataclasses.replace(self._by_weight[0], extrapolation_error=self.extrapolation_error)

    @property
    def _by_weight(self) -> list[Fit]:
        """Every contender fitted to all runs, by falling weight."""
        assert self.rolling is not None
        weights = weights_of(self.rolling.rates(), self.rolling.evidence())
        return [self.rolling.newest[k] for k in np.argsort(-weights, kind="stable")]

    def interval(self, name: str, level: float | None = None) -> tuple[float, float]:
        if name != "E" or len(self.resamples) < 2:
            return super().interval(name, level)
        return ends_around(self.parameters[name], self._limits, level or self.level)

    @functools.cached_property
    def _limits(self) -> np.ndarray:
        """Draws of the irreducible loss, as many of each law."""
        best = {found.law.name: found for found in reversed(self._by_weight)}.values()
        drawn = [_with_resamples(found, _LIMIT_DRAWS, self.level) for found in best]
        return np.concatenate([each.law.natural(each.resamples)[:, each.law.parameters.index("E")] for each in drawn])

    def predictive(
        self, params: Any = None, tokens: Any = None, flops: Any = None, *, seed: int = 0, **others: Any
    ) -> np.ndarray:
        """Draws of the loss that a run at each point would measure, R x n; FLOPs are 6ND where none are given."""
        at = point(params, tokens, flops, others)
        with np.errstate(over="ignore"):  # so far off that no number holds it
            return np.exp(self.law_draws(lambda thetas: self.log_losses(thetas, at), self.reach(at)))

    def untested(self, reach: np.ndarray) -> np.ndarray:
        """Which share of so many e-folds of reach lies beyond what backtests came to."""
        return np.clip(1 - self.tested / np.maximum(reach, NEAREST), 0, 1)

    @property
    def tested(self) -> float:
        return 0.0 if self.rolling is None else self.rolling.furthest

    def law_draws(self, log_losses: Callable[[np.ndarray], np.ndarray], reach: np.ndarray) -> np.ndarray:
        # What backtests missed by has the error of estimation in it; beyond their reach it is the resamples' to tell.
        centres, resamples = log_losses(self.centres), log_losses(self.resamples)
        errors = self.surprises[:, None] * growth(reach, self.tested)
        return centres + self.untested(reach) * (resamples - centres) + errors

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"members": [dataclasses.asdict(member) for member in self.members]}


def consensus(
    runs: Runs,
    laws: Sequence[Law] | None = None,
    *,
    loss: str | Loss = "huber",
    delta: float = 1e-3,
    tilt: float = 0.9,
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    drift: float = 0.0,
    **options: Any,
) -> Consensus:
    """Fits every law, to all runs and without the smallest, below each of the newest cuts in scale, and weighs them by
    what they missed above: rate^(-5 x evidence), where evidence is the number of cuts, each a third of the next newer.

    An error of reach is drawn from Student's t whose scale is the root of the mean of rate² over the cuts and of the
    usual rate², the latter as four cuts, with as many degrees of freedom: a conjugate prior of the variance.

    Args:
        laws: in the same variables; by default those with an irreducible loss that are quickly fitted, in N and D, or
            in C where runs have no sizes.
        drift: what a law is taken to be off by per unit of growth at least, relative.
        options: passed to `fit`.

    Raises:
        InputError: no law can be fitted.
    """
    runs = weigh_repeats_as_one(runs)
    cost = loss if isinstance(loss, Loss) else Loss.of(loss, delta, tilt)
    laws = laws or laws_for(runs)
    contenders = [Contender(law, cost, out) for out in _WINDOWS for law in laws if not out or law not in _OF_ALL_RUNS]
    rolling = roll(runs, contenders, level=level, seed=seed, **options)
    rates, scales = rolling.rates(), np.maximum(_scales(rolling), drift)
    weights = weights_of(rates, rolling.evidence())
    counts = _draws_of(weights, resamples)
    order = [k for k in np.argsort(-weights, kind="stable") if counts[k]]
    shares = weights[order] / weights[order].sum()
    fits = [_with_resamples(rolling.newest[k], int(counts[k]) if resamples else 0, level) for k in order]
    mixture = Mixture.of([each.law for each in fits])
    centres, drawn, surprises = [], [], []
    rng = np.random.default_rng(seed)
    thetas = [each.theta for each in fits]
    freedom = _USUAL_WEIGHT + rolling.evidence()
    for place, (k, each) in enumerate(zip(order, fits, strict=True)):
        rows = each.resamples[: counts[k]] if resamples else each.theta[None]
        centres += [mixture.vector({place: 1.0}, thetas)] * len(rows)
        drawn += [mixture.vector({place: 1.0}, [*thetas[:place], row, *thetas[place + 1 :]]) for row in rows]
        surprises.append(rng.standard_t(freedom, len(rows)) * scales[k])
    heaviest = fits[0]
    return Consensus(
        law=mixture,
        runs=runs,
        theta=mixture.vector(dict(enumerate(shares.tolist())), thetas),
        resamples=np.array(drawn),
        loss=cost,
        level=level,
        minimum=heaviest.minimum,
        bootstrap=heaviest.bootstrap,
        seed=seed,
        extrapolation_error=float(scales[order[0]]),
        backtested=len(rolling.cuts) > 1,
        warnings=tuple(_warnings(rolling)),
        members=tuple(
            Member(
                law=each.law.name,
                first=float(each.runs.scale.min()),
                runs=len(each.runs),
                weight=float(share),
                rate=float(rates[k]) if rolling.cuts else None,
                parameters=each.parameters,
            )
            for k, each, share in zip(order, fits, shares, strict=True)
        ),
        centres=np.array(centres),
        surprises=np.concatenate(surprises),
        rolling=rolling,
    )


def laws_for(runs: Runs) -> tuple[Law, ...]:
    """The laws that a consensus on these runs is of: in N and D, or in C alone.

    Raises:
        InputError: the runs have neither.
    """
    known = {*runs.table}
    if {"params", "tokens"} <= known:
        return _IN_SIZE_AND_DATA
    if "flops" in known:
        return _IN_COMPUTE
    raise InputError(f"{runs.source}: a consensus is of laws in N and D, or in C; name a law of other variables")


def weights_of(rates: np.ndarray, evidence: float) -> np.ndarray:
    """The weight of each contender by its rate, K, summing to 1."""
    if not evidence:
        # Untested, the usual law alone, of all runs.
        return np.eye(len(rates))[0]
    known = np.maximum(rates, 1e-9)
    weights = (known / known.min()) ** (-_SHARPNESS * evidence)
    return np.asarray(weights / weights.sum())


def prequential_errors(rolling: Rolling) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the consensus itself would have missed by at each cut, weighed by what was known then: reach / the largest
    run fitted and log measured - log forecast loss, of each run above the cut."""
    found = []
    for i, cut in enumerate(rolling.cuts):
        rates = rolling.rates(before=cut)
        evidence = rolling.evidence(before=cut)
        weights = weights_of(rates, evidence) if evidence else np.full(len(rates), 1 / len(rates))
        above = rolling.part >= cut
        found.append((np.exp(rolling.reach(cut, above)), weights @ rolling.errors[:, i, above]))
    return found


def _scales(rolling: Rolling) -> np.ndarray:
    """Of the error per unit of growth, by backtest and by what is usual; where cuts are few, that is by the scatter of
    the runs as well."""
    evidence, noise = rolling.evidence(), np.array([found.noise for found in rolling.newest])
    lacking = _NOISE_FOR_CUT * (CUTS - len(rolling.cuts)) * noise
    if not evidence:
        return np.maximum(_UNTESTED_RATE, lacking)
    usual = np.maximum(_USUAL_RATE, lacking)
    squares = _USUAL_WEIGHT * np.square(usual) + evidence * np.square(rolling.rates())
    return np.asarray(np.sqrt(squares / (_USUAL_WEIGHT + evidence)))


def _draws_of(weights: np.ndarray, resamples: int) -> np.ndarray:
    """How many draws are of each contender; where there are none, 1 of each that counts."""
    if not resamples:
        return (weights > 0.01).astype(int)
    counts = np.round(weights * resamples).astype(int)
    return np.where(counts < _FEWEST_DRAWS, 0, counts) if (counts >= _FEWEST_DRAWS).any() else counts


def _with_resamples(found: Fit, resamples: int, level: float) -> Fit:
    if not resamples:
        return found
    return resampled(found, max(resamples, int(np.ceil(2 / (1 - level)))), level)


def _warnings(rolling: Rolling) -> list[str]:
    if len(rolling.cuts) > 1:
        return []
    if rolling.cuts:
        return ["few budgets: one backtest alone says how far the forecast may be off, and is no sure measure"]
    beyond = _UNTESTED_RATE * float(growth(np.array(1.0), rolling.furthest))
    return [
        "too few budgets to backtest any law: the interval is as wide as laws usually miss by on public runs "
        f"({beyond:.1%} at {np.e:.2g} times the largest run, more further on), and nothing here tested it"
    ]
