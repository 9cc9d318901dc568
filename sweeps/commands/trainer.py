"""The command `trainer check`: whether a trainer of one's own keeps its contract."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, Set, Spec, print_json, screen

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Check a trainer of your own.")
app.add_typer(group, name="trainer")

_WORDS = {True: "kept", False: "NOT KEPT", None: "-"}


@group.callback()
def common() -> None:
    pass


@group.command()
def check(
    spec: Spec,
    set_: Set = None,
    steps: Annotated[int, typer.Option(min=2, help="of the run that is trained")] = 20,
    within: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="for the first row of its curve, and then for its end")
    ] = 600.0,
    json_: Json = False,
) -> None:
    """Tells what a trainer of one's own does not keep of its contract.

    The smallest size of a spec is trained for a few steps, on this machine: killed once, asked to stop once, started
    again. Exits with 1 if there is anything that is not kept.
    """
    from nextscale.model.accounting import parameters
    from nextscale.model.config.external import ExternalRun
    from nextscale.model.external.check import check_trainer
    from nextscale.sweeps.design.expand import resolve_spec
    from nextscale.sweeps.plan.spec_files import load_spec, located_errors
    from nextscale.sweeps.show.tables import Table
    from nextscale.sweeps.spec.sweep_spec import ExternalSpec

    read = load_spec(spec, set_ or ())
    if not isinstance(read, ExternalSpec):
        raise SpecError(f"{spec}: is trained by nextscale itself; a trainer is named by trainer.command")
    with located_errors(spec, set_ or ()), tempfile.TemporaryDirectory() as folder:
        read = resolve_spec(read)
        smallest = min((read.model_at(name) for name in read.names(None)), key=parameters)
        batch_tokens = read.batch(smallest, 0.0)
        run = read.run_of(smallest, read.training_at(smallest, steps, batch_tokens), read.design.seeds[0])
        assert isinstance(run, ExternalRun)
        points = check_trainer(run, Path(folder), within)
    if json_:
        print_json({"size": smallest.label, "steps": steps, "points": [dataclasses.asdict(one) for one in points]})
    else:
        rows = [[one.point, _WORDS[one.kept], one.seen] for one in points]
        title = f"{smallest.label}, {steps} steps of {batch_tokens} tokens"
        screen.print(Table(title, ["it", "", "what was seen"], rows, left=3, wraps=True).rich())
    if any(one.kept is False for one in points):
        raise typer.Exit(1)
