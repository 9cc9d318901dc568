"""The command `frontier`: the compute-optimal size at each budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.sweeps.commands.analysis.law_options import Forecaster
from nextscale.sweeps.commands.analysis.options import Source
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, busy, note, print_json, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at, draw_fit

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.fit.estimate.fit import Fit

app = typer.Typer()

Targets = Annotated[list[float], typer.Option(min=1, max=1e40, help="training compute; may be given again")]

Known = Annotated[
    bool,
    typer.Option(
        "--known-models", help="beside it, in the table and the figure, the sizes and tokens of published models"
    ),
]


@app.command()
@with_option_groups
def frontier(
    source: Source,
    estimator: Forecaster,
    flops: Targets,
    known: Known = False,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Finds the compute-optimal size by approaches 1, 2 and 3 of Hoffmann et al. 2022, side by side."""
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
    if known and found is None:
        raise SpecError("--known-models: one budget has no frontier for them to lie beside; add runs of another budget")
    published = _known_models(found) if known and found is not None else None
    if plot is not None:
        if found is None or len(every.budgets) == 1:
            from nextscale.fit import plot as draw

            with axes_at(plot) as axes:
                draw.isoflop_curves(axes, isoflops(every))
        else:
            draw_fit(plot, found, max(flops), forecast(found, flops)["targets"], published)
    if json_:
        name = None if found is None else found.law.name
        facts: dict[str, Any] = {"law": name, "level": estimator.level, "params_convention": used.convention}
        facts |= {} if published is None else {"known_models": published.to_dict("records")}
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
    if published is not None:
        _show_models(published)
    note(used.notes)
    warn(warnings)


def _known_models(found: Fit) -> pd.DataFrame:
    from nextscale.fit.optimum.known_models import known_models

    models = known_models()
    best = found.frontier(models["flops"].tolist())
    return models.assign(best_params=best["params"].to_numpy(), best_tokens=best["tokens"].to_numpy())


def _show_models(published: pd.DataFrame) -> None:
    from nextscale.sweeps.show.formats import count, text, three_digits
    from nextscale.sweeps.show.tables import table_of

    models = (
        ("model", "name", text),
        ("published", "date", text),
        ("FLOPs (6ND)", "flops", three_digits),
        ("parameters", "params", count),
        ("best by the law", "best_params", count),
        ("tokens", "tokens", count),
        ("best by the law", "best_tokens", count),
        ("source", "source", text),
    )
    title = "Published models, and what this frontier would have trained for their compute"
    screen.print(table_of(title, published.to_dict("records"), *models).rich())
