"""`nextscale forecast --at`: what a run of given values of a law's own variables would measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nextscale.sweeps.commands.analysis.law_options import Forecaster, LawChoice
from nextscale.sweeps.commands.analysis.options import Source, numbers_by_name
from nextscale.sweeps.errors import SpecError

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit
    from nextscale.fit.laws.law import Law
    from nextscale.sweeps.show.tables import Table


def values_at(texts: Sequence[str]) -> dict[str, float]:
    """By column the value of each variable, from `VARIABLE=VALUE`.

    Raises:
        SpecError: one is written otherwise, is named twice, or is a variable of no law.
    """
    from nextscale.fit.laws.catalogue import LAWS
    from nextscale.fit.table.columns import column_of

    known = dict.fromkeys(variable for law in LAWS.values() for variable in law.variables)
    columns = {column_of(variable) for variable in known}
    found: dict[str, float] = {}
    for name, value in numbers_by_name(texts, "--at", "VARIABLE=VALUE").items():
        column = column_of(name)
        if column not in columns:
            raise SpecError(f"--at {name}: no law has a variable '{name}'; they have {', '.join(known)}")
        if column in found:
            raise SpecError(f"--at {name}: {column} is given twice; give it once")
        if not 0 < value < float("inf"):
            raise SpecError(f"--at {name}={value:g}: should be greater than 0")
        found[column] = value
    return found


def forecast_at(
    source: Source, estimator: Forecaster, at: Mapping[str, float], along: str | None
) -> tuple[Fit, dict[str, Any]]:
    """The fit, and what `nextscale.fit.optimum.forecast.forecast_run` says of the point.

    Args:
        along: the variable that reach and backtests are counted along; that in which the point lies furthest beyond the
            runs, unless given.

    Raises:
        SpecError: no law is in these variables, or the one that is named is in others.
    """
    from nextscale.fit.optimum.forecast import forecast_run
    from nextscale.fit.table.columns import column_of
    from nextscale.fit.trust.forecaster import fit_forecaster, ordered_by_reach

    rows = source.rows()
    chosen: LawChoice = estimator
    laws: list[Law] = []
    if estimator.law == "consensus":
        laws = _laws_in(at)
        variables = laws[0].variables
    else:
        chosen = estimator.settled(source, rows)
        variables = chosen.variables
        if lacking := [name for name in map(column_of, variables) if name not in at]:
            raise SpecError(f"--law {chosen.law}: needs --at {' --at '.join(f'{name}=VALUE' for name in lacking)} too")
    more: dict[str, Any] = {"laws": laws} if laws else {}
    runs = source.of_rows(rows, variables)
    runs = ordered_by_reach(runs, at) if along is None else runs.ordered_along(column_of(along))
    found = fit_forecaster(runs, chosen.law, **chosen.options, **more)
    return found, forecast_run(found, **at)


def at_table(result: Mapping[str, Any]) -> Table:
    """What is foretold of the point, and how far beyond the runs it is in each variable."""
    from nextscale.sweeps.show.formats import interval, loss, three_digits
    from nextscale.sweeps.show.tables import Table

    said = f"{loss(result['loss'])} {interval(result['loss_interval'], loss)}"
    rows = [
        [name, three_digits(value), f"{three_digits(result['reach'][name])} times" if name in result["reach"] else "-"]
        for name, value in result["at"].items()
    ]
    title = f"A run there measures a loss of {said} ({result['level']:.0%} interval)"
    return Table(title, ["variable", "value", "largest run fitted"], rows)


def _laws_in(at: Mapping[str, float]) -> list[Law]:
    """The laws that ship in just these variables."""
    from nextscale.fit.laws.catalogue import LAWS
    from nextscale.fit.table.columns import column_of

    suited = [law for law in LAWS.values() if {*map(column_of, law.variables)} == {*at}]
    if not suited:
        names = ", ".join(f"{law.name} ({', '.join(map(column_of, law.variables))})" for law in LAWS.values())
        raise SpecError(f"--at: no law is in {', '.join(at)} alone; there are {names}")
    return [law for law in suited if "E" in law.parameters] or suited
