"""isoFLOP runs interpolated at equal FLOPs under another way of counting FLOPs than that of their design."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.runs import Runs


def at_equal_flops(
    table: pd.DataFrame, *, params: str, flops: str, convention: str, budgets: int | None = None
) -> Runs:
    """isoFLOP curves under another account than the one that the budgets were made by.

    Of each size, log loss and log tokens are interpolated between its runs, against log FLOPs, as Porian et al. 2024
    (sec. 3) do along each run; budgets are spread evenly in log over what every size reaches.

    Args:
        table: one row per run.
        params, flops: the columns of N and C under that account.
        convention: what N counts then.
        budgets: how many; as many as the sizes have runs each unless given.

    Raises:
        InputError: a size has fewer than two runs, or there is no compute that all sizes reach.
    """
    groups = [rows.groupby(flops, as_index=False)[["loss", "tokens"]].mean() for _, rows in table.groupby(params)]
    sizes = sorted(table[params].unique())
    if any(len(rows) < 2 for rows in groups):
        raise InputError("equal FLOPs: a size has fewer than two lengths, and nothing lies between them")
    low, high = max(rows[flops].min() for rows in groups), min(rows[flops].max() for rows in groups)
    if low >= high:
        raise InputError(f"equal FLOPs: under this account the sizes share no compute ({low:.3g} to {high:.3g} FLOPs)")
    rows_out = []
    for budget in np.geomspace(low, high, budgets or min(map(len, groups))):
        for size, rows in zip(sizes, groups, strict=True):
            x = np.log(rows[flops])
            loss, tokens = (
                float(np.exp(np.interp(np.log(budget), x, np.log(rows[name])))) for name in ("loss", "tokens")
            )
            row = {"params": float(size), "tokens": tokens, "flops": float(budget), "loss": loss}
            rows_out.append(row | {"budget": float(budget), "run_id": f"{size:g} at {budget:.3g}"})
    return Runs(pd.DataFrame(rows_out), convention, (f"loss at equal {flops} interpolated between runs",))
