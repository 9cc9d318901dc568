"""How numbers are written in tables: losses, percentages, intervals, parameters and tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_LOWERED = {high: low for low, high in _RAISED.items()}
_POWER = re.compile(r"(?<![\w.])(\d(?:\.\d+)?)e([+-]\d+)\b(?!\.\w)")
"""As Python writes it: 1.56e+12; nothing that is part of a name."""
_RAISED_POWER = re.compile(r"(?:(\d(?:\.\d+)?)×)?\b10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_SPELLED = str.maketrans({"±": "+-", "×": "x", "–": "-", "→": "->", "…": "...", "²": "^2"})
_YEAR = 365.25 * 86400
Format = Callable[[Any], str]


def number(value: float | None, digits: int = 4) -> str:
    """A number to so many digits: 2.188, 0.0098, 1.56e+10 (see `typed`, `raised_powers`); a dash for none."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def power_of_ten(value: float) -> str:
    """Compute as people write it, to three digits: 10²¹, 1.56×10¹²; plain from 0.001 to 100,000."""
    if 1e-3 <= value < 1e5:
        return f"{float(f'{value:.3g}'):g}"
    digits, exponent = f"{value:.2e}".split("e")
    return raised(digits, int(exponent))


def raised(digits: str, exponent: int) -> str:
    """Such as 1.56×10¹²; 10¹² of 1."""
    power = str(exponent).translate(_RAISED)
    return f"10{power}" if float(digits) == 1 else f"{float(digits):g}×10{power}"


def raised_powers(text: str) -> str:
    """Text for a page: in which 1.56e+12 is written 1.56×10¹²."""
    return _POWER.sub(lambda found: raised(found[1], int(found[2])), text)


def typed(text: str) -> str:
    """Text for a terminal: every power of ten, also 1.56×10¹², as it can be typed again, 1.56e12."""
    text = _POWER.sub(lambda found: f"{float(found[1]):g}e{int(found[2])}", text)
    return _RAISED_POWER.sub(lambda found: f"{found[1] or 1}e{int(found[2].translate(_LOWERED))}", text)


def spelled(text: str) -> str:
    """Text for a terminal of ASCII alone: `typed`, and signs such as ± by their usual letters."""
    return typed(text).translate(_SPELLED)


def reach_band(band: str, furthest: float) -> str:
    """A step of reach, such as `10-100`, no further than anything was tested: 10-16.7."""
    low, high = band.split("-")
    return f"{low}-{three_digits(min(float(high), furthest))}"


def count(value: float | None) -> str:
    """Parameters or tokens, to three digits: 28.7k, 3.53M, 70B, 1.4T, 1.2e+17; a dash for none."""
    if value is None:
        return "-"
    if not 1e-3 <= abs(value) < 1e16:
        return number(value, 3)
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{float(f'{value / size:.3g}'):g}{letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people write them: 42 s, 7.5 min, 3.2 h, 12 d, 4,120 years."""
    units = ((_YEAR, "years", 2 * _YEAR), (86400, "d", 2 * 86400), (3600, "h", 2 * 3600), (60, "min", 120))
    for size, unit, least in units:
        if seconds >= least:
            amount = float(f"{seconds / size:.3g}")
            return f"{amount:,.0f} {unit}" if amount >= 1000 else f"{amount:g} {unit}"
    return f"{seconds:.3g} s"


def loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2%}"


def percent_with_error(value: float, error: float) -> str:
    """Such as `2.35% ± 0.59%`; without the error where that is not known, and nothing where the value is not."""
    if math.isnan(value):
        return ""
    return f"{value:.2%}" if math.isnan(error) else f"{value:.2%} ± {error:.2%}"


def interval(bounds: Any, form: Any = loss) -> str:
    """A dash for none; an end that is None is open."""
    if bounds is None:
        return "-"
    ends = ["open" if end is None else form(end) for end in bounds]
    return f"[{ends[0]}, {ends[1]}]"


def interval_between(low: float | None, high: float | None, form: Any = loss) -> str:
    """An interval of two columns; a dash where both ends are missing."""
    return interval(None if low is None and high is None else (low, high), form)


def dollars(value: float | None) -> str:
    return "-" if value is None else f"${count(value)}"


def three_digits(value: float | None) -> str:
    return number(value, 3)


def text(value: Any) -> str:
    return "" if value is None else str(value)


def params_label(convention: str) -> str:
    """What N counts, in words.

    Args:
        convention: that of a count, or the column that was named.
    """
    from nextscale.fit.conventions import CONVENTIONS
    from nextscale.fit.table.names import meaning_of

    if convention not in CONVENTIONS:
        meaning = meaning_of(convention)
        counts = [count for count, column in CONVENTIONS.items() if meaning and column == meaning.quantity]
        if not counts:
            return f"parameters ({convention})"
        convention = counts[0]
    return "parameters" if convention == "total" else f"{convention.replace('_', '-')} parameters"


def in_bytes(size: float) -> str:
    """Bytes as people write them."""
    for unit, letter in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.3g} {letter}"
    return f"{size / 1e3:.3g} kB"
