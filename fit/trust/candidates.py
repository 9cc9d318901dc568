"""Candidates of a backtest: the laws that suit a table, each by every loss function."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd

from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.laws.catalogue import LAWS, SATURATING_D, SATURATING_N, law_named
from nextscale.fit.laws.law import Law
from nextscale.fit.laws.loss import Loss
from nextscale.fit.laws.sum_of_powers import SumOfPowers
from nextscale.fit.table.columns import NOT_VARIABLES, Columns, column_of, recognise_columns
from nextscale.fit.table.names import bare_name
from nextscale.fit.table.row_choice import TUNED
from nextscale.fit.table.runs import Runs

LOSSES = (
    Loss.of("huber", 1e-3),
    Loss.of("huber", 1e-2),
    Loss.of("squared"),
    Loss.of("asymmetric", 1e-2, tilt=0.3),
    Loss.of("asymmetric", 1e-2, tilt=0.7),
)
"""Those tried by default. Asymmetric ones lean towards the best runs, or the worst."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A law, and the loss that it is fitted by."""

    law: Law
    loss: Loss

    @property
    def loss_label(self) -> str:
        return loss_label(self.loss)

    @property
    def freedom(self) -> int:
        """What it takes for granted or leaves to be fitted: parameters, and a leaning to one side."""
        return len(self.law.parameters) + (self.loss.tilt != 0.5)


def loss_label(loss: Loss) -> str:
    """Such as `huber 0.001` or `asymmetric 0.01, 0.3`: the delta, and the tilt."""
    if loss.name in ("squared", "l1"):
        return loss.name
    return f"{loss.name} {loss.delta:g}" + (f", {loss.tilt:g}" if loss.tilt != 0.5 else "")


def candidates_for(
    runs: Runs, laws: Iterable[str | Law] | None = None, losses: Sequence[Loss] = LOSSES
) -> list[Candidate]:
    """Every law whose variables vary in the table, by every loss.

    Args:
        laws: those that ship and are quickly fitted (sums of powers, and laws without a shape) unless named; and by the
            first loss alone, others that are in what the table has beside sizes, tokens and FLOPs.
    """
    varies = {name for name in runs.table if name not in NOT_VARIABLES and runs.table[name].nunique() > 1}
    usable = quick_laws() if laws is None else [law_named(law) for law in laws]
    if laws is None and {"params", "tokens"} <= varies:
        usable = [law for law in usable if law not in (SATURATING_N, SATURATING_D)]
    suited = [law for law in usable if {*map(column_of, law.variables)} <= varies]
    found = [Candidate(law, loss) for law in suited for loss in losses]
    if laws is None:
        slow = [law for law in LAWS.values() if law not in usable and {*map(column_of, law.variables)} <= varies]
        found += [Candidate(law, losses[0]) for law in slow if not {*law.variables} <= {"N", "D", "C"}]
    return found


def quick_laws() -> list[Law]:
    """The laws that ship of which a backtest can afford hundreds of fits."""
    return [law for law in LAWS.values() if isinstance(law, SumOfPowers) or not law.shapes]


def variables_in(
    table: pd.DataFrame, columns: Columns = Columns(), params: str = "total", laws: Iterable[str] = ()
) -> tuple[str, ...]:
    """The variables of the laws that ship which a table has columns for: N, D and C where it has two of them.

    Args:
        laws: that are to be tried. What runs are tuned in, such as `lr`, is a variable of theirs alone: for all others
            the best of the runs that are tuned otherwise counts.
    """
    columns, _ = recognise_columns(table, columns, params)
    names = {"N": columns.params or CONVENTIONS[params], "D": columns.tokens, "C": columns.flops}
    counted = [variable for variable, name in names.items() if (name or column_of(variable)) in table]
    held = {"N", "D", "C"} if len(counted) > 1 else {*counted}
    every = dict.fromkeys(variable for law in LAWS.values() for variable in law.variables)
    named = {column_of(name): source for name, source in columns.others.items()}
    asked = {*named, *(column_of(variable) for law in laws for variable in law_named(law).variables)}
    others = [v for v in every if v not in names and (column_of(v) in asked or bare_name(v) not in TUNED)]
    others = [v for v in others if named.get(column_of(v), column_of(v)) in table]
    return (*(v for v in names if v in held), *others)


def weigh_repeats_as_one(runs: Runs) -> Runs:
    """Runs of one configuration weighted to count as one together, unless the table has weights of its own."""
    if "weight" in runs.table:
        return runs
    same = [name for name in runs.table if name not in NOT_VARIABLES]
    size = runs.table.groupby(same)["loss"].transform("size")
    return runs if (size == 1).all() else dataclasses.replace(runs, table=runs.table.assign(weight=1 / size))
