"""The command `next`: the runs that narrow a forecast most per FLOP."""

from __future__ import annotations

from typing import Annotated

import typer

from nextscale.sweeps.commands.analysis.law_options import Weighed
from nextscale.sweeps.commands.analysis.options import Source
from nextscale.sweeps.terminal.console import Json, note, print_json, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at

app = typer.Typer()


@app.command("next")
@with_option_groups
def next_(
    source: Source,
    chosen: Weighed,
    target: Annotated[float, typer.Option(min=1, max=1e40, help="training compute that is to be forecast")],
    budget: Annotated[float | None, typer.Option(min=1, help="FLOPs that the next runs may spend in all")] = None,
    most: Annotated[int, typer.Option("--runs", min=1, max=100, help="to choose, at most")] = 8,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Chooses which runs to do next: those that narrow the forecast at a target most per FLOP."""
    from nextscale.fit.trust.forecaster import fit_forecaster
    from nextscale.fit.trust.next_run import next_runs
    from nextscale.sweeps.show import formats, tables

    rows = source.rows()
    choice, variables = chosen.read_rows(source, rows, ("N", "D"), ("C",))
    found = fit_forecaster(source.of_rows(rows, variables), choice.law, resamples=200, **choice.options)
    result = next_runs(found, target, budget=budget, runs=most)
    if plot is not None:
        from nextscale.fit import plot as draw

        with axes_at(plot) as axes:
            draw.next_runs(axes, result)
    if json_:
        print_json(result.to_dict())
        return
    sized = [("parameters", "params", formats.count), ("tokens", "tokens", formats.count)]
    columns = (
        *(column for column in sized if column[1] in result.sequence),
        ("FLOPs", "flops", formats.three_digits),
        ("spent", "spent", formats.three_digits),
        ("forecast uncertain by", "spread_after", lambda spread: f"{spread:.3%}"),
    )
    title = f"The next runs, for a forecast at {result.flops:.3g} FLOPs that is uncertain by {result.spread:.3%} now"
    screen.print(tables.table_of(title, result.sequence.to_dict("records"), *columns).rich())
    note(found.runs.notes)
    warn([*dict.fromkeys((*found.warnings, *result.warnings))])
