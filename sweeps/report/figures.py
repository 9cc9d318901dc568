"""The figures of a sweep, each with its caption, its drawing and the table that it shows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nextscale.fit import plot
from nextscale.fit.optimum.frontier import TokenCost, frontier
from nextscale.fit.optimum.isoflop import IsoFlop, isoflops
from nextscale.fit.optimum.known_models import known_models
from nextscale.fit.plot import runs as plot_runs
from nextscale.fit.plot.style import put_beneath
from nextscale.sweeps.report.drawing import Panel, Plot
from nextscale.sweeps.show.sentences import loss_with_interval

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit
    from nextscale.fit.table.runs import Runs
    from nextscale.fit.trust.choice import Choice
    from nextscale.sweeps.findings import Finding
    from nextscale.sweeps.study.study import Analysis

_POINTS, _FEWEST, _MOST = 12_000, 12, 60
"""Of all training curves together, and of one."""
_FAR = 15.0
"""How far beyond the largest run the figures go: the calculator begins with ten times that."""
_FURTHER = 1e4
"""How far the loss goes where that is chosen, or a budget is typed that lies beyond: pods are that far from laptops."""
_BUDGETS = 24
"""At which a frontier is drawn."""


def law_plots(
    analysis: Analysis,
    held_out: Runs | None,
    summary: dict[str, Any],
    asked: Sequence[Mapping[str, Any]] = (),
    bits_per_nat: float | None = None,
    latest: Fit | None = None,
) -> list[Plot]:
    """What the fitted runs show, and what came of the held-out ones.

    Args:
        latest: of all runs, held-out ones too, on which the loss against compute rests where there is one.
        held_out: those that came to a loss.
        asked: what was forecast, as `nextscale.fit.optimum.forecast.forecast` returns targets.
        bits_per_nat: bits per byte / loss, where that is one number.
    """
    fit, curves = analysis.fit, analysis.curves
    over = isoflops(held_out) if held_out is not None and len(held_out.budgets) == 1 else []
    beyond = None if held_out is None else held_out.table
    ends = [*(curve.flops for curve in curves), *fit.runs.budgets, *(held_out.budgets if held_out else ())]
    last = max(_FAR * max(ends), *(1.5 * target["flops"] for target in asked), 0)
    optima = frontier(fit, np.geomspace(min(ends), last, _BUDGETS).tolist(), analysis.cost)
    level = f"{fit.level:.0%}"
    scales = {"log": "log scale"} | ({"bits": "bits per byte"} if bits_per_nat else {})
    frontier_caption = (
        f"The best size at each budget by the law, with its {level} band, and what the isoFLOP minima say."
    )
    if len(analysis.cost.log_params) > 1:
        frontier_caption += " It bends where the FLOPs that a token takes for each parameter change from size to size."
    plots = []
    isoflop = functools.partial(plot.isoflop_curves, curves=curves, held_out=over)
    if any(curve.is_budget for curve in (*curves, *over)):
        plots.append(
            Plot(
                "isoflop",
                "IsoFLOP curves",
                "Loss against size at each compute budget, parabolas through the runs, and their lowest points "
                "(stars); a dotted one has none.",
                (isoflop,),
                _curve_table([*curves, *over]),
                ("params", "loss"),
                scales,
                lambda on: functools.partial(_scaled, panel=isoflop, on=on, bits_per_nat=bits_per_nat),
            )
        )
    plots += [
        Plot(
            "frontier",
            "Compute-optimal frontier",
            frontier_caption,
            (functools.partial(_frontier, optima=optima, analysis=analysis, held_out=over),),
            optima,
            ("flops", "params"),
            {"tokens": "tokens", "known": "known models"},
            lambda on: functools.partial(_frontier, optima=optima, analysis=analysis, held_out=over, on=on),
        ),
        _loss_plot(fit, latest, optima, over, asked, scales, bits_per_nat, analysis.cost),
        Plot(
            "surface",
            "The law over size and tokens",
            "Contours of the loss, where the runs lie on it, and the frontier through it.",
            (functools.partial(plot_runs.surface, fit=fit, optima=optima, held_out=beyond),),
            optima,
        ),
        Plot(
            "residuals",
            "Residuals",
            "How far each run lies above the law, coloured by size; the band is one standard deviation. A slope or a "
            "bow is a law that misfits.",
            (functools.partial(plot_runs.residuals, fit=fit, held_out=beyond),),
            fit.runs.table.assign(residual=fit.residuals),
        ),
    ]
    if forecast_plot := _forecast_plot(summary):
        plots.insert(0, forecast_plot)
    return plots


def _loss_plot(
    fit: Fit,
    latest: Fit | None,
    optima: pd.DataFrame,
    over: Sequence[IsoFlop],
    asked: Sequence[Mapping[str, Any]],
    scales: Mapping[str, str],
    bits_per_nat: float | None,
    cost: TokenCost,
) -> Plot:
    """By the fit to all runs where there is one, so that a budget typed beside it lies on the curve."""
    now = fit if latest is None else latest
    if latest is not None:
        cost = TokenCost.of_runs(latest.runs)
        optima = frontier(latest, optima["flops"].tolist(), cost)
    ends = optima["flops"].min(), max(optima["flops"].max(), _FURTHER * now.runs.table["flops"].max())
    further = frontier(now, np.geomspace(*ends, _BUDGETS).tolist(), cost)
    told: dict[str, Any] = {"title": ""} if latest is None else {"title": "", "held_out_as": "measured after"}
    draw = functools.partial(_loss, fit=now, held_out=over, asked=asked, **told)
    caption = f"Every run, and the lowest loss that each budget buys, with its {fit.level:.0%} band of what a run would"
    caption += " measure"
    if over and asked:
        caption += (
            f": by a fit to all {len(now.runs)} runs. The star is the forecast before, by {len(fit.runs)} of them"
        )
    elif asked:
        times = asked[0]["flops"] / now.runs.table["flops"].max()
        star = {name: asked[0][name] for name in ("loss", "loss_interval")}
        value = loss_with_interval(star, {"level": fit.level, "loss_unit": "nats/token"})
        caption += f". The star is no run: it is the forecast at {times:.3g} times the largest run, {value}"
    return Plot(
        "loss",
        "Loss against compute",
        f"{caption}.",
        (functools.partial(draw, optima=optima),),
        now.runs.table,
        ("flops", "loss"),
        {**scales, "further": "larger budgets"},
        lambda on: functools.partial(
            _scaled,
            panel=functools.partial(draw, optima=further if "further" in on else optima),
            on=on,
            bits_per_nat=bits_per_nat,
        ),
    )


def _loss(ax: Axes, **drawn: Any) -> None:
    plot.loss_against(ax, **drawn)
    put_beneath(ax)  # a budget that is typed beside it may stand anywhere


def overview(plots: Sequence[Plot]) -> Plot:
    """The sweep at a glance: isoFLOP curves, the frontier, and the forecast against what was measured."""
    by_name = {one.name: one for one in plots}
    shown = [by_name[name] for name in ("isoflop", "frontier", "forecast") if name in by_name]
    if "forecast" not in by_name:
        shown.append(by_name["loss"])
    return Plot("overview", "Overview", "", tuple(panel for one in shown for panel in one.panels))


def backtest_plot(choice: Choice, together: Mapping[float, float]) -> Plot:
    """
    Args:
        together: where the forecast is a mean of fits, what it missed by above each cut.
    """
    told = "Each law, fitted up to a budget, forecasts the runs above: its error, beside rules of compute alone (grey)"
    rows = [{"law": "the forecast", "cut": cut, "band": "all", "mean_error": error} for cut, error in together.items()]
    return Plot(
        "backtest",
        "Backtest",
        f"{told}. The forecast is weighed at each cut by what was known then." if together else f"{told}.",
        (functools.partial(plot.backtest, choice=choice, together=together),),
        pd.concat([choice.table, pd.DataFrame(rows)], ignore_index=True),
    )


def curves_plot(curves: pd.DataFrame) -> Plot:
    """
    Args:
        curves: as `nextscale.sweeps.load_curves` returns those of training.
    """
    thin = thinned(curves[["run_id", "params", "tokens", "flops", "loss"]].dropna())
    return Plot(
        "training",
        "Training curves",
        "The training loss of every run against its compute so far, coloured by size.",
        (functools.partial(plot_runs.training_curves, curves=thin),),
        thin,
    )


def thinned(curves: pd.DataFrame) -> pd.DataFrame:
    """Fewer positions of each run, evenly spaced in the logarithm, its first and last among them: more could not be
    seen."""
    each = int(np.clip(_POINTS // max(1, curves["run_id"].nunique()), _FEWEST, _MOST))
    kept = []
    for rows in curves.groupby("run_id", sort=False).indices.values():
        chosen = np.unique(np.round(np.geomspace(1, len(rows), each)).astype(int)) - 1
        kept.append(rows[chosen])
    return curves.iloc[np.concatenate(kept)].reset_index(drop=True)


def ledger_plot(outcomes: pd.DataFrame, calibration: dict[str, Any]) -> Plot:
    """
    Args:
        outcomes, calibration: see `nextscale.sweeps.forecasts.calibration`.
    """
    return Plot(
        "calibration",
        "Forecasts and what came of them",
        "Left: measured against forecast, by how far it reached. Right: how often intervals held what they claim.",
        (
            functools.partial(plot.forecast_errors, table=outcomes),
            functools.partial(plot.calibration, levels=calibration["levels"]),
        ),
        outcomes.drop(columns="ledger"),
    )


def spend_plot(attempts: pd.DataFrame) -> Plot:
    """
    Args:
        attempts: as `nextscale.cluster.controller.accounts.Accounts.frame` returns them.
    """
    return Plot(
        "spend",
        "Spend",
        "What the attempts that have ended cost together, by pool, and how much of it left nothing.",
        (functools.partial(spend, attempts=attempts),),
        attempts,
    )


def spend(ax: Axes, attempts: pd.DataFrame) -> Axes:
    """What attempts have cost by the time each ended, by pool: dollars where there is a price, else device-hours.

    Args:
        attempts: as `nextscale.cluster.controller.accounts.Accounts.frame` returns them.
    """
    ended = (attempts["started"] + attempts["seconds"] - attempts["started"].min()) / 3600
    priced = bool((attempts["usd"] > 0).any())
    cost = attempts["usd"] if priced else attempts["device_us"] / 3.6e9
    made = attempts["flops_kept"] + attempts["flops_lost"]
    share = attempts["flops_lost"] / made.where(made > 0)  # of one that made nothing all is wasted, unless it was done
    lost = cost * share.fillna((attempts["outcome"] != "finished").astype(float))
    order = ended.sort_values().index
    colours = (plot.BLUE, plot.GREEN, "#CC79A7", "#56B4E9", "#E69F00")
    for i, (pool, rows) in enumerate(attempts.loc[order].groupby("pool", sort=True)):
        label = str(pool).replace("$", r"\$")
        total = cost[rows.index].cumsum()
        at = [0.0, *ended[rows.index]]
        ax.step(at, [0.0, *total], where="post", color=colours[i % len(colours)], label=label)
    if lost.any():
        ax.step(
            [0.0, *ended[order]], [0.0, *lost[order].cumsum()], ":", where="post", color=plot.ORANGE, label="wasted"
        )
    ax.set(
        xlabel="hours since the first attempt", ylabel="spent ($)" if priced else "spent (device-hours)", title="spend"
    )
    ax.set_ylim(bottom=0)
    ax.legend(fontsize="small", loc="upper left")
    return ax


def finding_plots(found: dict[str, Finding]) -> list[Plot]:
    """One figure for each finding that has any, its panels side by side."""
    return [Plot(name, name, "", one.panels) for name, one in found.items() if one.panels]


def _frontier(
    ax: Axes, optima: pd.DataFrame, analysis: Analysis, held_out: list[IsoFlop], on: frozenset[str] = frozenset()
) -> Axes:
    known = None
    if "known" in on:
        known, fit = known_models(), analysis.fit
        ends = float(optima["flops"].min()), 1.5 * float(max(known["flops"].max(), optima["flops"].max()))
        optima = frontier(fit, np.geomspace(*ends, _BUDGETS).tolist(), analysis.cost)
    of: Literal["params", "tokens"] = "tokens" if "tokens" in on else "params"
    runs = analysis.fit.runs.table
    return plot.frontier(ax, optima, analysis.curves, analysis.optimum, held_out, runs=runs, of=of, known=known)


def _scaled(ax: Axes, panel: Panel, on: frozenset[str], bits_per_nat: float | None) -> None:
    """A panel whose y axis is a loss, logarithmic or in bits per byte."""
    panel(ax)
    side: Any = ax
    if "log" in on:
        ax.set_yscale("log")
    if "bits" in on and bits_per_nat:
        there: Any = lambda loss: loss * bits_per_nat  # noqa: E731 (typed, as matplotlib's own is not)
        back: Any = lambda bits: bits / bits_per_nat  # noqa: E731
        side = ax.secondary_yaxis("left", functions=(there, back))
        side.set_ylabel("bits per byte")
        ax.yaxis.set_visible(False)
    if "log" in on:
        for place in (side.yaxis.set_major_formatter, side.yaxis.set_minor_formatter):
            place("{x:.3g}")


def foretold(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The best of the runs that were held out, as it was forecast."""
    rows = summary["holdout"]
    best = min(rows, key=lambda row: row["predicted"], default=None)
    return [] if best is None else [{**best, "loss": best["predicted"], "loss_interval": best["interval"]}]


def _forecast_plot(summary: dict[str, Any]) -> Plot | None:
    rows = summary["holdout"]
    if not rows:
        return None
    level = summary["forecast"]["level"]
    draw = functools.partial(
        plot.forecast,
        params=[row["params"] for row in rows],
        predicted=[row["predicted"] for row in rows],
        intervals=[row["interval"] for row in rows],
        measured=[row["measured"] for row in rows],
        level=level,
    )
    caption = (
        f"The loss of each held-out size as it was forecast, with its {level:.0%} interval, and as it was measured."
    )
    table = pd.DataFrame([{**row, "low": row["interval"][0], "high": row["interval"][1]} for row in rows])
    return Plot("forecast", "Forecast against measured", caption, (draw,), table.drop(columns="interval"))


def _curve_table(curves: list[IsoFlop]) -> pd.DataFrame:
    rows = [
        {"budget": curve.flops, "params": params, "tokens": tokens, "loss": loss}
        for curve in curves
        for params, tokens, loss in zip(curve.params, curve.tokens, curve.loss, strict=True)
    ]
    return pd.DataFrame(rows)
