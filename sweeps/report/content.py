"""The text and tables of each section of the page; a section without content is left out."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.fit.trust.backtest import MISFIT, POOR
from nextscale.sweeps.page.document import Section, readable, table
from nextscale.sweeps.show.formats import (
    Format,
    count,
    loss,
    number,
    params_label,
    percent,
    percent_with_error,
    reach_band,
    text,
    three_digits,
)
from nextscale.sweeps.show.formats import interval as bounds
from nextscale.sweeps.show.sentences import outcome, places_of
from nextscale.sweeps.show.summary_tables import RATE
from nextscale.sweeps.show.tables import Table, table_of
from nextscale.sweeps.store.imported_runs import STATUS as IMPORTED

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.fit.optimum.frontier import TokenCost
    from nextscale.fit.trust.choice import Choice
    from nextscale.fit.trust.reach import ReachErrors

_RUN_COLUMNS = (
    ("run", "run_id", text),
    ("status", "status", text),
    ("for", "role", text),
    ("parameters", "params", count),
    ("tokens", "tokens", count),
    ("FLOPs", "flops", three_digits),
    ("loss", "loss", loss),
    ("bits/byte", "bits_per_byte", loss),
    ("width", "width", text),
    ("depth", "depth", text),
    ("peak rate", "lr", three_digits),
    ("seed", "seed", text),
    ("attempts", "attempts", text),
    ("device-hours", "device_hours", three_digits),
    ("utilisation", "utilisation", three_digits),
    ("$", "usd", three_digits),
    ("on", "accelerator", text),
    ("data", "data", text),
)

_SEEN = 3
"""Warnings that are not folded."""
_FILES = 2
"""Of imported runs, by name; of more their number."""
_PLAIN = {"first": "smallest run", "rate": RATE, "n": "runs", "rms": "root mean square"}
"""What a fit card calls otherwise."""
_CARD = {
    "law": "The formula that was fitted, and where it is from; of a mean of fits, each with its weight.",
    "data": "What it was fitted to.",
    "objective": "What the fit makes least: how far the runs lie off the law. By huber a miss above delta counts by "
    "its size and one below by its square; a tilt of 0.5 counts misses to either side alike.",
    "optimiser": "How the least was sought: from many starts, the best of which were followed to their ends; of a mean "
    "of fits, the heaviest one's. A large condition number: some parameters make up for each other, so that neither is "
    "sure, while the loss may be.",
    "parameters": "Of the formula, with their intervals.",
    "profiles": "Of each exponent, what it may be while all others make up for it; flat: within half a percent of the "
    "least.",
    "intervals": "How intervals were made: the law fitted anew to so many random draws of the runs. The extrapolation "
    "error is what forecasts missed by in backtests, for each e-fold (2.7 times) of reach: intervals hold both.",
    "residuals": f"How far runs lie off the law, as shares of the loss. Times chance: that over how far runs of one "
    f"budget scatter around its own curve; up to {MISFIT:g} the fit is good, up to {POOR:g} fair, and above poor.",
    "irreducible_loss": "What no model of this kind would get below on this data (E), against the smallest loss here.",
    "dropped": "Runs that were left out, and what the fit would be with them.",
}
"""What each part of a fit card is, for who does not fit laws."""
_APART = 1.1
"""Sizes of two approaches so many times apart are both shown."""


def section(name: str, title: str, *parts: str) -> Iterable[Section]:
    """One section of these parts, or none where all of them are empty."""
    if body := "".join(parts):
        yield Section(name, title, body)


def warnings(texts: Iterable[str]) -> str:
    """The first of them to be seen, all others when they are unfolded."""
    shown = [f'<p class="warning">{readable(one.rstrip("."))}.</p>\n' for one in dict.fromkeys(texts)]
    rest = f"<details><summary>{len(shown) - _SEEN} more to know</summary>\n{''.join(shown[_SEEN:])}</details>\n"
    return "".join(shown) if len(shown) <= _SEEN + 1 else "".join(shown[:_SEEN]) + rest


def paragraph(sentence: str, kind: str = "") -> str:
    return f'<p class="{kind}">{readable(sentence)}</p>\n' if sentence else ""


def runs_in_words(runs: pd.DataFrame) -> str:
    """How many of the runs are done, and how many come from elsewhere, of which nothing here did any."""
    status = runs["status"]
    imported, done = int((status == IMPORTED).sum()), int((status == "done").sum())
    own = len(status) - imported
    told = [f"{done} of {own} runs done"] if own or not imported else []
    if imported:
        files = sorted({Path(file).name for file in runs["imported_from"].dropna()})
        source = " and ".join(files) if len(files) <= _FILES else f"{len(files)} files"
        told.append(f"{imported} {'more' if own else 'runs'}, imported from {source}")
    return ", ".join(told)


def law_in_words(law: Mapping[str, Any] | None) -> str:
    """What a forecast rests on, after a semicolon; nothing where there is no law."""
    if law is None:
        return ""
    members = law.get("members", ())
    names = {member["law"] for member in members}
    if len(members) < 2:
        return f"; {law['formula']}"
    of = f"one law, {names.pop()}, to all or the larger of them" if len(names) == 1 else f"{len(names)} laws"
    return f"; a mean of {len(members)} fits of {of}, weighed by backtests"


def token_cost_in_words(cost: TokenCost) -> str:
    """What a token costs in FLOPs per parameter, where that is not the usual 6; nothing where it is."""
    low, high = map(three_digits, cost.per_param)
    if low == high == "6":
        return ""
    return f"A token takes {low if low == high else f'{low} to {high}'} FLOPs per parameter in these runs; 6 is usual."


def facts(figures: Sequence[tuple[str, str, str]]) -> str:
    """Figures to be read first: of each what it is, the figure, and what is to be known of it."""
    shown = "".join(
        f'<dl class="fact"><dt>{what}</dt><dd>{figure}</dd><dd>{more}</dd></dl>\n'
        for what, figure, more in (map(readable, one) for one in figures)
    )
    return f'<div class="facts">\n{shown}</div>\n' if shown else ""


def side_by_side(one: str, other: str, kind: str = "first") -> str:
    """Where there is room; else one below the other.

    Args:
        kind: `first`, in columns of the page's first section; `beside`, the other as wide as what is in it.
    """
    return f'<div class="{kind}">\n<div>\n{one}</div>\n<div>\n{other}</div>\n</div>\n' if one and other else one + other


def headline(summary: Mapping[str, Any]) -> str:
    """The forecast and its score."""
    rows = summary["holdout"]
    if not rows:
        return ""
    forecast = summary["forecast"]
    best = min(rows, key=lambda row: row["predicted"])
    scored = [row for row in rows if row["measured"] is not None]
    inside = sum(row["interval"][0] <= row["measured"] <= row["interval"][1] for row in scored)
    level = f"{forecast['level']:.0%}"
    form = _loss_within(best["interval"])
    figures = [
        ("loss of the best of them", form(best["predicted"]), f"{level} interval {bounds(best['interval'], form)}")
    ]
    if best["measured"] is not None:
        figures.append(("as measured after", form(best["measured"]), f"error {percent(best['error'])}"))
    if scored:
        mean = sum(abs(row["error"]) for row in scored) / len(scored)
        figures.append((f"inside their {level} intervals", f"{inside} of {len(scored)}", f"mean |error| {mean:.2%}"))
    if optimal := summary["optimal_params"]:
        measured = f", measured {count(optimal['measured'])}" if optimal["measured"] is not None else ""
        what = f"compute-optimal {params_label(optimal['params_convention'])}"
        other = _other_size("the law", optimal["by_law"], optimal["predicted"])
        figures.append((what, count(optimal["predicted"]), f"{bounds(optimal['interval'], count)}{measured}{other}"))
    return paragraph(outcome(summary) or "", "sentence") + paragraph(made_when(forecast), "quiet") + facts(figures)


def _loss_within(ends: Any) -> Format:
    """A loss with the decimals of the sentence above it, which are those that its interval leaves."""
    places = places_of(ends)
    return lambda value: f"{value:.{places}f}"


def made_when(forecast: Mapping[str, Any]) -> str:
    """When a forecast was written down."""
    made = "Predicted" if forecast["started_before"] else "Forecast"
    return f"{made} on {forecast['time'][:16].replace('T', ' ')} UTC."


def _other_size(who: str, size: float | None, shown: float) -> str:
    """What another approach says of the best size, where the two are apart."""
    return "" if size is None or 1 / _APART < size / shown < _APART else f"; {who} alone: {count(size)}"


def outlook(result: Mapping[str, Any], minima: float | None = None) -> str:
    """A forecast beyond all runs, where no scale was held out to be forecast.

    Args:
        minima: the best size by the isoFLOP minima, where there are any.
        result: what `nextscale.sweeps.budget.targets.forecast_targets` returned for one budget.
    """
    (target,) = result["targets"]
    level = f"{result['level']:.0%} interval"
    form = _loss_within(target["loss_interval"])
    shown = [("loss of the best model", form(target["loss"]), f"{level} {bounds(target['loss_interval'], form)}")]
    if target["params"] is not None:
        for key, what, form in (
            ("params", params_label(result["params_convention"]), count),
            ("tokens", "training tokens", count),
            ("tokens_per_param", "tokens per parameter", three_digits),
        ):
            other = _other_size("isoFLOP minima", minima, target["params"]) if key == "params" else ""
            shown.append((what, form(target[key]), f"{level} {bounds(target[f'{key}_interval'], form)}{other}"))
    why = f"No runs were held out, so this forecast has been held against none. {target['trust']['sentence']}"
    return paragraph(target["sentence"], "sentence") + paragraph(why, "quiet") + facts(shown)


def fit_card(card: Mapping[str, Any]) -> str:
    """All that a reviewer would ask of a fit. What laws have in common says little of their mean: each has its own."""
    if "members" in card["law"]:
        told = card["irreducible_loss"] or {}
        irreducible = {name: value for name, value in told.items() if name != "interval_is_of"}
        card = {**card, "parameters": None, "irreducible_loss": irreducible}
    return "".join(
        f"<details{' open' * (name == 'law')}><summary>{_words(name)}</summary>"
        f"{paragraph(_CARD.get(name, ''), 'quiet')}{_as_html(value)}</details>\n"
        for name, value in card.items()
        if value not in (None, {}, [])
    )


def runs_table(runs: pd.DataFrame) -> tuple[Table, list[str]]:
    """The runs to be read, and the columns of `runs` that are shown."""
    shown = [column for column in _RUN_COLUMNS if column[1] in runs and runs[column[1]].notna().any()]
    known = runs.astype(object).where(runs.notna(), None)
    rows = [{name: _whole(value) for name, value in row.items()} for row in known.to_dict("records")]
    found = table_of(f"{len(rows)} runs", rows, *shown)
    left = next((i for i, (_, key, _) in enumerate(shown) if key not in ("run_id", "status", "role")), len(shown))
    return Table(found.title, found.columns, found.rows, left=left), [key for _, key, _ in shown]


def backtest_table(choice: Choice, whom: str, together: ReachErrors) -> Table:
    """What `nextscale.fit.trust.choice.choose` says of each law, by how far it reached, beside what takes no law.

    Args:
        whom: of which runs.
        together: where the forecast is of several laws, what these missed together at each step of reach.
    """
    furthest = float(choice.table["furthest"].max())
    rows: list[dict[Any, Any]] = [
        *({"law": "the forecast", **band, "furthest": together.furthest} for band in _with_mean(together)),
        *choice.summary.to_dict("records"),
        *choice.baselines.to_dict("records"),
    ]
    for row in rows:
        row["beyond"] = (
            "any" if row["reach"] == "all" else f"{reach_band(row['reach'], row.get('furthest', furthest))} times"
        )
        row["within"] = percent_with_error(row["error"], row["se"])
    columns = (
        ("law", "law", text),
        ("beyond the fitted runs", "beyond", text),
        ("missed by, on average", "within", text),
        ("measured minus forecast", "bias", percent),
        ("backtests", "cuts", text),
    )
    return table_of(f"What laws fitted to the smaller {whom} missed the larger by", rows, *columns)


def _with_mean(together: ReachErrors) -> list[Mapping[str, Any]]:
    """What a mean of laws missed by at any reach, as those of one law are told, and at each step."""
    if not together.by_cut:
        return [*together.bands]
    error = sum(together.by_cut.values()) / len(together.by_cut)
    any_reach = {"reach": "all", "error": error, "se": math.nan, "bias": None, "cuts": len(together.by_cut)}
    return [any_reach, *together.bands]


def spend_table(attempts: pd.DataFrame) -> Table:
    """What attempts cost, by pool."""
    rows = []
    for pool, its in attempts.groupby("pool"):
        hours = its["device_us"] / 3.6e9
        timed = its["utilisation"].notna()
        used = (its["utilisation"] * hours)[timed].sum() / hours[timed].sum() if hours[timed].sum() else None
        made = its["flops_kept"].sum() + its["flops_lost"].sum()
        rows.append(
            {
                "pool": str(pool),
                "accelerator": ", ".join(sorted(map(str, its["accelerator"].unique()))),
                "attempts": str(len(its)),
                "finished": str((its["outcome"] == "finished").sum()),
                "hours": float(hours.sum()),
                "usd": float(its["usd"].sum()),
                "kept": float(its["flops_kept"].sum()),
                "lost": float(its["flops_lost"].sum() / made) if made else 0.0,
                "utilisation": None if used is None else float(used),
            }
        )
    columns = (
        ("pool", "pool", text),
        ("on", "accelerator", text),
        ("attempts", "attempts", text),
        ("finished", "finished", text),
        ("device-hours", "hours", three_digits),
        ("$", "usd", lambda usd: f"{usd:,.2f}"),
        ("FLOPs kept", "kept", three_digits),
        ("FLOPs lost", "lost", lambda share: f"{share:.1%}"),
        ("utilisation", "utilisation", three_digits),
    )
    return table_of("By pool", rows, *columns)


def shown_tables(tables: Iterable[Table], name: str) -> str:
    return "".join(table(one, f"{name}-{i}") for i, one in enumerate(tables, 1))


def _as_html(value: Any) -> str:
    """A value of a fit card: lists of records are tables, and records lists of terms."""
    if isinstance(value, Mapping) and value:
        inner = "".join(f"<dt>{_words(key)}</dt><dd>{_as_html(item)}</dd>" for key, item in value.items())
        return f'<dl class="card-list">{inner}</dl>'
    if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        columns = list(value[0])
        head = "".join(f'<th scope="col">{_words(column)}</th>' for column in columns)
        body = "".join(f"<tr>{''.join(f'<td>{_cell(row.get(c))}</td>' for c in columns)}</tr>" for row in value)
        return (
            f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )
    if isinstance(value, list | tuple | Mapping):
        return ", ".join(map(_cell, value)) or "none"
    return _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_cell(one)}" for key, one in value.items())
    if isinstance(value, int | float):
        return readable(number(value) if isinstance(value, float) or abs(value) >= 1e5 else str(value))
    return readable(str(value))


def _words(key: object) -> str:
    return html.escape(_PLAIN.get(str(key), str(key).replace("_", " ")))


def _whole(value: Any) -> Any:
    """Seeds and widths as they are, though a column with gaps holds floats."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
