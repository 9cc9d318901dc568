"""The model that is cheapest to train and to serve over its lifetime.

It is smaller, and trained for longer, than the one that is cheapest to train (Sardana et al. 2024, "Beyond
Chinchilla-Optimal", arXiv 2401.00448, eq. 3 and 6).

A token served is a forward pass, a third of a training token: 2N FLOPs where that is 6N. So what is served costs as
much as training on so many tokens more that teach nothing, whatever the size; at another price for a FLOP of serving,
on as many times more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.forecast import reach_warnings
from nextscale.fit.optimum.frontier import TokenCost
from nextscale.fit.optimum.isoloss import Contours, extrapolation_factors, golden_section, interval_row

_FORWARD = 1 / 3
"""Of the FLOPs of a training token, those of its forward pass."""
_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
    """What a FLOP costs in training, in reading a prompt and in writing an answer: dollars, or FLOPs themselves.

    Raises:
        InputError: training costs nothing, or serving less.
    """

    train: float = 1.0
    prefill: float = 1.0
    decode: float = 1.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (np.isfinite(value) and value >= 0) or (name == "train" and value == 0):
                raise InputError(
                    f"prices: {name} should be {'above 0' if name == 'train' else '0 or more'}, not {value}"
                )

    @staticmethod
    def per_flop(usd_per_hour: float, peak_flops: float, utilisation: float) -> float:
        """Dollars for a FLOP of a model, on a chip of so many FLOP/s that is so well used."""
        return usd_per_hour / (_SECONDS * peak_flops * utilisation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """Tokens that a model serves in its life: read (prefill) and written (decode).

    Raises:
        InputError: fewer than none.
    """

    prefill: float = 0.0
    decode: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.prefill + self.decode) and min(self.prefill, self.decode) >= 0):
            raise InputError(f"served: tokens should be 0 or more, not {self.prefill} read and {self.decode} written")

    @classmethod
    def of(cls, tokens: float, prompt_share: float = 0.0) -> Self:
        return cls(prefill=tokens * prompt_share, decode=tokens * (1 - prompt_share))

    def idle_tokens(self, prices: Prices = Prices()) -> float:
        """Training tokens that cost as much, of a model of any size."""
        dear = (self.prefill * prices.prefill + self.decode * prices.decode) / prices.train
        return _FORWARD * dear


def lifetime(
    fit: Fit,
    served: Served,
    *,
    losses: Sequence[float] = (),
    budgets: Sequence[float] = (),
    prices: Prices = Prices(),
    cost: TokenCost | None = None,
    others: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The model that comes to a loss at the least cost of training and serving, or to the least loss at that cost.

    Args:
        served: in its life.
        losses: nats per token.
        budgets: for training and serving together, in what prices are in.
        prices: of a FLOP; with those given by default all costs are FLOPs.
        cost: FLOPs per token of a size; read off the runs unless given.
        others: where the law varies in more than N and D, what is held of each, such as `unique_tokens`.

    Returns:
        one row per loss, then one per budget: `loss`, `params`, `tokens`, `tokens_per_param`, `flops` (of training),
        `training`, `serving` and `total` (their costs); of the model that is compute-optimal in training for the same
        loss, `optimal_params`, `optimal_tokens` and `optimal_total`; and `saving`, 1 - total / optimal_total. Each with
        `_low` and `_high` at the fit's level (not numbers without resamples): a budget's loss as a run would measure
        it, all else for the mean of many runs.

    Raises:
        InputError: a loss or budget is not positive; or see `Contours.of`.
    """
    for name, values in (("loss", losses), ("budget", budgets)):
        if wrong := [value for value in values if not (np.isfinite(value) and value > 0)]:
            raise InputError(f"{name}: should be greater than 0, not {wrong[0]}")
    idle = served.idle_tokens(prices)
    rows = []
    for loss in losses:
        contours = Contours.of(fit, loss, cost, others)
        best = contours.cheapest(idle)
        # The reach is that of the point; what the backtest missed so far out moves the loss that the law is asked for.
        far = contours.flops(best[:, None])[0, 0]
        if np.isfinite(far):
            contours = contours.with_losses(contours.losses / extrapolation_factors(fit, float(far)))
            best = contours.cheapest(idle)
        rows.append({"loss": loss, "loss_low": loss, "loss_high": loss} | _row(fit, contours, best, served, prices))
    for budget in budgets:
        contours = Contours.of(fit, np.nan, cost, others)
        best, reached = best_within(contours, budget / prices.train, idle)
        contours = contours.with_losses(reached)
        row = _row(fit, contours, best, served, prices)
        # It is spent wholly, under every resample: what is given has no interval.
        row |= dict.fromkeys(("total", "total_low", "total_high"), budget) if np.isfinite(row["total"]) else {}
        at = {"params": row["params"], "tokens": row["tokens"], **(others or {})}
        rows.append(row | dict(zip(("loss", "loss_low", "loss_high"), loss_with_interval(fit, at), strict=True)))
    return pd.DataFrame(rows)


def best_within(contours: Contours, flops: float, idle_tokens: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The size with the lowest loss for so many training FLOPs, of which `idle_tokens` teach nothing, and that loss; R
    each."""

    def loss(sizes: np.ndarray) -> np.ndarray:
        tokens = flops / contours.cost(sizes) - idle_tokens
        known = contours.losses_at(sizes, np.maximum(tokens, 1e-300))
        return np.where(tokens > 0, known, np.inf)

    return golden_section(loss, contours.smallest, contours.largest, len(contours.thetas))


def loss_with_interval(fit: Fit, at: Mapping[str, float]) -> tuple[float, float, float]:
    """The loss that the law gives at a point, and the interval of what a run there would measure."""
    low, high = fit.predict_interval(**at)
    return float(fit.predict(**at)[0]), float(low[0]), float(high[0])


def lifetime_warnings(fit: Fit, table: pd.DataFrame) -> list[str]:
    """What a reader of `lifetime` must know, in words."""
    warnings = list(fit.warnings)
    for row in table.to_dict("records"):
        if np.isfinite(row["params"]):
            warnings += reach_warnings(fit, {name: row[name] for name in ("flops", "params", "tokens")})
            warnings += ratio_warnings(fit, row["tokens_per_param"])
        else:
            warnings.append(f"no size comes to a loss of {row['loss']:.4g}: {fit.law.name} does not come down to it")
    return list(dict.fromkeys(warnings))


def ratio_warnings(fit: Fit, tokens_per_param: float) -> list[str]:
    """Whether a model is trained for longer, by its size, than any that was fitted. Sardana et al. (sec. 5) find that
    laws of usual ratios overrate the tokens of extreme ones."""
    most = float((fit.runs.table["tokens"] / fit.runs.table["params"]).max())
    if tokens_per_param <= 2 * most:
        return []
    return [
        f"{tokens_per_param:.3g} tokens per parameter, and no run fitted has more than {most:.3g}: laws of usual "
        "ratios overrate what further tokens bring (Sardana et al. 2024, sec. 5)"
    ]


def _row(fit: Fit, contours: Contours, best: np.ndarray, served: Served, prices: Prices) -> dict[str, Any]:
    optimal = contours.cheapest()
    tokens, optimal_tokens = (contours.tokens(sizes[:, None])[:, 0] for sizes in (best, optimal))
    idle = served.idle_tokens(prices)
    training, serving = (prices.train * contours.cost(best) * each for each in (tokens, np.full(len(best), idle)))
    dear = prices.train * contours.cost(optimal) * (optimal_tokens + idle)
    return interval_row(
        fit.level,
        params=best,
        tokens=tokens,
        tokens_per_param=tokens / best,
        flops=training / prices.train,
        training=training,
        serving=serving,
        total=training + serving,
        optimal_params=optimal,
        optimal_tokens=optimal_tokens,
        optimal_total=dear,
        # The search for the best is exact to some 1e-9; a saving below is none.
        saving=np.maximum(1 - (training + serving) / dear, 0.0),
    )
