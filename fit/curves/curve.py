"""`Curve`: the losses along one run and the learning rate of every step; and curves out of tables of logged rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from nextscale.fit.curves.schedules import MOST_STEPS, checked_rates, warmup_end
from nextscale.fit.errors import InputError
from nextscale.fit.table.names import bare_name, meaning_of

_USUAL = {
    "curve": "curve run runid runname name schedule experiment",
    "step": "step steps iteration iterations iter globalstep trainerglobalstep trainglobalstep trainstep",
    "lr": "lr learningrate trainlr trainlearningrate eta",
    "loss": "loss valloss validationloss evalloss testloss trainloss trainingloss",
    "compute": "compute gpuhours hours flops trainingcompute trainingflops",
    "reward": "reward meanreward passrate valreward valpassrate evalreward evalpassrate accuracy score",
    "length": "length totalsteps maxsteps numsteps trainsteps numtrainingsteps plannedsteps plannedtokens",
}
"""Of each quantity the names that it has in logs, letters and figures alone; our own is the first."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """One run.

    Attributes:
        rates: the learning rate of every step, step 1 first; warm-up, which may begin at 0, is part of it.
        steps: rising, where losses were measured, n; that of step s is of the model after it.
        losses: nats per token, n.
    """

    name: str
    rates: np.ndarray
    steps: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, name: str, rates: ArrayLike, steps: ArrayLike, losses: ArrayLike) -> Curve:
        """A curve from its numbers, without the losses of its warm-up, of which the laws say nothing.

        Raises:
            InputError: a rate is below 0, a step is not one of the schedule's, a loss is not above 0, or none is left.
        """
        where = f"curve {name}"
        schedule = checked_rates(rates, where)
        at, measured = np.asarray(steps), np.asarray(losses, float)
        if at.ndim != 1 or at.shape != measured.shape or not np.isin(at, np.arange(1, len(schedule) + 1)).all():
            raise InputError(f"{where}: each loss should have a step of its schedule, 1 to {len(schedule)}")
        if (np.diff(at) <= 0).any():
            raise InputError(f"{where}: steps should rise")
        if not (np.isfinite(measured) & (measured > 0)).all():
            raise InputError(f"{where}: losses should be numbers greater than 0")
        past = at >= warmup_end(schedule)
        if not past.any():
            raise InputError(
                f"{where}: no loss comes after its warm-up, which ends at step {warmup_end(schedule)}; the laws begin "
                "there"
            )
        return cls(name, schedule, at[past].astype(int), measured[past])

    @property
    def warmup(self) -> int:
        """The step at which warm-up is over, 1 where there is none."""
        return warmup_end(self.rates)

    @property
    def falls(self) -> bool:
        """Whether the rate falls before the last loss is measured."""
        rates = self.rates[self.warmup - 1 : self.steps[-1]]
        return bool(rates.min() < (1 - 1e-6) * rates[0])

    def thinned(self, most: int = 400) -> tuple[np.ndarray, np.ndarray]:
        """No more losses than so many, m: each the mean of as many rows side by side, which evens out noise too.

        Returns:
            For each two steps, 2 x m, at which the mean of a smooth curve is the mean of the rows (Gauss's rule: the
            rows' mean step, less and plus their deviation); or the step of each, 1 x m, where none is left out. And
            the losses, m.
        """
        if len(self.steps) <= most:
            return self.steps[None], self.losses
        each = -(-len(self.steps) // most)
        starts = np.arange(0, len(self.steps), each)
        counts = np.diff(starts, append=len(self.steps))
        mean, square, losses = (
            np.add.reduceat(of, starts) / counts for of in (self.steps, self.steps.astype(float) ** 2, self.losses)
        )
        low = np.floor(mean - np.sqrt(np.maximum(square - mean**2, 0)) + 0.5)
        return np.stack([low, np.rint(2 * mean - low)]).astype(int), losses


def curves_of(
    table: pd.DataFrame,
    name: str = "curve",
    columns: Mapping[str, str] | None = None,
    warmup: int | None = None,
) -> tuple[list[Curve], list[str]]:
    """The curves of a table with a row per logged step: step, lr, loss, and which curve it is of where it has several.

    A row may tell the loss or the rate alone. Of two that tell the same of one step the later counts, as after a
    restart. For the rates between and before the rows, see `schedule_of`.

    Args:
        name: what to call the table in messages, and its curve where it has one.
        columns: of `curve`, `step`, `lr` and `loss` those whose column is not called by a usual name.
        warmup: as in `schedule_of`.

    Returns:
        The curves, and notes on what was taken for granted.

    Raises:
        InputError: a column is not there, a number is none, or a curve cannot be used; see `Curve.of`.
    """
    rows = numbers_of(table, ("step", "lr", "loss"), name, columns)
    curves, notes = [], []
    for label, own in rows.groupby("curve", sort=False):
        steps = _by_step(own, f"curve {label}")
        rates, said = _schedule(steps["lr"], f"curve {label}", warmup)
        losses = steps["loss"].dropna()
        curves.append(Curve.of(str(label), rates, losses.index, losses))
        notes += said
    return curves, notes


def schedule_of(
    table: pd.DataFrame, name: str = "schedule", columns: Mapping[str, str] | None = None, warmup: int | None = None
) -> tuple[np.ndarray, list[str]]:
    """The rate of every step, step 1 first, of a table with steps and rates; and notes on what was taken for granted.

    The rate of a step between two rows lies on the line between theirs. Steps that begin at 0 are counted from there.

    Args:
        name, columns: as in `curves_of`.
        warmup: of the steps before the first row, those in which the rate rises from 0, linearly, to that row's; from
            there to the row it stays. None: until the row.

    Raises:
        InputError: a column is not there, or a number is none.
    """
    rows = numbers_of(table, ("step", "lr"), name, columns)
    if (several := rows["curve"].nunique()) > 1:
        raise InputError(f"{name}: has {several} curves; give the rows of one schedule")
    return _schedule(_by_step(rows, name)["lr"], name, warmup)


def _by_step(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """What is told of each step, the last that is, by rising steps that count from 1."""
    step = rows["step"]
    if step.isna().any() or (step % 1 != 0).any() or step.min() < 0:
        raise InputError(f"{where}: every row needs a step, a whole number of 0 or more")
    if step.max() > MOST_STEPS:
        raise InputError(
            f"{where}: step {step.max():.0f} is past {MOST_STEPS}; name the column of steps, not of tokens"
        )
    return rows.assign(step=step.astype(int) + int(step.min() == 0)).groupby("step").last()


def _schedule(told: pd.Series, where: str, warmup: int | None) -> tuple[np.ndarray, list[str]]:
    """The rate of every step from those that are told, by step, and notes."""
    last, known = int(told.index[-1]), told.dropna()
    if len(known) < 2:
        raise InputError(f"{where}: needs two rows or more with a learning rate")
    at, rates, every = known.index.to_numpy(), known.to_numpy(float), np.arange(1, last + 1)
    schedule, first, notes = np.interp(every, at, rates), int(at[0]), []
    rise = first if warmup is None else min(warmup, first)
    schedule[: first - 1] = rates[0] * np.minimum(every[: first - 1] / max(rise, 1), 1)
    if warmup is None and first > 2 * np.diff(at).min():
        notes.append(
            f"{where}: begins at step {first}; before it the rate is taken to rise from 0 linearly, unless --warmup "
            "says in how many steps"
        )
    if last > at[-1]:
        notes.append(f"{where}: tells no learning rate after step {at[-1]}; it is taken to stay")
    return schedule, notes


def numbers_of(
    table: pd.DataFrame,
    keys: Sequence[str],
    where: str,
    columns: Mapping[str, str] | None,
    optional: Sequence[str] = (),
) -> pd.DataFrame:
    """The columns of these quantities as numbers, by their own names, and `curve` as text.

    Args:
        columns: as in `curves_of`.
        optional: further quantities, where the table has them.

    Raises:
        InputError: a column is not there, several may be meant, or a cell is no number.
    """
    if table.empty:
        raise InputError(f"{where}: has no rows")
    of = _located(table, columns or {}, ("curve", *keys, *optional), where, {"curve", *optional})
    found = {key: _numbers(table[name], f"{where}: column '{name}'") for key, name in of.items() if key != "curve"}
    return pd.DataFrame(found).assign(curve=table[of["curve"]].astype(str) if "curve" in of else where)


def _located(
    table: pd.DataFrame, named: Mapping[str, str], keys: Sequence[str], where: str, optional: set[str]
) -> dict[str, str]:
    """The column of each quantity: as named, else by our own name, else the only one by a usual name. Optional ones may
    be missing."""
    listing = ", ".join(map(str, table.columns[:12]))
    found = {}
    for key in keys:
        if key in named:
            if named[key] not in table:
                raise InputError(f"{where}: there is no column '{named[key]}' for {key}; it has {listing}")
            found[key] = named[key]
            continue
        candidates = [key] if key in table else _called(table, key)
        if len(candidates) > 1:
            listed = " and ".join(candidates)
            raise InputError(f"{where}: {listed} may each be the {key}; name it with --{key}-column")
        if candidates:
            found[key] = candidates[0]
        elif key not in optional:
            raise InputError(f"{where}: there is no column '{key}'; name it with --{key}-column (it has {listing})")
    return found


def _called(table: pd.DataFrame, key: str) -> list[str]:
    """Columns that may be this quantity by their names."""
    if key in _USUAL:
        return [str(column) for column in table.columns if bare_name(column) in _USUAL[key].split()]
    meanings = {str(column): meaning_of(str(column)) for column in table.columns}
    return [name for name, meaning in meanings.items() if meaning and (meaning.quantity, meaning.factor) == (key, 1)]


def _numbers(column: pd.Series, where: str) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = numbers.isna() & column.notna() & ~column.astype(str).str.strip().str.casefold().isin(["", "nan"])
    if wrong.any():
        raise InputError(f"{where}: '{column[wrong].iloc[0]}' is no number")
    return numbers.astype(float)
