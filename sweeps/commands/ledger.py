"""The command `ledger`: forecasts and their scores, and the score of a run that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, note, print_json, screen
from nextscale.sweeps.terminal.plot_files import PlotFile, two_axes_at

if TYPE_CHECKING:
    from nextscale.sweeps.ledger import Ledger
    from nextscale.sweeps.show.tables import Table


class _ShownUnlessAsked(TyperGroup):
    """`ledger OUT` is `ledger show OUT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        asked = args and (args[0] in self.commands or args[0] == "--help")
        # A shell that completes `ledger ` wants to know what may follow.
        if not asked and (args or not ctx.resilient_parsing):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer()
_ledger = typer.Typer(
    cls=_ShownUnlessAsked,
    help="Tells of the forecasts that were written down, and how they came out.\n\n"
    "`nextscale ledger OUT` shows those of a folder.",
)
app.add_typer(_ledger, name="ledger")


@_ledger.command()
def show(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[OUT|FILE]...", help="output folders, or ledgers \\[default: ledger.jsonl and out/*/ledger.jsonl]"
        ),
    ] = None,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Tells the hits, misses, bias and calibration of all forecasts ever made, and what was approved."""
    from nextscale.sweeps.forecasts.calibration import calibration, calibration_tables, outcomes

    ledgers = _ledgers(places)
    table = outcomes(ledgers)
    scores = calibration(table)
    if plot is not None:
        _draw(plot, table, scores)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    approvals = [{"ledger": str(ledger.path)} | entry for ledger in ledgers for entry in ledger.approvals()]
    if json_:
        found = {"forecasts": rows, "calibration": scores, "approvals": approvals}
        print_json({"ledgers": [str(one.path) for one in ledgers]} | found)
        return
    if rows:
        for shown in calibration_tables(table, scores):
            screen.print(shown.rich())
    else:
        screen.print("no forecasts yet")
    if approvals:
        screen.print(_approval_table(approvals).rich())
    note(scores["notes"])


def _approval_table(entries: list[dict[str, Any]]) -> Table:
    from nextscale.sweeps.show import formats, tables

    shown = []
    for entry in entries:
        unseen = "" if entry["forecast_seen"] in (True, None) else ", not yet seen"
        shown.append(entry | {"made": _minute(entry["time"]), "of": (entry["forecast"] or "-")[:8] + unseen})
    columns = (
        ("approved (UTC)", "made", formats.text),
        ("sweep", "sweep", formats.text),
        ("gate", "gate", formats.text),
        ("value", "value", formats.number),
        ("limit", "limit", formats.number),
        ("forecast", "of", formats.text),
        ("by", "by", formats.text),
        ("reason", "reason", formats.text),
    )
    return tables.table_of("Gates that were approved", shown, *columns)


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


@_ledger.command()
def score(
    file: Annotated[Path, typer.Argument(metavar="OUT|FILE", help="an output folder, or a ledger")],
    loss: Annotated[float, typer.Option(min=1e-9, help="that was measured, nats per token")],
    params: Annotated[float | None, typer.Option(min=1, help="of the run, counted as in the forecast")] = None,
    tokens: Annotated[float | None, typer.Option(min=1, help="of the run")] = None,
    run_id: Annotated[str, typer.Option(metavar="NAME", help="what to call the run")] = "by hand",
    forecast: Annotated[str | None, typer.Option(metavar="HASH", help="of the forecast, or how it begins")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="of parameters and tokens each, to find the forecast by \\[default: 0.05]"),
    ] = None,
    json_: Json = False,
) -> None:
    """Scores the forecast of a run that was trained elsewhere.

    Runs of a folder are scored by `nextscale run`.
    """
    from nextscale.sweeps.forecasts.registry import TOLERANCE, score_by_hand
    from nextscale.sweeps.show.formats import loss as nats
    from nextscale.sweeps.show.formats import percent

    (ledger,) = _ledgers([file])
    within = TOLERANCE if tolerance is None else tolerance
    scores = score_by_hand(ledger, loss, run_id=run_id, params=params, tokens=tokens, prefix=forecast, tolerance=within)
    if json_:
        print_json({"scores": scores})
        return
    for entry in scores:
        target = entry["targets"][0]
        verdict = "inside the interval" if target["inside"] else "outside the interval"
        measured, error = nats(target["measured"]), percent(target["error"])
        text = f"forecast {entry['forecast'][:8]}: measured {measured}, error {error}, {verdict}"
        screen.print(text, highlight=False)


def _ledgers(places: list[Path] | None) -> list[Ledger]:
    from nextscale.sweeps.ledger import Ledger

    if not places:
        here = Path()
        return [
            Ledger(path) for path in (here / "ledger.jsonl", *sorted(here.glob("out/*/ledger.jsonl"))) if path.exists()
        ]
    files = dict.fromkeys(place / "ledger.jsonl" if place.is_dir() else place for place in places)
    for place, file in zip(places, files, strict=False):
        if not file.exists() and not (place.is_dir() and (place / "runs").is_dir()):
            raise SpecError(f"{file}: there is no such ledger; name the --out of `nextscale run`, or a ledger.jsonl")
    return [Ledger(file) for file in files]


def _draw(path: Path, table: Any, scores: dict[str, Any]) -> None:
    from nextscale.fit import plot

    with two_axes_at(path) as (left, right):
        plot.forecast_errors(left, table)
        plot.calibration(right, scores["levels"])
