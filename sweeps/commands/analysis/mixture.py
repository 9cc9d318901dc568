"""The command `mixture`: which proportions of domains to train on."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from nextscale.sweeps.commands.analysis.options import Source
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, busy, note, print_json, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at

app = typer.Typer()


@app.command()
@with_option_groups
def mixture(
    source: Source,
    domains: Annotated[str, typer.Option(metavar="NAME,NAME", help="columns of the proportions of each domain")],
    domain_loss: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=WEIGHT]",
            help="column of a loss that counts, and how much; may be given again \\[default: the loss]",
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="of the bootstrap")] = 100,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="of the intervals")] = 0.9,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Finds the mixture of domains of the lowest loss, or weighted mean of losses, by a law of each."""
    from nextscale.fit import plot as draw
    from nextscale.fit.tuning.mixtures import best_mixture, check_proportions
    from nextscale.sweeps.show.formats import interval, loss, text
    from nextscale.sweeps.show.tables import table_of

    names = [name.strip() for name in domains.split(",")]
    weights = _weights(domain_loss or ())
    if weights and source.loss_column:
        raise SpecError("--loss-column: is of one loss; name it with --domain-loss beside the others")
    rows = source.rows()
    shares = check_proportions(rows, names, str(source.runs))
    rows = rows.assign(**{name: shares[name] for name in names})
    scale = [variable for variable in source.variables_in(rows) if variable in ("N", "D")]
    columns = {name: dataclasses.replace(source, loss_column=name) for name in weights} or {"loss": source}
    runs = {name: one.of_rows(rows, (*scale, *names)) for name, one in columns.items()}
    with busy(len(rows)):
        found = best_mixture(runs, names, weights or None, resamples=resamples, level=level)
    if plot is not None:
        with axes_at(plot) as axes:
            draw.mixture(axes, found)
    if json_:
        print_json(found.to_dict())
        return
    best = [
        {"domain": name, "best": share, "interval": found.intervals[name]} for name, share in found.proportions.items()
    ]
    share_columns = (
        ("domain", "domain", text),
        ("best proportion", "best", _share),
        (f"{level:.0%} interval", "interval", lambda ends: interval(ends, _share)),
    )
    screen.print(table_of("The mixture of the lowest loss", best, *share_columns).rich())
    scores = [
        row
        | {"weight": found.weights[row["loss"]], "at_best": found.losses[row["loss"]]}
        | {"interval": found.loss_intervals[row["loss"]]}
        for row in found.held_out.to_dict("records")
    ]
    loss_columns = (
        ("loss", "loss", text),
        ("weight", "weight", _share),
        ("there", "at_best", loss),
        (f"{level:.0%} interval", "interval", interval),
        ("held-out R²", "r2", _share),
        ("held-out |error|", "error", _error),
        ("of the largest", "largest_error", _error),
    )
    title = "Each loss at that mixture, and what its law missed of runs that it was not fitted to"
    screen.print(table_of(title, scores, *loss_columns).rich())
    note(list(dict.fromkeys(text for one in runs.values() for text in one.notes)))
    warn(found.warnings)


def _weights(texts: list[str] | tuple[str, ...]) -> dict[str, float]:
    found = {}
    for given in texts:
        name, _, weight = given.partition("=")
        try:
            found[name] = float(weight or 1)
        except ValueError:
            raise SpecError(f"--domain-loss {given}: '{weight}' is not a number") from None
    return found


def _share(value: float) -> str:
    return f"{value:.3f}"


def _error(value: float) -> str:
    return "-" if value != value else f"{value:.2%}"
