"""The `nextscale` command. Nothing heavy is imported before it is needed: `--help` and `plan` are instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from nextscale.sweeps.commands import export as exporting
from nextscale.sweeps.commands import hardware as infrastructure
from nextscale.sweeps.commands import import_runs as importing
from nextscale.sweeps.commands import init
from nextscale.sweeps.commands import ledger as forecasts
from nextscale.sweeps.commands import plan as planning
from nextscale.sweeps.commands import report as reporting
from nextscale.sweeps.commands import runs as keeping
from nextscale.sweeps.commands import specs as library
from nextscale.sweeps.commands import watch as control
from nextscale.sweeps.commands.analysis import forecast as forecasting
from nextscale.sweeps.commands.analysis import laws as analyses
from nextscale.sweeps.commands.analysis import lifetime as beyond_training
from nextscale.sweeps.errors import MENDABLE
from nextscale.sweeps.terminal.command_order import Story
from nextscale.sweeps.terminal.console import Json, Set, Spec, aside, print_json, screen, warn
from nextscale.sweeps.terminal.usage_errors import USAGE, misused

if TYPE_CHECKING:
    from nextscale.sweeps.plan.gates import Approval
    from nextscale.sweeps.spec.sweep_spec import SweepSpec

app = typer.Typer(
    cls=Story,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Plan, train and fit scaling-law sweeps; forecast the next, bigger model.\n\n"
    "A first look: [bold]nextscale quickstart[/bold]. With runs of your own: [bold]nextscale fit runs.csv[/bold].",
    epilog="Exit codes: 0 done, 1 finished with failed runs or without a law, 2 the input was wrong, 3 a cap, a stop "
    "or a gate that waits for an approval left runs to do, 130 interrupted.",
)
app.add_typer(planning.app)
app.add_typer(analyses.app)
app.add_typer(forecasting.app)
app.add_typer(beyond_training.app)
app.add_typer(control.app)
app.add_typer(keeping.app)
app.add_typer(forecasts.app)
app.add_typer(reporting.app)
app.add_typer(exporting.app)
app.add_typer(importing.app)
app.add_typer(infrastructure.app)
app.add_typer(init.app)
app.add_typer(library.app)

Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="where everything goes \\[default: out/NAME]")]
Address = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="of a Ray cluster; without it one is started here")
]


Approve = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="let it through the gates that it comes to; written to its ledger"),
]


@app.command()
def quickstart(
    out: Out = None, set_: Set = None, address: Address = None, approve: Approve = None, json_: Json = False
) -> None:
    """Runs the whole loop in minutes, on a source of known entropy: sweep, law, forecast, next scale, score."""
    with resources.as_file(resources.files("nextscale.sweeps") / "specs" / "quickstart.yaml") as path:
        _run(path, out, set_, address, _approval(approve), json_)


@app.command()
def run(
    spec: Spec,
    out: Out = None,
    set_: Set = None,
    address: Address = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            help="leave it at work: as a job, if --address is a dashboard (http://HEAD:8265), else as a process here; "
            "status, logs and stop reach it",
        ),
    ] = False,
    stopped_ok: Annotated[
        bool,
        typer.Option(
            "--stopped-ok",
            help="exit with 0, not 3, where a cap, a stop or a gate left runs: a job system would start it again",
        ),
    ] = False,
    approve: Approve = None,
    approved_by: Annotated[str | None, typer.Option(hidden=True)] = None,
    json_: Json = False,
) -> None:
    """Trains a sweep, fits it, writes its forecast down, trains the held-out scale, scores the forecast.

    Goes on from wherever it stands: what is finished is never trained again.
    """
    approval = _approval(approve, approved_by)
    if detach:
        _detach(spec, out, set_, address, approval, json_)
        return
    _run(spec, out, set_, address, approval, json_, stopped_ok=stopped_ok)


@app.command()
def schema() -> None:
    """Prints the JSON Schema of a spec, by which editors complete it."""
    from nextscale.sweeps.spec.schema import spec_schema

    print_json(spec_schema())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; what a user can mend is one line on stderr and exit code 2."""
    try:
        sys.exit(app(args=arguments, prog_name="nextscale", standalone_mode=False) or 0)
    except MENDABLE as error:
        _fail(str(error))
    except USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed, and all there is to say
            sys.exit(2)
        _fail(str(misused(error)))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _run(
    path: Path,
    out: Path | None,
    set_: list[str] | None,
    address: str | None,
    approval: Approval | None,
    json_: bool,
    *,
    stopped_ok: bool = False,
) -> None:
    from nextscale.cluster.controller.lease import LeaseLost
    from nextscale.sweeps.plan.spec_files import placed
    from nextscale.sweeps.run.loop import run_study
    from nextscale.sweeps.show.tables import tables
    from nextscale.sweeps.terminal.progress import Reporter

    spec = _read(path, set_)
    folder = out or Path("out") / spec.name
    try:
        with placed(path, set_ or ()), Reporter(aside) as reporter:
            summary = run_study(
                spec, folder, address=address, approval=approval, on_phase=reporter.phase, on_event=reporter.event
            )
    except LeaseLost:
        _fail(f"{folder}: another process has taken this sweep over, having heard nothing of this one for too long")
    except KeyboardInterrupt:
        aside.print("interrupted; what is finished is kept, and the same command goes on from here")
        raise typer.Exit(130) from None
    refusal = summary["stopped_by"] if summary["waits_for_approval"] else None
    if json_:
        print_json(summary)
    else:
        for table in tables(summary):
            screen.print(table.rich())
        warn([text for text in summary["warnings"] if text != refusal])
        screen.print(
            f"{summary['runs']['done']} runs done; this command took {summary['seconds']:.0f} s", highlight=False
        )
        if summary["law"] or summary["findings"]:
            screen.print(f"figures and report: {folder / 'report.html'}", highlight=False, soft_wrap=True, markup=False)
    if refusal is not None:
        _say(refusal)
    if summary["stopped_by"]:
        raise typer.Exit(0 if stopped_ok else 3)
    if summary["runs"]["failed"] or summary["problem"]:
        raise typer.Exit(2 if summary["mendable"] else 1)


def _approval(reason: str | None, by: str | None = None) -> Approval | None:
    from nextscale.sweeps.plan.gates import Approval

    return None if reason is None else Approval.of(reason, by)


def _detach(
    path: Path,
    out: Path | None,
    set_: list[str] | None,
    address: str | None,
    approval: Approval | None,
    json_: bool,
) -> None:
    from nextscale.sweeps.design.expand import resolved
    from nextscale.sweeps.plan.spec_files import placed
    from nextscale.sweeps.run.detach import detach, gate_closed

    spec = _read(path, set_)
    with placed(path, set_ or ()):
        spec = resolved(spec)
    folder = out or Path("out") / spec.name
    if (refusal := gate_closed(spec, folder, approval)) is not None:
        _say(refusal)
        raise typer.Exit(3)
    where = detach(spec, folder, address, approval)
    if json_:
        print_json({"at_work_as": where, "out": str(folder)})
        return
    screen.print(f"at work as {where}; see `nextscale status {folder}`", markup=False, highlight=False, soft_wrap=True)


def _read(path: Path, set_: list[str] | None) -> SweepSpec:
    from nextscale.sweeps.plan.spec_files import load_spec

    return load_spec(path, set_ or ())


def _fail(message: str) -> NoReturn:
    _say(message)
    sys.exit(2)


def _say(message: str) -> None:
    aside.print(f"nextscale: {message}", markup=False, highlight=False, soft_wrap=True)
