"""The command `export`: finished runs into a logger."""

from __future__ import annotations

from typing import Annotated

import typer

from nextscale.sweeps.terminal import completion
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
            autocompletion=completion.loggers,
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
    from nextscale.sweeps.loggers.sweep_export import export_folder
    from nextscale.sweeps.spec.loggers import parse_logger
    from nextscale.sweeps.store.store import Store

    store = Store.existing(out)
    result = export_folder(store, parse_logger(to, set_ or ()))
    if json_:
        print_json({"logger": to} | result)
        return
    unfinished = f", and {result['begun']} as far as they are" if result["begun"] else ""
    screen.print(f"{to} has {result['done']} runs to their end{unfinished}", highlight=False)
