"""The law that is assumed before a run is trained: that of earlier runs, or a published one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nextscale.fit.estimate.published import BESIROGLU
from nextscale.fit.laws.catalogue import CHINCHILLA
from nextscale.fit.laws.loss import Loss
from nextscale.model.config.external import AnyRun, read_run
from nextscale.sweeps.spec.designs import TOKENS_PER_PARAM

PUBLISHED = BESIROGLU.parameters
REDUCIBLE = 0.2
"""Share of the loss that more compute would take away: what the published law says of 1e21 FLOPs."""
NOISE = 0.003
"""Relative standard deviation of a run about the law, where no runs tell: a seed's, and what the law misses."""
_LARGE = 2e7
"""Parameters of the runs that the published law was fitted to, from about here on."""
_RUNS, _QUIET = 10, 1e-6
_SIZED = ("width", "depth", "heads", "kv_heads", "head_width")
_ELSEWHERE = ("folder", "source", "stop_seconds")
_TUNED = ("steps", "batch_tokens", "lr", "weight_decay", "warmup_tokens")


@dataclasses.dataclass(frozen=True)
class Prior:
    """A law of the form of `CHINCHILLA`.

    Attributes:
        noise: relative standard deviation of a run about it.
        description: which law it is, in words.
        from_own_runs: whether it is of runs of this data and family, not of others'.
    """

    parameters: Mapping[str, float]
    noise: float
    description: str
    from_own_runs: bool = False

    def log_losses(self, params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        theta = CHINCHILLA.theta(self.parameters)
        return CHINCHILLA.log_losses(theta[None], {"N": params, "D": tokens})[0]

    def best_size(self, flops: float, cost: Cost) -> float:
        """The compute-optimal size of a budget."""
        sizes = np.geomspace(cost.params[0] / 30, cost.params[-1] * 30, 2000)
        return float(sizes[self.log_losses(sizes, flops / cost(sizes)).argmin()])


@dataclasses.dataclass(frozen=True)
class Cost:
    """Training FLOPs per token of the sizes of a family: by straight lines in logarithms through those known.

    `nextscale.fit.TokenCost` draws a smooth curve through them; that takes scipy, which a plan does without.

    Attributes:
        params: rising.
    """

    params: np.ndarray
    flops_per_token: np.ndarray

    @classmethod
    def of(cls, params: Sequence[float], flops_per_token: Sequence[float]) -> Cost:
        known = dict(zip(params, flops_per_token, strict=True))
        return cls(*np.array(sorted(known.items()), float).T)

    def __call__(self, params: np.ndarray) -> np.ndarray:
        x, y = np.log(self.params), np.log(self.flops_per_token)
        at = np.log(params)
        beyond = np.minimum(at - x[0], 0) + np.maximum(at - x[-1], 0)
        return np.exp(np.interp(at, x, y) + beyond)


def published_prior(params: np.ndarray, tokens: np.ndarray, noise: float = NOISE) -> Prior:
    """The published law where runs are as large as those it was fitted to; below, its exponents alone.

    Of small models, small vocabularies and other data its coefficients say nothing: at 3000 parameters they make the
    loss 30 nats, of a byte that has 5.5. There the two terms are set by what holds across scales: that the loss is
    lowest at about 20 tokens per parameter, and a fifth of it reducible, in the middle of the design.
    """
    if np.median(params) >= _LARGE:
        description = "the published Chinchilla law (Besiroglu et al. 2024, on the runs of Hoffmann et al. 2022)"
        return Prior(PUBLISHED, noise, description)
    middle = np.exp(np.mean(np.log(params) + np.log(tokens)))
    size = np.sqrt(middle / TOKENS_PER_PARAM)
    alpha, beta = PUBLISHED["alpha"], PUBLISHED["beta"]
    law = {
        "E": 1 - REDUCIBLE,
        "A": REDUCIBLE * beta / (alpha + beta) * size**alpha,
        "B": REDUCIBLE * alpha / (alpha + beta) * (TOKENS_PER_PARAM * size) ** beta,
        "alpha": alpha,
        "beta": beta,
    }
    description = (
        f"a Chinchilla law with the published exponents ({alpha:.2f} of N, {beta:.2f} of D; Besiroglu et al. 2024) and "
        f"{REDUCIBLE:.0%} of the loss reducible in the middle of the design, at {TOKENS_PER_PARAM:.0f} tokens per "
        "parameter, for published coefficients say nothing of models so small"
    )
    return Prior(law, noise, description)


def prior_of_runs(records: Sequence[Mapping[str, Any]], size: str, noise: float | None = None) -> Prior | None:
    """The law of runs that are done; None where they are too few to show one.

    Args:
        records: with `tokens`, `loss` and the size.
        size: which column counts N.
    """
    from nextscale.fit.estimate.solve import minimise

    table = np.array(
        [[r[size], r["tokens"], r["loss"]] for r in records if r.get("loss") and r.get(size) and r.get("tokens")], float
    )
    if len(table) < _RUNS or len(np.unique(table[:, 0])) < 3 or len(np.unique(table[:, 1])) < 3:
        return None
    N, D, losses = table.T
    if abs(np.corrcoef(np.log(N), np.log(D))[0, 1]) > 0.995:
        return None
    problem = CHINCHILLA.problem({"N": N, "D": D}, losses, Loss(), {})
    found = minimise(problem, np.ones(len(table)))
    residuals = problem.values(found.theta[None])[0] - problem.target
    scatter = float(np.sqrt(np.square(residuals).sum() / (len(table) - len(CHINCHILLA.parameters))))
    law = dict(zip(CHINCHILLA.parameters, CHINCHILLA.natural(problem.uncentred(found.theta)).tolist(), strict=True))
    description = (
        f"the law of the {len(table)} runs of this data and family in the store: L = {law['E']:.3g} + {law['A']:.3g}/"
        f"N^{law['alpha']:.2f} + {law['B']:.3g}/D^{law['beta']:.2f}"
    )
    return Prior(law, max(scatter, _QUIET) if noise is None else noise, description, from_own_runs=True)


def prior_of_store(store: Path, like: AnyRun, size: str, noise: float | None = None) -> Prior | None:
    """The law of the runs in an output folder that differ from one in size, length, rates and seed alone."""
    records, ours = [], _family(like.semantic())
    alike: dict[str, bool] = {}  # by what a file says of its run's family: to make a config of it takes far longer
    for file in (store / "runs").glob("*/record.json"):
        try:
            config = (file.parent / "config.json").read_text()
            written = json.dumps(_family(json.loads(config)))
            if written not in alike:
                alike[written] = _family(read_run(config).semantic()) == ours
            if alike[written]:
                records.append(json.loads(file.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # of another version, or damaged
            continue
    return prior_of_runs(records, size, noise)


def _family(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the fields of a config those that are the same for all sizes and lengths."""
    left = {"model": _SIZED, "training": _TUNED, "trainer": _ELSEWHERE, "code": _ELSEWHERE}
    if "trainer" in config:  # what its sizes differ in only it knows: they are of one family
        parts = {part: config.get(part, {}) for part in ("data", "trainer", "training")}
    else:
        parts = {part: config[part] for part in ("data", "model", "training")} | {"code": config.get("code") or {}}
        if "target" in parts["model"]:  # nor is it known which arguments of a module say how large it is
            parts["model"] = {name: parts["model"].get(name) for name in ("target", "context", "vocab")}
    return {
        part: {name: value for name, value in told.items() if name not in left.get(part, ())}
        for part, told in parts.items()
    }
