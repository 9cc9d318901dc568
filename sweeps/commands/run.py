"""The commands `run` and `quickstart`: a sweep from its spec to its scored forecast."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.model.storage.address import address_of
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, Set, Spec, aside, complain, print_json, say, screen, warn

if TYPE_CHECKING:
    from nextscale.sweeps.plan.gates import Approval
    from nextscale.sweeps.spec.sweep_spec import SweepSpec

app = typer.Typer()
_MORE = 10.0
"""Seconds more than a trainer of one's own asks for, until it is ended from here: it is first by its worker."""

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
    from nextscale.cluster.controller.backend import LOST, ClusterLost
    from nextscale.cluster.controller.lease import LeaseLost
    from nextscale.sweeps.plan.spec_files import located_errors
    from nextscale.sweeps.run.leaving import SAVING, Leaving
    from nextscale.sweeps.run.loop import run_study
    from nextscale.sweeps.show.sentences import outcome
    from nextscale.sweeps.show.summary_tables import summary_tables
    from nextscale.sweeps.spec.sweep_spec import ExternalSpec
    from nextscale.sweeps.terminal.progress import Reporter

    spec = _read(path, set_)
    folder = out or Path("out") / spec.name
    within = spec.trainer.stop_seconds + _MORE if isinstance(spec, ExternalSpec) else 0.0
    leaving = Leaving(lambda text: aside.print(text, style="yellow", markup=False), max(SAVING, within))
    try:
        with located_errors(path, set_ or ()), Reporter(aside) as reporter, leaving:
            options: dict[str, Any] = {"address": address, "approval": approval, "stop": leaving}
            summary = run_study(spec, folder, on_phase=reporter.phase, on_event=reporter.event, **options)
    except LeaseLost:
        text = f"{folder}: another process has taken this sweep over, having heard nothing of this one for too long"
        raise SpecError(text) from None
    except ClusterLost as error:
        complain(str(error))
        raise typer.Exit(LOST) from None
    except KeyboardInterrupt:
        aside.print("interrupted; what is finished is kept, and the same command goes on from here")
        raise typer.Exit(3 if leaving.orderly else 130) from None
    refusal = summary["stopped_by"] if summary["waits_for_approval"] else None
    if json_:
        print_json(summary)
    else:
        if told := outcome(summary):
            say(told)
        for table in summary_tables(summary):
            screen.print(table.rich())
        warn([text for text in summary["warnings"] if text != refusal])
        screen.print(
            f"{summary['runs']['done']} runs done; this command took {summary['seconds']:.0f} s", highlight=False
        )
        if summary["law"] or summary["findings"]:
            page = f"{address_of(folder) or folder}/report.html"
            screen.print(f"figures and report: {page}", highlight=False, soft_wrap=True, markup=False)
    if refusal is not None:
        complain(refusal)
    if summary["stopped_by"]:
        raise typer.Exit(0 if stopped_ok and not leaving.orderly else 3)
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
    from nextscale.sweeps.design.expand import resolve_spec
    from nextscale.sweeps.plan.spec_files import located_errors
    from nextscale.sweeps.run.detach import detach, gate_closed

    spec = _read(path, set_)
    with located_errors(path, set_ or ()):
        spec = resolve_spec(spec)
    folder = out or Path("out") / spec.name
    if (bucket := address_of(folder)) is not None:
        text = "keeps its log in a folder; leave it out, and start the sweep under nohup or tmux"
        raise SpecError(f"--detach: {text} (--out {bucket})")
    if (refusal := gate_closed(spec, folder, approval)) is not None:
        complain(refusal)
        raise typer.Exit(3)
    where = detach(spec, folder, address, approval)
    if json_:
        print_json({"at_work_as": where, "out": str(folder)})
        return
    screen.print(f"at work as {where}; see `nextscale status {folder}`", markup=False, highlight=False, soft_wrap=True)


def _read(path: Path, set_: list[str] | None) -> SweepSpec:
    from nextscale.sweeps.plan.spec_files import load_spec

    return load_spec(path, set_ or ())
