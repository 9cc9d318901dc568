"""How the text of a table is laid out: what parts its values, quotes them and marks decimals, and which lines count."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nextscale.fit.errors import InputError

_SEPARATORS = ",;\t|"
_SAMPLE = 100
"""Lines by which it is seen."""
_NOTHING = " \t,;|"
"""What a line without values is made of."""
_RULE = re.compile(r"[\s|+:=-]*--[\s|+:=-]*")
"""The line between header and rows of Markdown, or of the tables that databases print."""
_WORDS = re.compile(r'"[^"]*"(?!\S)|\'[^\']*\'(?!\S)|\S+')
_COLUMNS = re.compile(r"\s{2,}|\t")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_NUMBERS = re.compile(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?(?: [-+]?[\d.,]+(?:[eE][-+]?\d+)?)+")
"""Several that one space parts."""
_DECIMAL = re.compile(r"[-+]?\d+,\d+")
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(?:[.,]\d{3})+")
"""What may be a number in groups of thousands."""
_COMMENT = re.compile(r"\s*#(?!\s*[,;\t|])")
"""Not so a column that is called #."""
_LOOKED_AT = 1_000_000
"""Signs by which marks of decimals are seen."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A text, and how it is laid out.

    Attributes:
        lines: those that count, the header first.
        numbers: which lines of the file they are, from 1.
        separator: what parts values.
        quote: what quotes them; empty where nothing does.
        escape: what stands before a quote within quotes, where that is not another.
        aligned: whether values are apart by spaces in the file.
        indented: whether its header begins with such, as over a column without a name.
        notes: what was guessed or left out.
    """

    lines: Sequence[str]
    numbers: Sequence[int]
    separator: str
    quote: str = ""
    escape: str | None = None
    aligned: bool = False
    indented: bool = False
    notes: tuple[str, ...] = ()

    @property
    def shown_separator(self) -> str:
        return " " if self.aligned else {"\t": "tab"}.get(self.separator, self.separator)

    def rows(self, lines: Iterable[str], strict: bool = True) -> Any:
        """A `csv.reader` of lines."""
        return csv.reader(
            (f"{line}\n" for line in lines),
            delimiter=self.separator,
            quotechar=self.quote or None,
            escapechar=self.escape,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            skipinitialspace=True,
            strict=strict,
        )


def layout_of(text: str) -> Layout:
    """How a text is laid out.

    Raises:
        InputError: no line of it holds a value.
    """
    lines = text.rstrip("\n").split("\n")
    lines, given, notes = _without_frame(lines)
    kept, numbers = _that_count(lines, notes)
    if not kept:
        raise InputError("is empty: no line names columns")
    sample = kept[:_SAMPLE]
    quote = "" if given == "|" else _quote(sample, text)
    escape = "\\" if quote and f"\\{quote}" in text and quote * 2 not in text else None
    if given:
        return Layout(kept, numbers, given, quote, escape, notes=tuple(notes))
    separator, split = _separator(sample, quote)
    if split is None:
        return Layout(kept, numbers, separator, quote, escape, notes=tuple(notes))
    indented = kept[0][0].isspace()
    parted = ["\t".join(split(line.strip())) for line in kept]
    return Layout(parted, numbers, "\t", quote, escape, True, indented, tuple(notes))


def is_number(value: object) -> bool:
    """Whether a cell is a number, or text that is one and nothing else."""
    if isinstance(value, str):
        return _NUMBER.fullmatch(value.strip().strip("\"'")) is not None
    return isinstance(value, int | float) and value == value


def _without_frame(lines: list[str]) -> tuple[list[str], str, list[str]]:
    """The lines, blank where they are none of the table, and without bars at their ends; the separator, if the text
    says it; and notes. So the numbers of lines stay.

    A table with bars is that of Markdown or of a database: its header stands above a rule.
    """
    first = next((i for i, line in enumerate(lines) if line.strip(_NOTHING)), 0)
    if said := re.fullmatch(r'"?sep=(.)"?[,;\s]*', lines[first], re.IGNORECASE):
        return [*lines[:first], "", *lines[first + 1 :]], said[1], []
    rules = [i for i, line in enumerate(lines[:10_000]) if _RULE.fullmatch(line)]
    start = next((i - 1 for i in rules if i and "|" in lines[i - 1]), None)
    if start is None:
        return lines, "", []
    inside = (i for i in range(start, len(lines)) if "|" not in lines[i] and not _RULE.fullmatch(lines[i]))
    end = next(inside, len(lines))
    table = {i: _without_bars(lines[i]) for i in range(start, end) if not _RULE.fullmatch(lines[i])}
    around = sum(1 for i, line in enumerate(lines) if line.strip() and i not in table and not _RULE.fullmatch(line))
    notes = [f"{around} lines around the table are left out"] if around else []
    return [table.get(i, "") for i in range(len(lines))], "|", notes


def _without_bars(line: str) -> str:
    return re.sub(r"\*\*|`", "", line.strip()).removeprefix("|").removesuffix("|")


def _that_count(lines: list[str], notes: list[str]) -> tuple[list[str], Sequence[int]]:
    """The lines that hold values, without comments, and their numbers; a comment right above bare numbers names them,
    as numpy's `savetxt` writes it."""
    kept = [line for line in lines if line.strip(_NOTHING)]
    numbers: Sequence[int] = range(1, len(kept) + 1)
    if len(kept) < len(lines):
        numbers = [i for i, line in enumerate(lines, 1) if line.strip(_NOTHING)]
    is_comment = [bool(_COMMENT.match(line)) for line in kept] if any("#" in line for line in kept) else []
    if not any(is_comment):
        return kept, numbers
    left = [i for i, comment in enumerate(is_comment) if not comment]
    if left and left[0] and all(map(is_number, re.split(r"[\s,;|]+", kept[left[0]].strip(_NOTHING)))):
        left.insert(0, left[0] - 1)
        kept[left[0]] = kept[left[0]].lstrip().lstrip("#").lstrip()
        notes.append("columns are named as in the comment above the rows")
    count = len(kept) - len(left)
    if count and len(left) == 1 and is_comment[-1]:
        raise InputError("every line under the header begins with #, as comments do; take the sign away where none is")
    if count:
        one = "1 line that begins with # is left out, as a comment"
        notes.append(one if count == 1 else f"{count} lines that begin with # are left out, as comments")
    return [kept[i] for i in left], [numbers[i] for i in left]


def _quote(sample: Sequence[str], text: str) -> str:
    """What stands around values: a double quote that one begins with, or single quotes around a whole one."""
    if '"' in text and re.search(r'(?:^|[,;\t|])[ ]*"', text, re.MULTILINE):
        return '"'
    some = re.search(r"(?:^|[,;\t|])\s*'[^'\n]*'\s*(?:[,;\t|]|$)", "\n".join(sample), re.MULTILINE)
    return "'" if some or re.fullmatch(r"\s*'[^']*'(?:\s+'[^']*')*\s*", sample[0]) else ""


def _separator(sample: Sequence[str], quote: str) -> tuple[str, Callable[[str], list[str]] | None]:
    """What parts values, and, where that is space, what cuts a line there."""
    scores = {}
    for separator in _SEPARATORS:
        rows = Layout((), (), separator, quote).rows(sample, strict=False)
        header, *widths = [(_filled(row), len(row)) for row in rows]
        if header[0] > 1:
            most = header[1]
            fits = [
                1.0 if filled <= most and header[0] <= width else 0.5 if filled == most + 1 else 0.0
                for filled, width in widths
            ]
            scores[separator] = (sum(fits) / max(len(fits), 1), header[0])
    best = max(scores, key=lambda separator: scores[separator], default=None)
    split = _split_at_spaces(sample) if best is None or scores[best][0] < 0.5 else None
    if best is not None and split is None:
        return best, None
    if split is None and len(sample) > 1:
        # The header is no header: the rows tell what parts them, so that the line is named that does not fit.
        held = (s for s in ",;\t" if all(s in line and not _DECIMAL.fullmatch(line.strip()) for line in sample[1:]))
        return next(held, "\t"), None
    return "\t", split


def _filled(row: Sequence[str]) -> int:
    """How many values there are up to the last that is not empty."""
    return max((i + 1 for i, value in enumerate(row) if value.strip()), default=0)


def _split_at_spaces(sample: Sequence[str]) -> Callable[[str], list[str]] | None:
    """What cuts aligned columns: at two spaces or more, so that names may have one; or at any."""
    header, widths = 0, [0]
    for split in (_COLUMNS.split, _WORDS.findall):
        cells = [split(line.strip()) for line in sample]
        header, *widths = map(len, cells)
        parted = not any(_NUMBERS.fullmatch(cell) for row in cells[1:] for cell in row)
        if header > 1 and set(widths) <= {header} and parted:
            return split
    # As printed DataFrames have it; or some lines do not fit, and are to be named.
    return _WORDS.findall if header > 1 and 2 * sum(width > 1 for width in widths) > len(widths) else None


@dataclasses.dataclass(frozen=True)
class Marks:
    """What stands before decimals, and what between thousands."""

    decimal: str = "."
    thousands: str | None = None


def decimal_marks(separator: str, quoted: bool, text: str) -> Marks:
    """Of the rows of a table. Cells that may be either way, as `20,000`, are left as text, for whoever reads a column.

    Raises:
        InputError: some numbers have commas before decimals, others points that may part thousands or decimals.
    """
    if "," not in text or (separator == "," and not quoted):
        return Marks()
    end = '"' if separator == "," else rf'"\n{separator}'
    start = '(?<=")' if separator == "," else f"(?:^|(?<=[{end}]))"
    cell = re.compile(rf"{start} *([-+]?\d+(?:[.,]\d+)+(?:[eE][-+]?\d+)?) *(?=[{end}]|\Z)", re.MULTILINE)
    found = set(cell.findall(text[:_LOOKED_AT]))
    commas = {one for one in found if "," in one and "." not in one}
    points = {one for one in found if "." in one and "," not in one}
    both = found - commas - points
    is_decimal = next((one for one in commas if one.count(",") == 1 and not _GROUPED.fullmatch(one)), None)
    if is_decimal is None and not both:
        return Marks()
    if any(one.count(",") > 1 for one in commas) or any(one.rfind(".") > one.find(",") for one in both):
        return Marks()
    if not points and not both:
        return Marks(",")
    if not all(_GROUPED.fullmatch(one) for one in points):
        return Marks()
    if both or any(one.count(".") > 1 for one in points):
        return Marks(",", ".")
    raise InputError(
        f"its numbers have decimals after commas, as '{is_decimal}', and points that may be either, as "
        f"'{min(points)}'; write decimals after points, and thousands without marks"
    )
