"""A fit as a notebook shows it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit


def fit_html(fit: Fit) -> str:
    """The law, its parameters with their intervals, and what is to be known of them."""
    known = len(fit.resamples) > 1
    heads = ["parameter", "value", *([f"{fit.level:.0%} interval"] if known else [])]
    rows = []
    for name, value in fit.parameters.items():
        low, high = fit.interval(name)
        rows.append([name, f"{value:.4g}", *([f"[{low:.4g}, {high:.4g}]"] if known else [])])
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    told = [f"note: {text}" for text in fit.runs.notes] + [f"warning: {text}" for text in fit.warnings]
    below = "".join(f"<div>{escape(text)}</div>" for text in told)
    title = f"{fit.law.formula}, fitted to {len(fit.runs)} runs"
    return f"<div><b>{escape(title)}</b><table><tr>{head}</tr>{body}</table>{below}</div>"
