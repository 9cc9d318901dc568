"""The commands on what comes next: `forecast`, in every direction, and `next`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from nextscale.sweeps.commands.analysis.options import Estimator, LawChoice, Source
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, expanded, note, print_json, screen, warn
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at, draw_fit, two_axes_at

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.fit.estimate.fit import Fit
    from nextscale.fit.table.runs import Runs
    from nextscale.sweeps.budget.cluster import Cluster
    from nextscale.sweeps.budget.queries import Asked
    from nextscale.sweeps.budget.targets import Data

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

    @property
    def asked(self) -> list[Asked]:
        """
        Raises:
            SpecError: nothing is asked, or sizes and tokens do not pair.
        """
        from nextscale.sweeps.budget.queries import paired

        found: list[Asked] = []
        for name in ("flops", "usd", "device_hours", "days", "loss"):
            found += [{name: value} for value in getattr(self, name) or ()]
        found += paired(self.sizes or (), self.tokens or ())
        if not found:
            names = "--usd, --device-hours, --days, --params or --tokens"
            raise SpecError(f"forecast: say of what, with --flops or --loss, {names}")
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where it would be trained, and at what price."""

    panel: ClassVar = "Hardware"

    on: Annotated[
        str | None,
        typer.Option(metavar="NAMExCHIPS", help="such as h100x512; `nextscale hardware` lists the names"),
    ] = None
    utilisation: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1, help="of the peak, in model FLOPs \\[default: as RUNS measured it on such chips]"
        ),
    ] = None
    price: Annotated[float | None, typer.Option(min=0, help="dollars per chip-hour \\[default: the list price]")] = None
    spot: Annotated[bool, typer.Option("--spot", help="at the list price of what may be taken away")] = False
    pue: Annotated[
        float | None,
        typer.Option(min=1, help="energy of the building / of its machines \\[default: of the chips alone]"),
    ] = None
    site: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="NEXTSCALE_SITE", help="what this site says of its chips")
    ] = None

    def cluster(self, rows: pd.DataFrame | None) -> Cluster | None:
        """None where no hardware is named.

        Args:
            rows: the runs, some perhaps trained on such chips; None where there are none.
        """
        from nextscale.cluster.hardware.catalogue import measured
        from nextscale.sweeps.budget.cluster import cluster_of, parsed
        from nextscale.sweeps.spec.site_file import load_site

        if self.on is None:
            for name in ("utilisation", "price", "pue"):
                if getattr(self, name) is not None:
                    raise SpecError(f"--{name}: is that of the hardware; name it with --on, such as --on h100x512")
            if self.spot:
                raise SpecError("--spot: is of the hardware; name it with --on, such as --on tpu-v5ex256")
            return None
        accelerators = load_site(self.site).catalogue("the site file" if self.site is None else str(self.site))
        if parsed(self.on, accelerators)[0].platform == "cpu":
            accelerators = measured(accelerators)
        stated = {"utilisation": self.utilisation, "price": self.price, "pue": self.pue}
        return cluster_of(self.on, accelerators=accelerators, runs=rows, spot=self.spot, **stated)


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
@expanded
def forecast(
    source: Source,
    estimator: Estimator,
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

    Where the runs come in three budgets or more, a backtest among them chooses where the fit starts and widens the
    intervals by what it missed.
    """
    from nextscale.fit.laws.catalogue import law_named
    from nextscale.fit.trust.backtest import fit_backtested
    from nextscale.fit.trust.reach import backtested_reach
    from nextscale.sweeps.budget.queries import check
    from nextscale.sweeps.budget.targets import answers
    from nextscale.sweeps.show.forecast_tables import forecast_tables

    asked = question.asked
    estimator.check_variables(("C",), ("N", "D"))
    if register and not any(_is_run(one) for one in asked):
        raise SpecError("--register: say of what compute, with --flops, or of what run, with --params and --tokens")
    if ledger is not None and not register:
        raise SpecError(f"--ledger {ledger}: is where --register writes; give both")
    rows = source.rows()
    cluster = hardware.cluster(rows)
    runs, data = _runs(source, estimator, rows, text.data_available)
    check(law_named(estimator.law), asked, cluster, data is not None)
    factor, without = _bits_per_nat(source, rows, text.bytes_per_token)
    found, _ = fit_backtested(runs, (estimator.law,), **estimator.options)
    told = answers(found, asked, cluster=cluster, data=data, bits_per_nat=factor, tested=backtested_reach(found))
    told["notes"] += [without] if without else []
    if plot is not None:
        _draw(plot, found, told, cluster)
    registered: list[dict[str, Any]] = []
    if register:
        from nextscale.sweeps.forecasts import registry

        where = registry.ledger_of(source.runs, ledger)
        certain = [target for target in told["targets"] if _is_run(target["asked"])]
        foretold = told | {"targets": certain}
        registered = registry.register(where, source.runs, runs, found, foretold, estimator.options)
    if json_:
        print_json(told | {"registered": registered})
        return
    for table in forecast_tables(told):
        screen.print(table.rich())
    for entry in registered:
        what = "no forecast: its run was there" if entry["started_before"] else "registered"
        line = f"{what}: {where.path}, entry {entry['hash']}, {entry['time'][:16]} UTC"
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    note(told["notes"])
    warn(told["warnings"])


@app.command("next")
@expanded
def next_(
    source: Source,
    chosen: LawChoice,
    target: Annotated[float, typer.Option(min=1, max=1e40, help="training compute that is to be forecast")],
    budget: Annotated[float | None, typer.Option(min=1, help="FLOPs that the next runs may spend in all")] = None,
    most: Annotated[int, typer.Option("--runs", min=1, max=100, help="to choose, at most")] = 8,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Chooses which runs to do next: those that narrow the forecast at a target most per FLOP."""
    from nextscale.fit import plot as draw
    from nextscale.fit.trust.backtest import fit_backtested
    from nextscale.fit.trust.next_run import next_runs
    from nextscale.sweeps.show import tables

    chosen.check_variables(("C",), ("N", "D"))
    found, _ = fit_backtested(source.read(chosen.variables), (chosen.law,), resamples=200, **chosen.options)
    told = next_runs(found, target, budget=budget, runs=most)
    if plot is not None:
        with axes_at(plot) as axes:
            draw.next_runs(axes, told)
    if json_:
        print_json(told.to_dict())
        return
    sized = [("parameters", "params", tables.count), ("tokens", "tokens", tables.count)]
    columns = (
        *(column for column in sized if column[1] in told.sequence),
        ("FLOPs", "flops", tables.three),
        ("spent", "spent", tables.three),
        ("forecast uncertain by", "spread_after", lambda spread: f"{spread:.3%}"),
    )
    title = f"The next runs, for a forecast at {told.flops:.3g} FLOPs that is uncertain by {told.spread:.3%} now"
    screen.print(tables.table_of(title, told.sequence.to_dict("records"), *columns).rich())
    note(found.runs.notes)
    warn([*dict.fromkeys((*found.warnings, *told.warnings))])


def _is_run(asked: Asked) -> bool:
    """Whether a run is meant, and not what it would take to get somewhere."""
    return len(asked) == 2 or next(iter(asked)) not in ("loss", "params", "tokens")


def _runs(source: Source, chosen: LawChoice, rows: pd.DataFrame, available: float | None) -> tuple[Runs, Data | None]:
    """The runs to fit, and what there is of data: where some runs repeat theirs, these say what that is worth."""
    from nextscale.fit.optimum.repetition import FRESH, PUBLISHED, repetition_worth
    from nextscale.sweeps.budget.targets import Data

    if available is None:
        return source.of_rows(rows, chosen.variables), None
    if source.columns.others.get("unique_tokens", source.columns.others.get("U", "unique_tokens")) not in rows:
        return source.of_rows(rows, chosen.variables), Data(available, PUBLISHED)
    runs = source.of_rows(rows, (*chosen.variables, "U"))
    fresh = runs.table["tokens"] <= FRESH * runs.table["unique_tokens"]
    if fresh.all():
        return runs, Data(available, PUBLISHED)
    note = f"{(~fresh).sum()} runs that repeat their data say what that is worth; the law is fitted to the others"
    kept = dataclasses.replace(runs.where(fresh), notes=(*runs.notes, note))
    return kept, Data(available, repetition_worth(runs))


def _bits_per_nat(source: Source, rows: pd.DataFrame, bytes_per_token: float | None) -> tuple[float | None, str | None]:
    """Bits per byte / loss, or why that is not known."""
    import math

    from nextscale.fit.table.columns import recognise_columns
    from nextscale.sweeps.budget.targets import bits_per_nat_of

    if bytes_per_token is not None:
        return 1 / (math.log(2) * bytes_per_token), None
    columns, _ = recognise_columns(rows, source.columns, source.params)
    return bits_per_nat_of(rows, columns.loss or "loss")


def _draw(path: Path, found: Fit, told: dict[str, Any], cluster: Cluster | None) -> None:
    from nextscale.fit import plot
    from nextscale.sweeps.budget.plot import loss_against_cost

    reach = max(target["flops"] or 0 for target in told["targets"])
    if cluster is None:
        draw_fit(path, found, reach)
        return
    with two_axes_at(path) as (left, right):
        loss_against_cost(left, found, cluster, told["targets"])
        if set(found.law.variables) == {"N", "D"}:
            plot.frontier(right, found.frontier(plot.budgets(found, reach)))
        else:
            plot.law(right, found, reach)
