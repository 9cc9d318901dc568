"""The forecast calculator of the page: the data with which its script does what `nextscale forecast` does."""

from __future__ import annotations

import base64
import contextlib
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.cluster.hardware.catalogue import CATALOGUE, Accelerator
from nextscale.fit.estimate.fit import Fit
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.mixture import Mixture
from nextscale.fit.laws.sum_of_powers import SumOfPowers
from nextscale.fit.optimum.frontier import TokenCost
from nextscale.fit.optimum.isoflop import isoflops, optimum_law
from nextscale.fit.trust.consensus import Consensus
from nextscale.fit.trust.rolling import NEAREST, REACH_POWER
from nextscale.sweeps.budget.cluster import Cluster, cluster_of
from nextscale.sweeps.errors import USER_ERRORS
from nextscale.sweeps.report.content import token_cost_in_words
from nextscale.sweeps.show.formats import params_label, typed
from nextscale.sweeps.spec.site_file import load_site

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.sweeps.report.answer import Answer

_USUAL = "h100"
"""Shown first."""


def is_computable(fit: Fit) -> bool:
    """Whether the page can do its arithmetic: that of sums of powers in N and D."""
    laws = [law for _, _, law in _parts(fit.law, fit.theta)]
    sums = all(isinstance(law, SumOfPowers) for law in laws)
    return sums and set(fit.law.variables) == {"N", "D"} and len(fit.resamples) > 1


def _parts(law: Law, theta: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, Law]]:
    """Of each law its weight and parameter vector, of one such vector or several."""
    return law.parts(theta) if isinstance(law, Mixture) else [(np.ones(theta.shape[:-1]), theta, law)]


def hardware_for(runs: pd.DataFrame) -> list[Cluster]:
    """A chip of every kind that is known here, with what the runs reached on it."""
    accelerators: Mapping[str, Accelerator] = CATALOGUE
    with contextlib.suppress(*USER_ERRORS):
        accelerators = load_site().catalogue("the site file")
    known = [name for name, one in accelerators.items() if one.peak_flops is not None]
    return [cluster_of(name, accelerators=accelerators, runs=runs) for name in known]


def calculator_data(
    answer: Answer, command: str, hardware: Sequence[Cluster] = (), bits_per_nat: float | None = None
) -> dict[str, Any]:
    """Everything that a forecast rests on; see calculator.js.

    Args:
        command: that gives the same figures, but for what is asked.
        hardware: one chip of each kind.
        bits_per_nat: bits per byte / loss.
    """
    fit, tested = answer.fit, answer.tested
    minima = optimum_law(isoflops(fit.runs))
    known, cost = fit.runs.table, TokenCost.of_runs(fit.runs)
    return {
        "command": command,
        "hardware": [one.to_dict() for one in hardware],
        "bitsPerNat": bits_per_nat,
        "tested": {"bands": tested.bands, "furthest": tested.furthest, "problem": tested.problem},
        "laws": [_law(law, theta, float(weight)) for weight, theta, law in _parts(fit.law, fit.theta)],
        "members": _members(fit),
        "draws": _draws(fit),
        "errors": _errors(fit),
        "widened": fit.extrapolation_error > 0,
        "level": fit.level,
        "params": [known["params"].min(), known["params"].max()],
        "flops": [known["flops"].min(), known["flops"].max()],
        "minima": None if minima is None else [minima.scale, minima.exponent],
        "cost": {"x": _packed(cost.log_params), "y": cost.log_flops_per_token[0], "slopes": cost.slopes}
        | {"cubics": _packed(cost.cubics)},
    }


def _law(law: Law, theta: np.ndarray, weight: float) -> dict[str, Any]:
    """A law as fitted, and its weight in log loss: of each term the place of its coefficient, and its powers."""
    assert isinstance(law, SumOfPowers)
    terms = [
        [k, [[variable, law.parameters.index(exponent), times] for variable, exponent, times in term.powers]]
        for k, term in enumerate(law.terms)
    ]
    return {"weight": weight, "terms": terms, "theta": _packed(theta)}


def _members(fit: Fit) -> list[tuple[str, float, float | None]]:
    """Of each law of a mean its name, weight and irreducible loss."""
    members = fit.members if isinstance(fit, Consensus) else ()
    return [(one.law, one.weight, one.parameters.get("E")) for one in members]


def _draws(fit: Fit) -> list[dict[str, Any]]:
    """The resamples, those of each law together: which law, and their parameter vectors one after another."""
    drawn = []
    for k, (weights, thetas, _) in enumerate(_parts(fit.law, fit.resamples)):
        rows = np.flatnonzero(weights)
        drawn.append({"law": k, "rows": rows.tolist(), "thetas": _packed(thetas[rows].ravel())})
    return drawn


def _errors(fit: Fit) -> dict[str, Any]:
    """What is added to the log loss of each resample: see `predictive` of `Fit`, and of `Consensus`."""
    if isinstance(fit, Consensus):
        grows = {"tested": fit.tested, "nearest": NEAREST, "power": REACH_POWER}
        return {"surprise": _packed(fit.surprises), "grows": grows}
    scatter, surprise = fit.error_draws(1)
    surprise = surprise[:, 0] * fit.extrapolation_error
    return {"scatter": _packed(scatter[:, 0]), "surprise": _packed(surprise), "grows": None}


def calculator(
    answer: Answer,
    command: str,
    hardware: Sequence[Cluster] = (),
    bits_per_nat: float | None = None,
    *,
    also: str = "",
    figure: str = "",
) -> str:
    """The form, and where its answers appear, as HTML; arguments as those of `calculator_data`. Without scripts the
    answer that it begins with is there.

    Args:
        also: what is to be known of the runs that it is fitted to.
        figure: that stands beside the answer, as HTML.
    """
    fit, target = answer.fit, answer.target
    assert target is not None
    rows = {"flops": "compute (FLOPs)", "loss": "loss (nats per token)"}
    rows |= {"bits_per_byte": "bits per byte"} if bits_per_nat else {}
    rows |= {
        "params": params_label(fit.runs.convention),
        "near": "sizes within 0.1% of that loss",
        "tokens": "training tokens",
        "tokens_per_param": "tokens per parameter",
    }
    if hardware:
        rows |= {"device_hours": "device-hours", "days": "days", "usd": "dollars", "kwh": "energy of the chips (kWh)"}
    body = "".join(
        f'<tr data-row="{name}"><th scope="row" class="left">{what}</th><td></td><td></td></tr>\n'
        for name, what in rows.items()
    )
    sentence, flops, trust = html.escape(target["sentence"]), target["flops"], target["trust"]
    fitted = "; ".join((f"{len(fit.runs)} runs{also}", *fit.runs.notes))
    token_cost = token_cost_in_words(TokenCost.of_runs(fit.runs))
    return (
        '<div class="first">\n<div>\n'
        f'<p id="forecast-sentence" class="sentence" aria-live="polite">{sentence}</p>\n'
        '<details class="trust"><summary><span id="forecast-grade" class="grade" '
        f'data-grade="{trust["grade"]}">{trust["grade"]}</span> <span id="forecast-trust">'
        f'{html.escape(trust["sentence"])}</span></summary><ul id="forecast-said"></ul></details>\n'
        f'<form class="calculator">\n{_budget(flops, bool(hardware))}{_hardware(hardware)}</form>\n'
        '<div class="answer">\n'
        '<div id="forecast-warned" aria-live="polite"></div>\n<p id="forecast-basis" class="quiet"></p>\n'
        '<div class="scroll" tabindex="0"><table id="forecast-answer"><thead><tr>'
        '<th scope="col" class="left">the best model</th><th scope="col">forecast</th>'
        f'<th scope="col" data-level="{fit.level:.0%}">{fit.level:.0%} interval</th></tr></thead>\n'
        f'<tbody aria-live="polite">{body}</tbody></table>'
        f'</div>\n</div>\n</div>\n<div>\n{figure}<div class="quiet">'
        '<ul id="forecast-assumed"></ul>'
        f"<p>Fitted to {html.escape(fitted)}. {token_cost}</p>\n<p>The same from the command: "
        f'<code id="forecast-command">{html.escape(command)} --flops {typed(f"{flops:.3g}")}</code></p></div>\n'
        "</div>\n</div>\n"
    )


def _budget(flops: float, priced: bool) -> str:
    units = {"flops": "FLOPs"} | ({"usd": "dollars", "device-hours": "device-hours", "days": "days"} if priced else {})
    options = "".join(f'<option value="{name}">{what}</option>' for name, what in units.items())
    return (
        f'<label>budget<input name="budget" autocomplete="off" value="{typed(f"{flops:.3g}")}"></label>\n'
        f'<label>in<select name="unit">{options}</select></label>\n'
    )


def _hardware(hardware: Sequence[Cluster]) -> str:
    if not hardware:
        return ""
    names = [html.escape(one.accelerator.name) for one in hardware]
    options = "".join(f"<option{' selected' * (name == _USUAL)}>{name}</option>" for name in names)
    return (
        f'<label>on<select name="on">{options}</select></label>\n'
        '<label>chips<input name="chips" inputmode="numeric" autocomplete="off" value="8"></label>\n'
        '<label>utilisation (of the peak)<input name="utilisation" inputmode="decimal" autocomplete="off"></label>\n'
        '<label>$ per chip-hour<input name="price" inputmode="decimal" autocomplete="off"></label>\n'
    )


def _packed(values: Sequence[float] | np.ndarray) -> str:
    """Numbers to the bit, in base64: doubles, the lowest byte first."""
    return base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode()
