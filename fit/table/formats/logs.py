"""Lines that programs of training print: nanoGPT, nanochat, llm.c, Megatron-LM, torchtitan, OLMo and their likes.

A line counts that tells its step and, of it, numbers by name; the others are passed over.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.formats.curves import curve_of
from nextscale.fit.table.formats.documents import flattened, mapping_in

_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_STEP = re.compile(
    r"(?P<before>.*?)(?<![\w/])(?:step|iter|iteration)(?:\s*[:=]\s*|\s+)(?P<step>\d[\d,]*)(?![\d.])"
    r"(?:\s*/\s*\d[\d,]*)?(?:\s*\(\s*[\d.]+\s*%\))?(?:,\s*epoch=\d+\])?",
    re.IGNORECASE,
)
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:e[-+]?\d+)?|[-+]?(?:nan|inf|infinity)\b"
_PAIR = re.compile(
    rf"(?P<name>[a-z][\w /.()@-]*?)(?:\s*[:=]\s*|\s+)(?P<value>{_NUMBER})\s*(?P<unit>[a-z%/]*)\s*(?:\([^()]*\))?",
    re.IGNORECASE,
)
_BARE = re.compile(rf"[:=]?\s*(?P<value>{_NUMBER})", re.IGNORECASE)
_BETWEEN = re.compile(r"\s*\|\s*|,\s+|;\s+|\s{2,}|(?<=[\d%)\]])\s+(?=[A-Za-z][\w/.]*[:=])|(?<=\dms)\s+")
_MEASURED = re.compile(r"loss|bpb|perplexity|ppl|entropy|\bce\b", re.IGNORECASE)
_HELD_OUT = re.compile(r"\b(?:val|valid|validate|validation|eval|evaluation|test)\b", re.IGNORECASE)
_PER_STEP = re.compile(r"tokens per iteration will be: ([\d,]+)|Total batch size ([\d,]+) =>")
_PARAMETERS = re.compile(r"^(?:.*\b)?number of parameters: ([\d.,]+[KMBT]?)\b", re.IGNORECASE)
_TRAINER = re.compile(r"^\{'(?:eval_|train_)?loss': ", re.MULTILINE)
_MARKS = re.compile(rf"{_TRAINER.pattern}|\[step=\d+/\d+,", re.MULTILINE)
"""What Hugging Face's Trainer prints, and OLMo."""
_RATE = re.compile(r"[gtp]?flops", re.IGNORECASE)
"""Of a second, as every program prints them, and no compute of the run."""


def is_log(text: str) -> bool:
    """Whether a text is what a program of training prints: some line tells a loss at a step, or looks as theirs do."""
    return bool(_MARKS.search(text)) or any(_measures(line) for line in text.split("\n") if line[:1] != "#")


def read_log(text: str, run: str) -> tuple[pd.DataFrame, list[str]]:
    """The curve in a log.

    Args:
        run: what its run is called.

    Raises:
        InputError: its lines tell no step, or no loss.
    """
    rows: list[dict[str, Any]] = []
    fixed: dict[str, Any] = {}
    per_step = None
    for raw in text.split("\n"):
        line = _COLOURS.sub("", raw)
        if found := _PER_STEP.search(line):
            per_step = int((found[1] or found[2]).replace(",", ""))
        elif found := _PARAMETERS.match(line):
            fixed["params"] = found[1].rstrip(".,")
        elif row := _row(line):
            rows.append(row)
        elif rows and line[:1].isspace() and (pair := _PAIR.fullmatch(line.strip())) and "=" in line:
            # As OLMo writes: a line of the step, then one of each metric.
            rows[-1][pair["name"]] = _value(pair["value"])
    if not any(map(_MEASURED.search, {name for row in rows for name in row})):
        if _TRAINER.search(text):
            raise InputError("its lines are of Hugging Face's Trainer, without steps; give trainer_state.json instead")
        raise InputError("no line tells a loss at a step, as 'step 100: loss 3.2'; give a table, or the log itself")
    if per_step:
        rows = [row | {"tokens": row["step"] * per_step} for row in rows]
    notes = [f"its lines are the log of one run, '{run}'"]
    notes += [f"tokens are {per_step} a step, as the log says"] if per_step else []
    notes += [f"params are {fixed['params']}, as the log says"] if fixed else []
    return curve_of([fixed | row for row in rows], run), notes


def _measures(line: str) -> bool:
    row = _row(_COLOURS.sub("", line)) if _MEASURED.search(line) else None
    return row is not None and any(map(_MEASURED.search, row))


def _row(line: str) -> dict[str, Any] | None:
    """The step that a line tells, and the numbers of it; those of held-out text say so by their name."""
    if "{" in line and (held := mapping_in(line[line.index("{") :])) is not None and "step" in held:
        metrics = held.get("metrics")
        return {"step": held["step"]} | flattened(metrics if isinstance(metrics, dict) else held)
    if not (found := _STEP.match(line)):
        return None
    before = found["before"]
    mark = "val " if _HELD_OUT.search(before) else ""
    row: dict[str, Any] = {"step": int(found["step"].replace(",", ""))}
    rest = re.sub(r"([:=])\s+", r"\1 ", line[found.end() :]).strip(" \t:|,-]")
    place = ""
    for i, part in enumerate(_BETWEEN.split(rest)):
        part = part.strip(" \t|,")
        if pair := _PAIR.fullmatch(part):
            name = pair["name"].strip().removesuffix(" value")
            name = f"{name} per second" if _RATE.fullmatch(name) else name
            name = name if not mark or _HELD_OUT.search(name) else mark + name
            row[name + place + (f" ({pair['unit']})" if pair["unit"] else "")] = _value(pair["value"])
        elif i == 0 and mark and (bare := _BARE.fullmatch(part)):
            row[mark + "loss"] = _value(bare["value"])
        elif i == 0 and mark and re.fullmatch(r"[\[\w][^:=]*", part) and not re.search(r"valid", part):
            # Which of several texts it was measured on.
            place = " " + part
    return row


def _value(text: str) -> float:
    return float(text.replace(",", ""))
