"""The `nextscale` command. Nothing heavy is imported before it is needed: `--help` and `plan` are instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from nextscale.sweeps.errors import MENDABLE, SpecError

if TYPE_CHECKING:
    from nextscale.fit.estimate import Fit
    from nextscale.fit.table import Columns, Runs
    from nextscale.sweeps.spec import SweepSpec

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Plan, train and fit scaling-law sweeps; forecast the next, bigger model.\n\n"
    "A first look: [bold]nextscale quickstart[/bold]. With runs of your own: [bold]nextscale fit runs.csv[/bold].",
    epilog="Exit codes: 0 done, 1 finished with failed runs or without a law, 2 the input was wrong, 130 interrupted.",
)
_PIPED_WIDTH = 200
_out = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
_err = Console(stderr=True)

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="a YAML spec; `nextscale schema` prints what it may hold")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key, such as data.seed=7")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="where everything goes [default: out/NAME]")]
Address = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="of a Ray cluster; without it one is started here")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
RunsPath = Annotated[
    Path, typer.Argument(metavar="RUNS", help="a CSV, JSON, JSONL or Parquet file, or the --out of a sweep")
]
ParamsColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="column of N; of params, tokens and flops two are enough")
]
TokensColumn = Annotated[str | None, typer.Option(metavar="NAME", help="column of D")]
FlopsColumn = Annotated[str | None, typer.Option(metavar="NAME", help="column of C")]
LossColumn = Annotated[str | None, typer.Option(metavar="NAME", help="column of the loss, nats per token")]
Params = Annotated[str, typer.Option(metavar="WHICH", help="what N counts in a sweep: total, non_embedding or active")]
Law = Annotated[str, typer.Option(help="chinchilla or chinchilla-tied")]
Delta = Annotated[float, typer.Option(min=1e-12, help="of Huber's loss, in log loss")]
Level = Annotated[float, typer.Option(min=0.01, max=0.999, help="of the intervals")]
Resamples = Annotated[int, typer.Option(min=100, max=100_000, help="bootstrap resamples")]
DropLargest = Annotated[
    int, typer.Option(min=0, metavar="K", help="leave out the K runs of the largest loss, and say so")
]
PlotFile = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="draw it too: .png, .svg or .pdf")]


@app.command()
def quickstart(out: Out = None, set_: Set = None, address: Address = None, json_: Json = False) -> None:
    """The whole loop on a source of known entropy: sweep, law, forecast, next scale, score."""
    with resources.as_file(resources.files("nextscale.sweeps") / "specs" / "quickstart.yaml") as path:
        _run(path, out, set_, address, json_)


@app.command()
def plan(spec: Spec, set_: Set = None, json_: Json = False) -> None:
    """What a sweep would train and what that costs, and what is wrong with its design. Starts nothing."""
    from nextscale.model.data import resolve
    from nextscale.sweeps.design import planned_runs
    from nextscale.sweeps.plan import plan as plan_of
    from nextscale.sweeps.tables import Table, count, number

    read = _read(spec, set_)
    found = plan_of(planned_runs(read.model_copy(update={"data": resolve(read.data)})))
    if json_:
        _print_json(found.to_dict())
        return
    columns = ["run", "for", "budget", "width", "params", "tokens", "tokens/param", "steps", "lr", "FLOPs"]
    rows = [
        [
            *(
                row["run_id"],
                row["role"],
                number(row["budget"]),
                str(row["width"]),
                count(row["params"]),
                count(row["tokens"]),
            ),
            *(number(row["tokens_per_param"], 3), str(row["steps"]), number(row["lr"], 3), number(row["flops"])),
        ]
        for row in found.runs
    ]
    _out.print(Table(f"{read.name}: {len(rows)} runs, {found.total_flops:.3g} FLOPs", columns, rows).rich())
    _warn(found.warnings)


@app.command()
def run(spec: Spec, out: Out = None, set_: Set = None, address: Address = None, json_: Json = False) -> None:
    """Trains a sweep, fits it, writes its forecast down, trains the held-out scale, scores the forecast.

    Goes on from wherever it stands: what is finished is never trained again.
    """
    _run(spec, out, set_, address, json_)


@app.command()
def runs(
    out: Annotated[list[Path], typer.Argument(metavar="OUT...", help="output folders")], json_: Json = False
) -> None:
    """The table of all runs in one or more output folders."""
    from nextscale.sweeps.store import load
    from nextscale.sweeps.tables import Table, count, loss, number

    table = load(*out)
    if json_:
        _print_json({"runs": json.loads(table.to_json(orient="records"))})
        return
    if table.empty:
        _out.print("no runs yet")
        return
    keys = ["run_id", "status", "sweep", "role", "params", "tokens", "flops", "loss", "reason"]
    rows = []
    for row in table.reindex(columns=keys).to_dict("records"):
        missing = {k: None if v != v else v for k, v in row.items()}
        numbers = [count(missing["params"]), count(missing["tokens"]), number(missing["flops"]), loss(missing["loss"])]
        texts = [str(missing[k] or "-") for k in ("run_id", "status", "sweep", "role")]
        rows.append([*texts, *numbers, str(missing["reason"] or "")])
    _out.print(Table(f"{len(rows)} runs", ["run", "status", "sweep", "for", *keys[4:]], rows).rich())


@app.command()
def fit(
    runs: RunsPath,
    params_column: ParamsColumn = None,
    tokens_column: TokensColumn = None,
    flops_column: FlopsColumn = None,
    loss_column: LossColumn = None,
    params: Params = "total",
    law: Law = "chinchilla",
    delta: Delta = 1e-3,
    level: Level = 0.9,
    resamples: Resamples = 1000,
    drop_largest_losses: DropLargest = 0,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """A scaling law with intervals, from any table of finished runs."""
    from nextscale.fit.estimate import fit as fit_runs
    from nextscale.sweeps.tables import law_table

    table = _runs(runs, _columns(params_column, tokens_column, flops_column, loss_column), params, drop_largest_losses)
    found = fit_runs(table, law, delta=delta, level=level, resamples=resamples)
    card = found.to_dict()
    if plot is not None:
        _draw(plot, found)
    if json_:
        _print_json(card)
        return
    _out.print(law_table(card).rich())
    _out.print(
        f"objective {found.objective:.6g} (sum of Huber losses, delta {delta:g}); "
        f"scatter around the law {found.noise:.2%}"
    )
    _note(table.notes)
    _warn(found.warnings)


@app.command()
def forecast(
    runs: RunsPath,
    flops: Annotated[
        list[float], typer.Option(min=1, max=1e40, help="training compute to forecast at; may be given again")
    ],
    params_column: ParamsColumn = None,
    tokens_column: TokensColumn = None,
    flops_column: FlopsColumn = None,
    loss_column: LossColumn = None,
    params: Params = "total",
    law: Law = "chinchilla",
    delta: Delta = 1e-3,
    level: Level = 0.9,
    resamples: Resamples = 1000,
    drop_largest_losses: DropLargest = 0,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Loss, size and tokens of the best model at a compute budget, with intervals.

    Where the runs come in three budgets or more, a backtest among them chooses where the fit starts and widens the
    intervals by what it missed.
    """
    from nextscale.fit.backtest import fit_backtested
    from nextscale.fit.forecast import forecast as forecast_at
    from nextscale.sweeps.tables import forecast_table

    table = _runs(runs, _columns(params_column, tokens_column, flops_column, loss_column), params, drop_largest_losses)
    found, _ = fit_backtested(table, (law,), delta=delta, level=level, resamples=resamples)
    told = forecast_at(found, flops)
    if plot is not None:
        _draw(plot, found, max(flops))
    if json_:
        _print_json(told)
        return
    _out.print(forecast_table(told, level).rich())
    _note(told["notes"])
    _warn(told["warnings"])


@app.command()
def schema() -> None:
    """The JSON Schema of a spec, for completion in an editor."""
    from nextscale.sweeps.spec import SweepSpec

    _print_json(SweepSpec.model_json_schema())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; what a user can mend is one line on stderr and exit code 2."""
    try:
        app(args=arguments)
    except MENDABLE as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _run(path: Path, out: Path | None, set_: list[str] | None, address: str | None, json_: bool) -> None:
    from nextscale.sweeps.progress import Reporter
    from nextscale.sweeps.study import run_study
    from nextscale.sweeps.tables import tables

    spec = _read(path, set_)
    folder = out or Path("out") / spec.name
    try:
        with Reporter(_err) as reporter:
            summary = run_study(spec, folder, address=address, on_phase=reporter.phase, on_event=reporter.event)
    except KeyboardInterrupt:
        _err.print("interrupted; what is finished is kept, and the same command goes on from here")
        raise typer.Exit(130) from None
    if json_:
        _print_json(summary)
    else:
        for table in tables(summary):
            _out.print(table.rich())
        _warn(summary["warnings"])
        _out.print(f"{summary['runs']['done']} runs done in {summary['seconds']:.0f} s", highlight=False)
        if summary["law"] is not None:
            _out.print(f"figures and report: {folder / 'report.html'}", highlight=False, soft_wrap=True, markup=False)
    if summary["runs"]["failed"] or summary["problem"]:
        raise typer.Exit(2 if summary["mendable"] else 1)


def _read(path: Path, set_: list[str] | None) -> SweepSpec:
    from nextscale.sweeps.reading import load_spec

    return load_spec(path, set_ or ())


def _columns(params: str | None, tokens: str | None, flops: str | None, loss: str | None) -> Columns:
    from nextscale.fit.table import Columns

    return Columns(params, tokens, flops, loss)


def _runs(path: Path, columns: Columns, params: str, drop_largest_losses: int) -> Runs:
    from nextscale.fit.table import as_runs, read_table

    if path.is_dir():
        from nextscale.sweeps.store import load

        table = load(path)
        if "loss" not in table or table["loss"].isna().all():
            raise SpecError(f"{path}: none of its runs has come to a loss")
        sources = sorted(table.loc[table["loss"].notna(), "data"].unique())
        if len(sources) > 1:
            raise SpecError(
                f"{path}: its runs were trained on {len(sources)} different data ({'; '.join(sources)}), and "
                "one law does not hold for them all; give each sweep an --out of its own, or fit part of them in Python"
            )
    else:
        table = read_table(path)
    return as_runs(table, columns=columns, convention=params, drop_largest_losses=drop_largest_losses, where=str(path))


def _draw(path: Path, found: Fit, reach: float | None = None) -> None:
    import numpy as np
    from matplotlib.figure import Figure

    from nextscale.fit import plot
    from nextscale.fit.frontier import frontier

    table = found.runs.table
    last = max(reach or 0, table["flops"].max() * 10)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    optima = frontier(found, np.geomspace(table["flops"].min(), last, 40).tolist())
    plot.loss_against(left, found, optima)
    plot.frontier(right, optima)
    try:
        figure.savefig(path, dpi=150)
    except ValueError:
        raise SpecError(f"--plot {path}: cannot draw a '{path.suffix}' file; name a .png, .svg or .pdf") from None


def _note(notes: Sequence[str]) -> None:
    for text in notes:
        _out.print(f"note: {text}", markup=False)


def _warn(warnings: Sequence[str]) -> None:
    for text in warnings:
        _out.print(f"warning: {text}", style="yellow", markup=False)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=1))


def _fail(message: str) -> NoReturn:
    _err.print(f"nextscale: {message}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)
