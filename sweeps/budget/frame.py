"""`forecast_budget`: what `nextscale forecast` answers, as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nextscale.fit.estimate.fit import Fit
from nextscale.fit.trust.forecaster import fit_forecaster
from nextscale.fit.trust.reach import reach_errors
from nextscale.sweeps.budget.cluster import Cluster
from nextscale.sweeps.budget.queries import Query, size_queries
from nextscale.sweeps.budget.targets import AvailableData, forecast_targets

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.fit.table.runs import Runs
    from nextscale.fit.table.sources import Table


def forecast_budget(
    runs: Fit | Table | Runs,
    *,
    flops: Sequence[float] = (),
    loss: Sequence[float] = (),
    usd: Sequence[float] = (),
    device_hours: Sequence[float] = (),
    days: Sequence[float] = (),
    params: Sequence[float] = (),
    tokens: Sequence[float] = (),
    cluster: Cluster | None = None,
    data: AvailableData | None = None,
    bits_per_nat: float | None = None,
    **options: Any,
) -> pd.DataFrame:
    """What `nextscale forecast` answers, as a table: one row for each thing asked.

    Args:
        runs: a fit, or runs to fit (see `nextscale.fit.trust.forecaster.fit_forecaster`).
        flops, loss, usd, device_hours, days, params, tokens: what is asked; see
            `nextscale.sweeps.budget.targets.forecast_targets`. As many sizes as tokens are runs.
        cluster: such as `cluster_of("h100x512", utilisation=0.4)`.
        data, bits_per_nat: see `nextscale.sweeps.budget.targets.forecast_targets`.
        options: of the fit.

    Returns:
        the keys of a target as columns; `_interval` as `_low` and `_high`, what is within a target after its key, such
        as `asked_usd` or `data_epochs`. `attrs` has what is said of all of them, `notes` and `warnings` too.
    """
    import pandas as pd

    fit = runs if isinstance(runs, Fit) else fit_forecaster(runs, **options)
    given = {"flops": flops, "loss": loss, "usd": usd, "device_hours": device_hours, "days": days}
    queries: list[Query] = [{name: value} for name, values in given.items() for value in values]
    queries += size_queries(params, tokens)
    forecast = forecast_targets(
        fit, queries, cluster=cluster, data=data, bits_per_nat=bits_per_nat, backtests=reach_errors(fit)
    )
    table = pd.DataFrame([_flat(target) for target in forecast.pop("targets")])
    table.attrs.update(forecast)
    return table


def _flat(target: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """One level of keys: intervals as two columns, and what is within another after its key."""
    row: dict[str, Any] = {}
    for key, value in target.items():
        name = f"{before}{key}"
        if name.endswith("_interval"):
            stem = name.removesuffix("_interval")
            row[f"{stem}_low"], row[f"{stem}_high"] = (None, None) if value is None else value
        elif key.startswith("near_optimal"):
            row[f"{name}_low"], row[f"{name}_high"] = (None, None) if value is None else value
        elif isinstance(value, Mapping):
            row |= _flat(value, f"{name}_")
        elif key not in ("asked", "data", "backtest", "optimal", "best"):
            row[name] = value
    return row
