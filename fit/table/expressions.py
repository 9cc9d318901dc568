"""Columns computed of others: `tokens=step*2048*512`, `loss=log(perplexity)`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.names import COUNTS, STEPS_TOO, bare_name, last_part, meaning_of
from nextscale.fit.table.numerals import numbers_in

_STEPS = " ".join([*sorted(STEPS_TOO), "numsteps nsteps maxsteps totalsteps numiterations maxiters trainiters"])
_BATCHES_OF_TOKENS = (
    "batchtokens tokensperbatch tokensperstep globalbatchtokens batchsizetokens batchsizeintokens tokensbatchsize"
)
_BATCHES = "batchsize globalbatchsize bs gbs bsz trainbatchsize batch totalbatchsize effectivebatchsize"
_LENGTHS = (
    "seqlen seqlength sequencelength contextlength contextlen ctxlen nctx blocksize maxseqlen maxseqlength "
    "maxsequencelength context"
)
_RATIOS = (
    "tokensperparam tokensperparameter tokenperparam tokenperparameter tpp dn dovern tokensparam tokensparams "
    "tokenmultiplier tokenratio tokenparamratio tokenstoparams tokensperparamratio"
)
_PRODUCTS = ((_STEPS, _BATCHES_OF_TOKENS), (_STEPS, _BATCHES, _LENGTHS), (_RATIOS,))
"""What makes tokens: bare names of each factor; of ratios the parameters are one more."""
_LARGEST_DECIMAL = {"params": 13, "tokens": 15, "flops": 30}
"""Logarithms that are larger are natural ones."""


def ways_to_compute(table: pd.DataFrame, have: Mapping[str, str]) -> str:
    """How the counts that a table lacks may be computed of what it has, as options: of logarithms, of steps and
    batches, of tokens per parameter. Empty where no name tells.

    Args:
        have: of params, tokens and flops those that there are, and their columns.
    """
    numeric = table.select_dtypes("number")
    named = {bare: name for name in numeric for bare in (last_part(name), bare_name(name))}
    found: dict[str, str] = {}
    for bare, name in named.items():
        meaning = meaning_of(re.sub(r"^(log10|log|ln)", "", bare)) if bare.startswith(("log", "ln")) else None
        if meaning is not None and meaning.quantity in COUNTS:
            decimal = numeric[name].median() < _LARGEST_DECIMAL[meaning.quantity]
            found[meaning.quantity] = f"10**{_quoted(name)}" if decimal else f"exp({_quoted(name)})"
    for names in _PRODUCTS:
        factors = [next((named[name] for name in each.split() if name in named), None) for each in names]
        factors += [have.get("params")] if names == (_RATIOS,) else []
        if "tokens" not in found and all(factors):
            found["tokens"] = "*".join(map(_quoted, factors))
    return " and ".join(f"--with '{key}={text}'" for key, text in found.items() if key not in have)


def _quoted(name: object) -> str:
    return str(name) if str(name).isidentifier() else f"`{name}`"


def with_columns(table: pd.DataFrame, expressions: Sequence[str], where: str) -> pd.DataFrame:
    """The table with columns computed one after the other, each a pandas expression of those before it.

    Args:
        expressions: `NAME=EXPRESSION` each; names with spaces in backticks.

    Raises:
        InputError: an expression is written otherwise, or cannot be computed.
    """
    for text in expressions:
        name, equals, expression = text.partition("=")
        if not (name.strip() and equals and expression.strip()) or expression.startswith("="):
            raise InputError(f"--with {text}: write it as NAME=EXPRESSION")
        try:
            values = table.eval(expression.strip(), engine="python")
        except Exception as error:  # pandas raises of every kind
            reason = " ".join(str(error).split())[:100]
            held = ", ".join(map(str, table.columns[:12]))
            raise InputError(f"--with {text}: cannot be used ({reason}); {where} has {held}") from None
        table = table.assign(**{name.strip().strip("`"): values})  # type: ignore[arg-type]
    return table


def with_numerals(table: pd.DataFrame, named: Sequence[str | None], where: str) -> pd.DataFrame:
    """The table with figures for texts such as `70B` in the columns that are quantities by their names or as said, so
    that conditions and expressions see numbers; the notes on it are added to the table's own.

    Raises:
        InputError: a cell has figures that are no number, or may be two.
    """
    notes = [*table.attrs.get("notes", ())]
    for column in table:
        if pd.api.types.is_numeric_dtype(table[column]) or not (column in named or meaning_of(str(column))):
            continue
        try:
            values, told = numbers_in(table[column], where)
        except InputError:  # one that is not needed may hold anything; one that is, is refused where it is taken
            continue
        table = table.assign(**{str(column): values})
        notes += told
    table.attrs["notes"] = tuple(notes)
    return table
