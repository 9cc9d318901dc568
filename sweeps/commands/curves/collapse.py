"""The command `curve collapse`: training curves of several sizes on one another, and the run that leaves the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from nextscale.sweeps.commands.analysis.options import TableOptions
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, note, print_json, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, two_axes_at

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.sweeps.show.formats import Format

app = typer.Typer()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder:
    """Curves of runs of several sizes, and what their columns mean."""

    panel: ClassVar = "Columns and rows"

    curves: Annotated[
        list[Path],
        typer.Argument(
            metavar="CURVES...",
            help="files with a row per logged step: run, step or tokens, loss, and if it can be params, tokens and lr; "
            "or the --out of a sweep",
        ),
    ]
    curve_column: Annotated[str | None, typer.Option(metavar="NAME", help="column that tells runs apart")] = None
    step_column: Annotated[str | None, typer.Option(metavar="NAME", help="column of the step, or tokens so far")] = None
    loss_column: Annotated[str | None, typer.Option(metavar="NAME", help="column of the loss, nats per token")] = None
    params_column: Annotated[str | None, typer.Option(metavar="NAME", help="column of N")] = None
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="rows to use, of every table, as pandas queries: 'params > 1e6'"),
    ] = None
    length: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN=STEPS",
            help="a run that is under way, and the steps (or tokens) that it is planned for; may be given again",
        ),
    ] = None

    def read(self) -> tuple[pd.DataFrame, list[str]]:
        """One table of all, each run by a name of its own, and notes."""
        import pandas as pd

        from nextscale.fit.curves.curve import numbers_of
        from nextscale.fit.table.reading import read_table

        tables: list[pd.DataFrame] = []
        notes: list[str] = []
        taken: set[str] = set()
        named = {key: getattr(self, f"{key}_column") for key in ("curve", "step", "loss", "params")}
        columns = {key: name for key, name in named.items() if name is not None}
        for path in self.curves:
            if path.is_dir():
                table, said = _of_sweep(path)
                table, notes = TableOptions(where=self.where).prepared(table, path), notes + said
            else:
                table = TableOptions(where=self.where).prepared(read_table(path), path)
                kept = ("step", "tokens", "params", "lr", "length")
                table = numbers_of(table, ("loss",), path.stem, columns, kept)
            twice = taken & set(table["curve"])
            tables.append(table.assign(curve=[f"{path}: {run}" if run in twice else run for run in table["curve"]]))
            taken |= set(tables[-1]["curve"])
        if len({"step" in table for table in tables}) > 1:
            raise SpecError("some tables have steps and some do not; name the same quantity with --step-column")
        return pd.concat(tables, ignore_index=True), notes

    @property
    def lengths(self) -> dict[str, float]:
        found = {}
        for text in self.length or ():
            run, _, steps = text.rpartition("=")
            try:
                found[run] = float(steps)
            except ValueError:
                found[run] = 0.0
            if not (run and found[run] > 0):
                raise SpecError(f"--length {text}: write it as RUN=STEPS, such as --length 7b=120000")
        return found


@app.command()
@with_option_groups
def collapse(
    curves: Ladder,
    irreducible: Annotated[
        float | None,
        typer.Option(
            metavar="L0",
            help="irreducible loss; 0 divides by the final loss alone \\[default: by which curves collapse best]",
        ),
    ] = None,
    start: Annotated[
        float, typer.Option(min=0, max=0.9, metavar="SHARE", help="of training, left out at the start")
    ] = 0.1,
    false_alarms: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, metavar="SHARE", help="of tables without fault, in which a run is named"),
    ] = 0.05,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="of the intervals")] = 0.9,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Lays the training curves of a ladder of models on one another, and names a run that leaves them.

    Curves of models trained alike (one ratio of tokens to parameters, one schedule) are one curve once each is divided
    by its scale (Qiu et al. 2025; Bergsma et al. 2025). One that leaves the others has a fault, and shows it early.
    """
    from nextscale.fit.curves.collapse import collapse as collapsed
    from nextscale.sweeps.show import formats
    from nextscale.sweeps.show.tables import table_of

    table, notes = curves.read()
    where = str(curves.curves[0]) if len(curves.curves) == 1 else "curves"
    found = collapsed(
        table,
        lengths=curves.lengths,
        irreducible=irreducible,
        start=start,
        false_alarms=false_alarms,
        level=level,
        name=where,
    )
    if plot is not None:
        from nextscale.fit import plot as figures

        with two_axes_at(plot) as (left, right):
            figures.collapse(left, found)
            figures.tolerance(right, found)
    card = found.to_dict()
    if json_:
        print_json(card | {"notes": notes})
        return
    rows = [
        row
        | {
            "interval": None if row["low"] != row["low"] else (row["low"], row["high"]),
            "left": "" if row["left"] != row["left"] else f"{row['left']:.0%}",
        }
        for row in card["runs"]
    ]
    columns = (
        ("run", "run", formats.text),
        ("tokens/param", "tokens_per_param", _unless_unknown(formats.three_digits)),
        ("done", "done", lambda share: f"{share:.0%}"),
        ("loss at the end", "final", formats.loss),
        (f"{level:.0%} interval", "interval", formats.interval),
        ("largest departure", "times", _unless_unknown(lambda times: f"{times:+.1f}")),
        ("limit", "limit", _unless_unknown(lambda times: f"{times:.1f}")),
        ("left at", "left", formats.text),
    )
    title = (
        f"{len(rows)} curves above an irreducible loss of {found.irreducible:.4g}: spread {found.tolerance:.2%} "
        f"(at most {found.spread['tolerance'].max():.2%})"
    )
    screen.print(table_of(title, rows, *columns).rich())
    note(notes)
    warn([*found.alarms, *found.warnings])


def _unless_unknown(form: Format) -> Format:
    return lambda value: "-" if value != value else form(value)


def _of_sweep(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """The training losses of its runs, with the rates and lengths of their configs."""
    import numpy as np
    import pandas as pd

    from nextscale.model.training.optimizer import unit_schedule
    from nextscale.sweeps.store.store import Store, load_curves, own_run

    table = load_curves(folder, of="training")
    if table.empty or table["loss"].isna().all():
        raise SpecError(f"{folder}: none of its runs has a training curve")
    store, parts, apart = Store.existing(folder), [], 0
    for run_id, rows in table.groupby("run_id", sort=False):
        config = own_run(store, str(run_id))
        if config.parent is not None:
            apart += 1
            continue
        ends = rows["tokens"].to_numpy(float)
        # A row has the mean of the steps since the row before.
        middles = (ends + np.concatenate([[0], ends[:-1]])) / 2
        steps = np.maximum(np.rint(middles / config.training.batch_tokens).astype(int) - 1, 0)
        rates = config.training.lr * unit_schedule(config.training, steps).astype(float)
        length = config.tokens - (ends[-1] - middles[-1] if ends[-1] >= config.tokens else 0.0)
        parts.append(rows[["params", "loss"]].assign(curve=str(run_id), tokens=middles, lr=rates, length=length))
    if not parts:
        raise SpecError(f"{folder}: all of its runs go on from another")
    return pd.concat(parts, ignore_index=True), (
        [f"{folder}: {apart} runs that go on from another are left out"] if apart else []
    )
