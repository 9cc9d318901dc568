"""The command `backtest`: which law to trust, and how far."""

from __future__ import annotations

import shlex
from collections.abc import Hashable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.sweeps.commands.analysis.options import Source
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal import completion
from nextscale.sweeps.terminal.console import Json, busy, note, print_json, screen, warn, with_option_groups, words_of
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at

if TYPE_CHECKING:
    from nextscale.fit.trust.candidates import Candidate
    from nextscale.fit.trust.choice import Choice

app = typer.Typer()


@app.command()
@with_option_groups
def backtest(
    source: Source,
    laws: Annotated[
        list[str] | None,
        typer.Option(
            "--law",
            metavar="NAME",
            help="to try; may be given again \\[default: all that are quickly fitted]",
            autocompletion=completion.laws,
        ),
    ] = None,
    objectives: Annotated[
        list[str] | None,
        typer.Option("--objective", metavar="KIND", help="to try; may be given again \\[default: five]"),
    ] = None,
    delta: Annotated[float | None, typer.Option(min=1e-12, help="of the --objective, in log loss")] = None,
    cuts: Annotated[int, typer.Option(min=1, max=50, help="in scale, below which laws are fitted")] = 5,
    cut: Annotated[
        list[float] | None,
        typer.Option(min=1e-9, metavar="SCALE", help="a cut of your own, such as FLOPs; may be given again"),
    ] = None,
    along: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="that cuts are in, such as experts \\[default: compute]")
    ] = None,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Tells which law to trust, and how far: each is fitted to the smaller runs and scored on the larger."""
    from nextscale.fit.laws.loss import Loss
    from nextscale.fit.table.columns import column_of
    from nextscale.fit.trust.candidates import LOSSES, candidates_for
    from nextscale.fit.trust.choice import choose
    from nextscale.sweeps.show.formats import percent, reach_band, text
    from nextscale.sweeps.show.tables import table_of

    if delta is not None and objectives is None:
        raise SpecError("--delta: is that of an --objective; name one")
    runs = source.read_all(laws or ())
    runs = runs if along is None else runs.ordered_along(column_of(along))
    losses = LOSSES if objectives is None else [Loss.of(kind, delta or 1e-3) for kind in objectives]
    with busy(len(runs)):
        choice = choose(runs, candidates_for(runs, laws, losses), cuts=cut or cuts)
    if plot is not None:
        from nextscale.fit import plot as draw

        with axes_at(plot) as axes:
            draw.backtest(axes, choice)
    command = _command(source, choice.best, along)
    if json_:
        print_json(choice.to_dict() | {"command": command})
        return
    rows = _rows(choice)
    furthest = float(choice.table["furthest"].max())
    differ = any(row["compared"] not in ("", row["within"]) for row in rows)
    columns = (
        (
            "beyond the fitted runs",
            "reach",
            lambda reach: "any" if reach == "all" else f"{reach_band(reach, furthest)} times",
        ),
        ("law", "law", text),
        ("objective", "loss", text),
        ("mean |error|", "within", text),
        ("bias", "bias", percent),
        ("cuts", "cuts", text),
        *((("at the cuts of all", "compared", text),) if differ else ()),
        ("", "mark", text),
    )
    screen.print(table_of("Laws fitted below a cut, scored on the runs above it", rows, *columns).rich())
    screen.print(f"the one to trust: {command}", highlight=False, markup=False, soft_wrap=True)
    note(choice.notes)
    warn(choice.warnings)


def _rows(choice: Choice) -> list[dict[Hashable, Any]]:
    """Of each law the objective that served it best; and where it matters how far, the best law alone."""
    from nextscale.sweeps.show.formats import percent_with_error

    shown = []
    for band, ranked in choice.summary.groupby("reach", sort=False):
        best = ranked.drop_duplicates("law").to_dict("records")
        shown += [*best, *choice.baselines.to_dict("records")] if band == "all" else best[:1]
    return [
        row
        | {
            "mark": "trust" if row["chosen"] else "",
            "within": percent_with_error(row["error"], row["se"]),
            "compared": percent_with_error(row.get("common_error", row["error"]), row.get("common_se", row["se"])),
        }
        for row in shown
    ]


def _command(source: Source, best: Candidate, along: str | None) -> str:
    """That forecasts by it; the values of what it varies in are left to say."""
    from nextscale.fit.table.columns import column_of

    options = {"law": best.law.name, "objective": best.loss.name}
    if best.loss.name in ("huber", "asymmetric"):
        options["delta"] = f"{best.loss.delta:g}"
    if best.loss.name == "asymmetric":
        options["tilt"] = f"{best.loss.tilt:g}"
    words = ["nextscale", "forecast", str(source.runs), *words_of(source)]
    words += [word for name, value in options.items() for word in (f"--{name}", value)]
    usual = set(best.law.variables) in ({"N", "D"}, {"C"})
    if usual and along is None:
        return " ".join([*map(shlex.quote, words), "--flops FLOPS"])
    words += [] if along is None else ["--along", along]
    asked = [f"--at {column_of(name)}=VALUE" for name in best.law.variables]
    return " ".join([*map(shlex.quote, words), *asked])
