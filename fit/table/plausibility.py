"""Tables whose figures contradict each other, or what any training run is: refused, with what would mend it.

A unit lost between two tools moves every answer by a thousand or a million, and nothing in a fit notices: a power law
is one in any unit.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from nextscale.fit.errors import InputError
from nextscale.fit.table.names import COUNTS, LossUnit
from nextscale.fit.table.numerals import likely_unit

_MOST_APART = 10.0
"""How far a run's FLOPs may lie from 6ND. Of small models with large vocabularies and of long contexts they lie up to 3
times off."""
_FEWEST = 1e3
"""Of parameters or tokens: less is no language model."""
_LARGE = 1e6
_TOKENS_PER_PARAM = (1e-3, 1e7)
"""Between which tokens per parameter lie in anything that was trained; public runs have .1 to 1e5."""
_USUAL_RATIO = 20.0
_ONE_TABLE = 2e4
"""How far a run's tokens per parameter may lie from those of the run in the middle."""
_HIGHEST_LOSS = 13.0
"""What guessing costs with half a million tokens in the vocabulary, in nats."""
_COMPARED, _FEWEST_PAIRS = 300, 10
"""Of so many runs pairs are compared, where as many can be."""
_MORE, _MOSTLY = np.log(1.5), 0.75
"""So much more compute is more, and in so large a share of pairs it is no accident."""
_ONE_MULTIPLE = 1.02
_ODD_MULTIPLE = 0.1
_KEEP = "; --as-is takes the figures as they are"


def check_plausible(rows: pd.DataFrame, sources: Mapping[str, str], loss_unit: LossUnit, where: str) -> list[str]:
    """
    Args:
        rows: `params`, `tokens`, `flops` as far as known, and `loss`; finite and positive.
        sources: by quantity the column that the table has of it.

    Returns:
        Notes on what is odd and may be meant.

    Raises:
        InputError: FLOPs contradict parameters and tokens, counts are in another unit, or losses are none.
    """
    notes = []
    if {*COUNTS} <= sources.keys():
        notes += _check_flops(rows, sources, where)
    _check_counts(rows, sources, where)
    _check_losses(rows, sources["loss"], loss_unit, where)
    return notes


def _check_flops(rows: pd.DataFrame, sources: Mapping[str, str], where: str) -> list[str]:
    counted = rows["params_active"] if "params_active" in rows else rows["params"]
    ratio = rows["flops"] / (6 * counted * rows["tokens"])
    middle = float(ratio.median())
    if not 1 / _MOST_APART < middle < _MOST_APART:
        raise InputError(
            f"{where}: flops are {middle:.3g} times 6 · params · tokens (in the middle of the runs): one of the three "
            "is in another unit, or params count experts that a token does not pass"
            f"{_mend_flops(middle, sources)}{_KEEP}"
        )
    apart = ratio / middle
    far = apart[(apart > _MOST_APART) | (apart < 1 / _MOST_APART)]
    if len(far):
        row = far.index[0]
        raise InputError(
            f"{where}: in {_rows(len(far))} flops are more than {_MOST_APART:g} times off what the others have for "
            f"6 · params · tokens, first in row {row} ({rows.loc[row, 'params']:.3g} parameters, "
            f"{rows.loc[row, 'tokens']:.3g} tokens, {rows.loc[row, 'flops']:.3g} FLOPs); mend the row's units{_KEEP}"
        )
    if float(ratio.max() / ratio.min()) < _ONE_MULTIPLE and abs(middle - 1) > _ODD_MULTIPLE:
        return [
            f"flops are {middle:.3g} times 6 · params · tokens in every run: where they count the forward pass alone, "
            "or multiply-adds, so does all that is told of compute"
        ]
    return []


def _mend_flops(ratio: float, sources: Mapping[str, str]) -> str:
    found = likely_unit(ratio)
    if found is None:
        return "; check the units of all three"
    factor, name = found
    if factor < 1:
        return f"; where flops are in {name}, mend it by {_with(sources, 'flops', 1 / factor)}"
    both = {1e12: (1e6, 1e6), 1e15: (1e6, 1e9), 1e18: (1e9, 1e9)}.get(factor)
    if both:
        texts = [_with(sources, key, one) for key, one in zip(("params", "tokens"), both, strict=True)]
        return f"; where params and tokens are in millions or billions, mend it by {' and '.join(texts)}"
    texts = [_with(sources, key, factor) for key in ("params", "tokens")]
    return f"; where params or tokens are in units of {factor:g}, mend it by {' or '.join(texts)}"


def _with(sources: Mapping[str, str], quantity: str, factor: float) -> str:
    name = sources[quantity] if sources[quantity].isidentifier() else f"`{sources[quantity]}`"
    return f"--with '{quantity}={name}*{factor:g}'"


def _check_counts(rows: pd.DataFrame, sources: Mapping[str, str], where: str) -> None:
    if not {"params", "tokens"} <= {*rows}:
        return
    if "params_active" in rows and (more := rows["params_active"] > rows["params"]).any():
        raise InputError(
            f"{where}: in {_rows(int(more.sum()))} the active parameters, column '{sources['params_active']}', are "
            f"more than all, column '{sources['params']}', first in row {rows.index[more][0]}; name the column "
            f"of all with --params-column{_KEEP}"
        )
    each = rows["tokens"] / rows["params"]
    low, high = _TOKENS_PER_PARAM
    middle = float(each.median())
    if not low < middle < high:
        raise InputError(
            f"{where}: the runs have {middle:.3g} tokens per parameter (in the middle of them), which no training has: "
            f"{_mend_counts(rows, sources)}{_KEEP}"
        )
    if (rows["params"].median() < _FEWEST) or (rows["tokens"].median() < _FEWEST):
        few = "params" if rows["params"].median() < _FEWEST else "tokens"
        raise InputError(
            f"{where}: {few} run from {rows[few].min():.4g} to {rows[few].max():.4g}, which is no language model: "
            f"{_mend_counts(rows, sources)}{_KEEP}"
        )
    small = (rows["params"] < _FEWEST) | (rows["tokens"] < _FEWEST)
    far = each[small | ~each.between(middle / _ONE_TABLE, middle * _ONE_TABLE)]
    if len(far):
        row = far.index[0]
        raise InputError(
            f"{where}: in {_rows(len(far))} tokens per parameter are far from those of the others, first in row {row} "
            f"({each[row]:.3g}, of {rows.loc[row, 'params']:.3g} parameters and {rows.loc[row, 'tokens']:.3g} tokens); "
            f"mend the row's units{_KEEP}"
        )


def _mend_counts(rows: pd.DataFrame, sources: Mapping[str, str]) -> str:
    """What to write where columns are in another unit: of millions and billions those by which the runs have most
    nearly the tokens per parameter that are usual."""
    given = [name for name in COUNTS if name in sources]
    middle = {name: float(rows[name].median()) for name in ("params", "tokens")}
    open_ = {name: (1e9, 1e6) if name in given and middle[name] < _LARGE else (1.0,) for name in middle}

    def unusual(by: tuple[float, float]) -> float:
        size, data = middle["params"] * by[0], middle["tokens"] * by[1]
        # What follows from the compute changes with the unit of the other.
        data = data / by[0] if "tokens" not in given else data
        size = size / by[1] if "params" not in given else size
        return float(abs(np.log(data / size / _USUAL_RATIO)))

    of_params, of_tokens = min(itertools.product(open_["params"], open_["tokens"]), key=unusual)
    texts = [
        f"{name} in {'millions' if factor == 1e6 else 'billions'} {_with(sources, name, factor)}"
        for name, factor in (("params", of_params), ("tokens", of_tokens))
        if factor != 1
    ]
    if "flops" in given:
        texts += [f"flops in GFLOP {_with(sources, 'flops', 1e9)}", f"in PF-days {_with(sources, 'flops', 8.64e19)}"]
    if not texts:
        return f"one of {' and '.join(given)} is in another unit, or in several; write all its figures in one"
    return f"one of {' and '.join(given)} is in another unit; mend it by --with, such as of {', or '.join(texts)}"


def _check_losses(rows: pd.DataFrame, source: str, loss_unit: LossUnit, where: str) -> None:
    loss = rows["loss"]
    name = source if source.isidentifier() else f"`{source}`"
    if _rises(rows):
        looks = "an accuracy, a score or a log-likelihood" if loss.max() <= 1 else "a score or a log-likelihood"
        raise InputError(
            f"{where}: column '{source}' is taken for the loss and rises with scale, as {looks} does; name the loss "
            f"with --loss-column, or turn it, such as by --with 'loss=1-{name}'{_KEEP}"
        )
    if loss_unit == "nats/token" and loss.median() > _HIGHEST_LOSS:
        raise InputError(
            f"{where}: losses in column '{source}' are {loss.median():.3g} in the middle, more than guessing costs; "
            f"where they are perplexities, mend it by --with 'loss=log({name})', where sums, divide them{_KEEP}"
        )


def _rises(rows: pd.DataFrame) -> bool:
    """Whether of two runs that with more of everything mostly has the larger loss."""
    some = rows.iloc[:: max(1, len(rows) // _COMPARED)]
    names = [name for name in ("params", "tokens") if name in some] or ["flops"]
    gaps = np.array([logs[:, None] - logs for logs in np.log(some[names].to_numpy()).T])
    more = (gaps >= 0).all(axis=0) & (gaps.sum(axis=0) > _MORE)
    loss = some["loss"].to_numpy()
    return bool(more.sum() >= _FEWEST_PAIRS and (loss[:, None] > loss)[more].mean() > _MOSTLY)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
