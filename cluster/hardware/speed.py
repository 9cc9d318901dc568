"""Predicted training time of a run, from runs that were timed on the same kind of device. No jax, no ray."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from nextscale.model.accounting import flops_per_step, parameters
from nextscale.model.config.external import AnyRun, ExternalRun
from nextscale.model.config.module import ModuleModel
from nextscale.model.network.kernels import RECOMPUTED, Recompute, recompute_of

_NEWEST = 500
"""Timed runs that are looked at: the machine as it is now, and a store of any size is read at once."""
_NEAREST = 9
_LIKE = np.log(10.0)
"""How far off, in log size, batch and context together, a timed run may be and still be like another; one that computes
its blocks twice, which takes longer, is e times off one that does not."""
_ENOUGH = 6
"""Timed runs from which on what a run takes, a step and a FLOP are told apart."""
_ROUNDS, _SMALL = 20, 0.02

SlotKind = tuple[str, float]
"""Accelerator and chips."""
Features = tuple[float, float, float, float]
"""Log size, batch and context, and which share of the blocks is computed twice."""


class TimedRun(NamedTuple):
    """An attempt that came to its end."""

    features: Features
    steps: float
    flops: float
    seconds: float


class Speed:
    """What runs take: so long each (to start, to compile, to evaluate), so long a step, so long a FLOP.

    The three are those that miss the timed runs by the least, in proportion; what the nearest of them in size, batch
    and context take more or less than that, by their median, so does a run among them.
    """

    def __init__(self, timed: dict[tuple[SlotKind, str], list[TimedRun]]):
        self._timed = {slot: _TimedSlot(runs) for slot, runs in timed.items()}

    def __bool__(self) -> bool:
        return bool(self._timed)

    @classmethod
    def from_accounts(cls, rows: Iterable[dict[str, Any]], config_of: Callable[[str], AnyRun | None]) -> Speed:
        """From accounts (see `nextscale.cluster.controller.accounts`) and what the runs in them were asked to be."""
        ended = [
            row for row in rows if row.get("outcome") == "finished" and row["seconds"] > 0 and row["flops_kept"] > 0
        ]
        timed: dict[tuple[SlotKind, str], list[TimedRun]] = {}
        for row in ended[-_NEWEST:]:
            config = config_of(row["run_id"])
            # One of ours that is faster than its device somebody else had finished; others count FLOPs as they like.
            whole = isinstance(config, ExternalRun) or (row["utilisation"] or 0) < 1
            if config is not None and whole:
                steps = row["flops_kept"] / flops_per_step(config)
                features = _features_of(config, recompute=recompute_of(row.get("recompute", False)))
                run = TimedRun(features, steps, row["flops_kept"], row["seconds"])
                timed.setdefault(((row["accelerator"], row["chips"]), _program(config)), []).append(run)
        return cls(timed)

    def seconds(
        self, config: AnyRun, flops: float, accelerator: str, chips: float, *, recompute: Recompute = "none"
    ) -> float | None:
        """Expected of so many FLOPs of a run, evaluation and all; None where nothing like it was timed.

        Args:
            flops: those of the model, as accounts have them: none twice.
        """
        known = self._timed.get(((accelerator, chips), _program(config)))
        if known is None or flops <= 0:
            return None
        steps = flops / flops_per_step(config)
        return known.seconds(_features_of(config, recompute=recompute), steps, flops)


class _TimedSlot:
    """The timed runs of one kind of slot."""

    def __init__(self, runs: list[TimedRun]):
        self._features = np.array([run.features for run in runs])
        terms = np.array([[1.0, run.steps, run.flops] for run in runs])
        seconds = np.array([run.seconds for run in runs])
        self._costs = _costs(terms, seconds)
        self._more = np.log(seconds / (terms @ self._costs))
        self._near: dict[Features, float | None] = {}

    def seconds(self, features: Features, steps: float, flops: float) -> float | None:
        if features not in self._near:
            self._near[features] = self._factor(np.array(features))
        factor = self._near[features]
        return None if factor is None else factor * float(np.array([1.0, steps, flops]) @ self._costs)

    def _factor(self, features: np.ndarray) -> float | None:
        apart = np.sqrt(np.square(self._features - features).sum(axis=1))
        if apart.min() > _LIKE:
            return None
        reach = np.sort(apart)[:_NEAREST][-1]
        return float(np.exp(np.median(self._more[apart <= reach + 1e-9])))


def _program(config: AnyRun) -> str:
    """Whose runs tell of one: what another program, or another module, takes says nothing. Ours has no name."""
    if isinstance(config, ExternalRun):
        return "\0".join(config.trainer.command)
    return config.model.target if isinstance(config.model, ModuleModel) else ""


def _features_of(config: AnyRun, *, recompute: Recompute) -> Features:
    return (
        float(np.log(parameters(config.model))),
        float(np.log(config.training.batch_tokens)),
        0.0 if isinstance(config, ExternalRun) else float(np.log(config.model.context)),
        RECOMPUTED[recompute] / RECOMPUTED["full"],
    )


def _costs(terms: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Of each term what it costs, none below zero: least absolute relative error, by reweighted least squares."""
    columns = range(3) if len(seconds) >= _ENOUGH else [2]
    relative = terms / seconds[:, None]
    scale = relative.max(axis=0)
    weights, best = np.ones(len(seconds)), np.zeros(3)
    for _ in range(_ROUNDS):
        best = _non_negative(relative / scale, weights, list(columns))
        miss = np.abs(relative / scale @ best - 1)
        weights = 1 / np.sqrt(np.maximum(miss, _SMALL))
    return best / scale


def _non_negative(terms: np.ndarray, weights: np.ndarray, columns: list[int]) -> np.ndarray:
    """Σ weights² (terms · x - 1)² at its least with no x below zero: of so few columns every choice is tried."""
    best, least = np.zeros(terms.shape[1]), np.inf
    for count in range(1, len(columns) + 1):
        for chosen in map(list, itertools.combinations(columns, count)):
            found = np.linalg.lstsq(terms[:, chosen] * weights[:, None], weights, rcond=None)[0]
            if (found < 0).any():
                continue
            missed = float(np.square(weights * (terms[:, chosen] @ found - 1)).sum())
            if missed < least:
                best, least = np.zeros(terms.shape[1]), missed
                best[chosen] = found
    return best
