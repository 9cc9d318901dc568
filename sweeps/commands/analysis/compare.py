"""The command `compare`: how much compute one recipe is worth over another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nextscale.sweeps.commands.analysis.options import Source, notes_of, numbers_by_name
from nextscale.sweeps.terminal import completion
from nextscale.sweeps.terminal.console import Json, note, print_json, say, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, two_axes_at

app = typer.Typer()
_VARIABLES = ("N", "D")


@app.command()
@with_option_groups
def compare(
    source: Source,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="runs of recipe B; RUNS are those of recipe A")],
    law: Annotated[
        str,
        typer.Option(metavar="NAME", help="a sum of powers in N and D, or in C; auto", autocompletion=completion.laws),
    ] = "auto",
    shared: Annotated[
        Literal["exponents", "asymptote"],
        typer.Option(help="exponents (and E) are the same in both, or the asymptote alone"),
    ] = "exponents",
    flops: Annotated[
        float | None,
        typer.Option(
            "--at",
            "--flops",
            min=1,
            metavar="FLOPS",
            help="where to tell it: what the worse recipe takes \\[default: amid the runs]",
        ),
    ] = None,
    fix: Annotated[
        list[str] | None, typer.Option(metavar="PARAMETER=VALUE", help="pin a parameter of both; may be given again")
    ] = None,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="of the intervals")] = 0.9,
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="of the bootstrap")] = 500,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Is recipe B worth more compute than recipe A, at your target scale?

    The multiplier for the same loss, with its interval, and how it changes with compute. Read off the measured lower
    envelopes where both have them, and by a law elsewhere.
    """
    from nextscale.fit.laws.catalogue import law_named
    from nextscale.fit.trust.compare import compare as compare_runs
    from nextscale.sweeps.show.formats import interval_between, text, three_digits
    from nextscale.sweeps.show.tables import table_of

    variables = _VARIABLES if law == "auto" else law_named(law).variables
    a, b = source.read(variables), source.read_other(other, variables)
    how: dict[str, Any] = {"level": level, "resamples": resamples}
    how["fixed"] = numbers_by_name(fix or (), "--fix", "PARAMETER=VALUE")
    result = compare_runs(a, b, law, shared=shared, flops=flops, **how)
    if plot is not None:
        from nextscale.fit import plot as draw

        with two_axes_at(plot) as (left, right):
            draw.multiplier(left, result)
            draw.recipes(right, a, b)
    if json_:
        print_json(result.to_dict())
        return
    say(result.answer)
    rows = [
        row | {"range": interval_between(row["multiplier_low"], row["multiplier_high"], three_digits)}
        for row in result.table.iloc[:: max(1, len(result.table) // 8)].to_dict("records")
    ]
    columns = (
        ("FLOPs", "flops", three_digits),
        ("multiplier", "multiplier", three_digits),
        (f"{level:.0%} interval", "range", text),
        ("both have runs here", "inside", lambda inside: "yes" if inside else ""),
        ("by", "by", lambda by: result.law if by == "law" else by),
    )
    screen.print(table_of("What B is worth over A, in compute", rows, *columns).rich())
    note([*notes_of(source.runs, a), *notes_of(other, b)])
    warn(result.warnings)
