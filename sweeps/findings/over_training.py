"""The law of Gadre et al. 2024 in compute and token multiplier, tested on larger and longer runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit import plot
from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.estimate.fit import Fit, fit
from nextscale.fit.table.runs import as_runs
from nextscale.sweeps.findings import Finding
from nextscale.sweeps.findings.runs_table import fitted_runs
from nextscale.sweeps.show.formats import count, interval, loss, params_label, percent, three_digits
from nextscale.sweeps.show.summary_tables import law_table
from nextscale.sweeps.show.tables import Table, table_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from nextscale.sweeps.spec.sweep_spec import SweepSpec


def find(runs: pd.DataFrame, spec: SweepSpec) -> Finding:
    """The law by the fitted runs with M = D/N and C the true FLOPs, and its error on each held-out run."""
    options = spec.forecast
    table = _with_multiplier(fitted_runs(runs), spec)
    ready = as_runs(table, convention=options.params, variables=("C", "M"), as_is=True, where=f"sweep {spec.name}")
    how = options.model_dump(include={"level", "resamples", "bootstrap", "delta"})
    law_fit = fit(ready, "over-training", **how)
    held_out = _with_multiplier(runs[(runs["role"] == "holdout") & runs["loss"].notna()], spec)
    rows = _errors(law_fit, held_out, spec) if len(held_out) else []
    tables = [law_table(law_fit.to_dict())]
    if rows:
        tables.append(_table(rows, law_fit, spec))
    result: dict[str, Any] = {"law": law_fit.to_dict(), "held_out": rows}
    if rows:
        result["mean_error"] = float(np.mean([abs(row["error"]) for row in rows]))
    return Finding(tables, result, (lambda ax: _draw(ax, table, held_out, law_fit, spec),))


def _with_multiplier(table: pd.DataFrame, spec: SweepSpec) -> pd.DataFrame:
    return table.assign(M=table["tokens"] / table[CONVENTIONS[spec.forecast.params]])


def _errors(law_fit: Fit, held_out: pd.DataFrame, spec: SweepSpec) -> list[dict[str, Any]]:
    predicted = law_fit.predict(flops=held_out["flops"], M=held_out["M"])
    low, high = law_fit.predict_interval(flops=held_out["flops"], M=held_out["M"])
    rows = []
    for i, row in enumerate(held_out.to_dict("records")):
        measured = float(row["loss"])
        one = {"params": row[CONVENTIONS[spec.forecast.params]], "tokens": row["tokens"], "flops": row["flops"]}
        one |= {"tokens_per_param": row["M"], "predicted": float(predicted[i]), "measured": measured}
        rows.append(one | {"interval": [float(low[i]), float(high[i])], "error": float(predicted[i]) / measured - 1})
    return rows


def _table(rows: list[dict[str, Any]], law_fit: Fit, spec: SweepSpec) -> Table:
    return table_of(
        "What the law foretold of models larger, and trained longer, than it was fitted to (nats/token)",
        rows,
        (params_label(spec.forecast.params), "params", count),
        ("tokens/param", "tokens_per_param", three_digits),
        ("predicted", "predicted", loss),
        (f"{law_fit.level:.0%} interval", "interval", interval),
        ("measured", "measured", loss),
        ("error", "error", percent),
    )


def _draw(ax: Axes, table: pd.DataFrame, held_out: pd.DataFrame, law_fit: Fit, spec: SweepSpec) -> None:
    """Loss against compute, one curve for each token multiplier: parallel lines above E, if the law holds."""
    E = law_fit.parameters["E"]
    flops = np.geomspace(table["flops"].min(), max([table["flops"].max(), *held_out["flops"]]), 60)
    # Whole steps miss a multiplier by a little.
    groups: list[tuple[Any, pd.DataFrame, str]] = [
        (M, rows, marker)
        for runs, marker in ((table, "o"), (held_out, "s"))
        for M, rows in runs.groupby(runs["M"].map(lambda M: float(f"{M:.2g}")))
    ]
    shades = dict(zip(sorted({M for M, _, _ in groups}), plot.shades(len({M for M, _, _ in groups})), strict=True))
    for M, rows, marker in groups:
        label = f"M = {M:g}" + (", held out" if marker == "s" else "")
        ax.plot(rows["flops"], rows["loss"].astype(float) - E, marker, color=shades[M], markersize=4, label=label)
        law = law_fit.predict(flops=flops, M=np.full_like(flops, rows["M"].mean()))
        ax.plot(flops, law - E, "--" if marker == "s" else "-", color=shades[M], linewidth=1)
    title = f"loss above E = {E:.3f}"
    ax.set(xscale="log", yscale="log", xlabel="compute C (FLOPs)", ylabel="L - E (nats/token)", title=title)
    ax.legend(fontsize="x-small")
