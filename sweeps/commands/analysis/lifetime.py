"""The commands `inference`, `overtrain` and `family`: models that are served, of given sizes, in families."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.sweeps.commands.analysis.hardware_options import Hardware
from nextscale.sweeps.commands.analysis.law_options import Estimator
from nextscale.sweeps.commands.analysis.options import Source
from nextscale.sweeps.commands.analysis.serving_options import Serving
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.terminal.console import Json, note, print_json, screen, warn, with_option_groups
from nextscale.sweeps.terminal.plot_files import PlotFile, axes_at

if TYPE_CHECKING:
    from nextscale.fit.estimate.fit import Fit
    from nextscale.sweeps.budget.cluster import Cluster
    from nextscale.sweeps.budget.model_family import Shapes

app = typer.Typer()
_PUBLISHED = "published:"


@app.command()
@with_option_groups
def inference(
    source: Source,
    estimator: Estimator,
    serving: Serving,
    hardware: Hardware,
    loss: Annotated[
        list[float] | None, typer.Option(min=1e-9, help="nats per token that it is to come to; may be given again")
    ] = None,
    flops: Annotated[
        list[float] | None, typer.Option(min=1, max=1e40, help="for training and serving together; may be given again")
    ] = None,
    usd: Annotated[
        list[float] | None, typer.Option(min=1e-9, max=1e30, help="in dollars; needs --on; may be given again")
    ] = None,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Finds the model that is cheapest to train and serve: smaller, and trained for longer, than the compute-optimal.

    RUNS may be `published:besiroglu`, or another law of published constants. Costs are FLOPs, or dollars with --on.
    """
    from nextscale.fit.optimum.lifetime import Served, lifetime, lifetime_warnings

    if not (loss or flops or usd):
        raise SpecError("inference: say what for, with --loss, or with --flops or --usd for training and serving")
    estimator.check_variables(("N", "D"))
    found, cluster = _fitted(source, estimator, hardware)
    prices = serving.prices(cluster, hardware, found.runs)
    if flops and cluster is not None:
        raise SpecError("--flops: with --on costs are dollars; give --usd, or leave --on out")
    if usd and cluster is None:
        raise SpecError("--usd: needs the hardware, with --on")
    unit = "FLOPs" if cluster is None else "dollars"
    served = Served.of(serving.served, serving.prompt_share or 0.0)
    table = lifetime(found, served, losses=loss or (), budgets=[*(flops or ()), *(usd or ())], prices=prices)
    if plot is not None:
        from nextscale.fit.plot.lifetime import lifetime_costs

        with axes_at(plot) as axes:
            first = table.iloc[0]
            lifetime_costs(axes, found, served, float(first["loss"]), prices, unit)
    rows = [_bounded(row) for row in table.to_dict("records")]
    notes = [*found.runs.notes, *(cluster.assumptions() if cluster is not None else ())]
    warnings = lifetime_warnings(found, table)
    if cluster is not None:
        warnings += [text for params in table["params"] for text in cluster.warnings(float(params))]
    if json_:
        answer = {"law": found.law.name, "level": found.level, "params_convention": found.runs.convention}
        answer |= {"unit": "flops" if cluster is None else "usd", "prices": dataclasses.asdict(prices)}
        answer |= {"served": dataclasses.asdict(served), "cluster": None if cluster is None else cluster.to_dict()}
        print_json(answer | {"targets": rows, "notes": notes, "warnings": warnings})
        return
    from nextscale.sweeps.show.lifetime_tables import lifetime_tables

    for one in lifetime_tables(rows, serving.served, found.level, found.runs.convention, unit, found.runs.loss_unit):
        screen.print(one.rich())
    note(notes)
    warn(warnings)


@app.command()
@with_option_groups
def overtrain(
    source: Source,
    estimator: Estimator,
    hardware: Hardware,
    size: Annotated[float, typer.Option("--params", min=1, max=1e30, help="of the model")],
    tokens: Annotated[float | None, typer.Option(min=1, max=1e30, help="that it is trained on")] = None,
    flops: Annotated[float | None, typer.Option(min=1, max=1e40, help="that it is trained with")] = None,
    loss: Annotated[float | None, typer.Option(min=1e-9, help="that it is trained to, nats per token")] = None,
    more: Annotated[
        list[float] | None,
        typer.Option(
            min=0, metavar="SHARE", help="of compute beyond the optimum, for a smaller model; may be given again"
        ),
    ] = None,
    json_: Json = False,
    plot: PlotFile = None,
) -> None:
    """Prices a given size: what it comes to, and what it costs beside the compute-optimal model of the same loss.

    And how small a model of that loss could be for 10, 20, 50 or 100 % more compute than that. RUNS may be
    `published:besiroglu`, or another law of published constants.
    """
    from nextscale.fit.optimum.forecast import reach_warnings
    from nextscale.fit.optimum.lifetime import ratio_warnings
    from nextscale.fit.optimum.overtrain import overtrained, smallest_sizes

    if sum(value is not None for value in (tokens, flops, loss)) != 1:
        raise SpecError("overtrain: say for how long, with one of --tokens, --flops and --loss")
    estimator.check_variables(("N", "D"))
    found, cluster = _fitted(source, estimator, hardware)
    row = overtrained(found, size, tokens=tokens, flops=flops, loss=loss)
    reached = row["tokens"] < float("inf")
    overheads = more or [0.1, 0.2, 0.5, 1.0]
    table = smallest_sizes(found, row["loss"], overheads)
    if plot is not None:
        from nextscale.fit.plot.lifetime import overheads as draw

        with axes_at(plot) as axes:
            draw(axes, found, row)
    result = _bounded(row)
    lesser = [_bounded(one) for one in table.to_dict("records")]
    if cluster is not None:
        result |= cluster.costs(row["flops"], result["flops_interval"]) if reached else {}
        optimal = cluster.costs(row["optimal_flops"], result["optimal_flops_interval"])
        result |= {f"optimal_{name}": value for name, value in optimal.items()}
        lesser = [one | cluster.costs(one["flops"], one["flops_interval"]) for one in lesser]
    notes = [*found.runs.notes, *(cluster.assumptions() if cluster is not None else ())]
    warnings = list(found.warnings)
    if reached:
        warnings += reach_warnings(found, {name: row[name] for name in ("flops", "params", "tokens")})
        warnings += ratio_warnings(found, row["tokens_per_param"])
    else:
        warnings.append(f"{size:.3g} parameters come to a loss of {loss} with no number of tokens")
    warnings += cluster.warnings(size) if cluster is not None else []
    if json_:
        answer = {"law": found.law.name, "level": found.level, "params_convention": found.runs.convention}
        answer |= {"cluster": None if cluster is None else cluster.to_dict(), "model": result, "smaller": lesser}
        print_json(answer | {"notes": notes, "warnings": warnings})
        return
    from nextscale.sweeps.show.lifetime_tables import overtrain_tables

    for one in overtrain_tables(result, lesser, found.level, found.runs.convention, found.runs.loss_unit):
        screen.print(one.rich())
    note(notes)
    warn(warnings)


def _numbers(text: str | None, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise SpecError(f"{option} {text}: write numbers with commas between them, such as 0.1,0.3,0.6") from None


@app.command()
@with_option_groups
def family(
    source: Source,
    estimator: Estimator,
    hardware: Hardware,
    split: Annotated[
        str | None, typer.Option(metavar="SHARES", help="of the budget, a weight for each model, such as 0.1,0.3,0.6")
    ] = None,
    flops: Annotated[float | None, typer.Option(min=1, max=1e40, help="for all of them")] = None,
    usd: Annotated[float | None, typer.Option(min=1e-9, max=1e30, help="for all of them; needs --on")] = None,
    device_hours: Annotated[float | None, typer.Option(min=1e-9, max=1e30, help="for all; needs --on")] = None,
    days: Annotated[float | None, typer.Option(min=1e-9, max=1e9, help="of the clock, for all; needs --on")] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="LOSSES", help="that each is to come to, in place of a budget")
    ] = None,
    served: Annotated[
        str | None, typer.Option(metavar="TOKENS", help="that each serves in its life; a budget is then for both")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(metavar="PARAMS", help="of each, where they are fixed \\[default: the best]")
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="NAMES", help="of each \\[default: small, medium, large]")
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(metavar="SPEC", help="whose models they are to be \\[default: that of a sweep's folder]"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="override a key of --spec, scale=pod say; may be given again"),
    ] = None,
    slices: Annotated[
        int | None, typer.Option(min=1, help="equal parts of --on, to train all at once \\[default: in turn on all]")
    ] = None,
    json_: Json = False,
) -> None:
    """Plans a family of models, small to large: one budget shared out, or a loss and what it serves for each.

    Each has its shape, tokens, slices, days and dollars, and how sure that is. RUNS may be `published:besiroglu`, or
    another law of published constants.
    """
    from nextscale.sweeps.budget.model_family import family as family_of
    from nextscale.sweeps.budget.model_family import member_requests
    from nextscale.sweeps.show.lifetime_tables import family_tables

    estimator.check_variables(("N", "D"))
    found, cluster = _fitted(source, estimator, hardware)
    if slices is not None and cluster is None:
        raise SpecError("--slices: are parts of the hardware; name it with --on")
    asked = member_requests(
        flops=_budget(cluster, flops=flops, usd=usd, device_hours=device_hours, days=days),
        split=_numbers(split, "--split"),
        losses=_numbers(loss, "--loss"),
        served=_numbers(served, "--served"),
        sizes=_numbers(sizes, "--sizes"),
        names=names.split(",") if names else (),
    )
    result = family_of(
        found, asked, shapes=_shapes(source.runs, spec, set_ or (), found), cluster=cluster, slices=slices
    )
    if json_:
        print_json(result)
        return
    for one in family_tables(result):
        screen.print(one.rich())
    note(result["notes"])
    warn(result["warnings"])


def _fitted(source: Source, estimator: Estimator, hardware: Hardware) -> tuple[Fit, Cluster | None]:
    """The law of the runs, or that of published constants; and the hardware, as these runs measured it."""
    name = str(source.runs)
    if not name.startswith(_PUBLISHED):
        from nextscale.fit.trust.forecaster import fit_forecaster

        rows = source.rows()
        chosen = estimator.settled(source, rows)
        found = fit_forecaster(source.of_rows(rows, chosen.variables), chosen.law, **chosen.options)
        return found, hardware.cluster(rows)
    from nextscale.fit.estimate.published import published

    if source != Source(runs=source.runs) or estimator != Estimator():
        raise SpecError(
            f"{name}: is no table, and nothing is fitted to it; leave out the options of tables and of laws"
        )
    return published(name.removeprefix(_PUBLISHED)).fit, hardware.cluster(None)


def _budget(cluster: Cluster | None, **given: float | None) -> float | None:
    """In FLOPs."""
    from nextscale.sweeps.budget.cluster import BUYS

    stated = {name: value for name, value in given.items() if value is not None}
    if len(stated) > 1:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in stated)
        raise SpecError(f"family: {options} are two budgets; give one")
    for name, value in stated.items():
        if name == "flops":
            return value
        if cluster is None:
            raise SpecError(f"--{name.replace('_', '-')}: needs the hardware, with --on")
        return BUYS[name](cluster, value)
    return None


def _shapes(runs: Path, spec: Path | None, overrides: Sequence[str], found: Fit) -> Shapes | None:
    """Of a spec, or of the one that a folder's sweeps share."""
    from nextscale.sweeps.budget.model_family import Shapes
    from nextscale.sweeps.plan.spec_files import load_spec
    from nextscale.sweeps.store.store import Store

    if spec is not None:
        return Shapes.of(load_spec(spec, overrides), found.runs.convention)
    if overrides:
        raise SpecError(f"--set {overrides[0]}: is of a spec; name it with --spec")
    specs = Store.existing(runs).specs() if runs.is_dir() else []
    if not specs:
        return None
    if any((one.model, one.data.vocab) != (specs[0].model, specs[0].data.vocab) for one in specs):
        raise SpecError(f"{runs}: its sweeps have models of {len(specs)} kinds; say which with --spec")
    return Shapes.of(specs[0], found.runs.convention)


def _bounded(row: Mapping[Any, Any]) -> dict[str, Any]:
    from nextscale.sweeps.budget.model_family import with_intervals

    names = [name for name in row if not name.endswith(("_low", "_high"))]
    return with_intervals(row, *names)
