"""A model of a given size beside the compute-optimal one of the same loss: what its size costs in training.

Gadre et al. 2024 (arXiv 2403.08540) call a model over-trained that has more tokens per parameter than the
compute-optimal; it costs more to train, and less to serve. One that has fewer costs more of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.frontier import TokenCost
from nextscale.fit.optimum.isoloss import Contours, extrapolation_factors, interval_row
from nextscale.fit.optimum.lifetime import loss_with_interval


def overtrained(
    fit: Fit,
    params: float,
    *,
    tokens: float | None = None,
    flops: float | None = None,
    loss: float | None = None,
    cost: TokenCost | None = None,
    others: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """A model of a size, trained on so many tokens, for so many FLOPs, or until it comes to a loss.

    Args:
        params: its N, counted as the fit's runs are.
        tokens, flops, loss: one of them.
        cost: training FLOPs per token of a size; read off the runs unless given.
        others: where the law varies in more than N and D, what is held of each, such as `unique_tokens`.

    Returns:
        `params`, `tokens`, `tokens_per_param`, `flops`, `loss`; of the compute-optimal model of the same loss,
        `optimal_params`, `optimal_tokens` and `optimal_flops`; and `overhead`, flops / optimal_flops - 1. What is not
        given has `_low` and `_high` at the fit's level: the loss as a run would measure it, all else for the mean of
        many runs; not numbers without resamples. Tokens are infinite where the size does not come to the loss.

    Raises:
        InputError: not one of tokens, flops and loss is given; or see `Contours.of`.
    """
    draws = overtrained_draws(fit, params, tokens=tokens, flops=flops, loss=loss, cost=cost, others=others)
    return overtrained_row(fit, params, draws, loss=loss, others=others)


def overtrained_row(
    fit: Fit,
    params: float,
    draws: Mapping[str, np.ndarray],
    *,
    loss: float | None = None,
    others: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """What `overtrained` returns, of its `overtrained_draws`; `loss` where that was given."""
    row = interval_row(fit.level, **draws)
    if loss is not None:
        ends = (loss, loss, loss)
    else:
        ends = loss_with_interval(fit, {"params": params, "tokens": row["tokens"], **(others or {})})
    return {"params": float(params)} | row | dict(zip(("loss", "loss_low", "loss_high"), ends, strict=True))


def overtrained_draws(
    fit: Fit,
    params: float,
    *,
    tokens: float | None = None,
    flops: float | None = None,
    loss: float | None = None,
    cost: TokenCost | None = None,
    others: Mapping[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """As `overtrained`, but for `params` and `loss`: by the law, and then under each of its resamples; 1 + R each.

    Of several models a sum, or the largest, is to be taken draw by draw: they share the law, and so its error.

    Raises:
        InputError: see `overtrained`.
    """
    given = {"tokens": tokens, "flops": flops, "loss": loss}
    known = {name: value for name, value in given.items() if value is not None}
    if len(known) != 1:
        raise InputError(f"overtrained: needs one of tokens, flops and loss, and has {' and '.join(known) or 'none'}")
    for name, value in (("params", params), *known.items()):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name}: should be greater than 0, not {value}")
    contours = Contours.of(fit, np.nan if loss is None else loss, cost, others)
    size = np.full((len(contours.thetas), 1), float(params))
    per_token = float(contours.cost(np.array(params)))
    if loss is not None:
        far = contours.flops(size)[0, 0]
        if np.isfinite(far):
            contours = contours.with_losses(contours.losses / extrapolation_factors(fit, float(far)))
        spent = contours.tokens(size)[:, 0]
    else:
        spent = np.full(len(size), tokens if tokens is not None else (flops or 0.0) / per_token)
        contours = contours.with_losses(contours.losses_at(size, spent[:, None])[:, 0])
    best = contours.cheapest()
    optimal_tokens = contours.tokens(best[:, None])[:, 0]
    optimal_flops = contours.cost(best) * optimal_tokens
    return {
        "tokens": spent,
        "tokens_per_param": spent / params,
        "flops": per_token * spent,
        "optimal_params": best,
        "optimal_tokens": optimal_tokens,
        "optimal_flops": optimal_flops,
        # The search for the best is exact to some 1e-9; an overhead below is none.
        "overhead": np.maximum(per_token * spent / optimal_flops - 1, 0.0),
    }


def smallest_sizes(
    fit: Fit,
    loss: float,
    overheads: Sequence[float],
    *,
    cost: TokenCost | None = None,
    others: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """How small a model can be for its loss, if training may cost so much more than the compute-optimal.

    Args:
        overheads: 0.1 for 10 % more.

    Returns:
        one row per overhead: `overhead`, and with `_low` and `_high`, as `overtrained` has them, `params`, `tokens`,
        `tokens_per_param`, `flops` and `share`, params / those of the compute-optimal model of that loss.

    Raises:
        InputError: a loss is not positive, an overhead negative; or see `Contours.of`.
    """
    if not (np.isfinite(loss) and loss > 0):
        raise InputError(f"loss: should be greater than 0, not {loss}")
    if wrong := [overhead for overhead in overheads if not (np.isfinite(overhead) and overhead >= 0)]:
        raise InputError(f"overhead: should be 0 or more, not {wrong[0]}")
    contours = Contours.of(fit, loss, cost, others)
    best = contours.cheapest()
    far = contours.flops(best[:, None])[0, 0]
    if np.isfinite(far):
        contours = contours.with_losses(contours.losses / extrapolation_factors(fit, float(far)))
        best = contours.cheapest()
    least = contours.flops(best[:, None])[:, 0]
    rows = []
    for overhead in overheads:
        params = contours.smallest_within(least * (1 + overhead), best)
        tokens = contours.tokens(params[:, None])[:, 0]
        quantities = {"params": params, "tokens": tokens, "tokens_per_param": tokens / params}
        quantities |= {"flops": contours.cost(params) * tokens, "share": params / best}
        rows.append({"overhead": float(overhead)} | interval_row(fit.level, **quantities))
    return pd.DataFrame(rows)
