"""The commands `specs` and `schema`: the specs that ship, and the JSON Schema of a spec."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.spec.layers import ready_spec, ready_specs
from nextscale.sweeps.terminal import completion
from nextscale.sweeps.terminal.console import Json, print_json, screen

app = typer.Typer()


@app.command()
def specs(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="print this one, to be copied", autocompletion=completion.ready),
    ] = None,
    json_: Json = False,
) -> None:
    """Lists the specs that ship: run one by its name, extend it, or copy it."""
    from nextscale.sweeps.show.tables import Table

    if name is not None:
        text = ready_spec(name).read_text()
        if json_:
            print_json({"name": name, "spec": text})
        else:
            print(text, end="")
        return
    known = {name: purpose(path) for name, path in ready_specs().items()}
    if json_:
        print_json({"specs": known})
        return
    rows = [[name, text] for name, text in known.items()]
    screen.print(Table(f"{len(rows)} ready specs", ["spec", "what it finds"], rows, left=2, wraps=True).rich())


def purpose(path: Path) -> str:
    """The first sentence of the comment that a spec begins with."""
    lines = path.read_text().splitlines()
    comment = " ".join(line[2:] for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")])
    return re.split(r"(?<=\.) (?=[A-Z])", comment)[0]


@app.command()
def schema() -> None:
    """Prints the JSON Schema of a spec, by which editors complete it."""
    from nextscale.sweeps.spec.schema import spec_schema

    print_json(spec_schema())
