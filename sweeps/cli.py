"""The `nextscale` command. Nothing heavy is imported before it is needed: `--help` and `plan` are instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from nextscale.sweeps import analyses, control, infrastructure
from nextscale.sweeps.errors import MENDABLE
from nextscale.sweeps.terminal import Json, aside, print_json, screen, warn

if TYPE_CHECKING:
    from nextscale.sweeps.spec import SweepSpec

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Plan, train and fit scaling-law sweeps; forecast the next, bigger model.\n\n"
    "A first look: [bold]nextscale quickstart[/bold]. With runs of your own: [bold]nextscale fit runs.csv[/bold].",
    epilog="Exit codes: 0 done, 1 finished with failed runs or without a law, 2 the input was wrong, 3 a cap or a stop "
    "left runs to do, 130 interrupted.",
)
app.add_typer(analyses.app)
app.add_typer(control.app)
app.add_typer(infrastructure.app)

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="a YAML spec; `nextscale schema` prints what it may hold")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key, such as data.seed=7")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="where everything goes [default: out/NAME]")]
Address = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="of a Ray cluster; without it one is started here")
]


@app.command()
def quickstart(out: Out = None, set_: Set = None, address: Address = None, json_: Json = False) -> None:
    """The whole loop on a source of known entropy: sweep, law, forecast, next scale, score."""
    with resources.as_file(resources.files("nextscale.sweeps") / "specs" / "quickstart.yaml") as path:
        _run(path, out, set_, address, json_)


@app.command()
def plan(spec: Spec, set_: Set = None, json_: Json = False) -> None:
    """What a sweep would train and what that costs, and what is wrong with its design. Starts nothing."""
    from nextscale.sweeps.design import planned_runs, resolved
    from nextscale.sweeps.placing import placed
    from nextscale.sweeps.plan import plan as plan_of
    from nextscale.sweeps.sites import load_site, pools_of, price_notes
    from nextscale.sweeps.tables import Table, count, duration, number

    read = resolved(_read(spec, set_))
    planned, site = planned_runs(read), load_site()
    found = plan_of(planned)
    accelerators = site.catalogue()
    pools = pools_of(read.pools, site, accelerators)
    notes = price_notes(read.pools, site, accelerators)
    placement = None if pools is None else placed(planned, pools, accelerators)
    if json_:
        print_json(found.to_dict() | {"placement": placement, "warnings": [*found.warnings, *notes]})
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
            *(number(row["tokens_per_param"], 3), str(row["steps"]), number(row["lr"], 3), number(row["own_flops"])),
        ]
        for row in found.runs
    ]
    screen.print(Table(f"{read.name}: {len(rows)} runs, {found.total_flops:.3g} FLOPs", columns, rows).rich())
    if placement is not None:
        rows = [
            [
                *(row["run_id"], row["pool"], row["layout"], str(row["micro_batches"])),
                *("yes" if row["recompute"] else "no", duration(row["seconds"]), number(row["usd"], 3)),
            ]
            for row in placement
        ]
        columns = ["run", "pool", "layout", "micro-batches", "recompute", "expected", "$"]
        screen.print(Table("where they would go", columns, rows, left=3).rich())
    warn([*found.warnings, *notes])


@app.command()
def run(
    spec: Spec,
    out: Out = None,
    set_: Set = None,
    address: Address = None,
    detach: Annotated[
        bool,
        typer.Option(
            help="leave it at work: as a job, if --address is a dashboard (http://HEAD:8265), else as a process here; "
            "status, logs and stop reach it"
        ),
    ] = False,
    stopped_ok: Annotated[
        bool,
        typer.Option(help="exit with 0, not 3, where a cap or a stop left runs: a job system would start it again"),
    ] = False,
    json_: Json = False,
) -> None:
    """Trains a sweep, fits it, writes its forecast down, trains the held-out scale, scores the forecast.

    Goes on from wherever it stands: what is finished is never trained again.
    """
    if detach:
        _detach(spec, out, set_, address)
        return
    _run(spec, out, set_, address, json_, stopped_ok=stopped_ok)


@app.command()
def runs(
    out: Annotated[list[Path], typer.Argument(metavar="OUT...", help="output folders")], json_: Json = False
) -> None:
    """The table of all runs in one or more output folders."""
    from nextscale.sweeps.store import load
    from nextscale.sweeps.tables import Table, count, loss, number

    table = load(*out)
    if json_:
        print_json({"runs": json.loads(table.to_json(orient="records"))})
        return
    if table.empty:
        screen.print("no runs yet")
        return
    keys = ["run_id", "status", "sweep", "role", "params", "tokens", "flops", "loss", "reason"]
    rows = []
    for row in table.reindex(columns=keys).to_dict("records"):
        missing = {k: None if v != v else v for k, v in row.items()}
        numbers = [count(missing["params"]), count(missing["tokens"]), number(missing["flops"]), loss(missing["loss"])]
        texts = [str(missing[k] or "-") for k in ("run_id", "status", "sweep", "role")]
        rows.append([*texts, *numbers, str(missing["reason"] or "")])
    screen.print(Table(f"{len(rows)} runs", ["run", "status", "sweep", "for", *keys[4:]], rows).rich())


@app.command()
def schema() -> None:
    """The JSON Schema of a spec, for completion in an editor."""
    from nextscale.sweeps.spec import SweepSpec

    print_json(SweepSpec.model_json_schema())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; what a user can mend is one line on stderr and exit code 2."""
    try:
        app(args=arguments)
    except MENDABLE as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _run(
    path: Path, out: Path | None, set_: list[str] | None, address: str | None, json_: bool, *, stopped_ok: bool = False
) -> None:
    from nextscale.cluster.lease import LeaseLost
    from nextscale.sweeps.progress import Reporter
    from nextscale.sweeps.study import run_study
    from nextscale.sweeps.tables import tables

    spec = _read(path, set_)
    folder = out or Path("out") / spec.name
    try:
        with Reporter(aside) as reporter:
            summary = run_study(spec, folder, address=address, on_phase=reporter.phase, on_event=reporter.event)
    except LeaseLost:
        _fail(f"{folder}: another process has taken this sweep over, having heard nothing of this one for too long")
    except KeyboardInterrupt:
        aside.print("interrupted; what is finished is kept, and the same command goes on from here")
        raise typer.Exit(130) from None
    if json_:
        print_json(summary)
    else:
        for table in tables(summary):
            screen.print(table.rich())
        warn(summary["warnings"])
        screen.print(f"{summary['runs']['done']} runs done in {summary['seconds']:.0f} s", highlight=False)
        if summary["law"] is not None:
            screen.print(f"figures and report: {folder / 'report.html'}", highlight=False, soft_wrap=True, markup=False)
    if summary["stopped_by"]:
        raise typer.Exit(0 if stopped_ok else 3)
    if summary["runs"]["failed"] or summary["problem"]:
        raise typer.Exit(2 if summary["mendable"] else 1)


def _detach(path: Path, out: Path | None, set_: list[str] | None, address: str | None) -> None:
    from nextscale.sweeps.design import resolved
    from nextscale.sweeps.detach import detach

    spec = resolved(_read(path, set_))
    folder = out or Path("out") / spec.name
    where = detach(spec, folder, address)
    screen.print(f"at work as {where}; see `nextscale status {folder}`", markup=False, highlight=False, soft_wrap=True)


def _read(path: Path, set_: list[str] | None) -> SweepSpec:
    from nextscale.sweeps.reading import load_spec

    return load_spec(path, set_ or ())


def _fail(message: str) -> NoReturn:
    aside.print(f"nextscale: {message}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)
