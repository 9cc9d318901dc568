"""The command `forecast`: of compute, a loss, a size, dollars or hours all the rest, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from nextscale.sweeps.commands.analysis.hardware_options import Hardware
from nextscale.sweeps.commands.analysis.law_options import Forecaster
from nextscale.sweeps.commands.analysis.options import Source
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, busy, note, print_json, say, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, draw_fit, draw_frontier, two_axes_at

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.fit.estimate.fit import Fit
    from nextscale.fit.table.runs import Runs
    from nextscale.fit.tasks import TaskForecast
    from nextscale.sweeps.budget.cluster import Cluster
    from nextscale.sweeps.budget.queries import Query
    from nextscale.sweeps.budget.targets import AvailableData

app = typer.Typer()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked; each may be given again, and several together."""

    panel: ClassVar = "What is asked (each may be given again)"

    flops: Annotated[list[float] | None, typer.Option(min=1, max=1e40, help="training compute")] = None
    loss: Annotated[list[float] | None, typer.Option(min=1e-9, help="nats per token that are to be reached")] = None
    usd: Annotated[list[float] | None, typer.Option(min=1e-9, max=1e30, help="dollars to spend; needs --on")] = None
    device_hours: Annotated[list[float] | None, typer.Option(min=1e-9, max=1e30, help="chip-hours; needs --on")] = None
    days: Annotated[list[float] | None, typer.Option(min=1e-9, max=1e9, help="of the clock; needs --on")] = None
    sizes: Annotated[
        list[float] | None,
        typer.Option(
            "--params", min=1, max=1e30, help="the size that is to be compute-optimal; with --tokens, that of a run"
        ),
    ] = None
    tokens: Annotated[
        list[float] | None,
        typer.Option(min=1, max=1e30, help="that are to be compute-optimal; with --params, those of a run"),
    ] = None

    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIABLE=VALUE", help="a run by the variables of a law, such as experts=64 and params=7e9"
        ),
    ] = None

    task: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="of scores on a task, shares or percent: what the run will score there"),
    ] = None

    along: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="that backtests and reach are counted along, with --at \\[default: that which goes furthest beyond]",
        ),
    ] = None

    @property
    def asked(self) -> list[Query]:
        """
        Raises:
            SpecError: nothing is asked, or sizes and tokens do not pair.
        """
        from nextscale.sweeps.budget.queries import size_queries

        found: list[Query] = []
        for name in ("flops", "usd", "device_hours", "days", "loss"):
            found += [{name: value} for value in getattr(self, name) or ()]
        found += size_queries(self.sizes or (), self.tokens or ())
        if not found:
            names = "--usd, --device-hours, --days, --params, --tokens or --at"
            raise SpecError(f"forecast: say of what, with --flops or --loss, {names}")
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """What there is to train on."""

    panel: ClassVar = "Data"

    data_available: Annotated[
        float | None, typer.Option(min=1, metavar="TOKENS", help="that there are to be seen once; more is repetition")
    ] = None
    bytes_per_token: Annotated[
        float | None, typer.Option(min=0.01, help="of the text, for bits per byte \\[default: as in RUNS]")
    ] = None


@app.command()
@with_option_groups
def forecast(
    source: Source,
    estimator: Forecaster,
    question: Question,
    hardware: Hardware,
    text: Text,
    register: Annotated[bool, typer.Option("--register", help="write it to the ledger, to be scored")] = False,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", help="to register in \\[default: that of the folder of RUNS]")
    ] = None,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Forecasts the next scale: of compute, a loss, a size, dollars or hours all the rest, with intervals.

    It is a consensus of laws, each weighed by what it missed when it was fitted to the smaller runs alone. Of one law,
    where it is named, a backtest chooses where the fit starts and widens the intervals by what it missed.
    """
    from nextscale.fit.tasks import scores_of
    from nextscale.fit.trust.forecaster import fit_forecaster
    from nextscale.fit.trust.reach import reach_errors
    from nextscale.sweeps.budget.queries import check_queries
    from nextscale.sweeps.budget.targets import forecast_targets
    from nextscale.sweeps.show.forecast_tables import forecast_tables, task_table

    if question.at:
        _at(source, estimator, question, json_)
        return
    if question.along is not None:
        raise SpecError(f"--along {question.along}: is of a run by the variables of its law; give these with --at")
    asked = question.asked
    if register and not any(_is_run(one) for one in asked):
        raise SpecError("--register: say of what compute, with --flops, or of what run, with --params and --tokens")
    if ledger is not None and not register:
        raise SpecError(f"--ledger {ledger}: is where --register writes; give both")
    rows = source.rows()
    cluster = hardware.cluster(rows)
    chosen, variables = estimator.read_rows(source, rows, ("N", "D"), ("C",))
    runs, data = _runs(source, variables, rows, text.data_available)
    check_queries(chosen.law, variables, asked, cluster, data is not None)
    for name in question.task or ():
        scores_of(runs, rows, name)  # what cannot be used is told before the law is fitted
    factor, without = _bits_per_nat(source, rows, text.bytes_per_token)
    with busy(len(runs)):
        found = fit_forecaster(runs, chosen.law, **chosen.options)
        result = forecast_targets(
            found, asked, cluster=cluster, data=data, bits_per_nat=factor, backtests=reach_errors(found)
        )
    result["notes"] += [without] if without else []
    tasks = _tasks(found, rows, question.task or (), result)
    if plot is not None:
        _draw(plot, found, result, cluster)
    registered: list[dict[str, Any]] = []
    if register:
        from nextscale.sweeps.forecasts import registry

        where = registry.ledger_of(source.runs, ledger)
        certain = [target for target in result["targets"] if _is_run(target["asked"])]
        certain_result = result | {"targets": certain}
        registered = registry.register(where, source.runs, runs, found, certain_result, chosen.options)
    if json_:
        scored = {"tasks": [each.to_dict() for each in tasks]} if question.task else {}
        print_json(result | {"registered": registered} | scored)
        return
    for target in result["targets"]:
        trust = (target["trust"] or {}).get("sentence")
        say(" ".join(filter(None, (target["sentence"], trust, target["cost_basis"]))))
    for table in [*forecast_tables(result), *([task_table(tasks)] if tasks else [])]:
        screen.print(table.rich())
    for entry in registered:
        what = "no forecast: its run was there" if entry["started_before"] else "registered"
        line = f"{what}: {where.path}, entry {entry['hash']}, {entry['time'][:16]} UTC"
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    note(result["notes"])
    warn([*result["warnings"], *dict.fromkeys(text for each in tasks for text in each.warnings)])


def _tasks(found: Fit, rows: pd.DataFrame, names: Sequence[str], result: dict[str, Any]) -> list[TaskForecast]:
    """What each target scores on each task, the targets of a task together; what is to be said goes to the notes."""
    from nextscale.fit.tasks import TaskForecaster, scores_of

    made = [TaskForecaster(found, scores_of(found.runs, rows, name), name, seed=found.seed) for name in names]
    there = [[target[variable] for variable in ("params", "tokens", "flops")] for target in result["targets"]]
    known = [each for each in there if each[2] is not None and (each[0] is not None or found.law.variables == ("C",))]
    result["notes"] += [each.note for each in made]
    if len(known) < len(there) and made:
        result["notes"].append("tasks are told of those targets alone that have a best run")
    return [each.forecast(*at) for each in made for at in known]


def _at(source: Source, estimator: Forecaster, question: Question, json_: bool) -> None:
    """A run by the variables of its law."""
    from nextscale.sweeps.commands.analysis.forecast_at import at_table, forecast_at, values_at

    if question != Question(at=question.at, along=question.along):
        raise SpecError("--at: is a run by itself; give its params and tokens as --at params=N --at tokens=D")
    found, result = forecast_at(source, estimator, values_at(question.at or ()), question.along)
    if json_:
        print_json(result | {"law": found.law.name, "formula": found.law.formula, "notes": list(found.runs.notes)})
        return
    screen.print(at_table(result).rich())
    note([found.law.formula, *found.runs.notes])
    warn(result["warnings"])


def _is_run(asked: Query) -> bool:
    """Whether a run is meant, and not what it would take to get somewhere."""
    return len(asked) == 2 or next(iter(asked)) not in ("loss", "params", "tokens")


def _runs(
    source: Source, variables: Sequence[str], rows: pd.DataFrame, available: float | None
) -> tuple[Runs, AvailableData | None]:
    """The runs to fit, and what there is of data: where some runs repeat theirs, these say what that is worth."""
    from nextscale.fit.optimum.repetition import FRESH_EPOCHS, PUBLISHED_WORTH, repetition_worth
    from nextscale.sweeps.budget.targets import AvailableData

    if available is None:
        return source.of_rows(rows, variables), None
    if source.columns.others.get("unique_tokens", source.columns.others.get("U", "unique_tokens")) not in rows:
        return source.of_rows(rows, variables), AvailableData(available, PUBLISHED_WORTH)
    runs = source.of_rows(rows, (*variables, "U"))
    fresh = runs.table["tokens"] <= FRESH_EPOCHS * runs.table["unique_tokens"]
    if fresh.all():
        return runs, AvailableData(available, PUBLISHED_WORTH)
    note = f"{(~fresh).sum()} runs that repeat their data say what that is worth; the law is fitted to the others"
    kept = dataclasses.replace(runs.where(fresh), notes=(*runs.notes, note))
    return kept, AvailableData(available, repetition_worth(runs))


def _bits_per_nat(source: Source, rows: pd.DataFrame, bytes_per_token: float | None) -> tuple[float | None, str | None]:
    """Bits per byte / loss, or why that is not known."""
    import math

    from nextscale.fit.table.columns import recognise_columns
    from nextscale.fit.table.names import loss_unit_of
    from nextscale.sweeps.budget.targets import bits_per_nat_of

    if bytes_per_token is not None:
        return 1 / (math.log(2) * bytes_per_token), None
    columns, _ = recognise_columns(rows, source.columns, source.params)
    if columns.loss and loss_unit_of(columns.loss) != "nats/token":
        return None, None
    return bits_per_nat_of(rows, columns.loss or "loss")


def _draw(path: Path, found: Fit, result: dict[str, Any], cluster: Cluster | None) -> None:
    from nextscale.fit import plot
    from nextscale.sweeps.budget.plot import loss_against_cost

    reach = max(target["flops"] or 0 for target in result["targets"])
    if cluster is None:
        draw_fit(path, found, reach, result["targets"])
        return
    with two_axes_at(path) as (left, right):
        loss_against_cost(left, found, cluster, result["targets"])
        if set(found.law.variables) == {"N", "D"}:
            optima = found.frontier(plot.budgets(found, reach))
            draw_frontier(right, found, optima, result["targets"])
        else:
            plot.law(right, found, reach)
