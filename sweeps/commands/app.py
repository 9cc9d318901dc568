"""The `nextscale` command. Nothing heavy is imported before it is needed: `--help` and `plan` are instant."""

from __future__ import annotations

import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from nextscale.fit.errors import options_are_told
from nextscale.sweeps.commands import (
    export,
    hardware,
    import_runs,
    init,
    ledger,
    plan,
    report,
    rerun,
    run,
    runs,
    specs,
    trainer,
    watch,
)
from nextscale.sweeps.commands.analysis import (
    backtest,
    compare,
    fit,
    forecast,
    frontier,
    lifetime,
    mixture,
    next_runs,
    trend,
)
from nextscale.sweeps.commands.curves import collapse, curve
from nextscale.sweeps.commands.models import model
from nextscale.sweeps.errors import USER_ERRORS
from nextscale.sweeps.terminal.addresses import with_places_here
from nextscale.sweeps.terminal.console import be_plain, complain
from nextscale.sweeps.terminal.usage_errors import USAGE, usage_error

COMMANDS_BY_HEADING = {
    "Plan and run": ("quickstart", "init", "trainer", "plan", "run", "rerun", "drop"),
    "Watch": ("status", "serve", "logs", "stop"),
    "Laws from runs": ("fit", "backtest", "frontier", "compare", "trend", "curve", "mixture"),
    "Forecasts": ("forecast", "overtrain", "inference", "family", "next", "ledger"),
    "Pages and figures": ("report", "site"),
    "Keep and share": ("runs", "verify", "gc", "import", "export", "model"),
    "Look things up": ("specs", "laws", "hardware", "launch", "schema"),
}
"""Every command by its heading, in the order in which one comes to need them."""


class OrderedCommands(TyperGroup):
    """Commands in the order of `COMMANDS_BY_HEADING`; one that it does not name comes last."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        headings = {
            name: heading for heading, names in COMMANDS_BY_HEADING.items() for name in names if name in self.commands
        }
        others = [name for name in self.commands if name not in headings]
        self.commands = {name: self.commands[name] for name in (*headings, *others)}
        for name, heading in headings.items():
            self.commands[name].rich_help_panel = heading  # type: ignore[attr-defined]
        for command in self.commands.values():
            # The lines of a docstring are no lines of a terminal: each paragraph is broken where that ends.
            command.help = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))


def _print_version(asked: bool) -> None:
    if asked:
        print(f"nextscale {importlib.metadata.version('nextscale')}")
        raise typer.Exit


app = typer.Typer(
    cls=OrderedCommands,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Plan, train and fit scaling-law sweeps; forecast the next, bigger model.\n\n"
    "A first look: [bold]nextscale quickstart[/bold]. With runs of your own: [bold]nextscale fit runs.csv[/bold].",
    epilog="Exit codes: 0 done, 1 finished with failed runs or without a law, 2 the input was wrong, 3 a cap, a stop, "
    "a signal or a gate that waits for an approval left runs to do, 75 the cluster went away, 130 interrupted.",
)


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and leave", is_eager=True, callback=_print_version)
    ] = False,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            envvar="NEXTSCALE_PLAIN",
            help="no boxes, no colours, nothing that moves: a line for each row, for screen readers and logs",
        ),
    ] = False,
) -> None:
    be_plain(plain)


for module in (
    plan,
    run,
    rerun,
    init,
    trainer,
    specs,
    watch,
    runs,
    ledger,
    report,
    export,
    import_runs,
    model,
    hardware,
):
    app.add_typer(module.app)
curve.group.add_typer(collapse.app)
for analysis in (fit, backtest, frontier, compare, trend, curve, mixture, forecast, next_runs, lifetime):
    app.add_typer(analysis.app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; what a user can mend is one line on stderr and exit code 2."""
    # A fit is thousands of small matrix products: threads for each take twice the processor time, and longer.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name is shown also where the terminal has no letters for it
            stream.reconfigure(errors="backslashreplace")
    try:
        with options_are_told():
            with with_places_here(sys.argv[1:] if arguments is None else arguments) as given:
                code = app(args=given, prog_name="nextscale", standalone_mode=False)
            sys.exit(code or 0)
    except USER_ERRORS as error:
        _fail(str(error))
    except USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed, and all there is to say
            sys.exit(2)
        _fail(str(usage_error(error)))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> NoReturn:
    complain(message)
    sys.exit(2)
