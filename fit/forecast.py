"""What the best model of a compute budget would be: loss, size and tokens, never without their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nextscale.fit.estimate import Fit
from nextscale.fit.frontier import TokenCost, frontier

_FAR = 10.0


def forecast(fit: Fit, flops: Sequence[float], cost: TokenCost | None = None) -> dict[str, Any]:
    """The compute-optimal model at each budget.

    Args:
        flops: training FLOPs.
        cost: FLOPs per token of a size; read off the runs unless given.

    Returns:
        `targets`, one per budget with `flops`, `loss`, `params`, `tokens`, `tokens_per_param`, each but the first
        with its `_interval` (for the loss, of what a run would measure), `near_optimal_params` (loss within 0.1 % of
        the best) and `reach`, budget / largest fitted run; `level`; `params_convention`; `notes` on the table, and
        `warnings`.
    """
    table = frontier(fit, flops, cost)
    largest = fit.runs.table["flops"].max()
    warnings = list(fit.warnings)
    targets = []
    for row in table.to_dict("records"):
        target: dict[str, Any] = {"flops": row["flops"], "reach": row["flops"] / largest}
        for name in ("loss", "params", "tokens", "tokens_per_param"):
            target[name] = row[name]
            target[f"{name}_interval"] = [row[f"{name}_low"], row[f"{name}_high"]]
        target["near_optimal_params"] = [row["params_near_low"], row["params_near_high"]]
        targets.append(target)
        if target["reach"] > _FAR:
            warnings.append(
                f"{row['flops']:.3g} FLOPs is {target['reach']:.3g} times the largest run fitted: nothing here tested "
                "the law so far out"
            )
    return {
        "law": fit.law.name,
        "level": fit.level,
        "params_convention": fit.runs.convention,
        "targets": targets,
        "notes": list(fit.runs.notes),
        "warnings": warnings,
    }
