"""The commands `curve`: laws of the loss under a learning-rate schedule; the reward of reinforcement learning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from nextscale.sweeps.commands.analysis.options import TableOptions
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal import completion
from nextscale.sweeps.terminal.console import Json, note, print_json, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from nextscale.fit.curves.curve import Curve
    from nextscale.fit.curves.curve_fit import CurveFit

_POINTS = 400
"""Of a curve that is drawn."""
_DASHES = ("-", "--", ":", "-.")

app = typer.Typer()
group = typer.Typer(
    no_args_is_help=True,
    help="Training curves: the loss under another learning-rate schedule, a run that leaves a ladder, rewards of RL.",
)
app.add_typer(group, name="curve")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curves:
    """Which curves, and what their columns mean."""

    panel: ClassVar = "Columns and rows"

    curves: Annotated[
        list[Path],
        typer.Argument(
            metavar="CURVES...",
            help="CSV, TSV, JSON, JSONL or Parquet files with a row per logged step: step, lr, loss, and run where a "
            "file has several; or the --out of a sweep",
        ),
    ]
    curve_column: Annotated[str | None, typer.Option(metavar="NAME", help="column that tells curves apart")] = None
    step_column: Annotated[str | None, typer.Option(metavar="NAME", help="column of the step")] = None
    lr_column: Annotated[str | None, typer.Option(metavar="NAME", help="column of the learning rate")] = None
    loss_column: Annotated[str | None, typer.Option(metavar="NAME", help="column of the loss, nats per token")] = None
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="rows to use, of every table, as pandas queries: 'step > 1000'"),
    ] = None
    warmup: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="STEPS",
            help="before a file's first row, in which the rate rose from 0 \\[default: all up to that row]",
        ),
    ] = None

    @property
    def columns(self) -> dict[str, str]:
        named = {key: getattr(self, f"{key}_column") for key in ("curve", "step", "lr", "loss")}
        return {key: name for key, name in named.items() if name is not None}

    def read(self) -> tuple[list[Curve], list[str]]:
        """The curves, each by a name of its own, and notes on them."""
        from nextscale.fit.curves.curve import curves_of
        from nextscale.fit.table.reading import read_table

        found: list[Curve] = []
        notes: list[str] = []
        for path in self.curves:
            if path.is_dir():
                curves, said = self._of_sweep(path)
            else:
                table = TableOptions(where=self.where).prepared(read_table(path), path)
                curves, said = curves_of(table, path.stem, self.columns, self.warmup)
            taken = {curve.name for curve in found}
            found += [
                dataclasses.replace(one, name=f"{path}: {one.name}") if one.name in taken else one for one in curves
            ]
            notes += said
        return found, notes

    def _of_sweep(self, folder: Path) -> tuple[list[Curve], list[str]]:
        """Those of its runs, by their training losses and the schedules of their configs."""
        import numpy as np

        from nextscale.fit.curves.curve import Curve
        from nextscale.model.training.optimizer import unit_schedule
        from nextscale.sweeps.store.store import Store, load_curves, own_run

        table = load_curves(folder, of="training")
        if table.empty or table["loss"].isna().all():
            raise SpecError(f"{folder}: none of its runs has a training curve")
        table = TableOptions(where=self.where).prepared(table.dropna(subset="loss"), folder)
        store, curves, apart = Store.existing(folder), [], 0
        models = set()
        for run_id, rows in table.groupby("run_id", sort=False):
            config = own_run(store, str(run_id))
            if config.parent is not None:  # what its parent's schedule was is not in its config
                apart += 1
                continue
            models.add((int(rows["params"].iloc[0]), config.training.batch_tokens))
            ends = np.rint(rows["tokens"].to_numpy(float) / config.training.batch_tokens).astype(int)
            # A row has the mean of the steps since the row before.
            middles = (ends + np.concatenate([[0], ends[:-1]]) + 1) // 2
            rates = config.training.lr * unit_schedule(config.training, np.arange(config.training.steps)).astype(float)
            curves.append(Curve.of(str(run_id), rates, middles, rows["loss"].to_numpy(float)))
        if len(models) > 1:
            listed = ", ".join(
                f"{params} parameters with {batch} tokens a step" for params, batch in sorted(models)[:4]
            )
            raise SpecError(
                f"{folder}: its curves are of {len(models)} kinds ({listed}), and a law of curves is of one; choose, "
                f"such as --where 'params == {min(models)[0]}'"
            )
        return curves, [f"{folder}: {apart} runs that go on from another are left out"] if apart else []


LawName = Annotated[
    str,
    typer.Option(
        "--law",
        metavar="NAME",
        help="multi-power (Luo et al. 2025) or momentum (Tissue et al. 2024)",
        autocompletion=completion.one_of("multi-power", "momentum"),
    ),
]
Level = Annotated[float, typer.Option(min=0.01, max=0.999, help="of the intervals")]


@group.command()
@with_option_groups
def fit(
    curves: Curves, law: LawName = "multi-power", level: Level = 0.9, json_: Json = False, plot: PlotFile = None
) -> None:
    """Fits one law to the curves of one model under several learning-rate schedules.

    `left out` is the error of a curve's last loss by the law of the other curves.
    """
    from nextscale.fit.curves.curve_fit import fit_curves
    from nextscale.sweeps.show import formats
    from nextscale.sweeps.show.tables import table_of

    given, notes = curves.read()
    found = fit_curves(given, law)
    card = found.to_dict(level)
    if plot is not None:
        with axes_at(plot) as axes:
            _draw(axes, found)
    if json_:
        print_json(card | {"notes": notes})
        return
    parameters = [row | {"range": formats.interval(row["interval"], formats.number)} for row in card["parameters"]]
    columns = (
        ("parameter", "name", formats.text),
        ("value", "value", formats.number),
        (f"{level:.0%} interval", "range", formats.text),
    )
    count = sum(row["losses"] for row in card["curves"])
    screen.print(table_of(f"{found.law.formula}, fitted to {count} losses", parameters, *columns).rich())
    of_curves = (
        ("curve", "curve", formats.text),
        ("losses", "losses", formats.text),
        ("steps", "steps", formats.text),
        ("warm-up", "warmup", formats.text),
        ("R²", "r2", formats.loss),
        ("MAE", "mae", formats.loss),
        ("left out", "left_out", lambda error: "-" if error != error else formats.percent(error)),
    )
    title = f"{_counted(given)}: R² {card['r2']:.4f} and MAE {card['mae']:.4f} nats in the mean"
    screen.print(table_of(title, card["curves"], *of_curves).rich())
    note(notes)
    warn(card["warnings"])


@group.command()
@with_option_groups
def forecast(
    curves: Curves,
    schedule: Annotated[
        list[str],
        typer.Option(
            metavar="SCHEDULE",
            help="cosine, linear, wsd or constant with its options, see above; or a file of step and lr; may be given "
            "again",
        ),
    ],
    law: LawName = "multi-power",
    level: Level = 0.9,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Forecasts the loss at the end of learning-rate schedules, by the law of the curves.

    A SCHEDULE is `cosine:peak=3e-4,steps=20000,warmup=500,final=3e-5`, `linear:...` with the same options,
    `wsd:...,decay=4000` (decay: its last steps; shape=linear, 1-sqrt or exponential), `constant:peak=3e-4,steps=20000`,
    or a file. The interval comes from how far the law of the other curves is off each curve's end.
    """
    from nextscale.fit.curves.curve_fit import fit_curves
    from nextscale.sweeps.show import formats
    from nextscale.sweeps.show.tables import table_of

    given, notes = curves.read()
    planned = {text: _rates(text, curves, notes) for text in schedule}
    found = fit_curves(given, law)
    rows = [_forecast(found, text, rates, level) for text, rates in planned.items()]
    if plot is not None:
        with axes_at(plot) as axes:
            _draw(axes, found, planned, rows)
    warnings = [*found.warnings, *(f"{row['schedule']}: {text}" for row in rows for text in row["warnings"])]
    if json_:
        print_json({"level": level, "forecasts": rows, "fit": found.to_dict(level), "notes": notes})
        return
    columns = (
        ("schedule", "schedule", formats.text),
        ("steps", "steps", formats.text),
        ("loss (nats/token)", "loss", formats.loss),
        (f"{level:.0%} interval", "interval", formats.interval),
    )
    title = f"The loss at the end, by the {found.law.name} law of {_counted(given)}"
    screen.print(table_of(title, rows, *columns).rich())
    note(notes)
    warn(warnings)


@group.command()
@with_option_groups
def rl(
    curve: Annotated[
        Path,
        typer.Argument(metavar="CURVE", help="a file with a row per evaluation of one run: compute and pass rate"),
    ],
    at: Annotated[
        list[float] | None,
        typer.Option(
            metavar="C", help="compute to forecast the reward at, in the unit of the file; may be given again"
        ),
    ] = None,
    initial: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="R0", help="reward before training, where it is known \\[default: fitted]"),
    ] = None,
    compute_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="column of the compute: FLOPs, GPU-hours or steps")
    ] = None,
    reward_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="column of the mean reward or pass rate, shares or percent")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="rows to use, as a pandas query: 'hours > 1500'"),
    ] = None,
    level: Level = 0.9,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Fits a sigmoid to the reward along one run of reinforcement learning, and forecasts it at more compute.

    R = R0 + (A - R0)/(1 + (C_mid/C)^B) (Khatri et al. 2025, ScaleRL): A is what it comes to in the end.
    """
    from nextscale.fit.curves.rewards import fit_rewards, rewards_of
    from nextscale.fit.table.reading import read_table

    table = TableOptions(where=where).prepared(read_table(curve), curve)
    named = {"compute": compute_column, "reward": reward_column}
    columns = {key: name for key, name in named.items() if name is not None}
    compute, rewards, notes = rewards_of(table, str(curve), columns)
    found = fit_rewards(compute, rewards, initial=initial, level=level)
    card = found.to_dict()
    rows = [
        {"compute": one, "reward": value, "interval": [low, high], "reach": one / found.compute[-1]}
        for one in at or ()
        for value, low, high in [found.forecast(one)]
    ]
    if plot is not None:
        from nextscale.fit import plot as figures

        with axes_at(plot) as axes:
            figures.rewards(axes, found, at or ())
    if json_:
        print_json(card | {"forecasts": rows, "notes": notes})
        return
    _print_rewards(card, rows)
    note(notes)
    warn(card["warnings"])


def _print_rewards(card: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from nextscale.sweeps.show import formats
    from nextscale.sweeps.show.tables import table_of

    percent = f"{card['level']:.0%} interval"
    parameters = (
        ("parameter", "name", formats.text),
        ("value", "value", formats.number),
        (percent, "interval", lambda ends: formats.interval(ends, formats.number)),
    )
    title = f"{card['formula']}, fitted to {card['points']} points up to {formats.number(card['last'])}"
    screen.print(table_of(title, card["parameters"], *parameters).rich())
    if card["backtest"]:
        of_cuts = (
            ("fitted until", "until", formats.number),
            ("forecast", "forecast", formats.loss),
            ("measured", "measured", formats.loss),
            ("expected to miss by", "expected", formats.loss),
        )
        screen.print(table_of("The end of the run, forecast from earlier parts", card["backtest"], *of_cuts).rich())
    if rows:
        ahead = (
            ("compute", "compute", formats.number),
            ("reward", "reward", formats.loss),
            (percent, "interval", formats.interval),
            ("times the last", "reach", formats.three_digits),
        )
        screen.print(table_of("The reward at more compute", rows, *ahead).rich())


def _counted(given: list[Curve]) -> str:
    return f"{len(given)} curve{'s' * (len(given) > 1)}"


def _rates(text: str, curves: Curves, notes: list[str]) -> np.ndarray:
    """The rate of every step, of a line of text or a file."""
    from nextscale.fit.curves.curve import schedule_of
    from nextscale.fit.curves.schedules import schedule as schedule_in
    from nextscale.fit.table.reading import read_table

    if not Path(text).is_file() and (":" in text or not Path(text).suffix):
        return schedule_in(text)
    columns = {key: name for key, name in curves.columns.items() if key in ("step", "lr")}
    rates, said = schedule_of(read_table(text), text, columns, curves.warmup)
    notes += said
    return rates


def _forecast(found: CurveFit, text: str, rates: np.ndarray, level: float) -> dict[str, Any]:
    value, low, high = found.forecast(rates, level)
    row = {"schedule": text, "steps": len(rates), "peak": float(rates.max()), "loss": value}
    return row | {"interval": None if low != low else [low, high], "warnings": found.warnings_of(rates)}


def _draw(
    ax: Axes, found: CurveFit, planned: dict[str, np.ndarray] | None = None, rows: list[dict[str, Any]] | None = None
) -> None:
    """The curves with the law, and the law at schedules to come."""
    import numpy as np

    from nextscale.fit import plot
    from nextscale.fit.curves.schedules import warmup_end

    def law(rates: np.ndarray, last: int, **style: Any) -> None:
        steps = np.unique(np.linspace(warmup_end(rates), last, _POINTS).astype(int))
        ax.plot(steps, found.predict(rates, steps), **style)

    colours = plot.shades(len(found.curves))
    for curve, colour in zip(found.curves, colours, strict=True):
        steps, losses = curve.thinned(_POINTS)
        ax.plot(steps.mean(axis=0), losses, ".", color=colour, markersize=3, label=curve.name)
        law(curve.rates, int(curve.steps[-1]), color=colour, linewidth=1)
    for i, ((text, rates), row) in enumerate(zip((planned or {}).items(), rows or (), strict=True)):
        law(rates, len(rates), color=plot.ORANGE, linewidth=1.5, linestyle=_DASHES[i % len(_DASHES)], label=text)
        if row["interval"] is not None:
            ax.plot([len(rates)] * 2, row["interval"], color=plot.ORANGE, linewidth=3)
    ax.set(xscale="log", xlabel="step", ylabel="loss (nats/token)", title=f"{found.law.name} law")
    ax.legend(fontsize="x-small")
