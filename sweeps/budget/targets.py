"""Answers queries to a forecast: from compute, a loss, a size or dollars to all the rest, with intervals."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit.errors import InputError
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.optimum.forecast import forecast, forecast_run
from nextscale.fit.optimum.frontier import TokenCost
from nextscale.fit.optimum.inverse import ComputeFor, Frontiers
from nextscale.fit.optimum.isoflop import isoflops, optimum_law
from nextscale.fit.optimum.repetition import Worth, best_on_limited_data, price_of_repeats
from nextscale.fit.trust.consensus import Consensus
from nextscale.fit.trust.reach import ReachErrors, beyond_warnings, narrow_interval_warnings
from nextscale.sweeps.budget.cluster import BUYS, MEASURES, Cluster
from nextscale.sweeps.budget.queries import Query, check_queries
from nextscale.sweeps.show.forecast_tables import request_text
from nextscale.sweeps.show.sentences import contradicted, cost_basis, sentence, test_flops, trust

if TYPE_CHECKING:
    import pandas as pd


_APART = 1.5
"""Best sizes so many times apart are not the same."""
_ALIKE = 0.01
"""How far bytes per token of runs may lie apart and still be those of one tokenizer on one text."""


@dataclasses.dataclass(frozen=True)
class AvailableData:
    """The tokens that there are to be seen once, and what seeing them again is worth."""

    available: float
    worth: Worth


def forecast_targets(
    fit: Fit,
    queries: Sequence[Query],
    *,
    cluster: Cluster | None = None,
    data: AvailableData | None = None,
    bits_per_nat: float | None = None,
    backtests: ReachErrors | None = None,
) -> dict[str, Any]:
    """Everything that a law says of each thing asked.

    Args:
        fit: of a law in N and D, or in C.
        cluster: where it would be trained, for dollars, hours, days and energy.
        data: what there is of it, for what repeating it costs.
        bits_per_nat: bits per byte / loss.
        backtests: of the fit; none are made without.

    Returns:
        as `nextscale.fit.optimum.forecast`, with a target for each thing asked. Each has beside what that tells:
        `asked`; `flops_interval`, None where the compute is given; `reason`, why there is none; `bits_per_byte`,
        `device_hours`, `days`, `usd` and `kwh`, each with its `_interval` (None where it is given, or follows from
        what is); `by_utilisation`, what a budget buys, or what the compute takes, at the
        ends of the `utilisation_range`; `backtest`, what one says of such a reach, `tested_reach`, the longest that was
        tested, and `test_run`, a run that would test it where none reached as far; `sentence`, `trust` and
        `cost_basis`, the answer in words, how well such a forecast was tested and what its cost hangs on; `data`; and
        of a run of any shape `optimal`, the best model of its compute. And `cluster`, and `compute_for`, of each target
        that is of a loss, a size or tokens what `nextscale.fit.optimum.inverse.compute_for` says.

    Raises:
        InputError: the fit has no intervals, or the law cannot say what is asked.
        SpecError: dollars, hours or days are asked, and no cluster is given, or no price.
    """
    check_queries(fit.law.name, fit.law.variables, queries, cluster, data is not None)
    if len(fit.resamples) < 2:
        raise InputError("a forecast needs intervals, and this fit has none: fit with resamples")
    law = _Law(fit)
    result = forecast(fit, [], law.cost)
    base = result["warnings"]
    members = fit.members if isinstance(fit, Consensus) else ()
    targets, needed, warnings = [], [], []
    for one in queries:
        target, caveats = law.answer(one, cluster)
        needed += [target.pop("needed").to_dict()] if "needed" in target else []
        target |= _bits(target, bits_per_nat) | _costs(target, cluster)
        reach = target["reach"]
        target["by_utilisation"] = law.by_utilisation(target, cluster)
        target["tested_reach"] = None if backtests is None or backtests.problem else backtests.furthest
        target["backtest"] = None if backtests is None or reach is None else backtests.band_of(reach)
        target["test_run"] = law.test_run(target, cluster)
        target["data"] = None if data is None or target["tokens"] is None else law.data(target, data)
        warnings += _wasted(target)
        warnings += [text for text in caveats if text not in _reached(fit, [target])]
        warnings += [] if cluster is None or target["params"] is None else cluster.warnings(target["params"])
        warnings += _unknown(target)
        warnings += [f"{request_text(target)}: {text}" for text in contradicted(target, members)]
        targets.append(target)
    notes = [*result["notes"], *([] if cluster is None else cluster.assumptions())]
    notes += [] if data is None else [f"repeated data: {data.worth.basis}"]
    notes += [backtests.problem] if backtests is not None and backtests.problem else []
    by_text = {request_text(target): target for target in targets}
    narrow = [] if backtests is None else narrow_interval_warnings(backtests, fit, by_text)
    result |= {"cluster": None if cluster is None else cluster.to_dict()}
    for target in targets:
        target |= {
            "sentence": sentence(target, result),
            "trust": trust(target, members),
            "cost_basis": cost_basis(target, result),
        }
    return result | {
        "targets": targets,
        "compute_for": needed,
        "notes": notes,
        "warnings": [
            *dict.fromkeys((*narrow, *base, *_reached(fit, targets, backtests), *_by_minima(fit, targets), *warnings))
        ],
    }


def bits_per_nat_of(table: pd.DataFrame, loss: str = "loss") -> tuple[float | None, str | None]:
    """Bits per byte / loss of the runs of a table, which is one number where all share a tokenizer and a text; else
    None, and why.

    Args:
        loss: its column.
    """
    known = {"bits_per_byte", loss} <= {*table.columns}
    ratio = (table["bits_per_byte"] / table[loss]).astype(float).dropna() if known else None
    if ratio is None or ratio.empty:
        return None, "no bits per byte: the runs do not say how many bytes a token is; state --bytes-per-token"
    if ratio.max() > (1 + _ALIKE) * ratio.min():
        return None, "no bits per byte: bytes per token differ between the runs; state --bytes-per-token"
    return float(ratio.median()), None


class _Law:
    """A fit, with what answers to several questions share."""

    def __init__(self, fit: Fit):
        self.fit = fit
        self.alone = fit.law.variables == ("C",)
        self.cost = TokenCost.of_runs(fit.runs) if {"params", "tokens"} <= {*fit.runs.table} else None

    @functools.cached_property
    def frontiers(self) -> Frontiers:
        return Frontiers.of(self.fit, self.cost)

    def answer(self, query: Query, cluster: Cluster | None) -> tuple[dict[str, Any], list[str]]:
        """What the law says, and its warnings."""
        if {*query} == {"params", "tokens"}:
            return self._run(query["params"], query["tokens"])
        ((kind, value),) = query.items()
        if kind in ("loss", "params", "tokens"):
            return self._needed(self.frontiers.compute_for(**{kind: value}))
        flops = value if cluster is None or kind == "flops" else BUYS[kind](cluster, value)
        result = forecast(self.fit, [flops], self.cost)
        target = {"asked": {kind: value}, **result["targets"][0], "flops_interval": None, "reason": None}
        return target, result["warnings"]

    def _needed(self, needed: ComputeFor) -> tuple[dict[str, Any], list[str]]:
        """The best model of a loss, a size or so many tokens, whose compute is itself a forecast."""
        value = getattr(needed, needed.asked)
        parts: dict[str, Any] = {"asked": {needed.asked: value}, "needed": needed, "reason": needed.reason}
        parts["flops_interval"] = list(needed.interval)
        if needed.flops is None:
            there = forecast(self.fit, [float(self.fit.runs.table["flops"].max())], self.cost)
            return dict.fromkeys(there["targets"][0]) | parts, [f"{_query_text(needed.asked, value)}: {needed.reason}"]
        best = forecast(self.fit, [needed.flops], self.cost)
        target = best["targets"][0] | parts | {needed.asked: value}
        if not self.alone:
            for name in ("params", "tokens", "tokens_per_param"):
                target[f"{name}_interval"] = list(getattr(needed, f"{name}_interval"))
        return target, best["warnings"]

    def _run(self, params: float, tokens: float) -> tuple[dict[str, Any], list[str]]:
        """A run of any shape, and the best of its compute."""
        if self.cost is None:
            raise InputError(f"{self.fit.law.name}: runs without sizes cannot say what a size costs; give --flops")
        flops = tokens * float(self.cost(np.array([params]))[0])
        best = forecast(self.fit, [flops], self.cost)["targets"][0]
        shape = {"params": params, "tokens": tokens}
        run = forecast_run(self.fit, **({} if self.alone else shape), flops=flops)
        given = shape | {"tokens_per_param": tokens / params}
        target = best | given | {f"{name}_interval": [value, value] for name, value in given.items()}
        target |= {"loss": run["loss"], "loss_interval": run["loss_interval"]}
        optimal = None if best["params"] is None else {name: best[name] for name in ("loss", *given)}
        return target | {"asked": shape, "flops_interval": None, "reason": None, "optimal": optimal}, run["warnings"]

    def by_utilisation(self, target: Mapping[str, Any], cluster: Cluster | None) -> dict[str, list[float]] | None:
        """What moves with the utilisation, at the ends of its range: what a budget buys, or what compute takes."""
        if cluster is None or cluster.utilisation_range is None or target["flops"] is None:
            return None
        shares = [end / cluster.utilisation for end in cluster.utilisation_range]
        if {*target["asked"]} & {*BUYS}:
            flops = [share * target["flops"] for share in shares]
            return {"flops": flops, "loss": [one["loss"] for one in forecast(self.fit, flops, self.cost)["targets"]]}
        known = [name for name in MEASURES if target[name] is not None]
        return {name: [target[name] / share for share in reversed(shares)] for name in known}

    def test_run(self, target: Mapping[str, Any], cluster: Cluster | None) -> dict[str, Any] | None:
        """The best model of a compute that would test a forecast, its loss and price; None where none is advised."""
        if (flops := test_flops(target)) is None:
            return None
        best = forecast(self.fit, [flops], self.cost)["targets"][0]
        told = {name: best[name] for name in ("flops", "params", "tokens", "loss", "loss_interval")}
        return told | {"usd": None if cluster is None else cluster.costs(flops)["usd"]}

    def data(self, target: Mapping[str, Any], data: AvailableData) -> dict[str, Any]:
        """What is needed against what there is."""
        needed, there = target["tokens"], data.available
        result = {"available": there, "needed": needed, "epochs": max(needed / there, 1.0), "enough": needed <= there}
        if result["enough"]:
            return result | dict.fromkeys(("repeats_cost", "repeats_cost_interval", "best"))
        size = self.frontiers.compute_for(tokens=there).params
        if size is None:
            raise InputError(f"--data-available {there:.3g}: is so little that the law does not say what size suits it")
        price, ends = price_of_repeats(self.fit, target["params"], needed, there, size, data.worth)
        best = best_on_limited_data(self.fit, target["flops"], there, size, data.worth, self.cost)
        return result | {"repeats_cost": price, "repeats_cost_interval": list(ends), "best": dataclasses.asdict(best)}


def _wasted(target: Mapping[str, Any]) -> list[str]:
    """Whether compute is asked for that buys next to nothing on the data that there is."""
    best = (target["data"] or {}).get("best")
    if best is None or best["flops"] >= target["flops"]:
        return []
    return [
        f"{request_text(target)}: on {target['data']['available']:.3g} tokens {best['flops']:.3g} of "
        f"{target['flops']:.3g} FLOPs come within 0.1% of the least loss, and the rest buys nothing: the best model on "
        "what there is is theirs"
    ]


def _reached(fit: Fit, targets: Sequence[Mapping[str, Any]], backtests: ReachErrors | None = None) -> list[str]:
    flops = [target["flops"] for target in targets if target["flops"] is not None]
    return beyond_warnings(fit, flops, backtests)


def _by_minima(fit: Fit, targets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the isoFLOP minima of the runs lead to another best size than the law does, at the largest compute."""
    sized = [target for target in targets if target["params"] is not None and "optimal" not in target]
    if not sized or not {"params", "tokens"} <= {*fit.runs.table}:
        return []
    minima = optimum_law(isoflops(fit.runs))
    last = max(sized, key=lambda target: float(target["flops"]))
    if minima is None:
        return []
    params = float(minima(last["flops"]))
    if max(params / last["params"], last["params"] / params) < _APART:
        return []
    return [
        f"{request_text(last)}: the minima of the runs' own budgets lead to {params:.3g} parameters, the law to "
        f"{last['params']:.3g}: `nextscale frontier` shows both, and where they differ so much neither is sure"
    ]


def _bits(target: Mapping[str, Any], factor: float | None) -> dict[str, Any]:
    if factor is None or target["loss"] is None:
        return {"bits_per_byte": None, "bits_per_byte_interval": None}
    ends = [None if end is None else factor * end for end in target["loss_interval"]]
    return {"bits_per_byte": factor * target["loss"], "bits_per_byte_interval": ends}


def _costs(target: Mapping[str, Any], cluster: Cluster | None) -> dict[str, Any]:
    if cluster is None:
        return dict.fromkeys((*MEASURES, *(f"{name}_interval" for name in MEASURES)))
    costs = cluster.costs(target["flops"], target["flops_interval"])
    # What was asked is told as it was asked.
    return costs | {name: value for name, value in target["asked"].items() if name in costs}


def _unknown(target: dict[str, Any]) -> list[str]:
    """Makes an end of an interval that is no number open, and says so: no figure stands without."""
    sides: dict[str, list[str]] = {}
    for key in [key for key in target if key.endswith("_interval") and target[key] is not None]:
        name = key.removesuffix("_interval")
        ends = [None if end is None or not math.isfinite(end) else end for end in target[key]]
        target[key] = ends
        if None in ends and target[name] is not None and name not in MEASURES:
            side = "not known" if ends == [None, None] else "open below" if ends[0] is None else "open above"
            sides.setdefault(side, []).append(name)
    what = _query_text(*next(iter(target["asked"].items())))
    return [f"{what}: the interval of {', '.join(names)} is {side}" for side, names in sides.items()]


def _query_text(kind: str, value: float) -> str:
    return f"{kind} {value:.6g}"
