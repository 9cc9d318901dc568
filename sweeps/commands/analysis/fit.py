"""The commands `fit` and `laws`: a table of runs becomes a law with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nextscale.sweeps.commands.analysis.law_options import Estimator
from nextscale.sweeps.commands.analysis.options import Source
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, busy, note, print_json, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, draw_fit

app = typer.Typer()


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
@with_option_groups
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

    chosen, runs = estimator.read(source)
    with busy(len(runs)):
        found = fit_runs(runs, chosen.law, **chosen.options)
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


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written to ({error.strerror})") from None
