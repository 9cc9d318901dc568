"""The commands that need nothing but a table of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nextscale.sweeps.commands.analysis.options import Estimator, LawChoice, Source
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal import completion
from nextscale.sweeps.terminal.console import Json, expanded, note, print_json, say, screen, warn
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at, draw_fit

if TYPE_CHECKING:
    from nextscale.fit.table.runs import Runs

app = typer.Typer()
_VARIABLES = ("N", "D")


Targets = Annotated[list[float], typer.Option(min=1, max=1e40, help="training compute; may be given again")]


@app.command()
def laws(json_: Json = False) -> None:
    """Lists the laws that ship: formula, variables, parameters, source."""
    from nextscale.fit.laws.catalogue import LAWS
    from nextscale.sweeps.show.tables import Table

    if json_:
        print_json(
            {
                "laws": [
                    {
                        "name": law.name,
                        "formula": law.formula,
                        "variables": list(law.variables),
                        "parameters": list(law.parameters),
                        "source": law.source,
                    }
                    for law in LAWS.values()
                ]
            }
        )
        return
    rows = [[law.name, law.formula, ", ".join(law.variables), law.source] for law in LAWS.values()]
    screen.print(Table(f"{len(rows)} laws", ["law", "formula", "in", "source"], rows, left=4, wraps=True).rich())


@app.command()
@expanded
def fit(
    source: Source,
    estimator: Estimator,
    card_file: Annotated[
        Path | None,
        typer.Option("--card", metavar="FILE", help="write the fit card, JSON: all that a reviewer would ask"),
    ] = None,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Fits a scaling law, with intervals, to any table of finished runs."""
    from nextscale.fit.estimate.fit import fit as fit_runs
    from nextscale.sweeps.show.summary_tables import law_table

    found = fit_runs(source.read(estimator.variables), estimator.law, **estimator.options)
    if plot is not None:
        draw_fit(plot, found)
    if card_file is not None:
        from nextscale.fit.trust.card import card as card_of

        _write(card_file, json.dumps(card_of(found), indent=1, allow_nan=False) + "\n")
    card = found.to_dict()
    if json_:
        print_json(card)
        return
    screen.print(law_table(card).rich())
    scatter = f"scatter around the law {found.noise:.2%}"
    screen.print(f"objective {found.objective:.6g} (sum of losses: {found.loss}); {scatter}")
    note(found.runs.notes)
    warn(found.warnings)


@app.command()
@expanded
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
    cuts: Annotated[int, typer.Option(min=1, max=50, help="in compute, below which laws are fitted")] = 5,
    cut: Annotated[
        list[float] | None, typer.Option(min=1, metavar="FLOPS", help="a cut of your own; may be given again")
    ] = None,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Tells which law to trust, and how far: each is fitted to the smaller runs and scored on the larger."""
    from nextscale.fit import plot as draw
    from nextscale.fit.laws.loss import Loss
    from nextscale.fit.trust.choice import LOSSES, candidates_for, choose
    from nextscale.sweeps.show.formats import percent, text
    from nextscale.sweeps.show.tables import table_of

    if delta is not None and objectives is None:
        raise SpecError("--delta: is that of an --objective; name one")
    runs = source.read_all()
    losses = LOSSES if objectives is None else [Loss.of(kind, delta or 1e-3) for kind in objectives]
    choice = choose(runs, candidates_for(runs, laws, losses), cuts=cut or cuts)
    if plot is not None:
        with axes_at(plot) as axes:
            draw.backtest(axes, choice)
    if json_:
        print_json(choice.to_dict())
        return
    shown = []
    for band, ranked in choice.summary.groupby("reach", sort=False):
        # Of each law the objective that served it best; and where it matters how far, the best law alone.
        best = ranked.drop_duplicates("law").to_dict("records")
        shown += [*best, *choice.baselines.to_dict("records")] if band == "all" else best[:1]
    rows = [
        row | {"mark": "trust" if row["chosen"] else "", "within": f"{row['error']:.2%} ± {row['se']:.2%}"}
        for row in shown
    ]
    columns = (
        ("beyond the fitted runs", "reach", lambda reach: "any" if reach == "all" else f"{reach} times"),
        ("law", "law", text),
        ("objective", "loss", text),
        ("mean |error|", "within", text),
        ("bias", "bias", percent),
        ("cuts", "cuts", text),
        ("", "mark", text),
    )
    screen.print(table_of("Laws fitted below a cut, scored on the runs above it", rows, *columns).rich())
    note(choice.notes)
    warn(choice.warnings)


@app.command()
@expanded
def frontier(source: Source, estimator: Estimator, flops: Targets, json_: Json = False, plot: PlotFile = None) -> None:
    """Finds the compute-optimal size by approaches 1, 2 and 3 of Hoffmann et al. 2022, side by side."""
    from nextscale.fit import plot as draw
    from nextscale.fit.estimate.fit import fit as fit_runs
    from nextscale.fit.optimum.approaches import approaches
    from nextscale.sweeps.show.formats import count, loss, number, params_label, text, three_digits
    from nextscale.sweeps.show.tables import table_of

    estimator.check_variables(("N", "D"))
    found = fit_runs(source.read(estimator.variables), estimator.law, **estimator.options)
    table = approaches(found.runs, found, flops)
    rows = [row | {"range": _range(row["params_low"], row["params_high"], count)} for row in table.to_dict("records")]
    if plot is not None:
        with axes_at(plot) as axes:
            draw.approaches(axes, table)
    if json_:
        print_json({"level": found.level, "params_convention": found.runs.convention, "rows": table.to_dict("records")})
        return
    columns = (
        ("FLOPs", "flops", three_digits),
        ("approach", "approach", text),
        (params_label(found.runs.convention), "params", count),
        (f"{found.level:.0%} interval", "range", text),
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
    note(found.runs.notes)
    warn(found.warnings)


@app.command()
@expanded
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
        typer.Option("--at", "--flops", min=1, metavar="FLOPS", help="where to tell it \\[default: amid the runs]"),
    ] = None,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="of the intervals")] = 0.9,
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="of the bootstrap")] = 500,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Is recipe B worth more compute than recipe A, at your target scale?

    The multiplier for the same loss, with its interval, and how it changes with compute.
    """
    from nextscale.fit import plot as draw
    from nextscale.fit.laws.catalogue import law_named
    from nextscale.fit.trust.compare import compare as compare_runs
    from nextscale.sweeps.show.formats import text, three_digits
    from nextscale.sweeps.show.tables import table_of

    variables = _VARIABLES if law == "auto" else law_named(law).variables
    a, b = source.read(variables), source.read_other(other, variables)
    told = compare_runs(a, b, law, shared=shared, flops=flops, level=level, resamples=resamples)
    if plot is not None:
        with axes_at(plot) as axes:
            draw.multiplier(axes, told)
    if json_:
        print_json(told.to_dict())
        return
    say(told.answer)
    rows = [
        row | {"range": _range(row["multiplier_low"], row["multiplier_high"], three_digits)}
        for row in told.table.iloc[:: max(1, len(told.table) // 8)].to_dict("records")
    ]
    columns = (
        ("FLOPs", "flops", three_digits),
        ("multiplier", "multiplier", three_digits),
        (f"{level:.0%} interval", "range", text),
        ("both have runs here", "inside", lambda inside: "yes" if inside else ""),
    )
    screen.print(table_of(f"What B is worth over A, in compute, by {told.law}", rows, *columns).rich())
    note([*_of(source.runs, a), *_of(other, b)])
    warn(told.warnings)


@app.command()
@expanded
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
    from nextscale.fit import plot as draw
    from nextscale.fit.trust.backtest import fit_backtested
    from nextscale.fit.trust.trend import trend as trend_of
    from nextscale.sweeps.show.formats import loss, text, three_digits
    from nextscale.sweeps.show.tables import table_of

    found, _ = fit_backtested(source.read(chosen.variables), (chosen.law,), **chosen.options)
    newer = None if new is None else source.read_other(new, chosen.variables)
    told = trend_of(found, newer, newest=newest, alarm=alarm, flops=at)
    if plot is not None:
        with axes_at(plot) as axes:
            draw.trend(axes, found, told)
    if json_:
        print_json(told.to_dict())
        return
    say(told.answer)
    if not told.runs.empty:
        rows = [row | {"range": _range(row["low"], row["high"], loss)} for row in told.runs.to_dict("records")]
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
    note([*_of(source.runs, found.runs), *(() if newer is None or new is None else _of(new, newer))])
    warn([*dict.fromkeys((*found.warnings, *told.warnings))])


def _of(path: Path, runs: Runs) -> list[str]:
    """The notes on a table, where there are two."""
    return [f"{path}: {text}" for text in runs.notes]


def _range(low: Any, high: Any, form: Callable[[Any], str]) -> str:
    from nextscale.sweeps.show.formats import interval

    return interval(None if low is None and high is None else (low, high), form)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written to ({error.strerror})") from None
