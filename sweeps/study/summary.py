"""The summary of a sweep, as one JSON object."""

from __future__ import annotations

from typing import Any

import numpy as np

from nextscale.fit.optimum.isoflop import isoflops
from nextscale.fit.table.runs import as_runs
from nextscale.fit.trust.reach import narrow_interval_warnings, reach_errors
from nextscale.model.config.data import MarkovData
from nextscale.model.data.markov import markov
from nextscale.sweeps.design.chosen_runs import left_out
from nextscale.sweeps.ledger import Entry, score_of
from nextscale.sweeps.study.study import E_LEVEL, Analysis, Study

_EPOCHS = 4.0
"""As often as data may be repeated at little loss."""


def summarise(
    study: Study,
    analysis: Analysis | None,
    forecast: Entry | None,
    *,
    failed: dict[str, str],
    reused: int,
) -> dict[str, Any]:
    """What came of a sweep, for machines: errors are fractions, losses nats per token."""
    data = study.spec.data
    one_source = all(run.config.data == data for run in study.planned)
    true_entropy = markov(data).entropy if isinstance(data, MarkovData) and one_source else None
    same, narrow = False, []
    if forecast is not None and analysis is not None and forecast["inputs"] == study.inputs(analysis):
        same, narrow = True, _narrow(forecast, analysis)
    return {
        "sweep": study.spec.name,
        "forecast": forecast
        and {key: forecast[key] for key in ("time", "law", "level", "params_convention", "started_before")}
        | {"warnings": narrow},
        "runs": {
            "done": sum(study.store.record(run.run_id) is not None for run in study.planned),
            "reused": reused,
            "failed": len(failed),
        },
        "holdout": [] if forecast is None else _scores(study, forecast, true_entropy),
        "optimal_params": None if forecast is None else _optimal(study, forecast, analysis),
        "irreducible": analysis
        and {
            "fitted": analysis.fit.parameters["E"],
            "interval": list(analysis.fit.interval("E", E_LEVEL)),
            "true": true_entropy,
        },
        "interior_minima": [curve.interior for curve in analysis.curves if curve.is_budget] if analysis else [],
        "law": analysis and analysis.fit.to_dict(),
        "warnings": _warnings(study, analysis, forecast, same, failed),
    }


def _warnings(
    study: Study, analysis: Analysis | None, forecast: Entry | None, same: bool, failed: dict[str, str]
) -> list[str]:
    """
    Args:
        same: whether the forecast is that of the law which the analysis holds.
    """
    texts = [*(analysis.fit.warnings if analysis else ()), *(forecast["warnings"] if forecast else ())]
    warnings = list(dict.fromkeys(texts))
    if forecast is not None and analysis is not None and not same:
        warnings.append(
            f"the forecast shown is that of {forecast['time'][:16]} UTC, made before the held-out runs started; "
            "the law shown is of other runs or options"
        )
    warnings += [*left_out(study.designed, study.store.root), *(_done_again(study, forecast) if forecast else ())]
    for curve in analysis.curves if analysis else []:
        if curve.problem:
            warnings.append(f"no optimum at {curve.flops:.3g} FLOPs: {curve.problem}")
    epochs = 0.0
    for run in study.planned:
        record = study.store.record(run.run_id)
        # Of a mixture, that of the source that was seen most often.
        epochs = max([epochs, *(value for key, value in (record or {}).items() if key.split("_")[0] == "epochs")])
        warnings += [f"run {run.run_id}: {note}" for note in (record or {}).get("notes", ())]
        if record is not None and record["status"] == "diverged":
            warnings.append(f"run {run.run_id} ({run.config.model.label}) diverged: {record['reason']}")
    if analysis is not None and epochs > _EPOCHS:
        warnings.append(
            f"the longest run saw its data {epochs:.3g} times: beyond about {_EPOCHS:g} repeated tokens count for less "
            "than fresh ones (Muennighoff et al. 2023), and the law takes all of them for fresh"
        )
    return warnings + [f"run {run_id} failed: {reason}" for run_id, reason in failed.items()]


def _done_again(study: Study, forecast: Entry) -> list[str]:
    """The held-out runs whose loss is another now than when the forecast was scored by them."""
    warnings = []
    for score in study.ledger.entries():
        for target in score["targets"] if score["kind"] == "score" and score["forecast"] == forecast["hash"] else ():
            record = study.store.record(target["run_id"])
            again = record is not None and study.store.set_aside(target["run_id"])
            if record is not None and again and record["loss"] != target["measured"]:
                warnings.append(
                    f"run {target['run_id']} was done again since the forecast was scored: its loss is "
                    f"{record['loss']} now, and the score stands by {target['measured']}"
                )
    return warnings


def _scores(study: Study, forecast: Entry, true_entropy: float | None) -> list[dict[str, Any]]:
    """The targets of a forecast, each with what was measured and by what it was missed."""
    floor = true_entropy if true_entropy is not None else forecast["parameters"]["E"]
    rows = []
    for target in forecast["targets"]:
        record = study.store.record(target["run_id"])
        loss: float | None = None if record is None else record["loss"]
        score = score_of(target, loss)
        rows.append(
            target
            | {
                "measured": loss,
                "error": score["error"],
                "reducible_error": loss and (target["predicted"] - loss) / (loss - floor),
                "tokens_per_param": target["tokens"] / target["params"],
            }
        )
    return rows


def _narrow(forecast: Entry, analysis: Analysis) -> list[str]:
    """What a backtest of such a reach says of the interval of the best held-out run."""
    best = min(forecast["targets"], key=lambda target: float(target["predicted"]))
    best_target = {"reach": best.get("reach"), "loss": best["predicted"], "loss_interval": best["interval"]}
    tested = reach_errors(analysis.fit)
    return narrow_interval_warnings(
        tested, analysis.fit, {f"the best of them, at {best['flops']:.3g} FLOPs": best_target}
    )


def _optimal(study: Study, forecast: Entry, analysis: Analysis | None) -> dict[str, Any]:
    """N* and tokens per parameter at the held-out budget, forecast and measured."""
    table = study.table("holdout")
    enough = study.held_out_at_one_budget and table["loss"].notna().sum() >= 3
    curve = isoflops(as_runs(table, convention=study.spec.forecast.params, as_is=True))[-1] if enough else None
    optimal = forecast["optimal_params"] | {"params_convention": forecast["params_convention"]}
    assert analysis is not None
    flops, size = optimal["flops"], optimal["predicted"]
    optimal["tokens_per_param"] = float(flops / analysis.cost(np.array([size]))[0] / size)
    measured = curve.optimum if curve is not None else None
    optimal["measured"] = measured and measured[0]
    optimal["measured_tokens_per_param"] = measured and measured[1] / measured[0]
    optimal["measured_problem"] = curve.problem if curve is not None else "fewer than three held-out runs finished"
    return optimal
