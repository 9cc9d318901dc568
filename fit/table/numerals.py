"""Numbers as people write them: `70B`, `1,234,567`, `2.3×10^7`, `5.8 PF-days`, and headers such as `params (M)`.

What can be read in two ways is not read: `3,896` alone is either 3.896 or three thousand and more.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError

_COUNTS = {
    1e3: "k thousand thousands",
    1e6: "m mm mn million millions mega",
    1e9: "b bn billion billions g giga",
    1e12: "t tn trillion trillions tera",
    1e15: "quadrillion quadrillions peta",
    1e18: "quintillion exa",
}
_OF_WORD = {word: factor for factor, words in _COUNTS.items() for word in words.split()}
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_PREFIXES |= {name: _PREFIXES[name[0]] for name in ("kilo", "mega", "giga", "tera", "peta", "exa", "zetta", "yotta")}
_FLOPS = re.compile(rf"({'|'.join(sorted(filter(None, _PREFIXES), key=len, reverse=True))})?(?:flops?|flos|f)(.*)")
_DAYS = re.compile(r"(?:/?s(?:ec|econd)?)?[-·*/ ]?d(?:ay)?s?")
_DAY = 86400.0
_POWER = re.compile(r"(?:1(?:\.0*)?e\+?|10(?:\^|\*\*))(\d+)")
_NOUNS = re.compile(r"\s*(?:params?|parameters?|tokens?|toks?|nats?|/|per token)*\s*$", re.IGNORECASE)
_NUMBER = re.compile(
    r"[~≈≃]?\s*([-+]?(?:\d[\d,._' ]*|\.\d+)(?:e[-+]?\d+)?)\s*(?:[x×*·⋅]\s*10(?:\^|\*\*|e)?\s*([-+]?\d+)|(.*))",
    re.IGNORECASE,
)
_MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "--", "–", "—", "?", "tbd", "inf", "-inf", "+inf", "infinity"}
_MISSING |= {"-infinity", "<na>", "#n/a", "-nan", "#value!", "#div/0!", "#num!"}
_UP = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_EXAMPLE = 40


def numbers_in(column: pd.Series, where: str) -> tuple[pd.Series, list[str]]:
    """The cells of a column as floats, and notes on those that were read by a unit; words are missing, and told.

    Raises:
        InputError: a cell has figures that are no number, may be two, or no cell is a number.
    """
    if not pd.api.types.is_object_dtype(column) and not pd.api.types.is_string_dtype(column):
        return pd.to_numeric(column, errors="coerce").astype(float), []
    plain = pd.to_numeric(column, errors="coerce").astype(float)
    unread = column[plain.isna() & column.notna()].astype(str).str.strip()
    unread = unread[~unread.str.casefold().isin(_MISSING)]
    if unread.empty:
        return plain, []
    texts = list(dict.fromkeys(unread))
    decimal = _decimal_mark(texts, str(column.name), where)
    found = {text: _number(text, decimal) for text in texts}
    figures = [text for text in texts if found[text] is None and re.search(r"\d", text)]
    name = column.name
    if figures:
        count = int(unread.isin(figures).sum())
        few = "1 value" if count == 1 else f"{count} values"
        verb = "is no number" if count == 1 else "are no numbers"
        raise InputError(
            f"{where}: {few} of '{name}' {verb}, such as '{figures[0][:_EXAMPLE]}'; write numbers out, as 1e9 or 1.2B"
        )
    values = plain.fillna(unread.map(lambda text: found[text]).astype(float))
    if values.isna().all():
        raise InputError(
            f"{where}: column '{name}' holds no numbers, but '{texts[0][:_EXAMPLE]}'; write them out, as 1e9"
        )
    words = [text for text in texts if found[text] is None]
    read = next((text for text in texts if found[text] is not None), None)
    notes = [] if read is None else [f"cells of '{name}' such as '{read}' are read as {found[read]:g}"]
    if words:
        count = int(unread.isin(words).sum())
        cells = f"1 cell of '{name}' holds" if count == 1 else f"{count} cells of '{name}' hold"
        notes.append(f"{cells} no number, but '{words[0][:_EXAMPLE]}'")
    return values, notes


@functools.lru_cache(maxsize=4096)
def split_unit(header: str) -> tuple[str, float, str]:
    """A header without its unit, the factor that this stands for, and the unit as written: `params (M)` is `params`,
    1e6 and M; `total_gflops` is `total flops`, 1e9 and gflops. Without one the factor is 1 and the unit empty."""
    name = _plain(header)
    if bracket := re.fullmatch(r"(.*?)[\s_-]*[(\[{]\s*([^)\]}]*?)\s*[)\]}]", name):
        base, inside = bracket.groups()
        if (factor := _factor(inside)) is not None:
            return base or "flops", factor, inside
        return f"{base} {inside}", 1.0, ""
    words = [word for word in re.split(r"[\s_.]+", name) if word]
    for size in (3, 2, 1):
        if len(words) < size:
            continue
        last = "-".join(words[-size:])
        factor = _factor(last)
        if factor is None or (size == 1 and len(words) == 1 and not _is_flops(last)):
            continue
        base = [word for word in words[:-size] if word.casefold() != "in"]
        if _is_flops(last):
            return " ".join([*base, "flops"]), factor, last
        if len("".join(base)) > 1:
            return " ".join(base), factor, last
    return header, 1.0, ""


def _factor(unit: str) -> float | None:
    """What one of a unit is; None if it is none."""
    bare = re.sub(r"^(?:in|[x×*])\s+|^[x×*]", "", unit.strip().casefold()).replace(" ", "-")
    if power := _POWER.fullmatch(bare):
        return 10.0 ** int(power[1])
    if bare in _OF_WORD:
        return _OF_WORD[bare]
    bare = re.sub(r"-?(?:params?|parameters?|tokens?)$", "", bare)
    if bare in _OF_WORD:
        return _OF_WORD[bare]
    if not (flops := _FLOPS.fullmatch(bare)):
        return None
    prefix, rest = flops[1] or "", flops[2].lstrip("-")
    if not rest:
        return None if bare in ("f", "mf", "gf", "kf", "tf") else _PREFIXES[prefix]
    return _PREFIXES[prefix] * _DAY if _DAYS.fullmatch(rest) else None


def _plain(text: str) -> str:
    """Without typographic variants: a power set high is one after ^."""
    return unicodedata.normalize("NFKC", re.sub("([⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+)", r"^\1", text).translate(_UP)).strip()


def _is_flops(unit: str) -> bool:
    return _FLOPS.fullmatch(unit.casefold()) is not None


def _number(text: str, decimal: str) -> float | None:
    """What a cell says, None where it says no number."""
    plain = _plain(text)
    if power := re.fullmatch(r"10(?:\^|\*\*)([-+]?\d+)", plain):
        return 10.0 ** int(power[1])
    if not (match := _NUMBER.fullmatch(plain)):
        return None
    digits, exponent, unit = match[1].strip(), match[2], _NOUNS.sub("", match[3] or "")
    factor = 1.0 if not unit else _factor(unit)
    number = _grouped(digits, decimal)
    if number is None or factor is None:
        return None
    return number * factor * (10.0 ** int(exponent) if exponent else 1.0)


def _grouped(digits: str, decimal: str) -> float | None:
    """A number whose thousands may be apart by a comma, a point, a space, an apostrophe or an underscore."""
    mantissa, e, exponent = digits.casefold().partition("e")
    whole, point, part = mantissa.partition(decimal)
    if not re.fullmatch(r"[-+]?(?:\d*|\d{1,3}(?:([,._' ])\d{3})(?:\1\d{3})*)", whole) or not re.fullmatch(r"\d*", part):
        return None
    try:
        return float(re.sub(r"[,._' ]", "", whole) + ("." + part if point else "") + e + exponent)
    except ValueError:
        return None


def _decimal_mark(texts: Iterable[str], name: str, where: str) -> str:
    """What parts a column's decimals. A comma before other than three figures does, and so does one after a leading 0;
    one before three figures, nowhere else in the column decided, may part thousands as well."""
    commas = [text for text in texts if re.search(r"\d,\d", text)]
    if not commas or any("." in text for text in commas):
        points = [text.rfind(".") < text.rfind(",") for text in commas if "." in text]
        return "," if points and all(points) else "."
    if any(re.search(r"(?<!\d)0,\d|,\d{1,2}(?!\d)|,\d{4,}", text) for text in commas):
        return ","
    if any(text.count(",") > 1 or re.search(r"\d{4,}", text) for text in commas):
        return "."
    if all(re.search(r"(?<!\d)[1-9]\d?,\d{3}(?!\d)", text) for text in commas):
        raise InputError(
            f"{where}: '{commas[0][:_EXAMPLE]}' in column '{name}' may part thousands by its comma, or decimals; write "
            "thousands without a mark, and decimals after a point"
        )
    return "."


def holds_numbers(column: pd.Series) -> bool:
    """Whether any cell is a number, or written as one."""
    if pd.to_numeric(column, errors="coerce").notna().any():
        return True
    return any(_number(str(cell).strip(), mark) is not None for cell in column.dropna().unique() for mark in ".,")


def likely_unit(ratio: float) -> tuple[float, str] | None:
    """The unit of FLOPs that is nearest to a ratio, as its factor and its name; None if none is within a factor 5."""
    units = {1e3**power: f"{prefix}FLOP" for power, prefix in enumerate("KMGTPEZY", 1)} | {1e15 * _DAY: "PF-days"}
    units |= {1 / factor: name for factor, name in units.items()}
    if not 0 < ratio < np.inf:
        return None
    factor = min(units, key=lambda one: abs(np.log(one) - np.log(ratio)))
    return (factor, units[factor]) if abs(np.log(factor / ratio)) < np.log(5) else None
