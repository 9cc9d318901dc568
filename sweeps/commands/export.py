"""The command that shows runs elsewhere afterwards: `export`."""

from __future__ import annotations

from typing import Annotated

import typer

from nextscale.sweeps.terminal.completion import one_of
from nextscale.sweeps.terminal.console import Folder, Json, print_json, screen

app = typer.Typer()


@app.command()
def export(
    out: Folder,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="LOGGER",
            help="tensorboard, wandb or mlflow",
            autocompletion=one_of("tensorboard", "wandb", "mlflow"),
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="an option of it, such as project=mine; may be given again"),
    ] = None,
    json_: Json = False,
) -> None:
    """Shows the runs of a folder in TensorBoard, Weights & Biases or MLflow: whatever these do not have yet.

    A sweep does so by itself for the `loggers` of its spec.
    """
    from nextscale.sweeps.loggers.sweep_export import export as export_to
    from nextscale.sweeps.spec.loggers import parsed
    from nextscale.sweeps.store.store import Store

    store = Store.existing(out)
    told = export_to(store, parsed(to, set_ or ()))
    if json_:
        print_json({"logger": to} | told)
        return
    unfinished = f", and {told['begun']} as far as they are" if told["begun"] else ""
    screen.print(f"{to} has {told['done']} runs to their end{unfinished}", highlight=False)
