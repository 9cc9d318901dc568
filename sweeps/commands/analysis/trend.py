"""The command `trend`: whether the newest runs continue the law."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.commands.analysis.law_options import LawChoice
from nextscale.sweeps.commands.analysis.options import Source, notes_of
from nextscale.sweeps.terminal.console import Json, note, print_json, say, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at

app = typer.Typer()


@app.command()
@with_option_groups
def trend(
    source: Source,
    chosen: LawChoice,
    new: Annotated[Path | None, typer.Option(metavar="RUNS", help="newer runs, to be held against the law")] = None,
    newest: Annotated[int, typer.Option(min=1, help="budgets, the largest, that are tested for flattening")] = 1,
    alarm: Annotated[float, typer.Option(min=1e-6, max=0.5, help="false-alarm rate of each verdict")] = 0.05,
    at: Annotated[
        float | None,
        typer.Option(
            min=1, max=1e40, metavar="FLOPS", help="where to tell what follows \\[default: ten times the largest]"
        ),
    ] = None,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Is it flattening? Do the newest budgets continue the law of those before, and new runs that of all?"""
    from nextscale.fit.trust.forecaster import fit_forecaster
    from nextscale.fit.trust.trend import trend as trend_of
    from nextscale.sweeps.show.formats import interval_between, loss, text, three_digits
    from nextscale.sweeps.show.tables import table_of

    choice, table = chosen.read(source)
    found = fit_forecaster(table, choice.law, **choice.options)
    newer = None if new is None else source.read_other(new, choice.variables)
    result = trend_of(found, newer, newest=newest, alarm=alarm, flops=at)
    if plot is not None:
        from nextscale.fit import plot as draw

        with axes_at(plot) as axes:
            draw.trend(axes, found, result)
    if json_:
        print_json(result.to_dict())
        return
    say(result.answer)
    if not result.runs.empty:
        rows = [
            row | {"range": interval_between(row["low"], row["high"], loss)} for row in result.runs.to_dict("records")
        ]
        columns = (
            ("run", "run_id", text),
            (found.runs.scale_name, found.runs.scale_name, three_digits),
            ("loss", "loss", loss),
            ("predicted", "predicted", loss),
            (f"{1 - alarm:.0%} interval", "range", text),
            ("surprise", "surprise", three_digits),
            ("p", "p", three_digits),
            ("verdict", "verdict", text),
        )
        screen.print(table_of("New runs, held against the law", rows, *columns).rich())
    screen.print(f"one in {1 / alarm:.0f} runs that continue the law is said not to", highlight=False)
    note([*notes_of(source.runs, found.runs), *(() if newer is None or new is None else notes_of(new, newer))])
    warn([*dict.fromkeys((*found.warnings, *result.warnings))])
