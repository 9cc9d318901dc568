"""A forecast as one sentence that can be repeated, and how well such a forecast was tested.

The page's script (`calculator.js`) says the same in the same words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from nextscale.fit.intervals import relative_half_width
from nextscale.sweeps.show.formats import count, dollars, duration, power_of_ten

if TYPE_CHECKING:
    from nextscale.fit.trust.consensus import Member

Grade = Literal["inside the runs", "tested", "tested once", "too narrow", "untested"]
_FEW, _MANY = 2, 4
"""Decimals of a loss, at least and at most."""
_CENT, _SMALL, _LARGE = 0.01, 1e-3, 1e16
_TEST, _WORTH_A_TEST = 10, 3
"""A run so many times the largest is advised where what is asked takes so many times more."""
_OFTEN = 2
"""Cuts with runs at such a reach from which on it counts as tested."""
_MOST = 0.5
"""The weight of one law above which a forecast of several is said to rest on it."""


def sentence(target: Mapping[str, Any], forecast: Mapping[str, Any]) -> str:
    """What was asked and what the law says of it.

    Args:
        target: one of the targets of `forecast`.
        forecast: what `nextscale.sweeps.budget.targets.forecast_targets` returns: `level`, `loss_unit` and `cluster`.
    """
    asked = target["asked"]
    if target["flops"] is None:
        return f"{_request(asked, forecast)}: {target['reason']}."
    sized = target["params"] is not None
    model = f"a {_amount(target['params'])} model on {_amount(target['tokens'])} tokens" if sized else ""
    needed = f"{power_of_ten(target['flops'])} FLOPs{_range(target['flops_interval'], power_of_ten)}"
    if "loss" in asked:
        what = ", ".join(filter(None, (model, *_costs(target))))
        return f"{_request(asked, forecast)} takes {needed}{f': {what}' if what else ''}."
    loss = f"loss {loss_with_interval(target, forecast)}"
    if {*asked} & {"params", "tokens"}:
        takes = f"{_request(asked, forecast)} takes {needed}"
        if "tokens" not in asked:
            takes += f" on {_amount(target['tokens'])} tokens"
        elif "params" not in asked:
            takes += f" and is one of {_amount(target['params'])}"
        return f"{', '.join((takes, *_costs(target), loss))}."
    return f"{_request(asked, forecast)}: {', '.join(filter(None, (model, *_costs(target), loss)))}."


def trust(target: Mapping[str, Any], members: Sequence[Member] = ()) -> dict[str, Any] | None:
    """How well a forecast so far beyond the runs was tested: a `grade`, and a `sentence` that says why; None of what
    has no answer.

    Args:
        members: the laws that it is a mean of.
    """
    reach, band = target["reach"], target["backtest"]
    if reach is None:
        return None
    grade: Grade = "inside the runs"
    if reach <= 1:
        return {"grade": grade, "sentence": "That lies inside the runs."}
    far = f"That is {power_of_ten(reach)} times the largest run fitted"
    if _is_untested(target):
        tested = target["tested_reach"]
        short = f" ({power_of_ten(tested)} times)" if tested is not None and 1 < tested < reach else ""
        grade = "untested"
        why = f", further than backtests of this forecast reached{short}: nothing tested the interval"
        why += _advice(target)
    else:
        grade = "tested" if band["cuts"] >= _OFTEN else "tested once"
        tests = "backtests" if band["cuts"] >= _OFTEN else "one backtest"
        why = f"; {tests} of such a reach missed the loss by {band['error']:.2%}"
        half = relative_half_width(target["loss"], target["loss_interval"])
        if half is not None and band["error"] > half:
            grade = "too narrow"
            why += f", more than the interval's ±{half:.2%}: it may be too narrow"
    return {"grade": grade, "sentence": f"{far}{why}.{_rests_on(members)}"}


def test_flops(target: Mapping[str, Any]) -> float | None:
    """The compute of a run that would test a forecast; None where one was made, or would take much of what is asked."""
    if not _is_untested(target) or target["reach"] < _WORTH_A_TEST * _TEST:
        return None
    return float(target["flops"] * _TEST / target["reach"])


def _advice(target: Mapping[str, Any]) -> str:
    """The run that would test a forecast, where there is one (`test_run`)."""
    if (run := target["test_run"]) is None:
        return ""
    sized = run["params"] is not None
    model = f" a {_amount(run['params'])} model on {_amount(run['tokens'])} tokens" if sized else ""
    price = "" if run["usd"] is None else f" for {_money(run['usd'])}"
    share = f"1/{power_of_ten(target['reach'] / _TEST)} of this"
    comma = "," if model or price else ""
    borne_out = f"a loss of {_loss_ends(run['loss_interval'])} there bears the forecast out up to there"
    return f". First train a run {_TEST} times the largest{comma}{model}{price} ({share}): {borne_out}"


def _rests_on(members: Sequence[Member]) -> str:
    """Which law has most of the weight, where one has: its fits to all runs and to some of them together."""
    weights: dict[str, float] = {}
    for member in members:
        weights[member.law] = weights.get(member.law, 0.0) + member.weight
    law = max(weights, key=weights.__getitem__, default="")
    if not weights.get(law, 0.0) > _MOST:
        return ""
    share = f"{weights[law]:.0%}"
    return f" It rests on one law, {law}{'' if share == '100%' else f' ({share} of the weight)'}."


def contradicted(target: Mapping[str, Any], members: Sequence[Member]) -> list[str]:
    """Laws of a mean under which no model comes to the loss that is forecast, in words: the terms of a law beside its
    irreducible loss are positive, so by it no loss lies below that."""
    if target["loss"] is None:
        return []
    above = [member for member in members if member.parameters.get("E", 0.0) > target["loss"]]
    if not above or len(members) < 2:
        return []
    weight, limit = sum(member.weight for member in above), min(member.parameters["E"] for member in above)
    return [
        f"{len(above)} of the {len(members)} fits that the forecast is a mean of (weight {weight:.0%}) "
        f"{'says' if len(above) == 1 else 'say'} that no model comes below a loss of {limit:.2f}, and contradict"
        f"{'s' * (len(above) == 1)} the {target['loss']:.2f} that is forecast"
    ]


def _is_untested(target: Mapping[str, Any]) -> bool:
    return bool((target.get("reach") or 0) > 1 and target["backtest"] is None)


def cost_basis(target: Mapping[str, Any], forecast: Mapping[str, Any]) -> str | None:
    """What time and cost hang on, and their range where one is known; None without a cluster, or an answer."""
    cluster, found = forecast["cluster"], target["by_utilisation"]
    if cluster is None or target["flops"] is None:
        return None
    basis = re.split(r",| \(", cluster["utilisation_basis"])[0]
    at = f"At {_share(cluster['utilisation'])} of the chips' peak, {basis}"
    if found is None:
        bought = {*target["asked"]} & {"usd", "device_hours", "days"}
        return f"{at}; at half of that {'a budget buys half the compute' if bought else 'time and cost double'}."
    who = "published runs of large models" if basis == "assumed" else "nine tenths of their compute"
    at += f"; {who} reached {' to '.join(map(_share, cluster['utilisation_range']))}"
    if "device_hours" in found and found["device_hours"][1] < _SMALL:
        return f"{at}."  # next to nothing at either
    at += ", at which "
    if "flops" in found:
        places = places_of(target["loss_interval"])
        losses = " to ".join(f"{loss:.{places}f}" for loss in found["loss"])
        return f"{at}this buys {' to '.join(map(power_of_ten, found['flops']))} FLOPs and a loss of {losses}."
    hours, days = (
        " to ".join(map(form, found[key])) for key, form in (("device_hours", _amount), ("days", power_of_ten))
    )
    usd = f" and ${' to $'.join(map(_amount, found['usd']))}" if "usd" in found else ""
    return f"{at}this takes {hours} device-hours, {days} days{usd}."


def _share(value: float) -> str:
    return f"{power_of_ten(100 * value)}%"


def outcome(summary: Mapping[str, Any]) -> str | None:
    """What a study forecast and what came of it; None where nothing was held out.

    Args:
        summary: as `nextscale.sweeps.study.summary.summarise` returns it.
    """
    rows = summary["holdout"]
    if not rows:
        return None
    level = summary["forecast"]["level"]
    best = min(rows, key=lambda row: row["predicted"])
    told = {"loss": best["predicted"], "loss_interval": best["interval"]}
    loss = loss_with_interval(told, {"level": level, "loss_unit": "nats/token"})
    beyond = f", {power_of_ten(best['reach'])} times the largest run that was fitted then," if best.get("reach") else ""
    late = bool(summary["forecast"]["started_before"])
    made = "was predicted when some of its runs had started" if late else "was forecast before any of them had started"
    text = f"The best of {len(rows)} runs at {power_of_ten(best['flops'])} FLOPs{beyond} {made}: loss {loss}"
    scored = [row for row in rows if row["measured"] is not None]
    if best["measured"] is None:
        return f"{text}; not measured yet."
    inside = sum(row["interval"][0] <= row["measured"] <= row["interval"][1] for row in scored)
    places = places_of(best["interval"])
    return f"{text}; measured {best['measured']:.{places}f}, and {inside} of {len(scored)} inside their intervals."


def loss_with_interval(target: Mapping[str, Any], forecast: Mapping[str, Any]) -> str:
    """Such as `2.66 (90%: 2.57 to 2.75)`: to the digits that its interval leaves, with a unit that is not nats per
    token, and where no backtest reached as far, that it is untested."""
    places = places_of(target["loss_interval"])
    unit = "" if forecast["loss_unit"] == "nats/token" else f" {forecast['loss_unit']}"
    level = f"{forecast['level']:.0%}{', untested' if _is_untested(target) else ''}"
    return f"{target['loss']:.{places}f}{unit} ({level}: {_loss_ends(target['loss_interval'])})"


def _loss_ends(ends: Any) -> str:
    """Of a loss, to the digits that its interval leaves."""
    places = places_of(ends)
    return " to ".join("open" if end is None else f"{end:.{places}f}" for end in ends)


def places_of(ends: Any) -> int:
    """Decimals of a loss, by the width of its interval."""
    if None in ends or not ends[1] > ends[0]:
        return _MANY
    return min(max(math.ceil(-math.log10((ends[1] - ends[0]) / 2)), _FEW), _MANY)


def _request(asked: Mapping[str, float], forecast: Mapping[str, Any]) -> str:
    cluster = forecast["cluster"]
    on = "" if cluster is None else f" on {cluster['chips']} {cluster['accelerator']}"
    if {*asked} == {"params", "tokens"}:
        return f"A {_amount(asked['params'])} model on {_amount(asked['tokens'])} tokens"
    ((kind, value),) = asked.items()
    return {
        "flops": f"With {power_of_ten(value)} FLOPs",
        "usd": f"With ${_amount(value)}{on}",
        "device_hours": f"With {_amount(value)} device-hours{on}",
        "days": f"With {power_of_ten(value)} days{on}",
        "loss": f"Loss {value:g}",
        "params": f"A compute-optimal {_amount(value)} model",
        "tokens": f"A model of which {_amount(value)} tokens are compute-optimal",
    }[kind]


def _costs(target: Mapping[str, Any]) -> list[str]:
    """Its dollars and time, where they are known and were not asked."""
    found = []
    if target["usd"] is not None and "usd" not in target["asked"]:
        found.append(_money(target["usd"]))
    if target["days"] is not None and "days" not in target["asked"]:
        seconds = 86400 * target["days"]
        found.append(re.sub(" d$", " days", duration(seconds)) if seconds >= 1 else "less than a second")
    return found


def _money(usd: float) -> str:
    return dollars(usd) if usd >= _CENT else "less than a cent"


def _amount(value: float) -> str:
    return count(value) if _SMALL <= value < _LARGE else power_of_ten(value)


def _range(ends: Any, form: Any) -> str:
    if ends is None or ends[0] == ends[1]:
        return ""
    low, high = ("open" if end is None else form(end) for end in ends)
    return f" ({low} to {high})"
