"""The command `frontier`: the compute-optimal size at each budget."""

from __future__ import annotations

from typing import Annotated

import typer

from nextscale.sweeps.commands.analysis.options import Forecaster, Source
from nextscale.sweeps.terminal.console import Json, busy, note, print_json, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at, draw_fit

app = typer.Typer()

Targets = Annotated[list[float], typer.Option(min=1, max=1e40, help="training compute; may be given again")]


@app.command()
@with_option_groups
def frontier(source: Source, estimator: Forecaster, flops: Targets, json_: Json = False, plot: PlotFile = None) -> None:
    """Finds the compute-optimal size by approaches 1, 2 and 3 of Hoffmann et al. 2022, side by side."""
    from nextscale.fit import plot as draw
    from nextscale.fit.errors import InputError
    from nextscale.fit.optimum.approaches import approaches
    from nextscale.fit.optimum.forecast import forecast
    from nextscale.fit.optimum.isoflop import isoflops
    from nextscale.fit.trust.forecaster import fit_forecaster
    from nextscale.fit.trust.reach import beyond_warnings, reach_errors
    from nextscale.sweeps.show.formats import count, interval_between, loss, number, params_label, text, three_digits
    from nextscale.sweeps.show.tables import table_of

    table_rows = source.rows()
    chosen, variables = estimator.read_rows(source, table_rows, ("N", "D"))
    every = source.of_rows(table_rows, variables)
    found, warnings = None, []
    try:
        with busy(len(every)):
            found = fit_forecaster(every, chosen.law, **chosen.options)
        warnings = [*found.warnings, *beyond_warnings(found, flops, reach_errors(found))]
    except InputError as error:
        if len(every.budgets) > 1:
            raise
        warnings = [f"one budget shows no law, only its own minimum ({error})"]
    used = every if found is None else found.runs
    # A law may leave out small runs, whose minima are minima still.
    table = approaches(every, found, flops, level=estimator.level)
    rows = [
        row | {"range": interval_between(row["params_low"], row["params_high"], count)}
        for row in table.to_dict("records")
    ]
    if plot is not None:
        if found is None or len(every.budgets) == 1:
            with axes_at(plot) as axes:
                draw.isoflop_curves(axes, isoflops(every))
        else:
            draw_fit(plot, found, max(flops), forecast(found, flops)["targets"])
    if json_:
        name = None if found is None else found.law.name
        facts = {"law": name, "level": estimator.level, "params_convention": used.convention}
        print_json(facts | {"rows": table.to_dict("records"), "notes": list(used.notes), "warnings": warnings})
        return
    columns = (
        ("FLOPs", "flops", three_digits),
        ("approach", "approach", text),
        (params_label(used.convention), "params", count),
        (f"{estimator.level:.0%} interval", "range", text),
        ("tokens", "tokens", count),
        ("tokens/param", "tokens_per_param", three_digits),
        ("loss", "loss", loss),
        ("exponent", "exponent", three_digits),
        ("budgets", "budgets", text),
        *((("", "problem", text),) if any(row["problem"] for row in rows) else ()),
    )
    screen.print(table_of("The compute-optimal size, by approach", rows, *columns).rich())
    for row in table.drop_duplicates("flops").to_dict("records"):
        if row["disagreement"]:
            apart = f"a factor of {row['disagreement']:.3g}"
            screen.print(f"at {number(row['flops'], 3)} FLOPs the approaches lie {apart} apart in size")
    note(used.notes)
    warn(warnings)
