"""What a sweep will cost and what is wrong with its design, before anything starts. No Ray, no devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nextscale.fit.conventions import CONVENTIONS
from nextscale.fit.errors import InputError
from nextscale.fit.laws.catalogue import LAWS
from nextscale.model.accounting import active_parameters, non_embedding_parameters, parameter_groups
from nextscale.model.config.external import ExternalModel, number_in
from nextscale.model.config.training import TrainingConfig
from nextscale.sweeps.design.chosen_runs import ChosenRuns, all_runs, left_out, without_dropped
from nextscale.sweeps.design.expand import planned_runs, resolve_spec
from nextscale.sweeps.design.planned_run import PlannedRun, Role
from nextscale.sweeps.design.trunks import rooted, without_states
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.plan.schedule import Task, critical, schedule
from nextscale.sweeps.spec.designs import SequentialDesign
from nextscale.sweeps.spec.sweep_spec import SweepSpec

if TYPE_CHECKING:
    import pandas as pd

    from nextscale.cluster.hardware.pool import Pool
    from nextscale.cluster.hardware.seat import Seat
    from nextscale.cluster.hardware.site import Site
    from nextscale.sweeps.design.prior import Prior
    from nextscale.sweeps.design.simulate import ExpectedInterval


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a sweep and what to know before training them.

    Attributes:
        runs: a flat row each; one that is `done` counts in `total_flops` and in no other sum.
        total_flops: of the whole sweep, the shared part of branches once.
        open_flops: of these, what a sequential design may spend on runs that it has not chosen yet.
        saved_flops: what runs cost that were it not for `branching` (trunks trained again for each branch), `kept` (the
            part of longer runs that finished ones have trained, and kept the state of) or `store` (runs that are there
            already) would be trained.
        pools: what each takes: `runs`, `device_hours`, `usd`, `kwh`, `co2_kg`; None where no price or power is known.
        wall_seconds: until all that is left is done, on the slots of these pools.
        critical_seconds: the same with as many slots as one could use.
        expected: the interval that the forecast will have; None where that was not asked for.
        gates: that hold for it, and what it comes to, as far as that is known; see `nextscale.sweeps.plan.gates`.
        warnings: faults of the design, gates that it crosses, what to know of prices, and caps that would stop it.
    """

    name: str
    runs: list[dict[str, Any]]
    total_flops: float
    saved_flops: dict[str, float]
    warnings: list[str]
    pools: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    wall_seconds: float | None = None
    critical_seconds: float | None = None
    open_flops: float = 0.0
    gates: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    expected: ExpectedInterval | None = None

    @property
    def left_flops(self) -> float:
        """Of the runs that are not done."""
        return self.total_flops - self.saved_flops["store"]

    def frame(self) -> pd.DataFrame:
        """One row per run."""
        import pandas as pd

        return pd.DataFrame(self.runs)

    def to_dict(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "left_flops": self.left_flops,
            "expected": None if self.expected is None else self.expected.to_dict(),
        }


def plan_sweep(
    spec: SweepSpec,
    out: str | Path | None = None,
    *,
    site: Site | None = None,
    carbon: float | None = None,
    noise: float | None = None,
    simulate: bool = True,
) -> Plan:
    """Plans a sweep: each run and its seat, the sums, the faults of the design, the interval of its forecast.

    Args:
        out: where it is run: what is done there need not be done again, and tells how long the rest takes. By default
            out/NAME.
        site: what is known of the devices here; None reads the site file, if there is one.
        carbon: grams of CO2 per kWh, for the pools whose power is known.
        noise: relative scatter of a run about the law, for the expected interval; None takes that of the runs in `out`,
            else `nextscale.sweeps.design.prior.NOISE`.
        simulate: the expected interval.

    Raises:
        SpecError, InputError: see `planned_runs`; data or pools cannot be used, or a run fits nowhere.
    """
    from nextscale.sweeps.design.review import review_runs
    from nextscale.sweeps.plan.gates import planned_gates
    from nextscale.sweeps.plan.placement import capped, pools_of_spec, seats_of_runs, speed_in, totals
    from nextscale.sweeps.spec.site_file import load_site

    spec = resolve_spec(spec)
    folder = Path(out).expanduser() if out is not None else Path("out") / spec.name
    designed = all_runs(folder, spec)
    planned = rooted(without_dropped(designed, folder), folder)
    store = folder if (folder / "runs").is_dir() else None
    prior = _prior(spec, planned, store, noise)
    site = load_site() if site is None else site
    pools, accelerators, notes = pools_of_spec(spec, site)
    seats = seats_of_runs(planned, pools, accelerators, None if store is None else speed_in(store))
    found = plan(
        planned,
        name=spec.name,
        prior=prior,
        convention=spec.forecast.params,
        done=lambda run_id: store is not None and (store / "runs" / run_id / "record.json").exists(),
    )
    ids = [row["run_id"] for row in found.runs]
    seconds = {
        row["run_id"]: {seat.pool: seat.seconds for seat in own}
        for row, own in zip(found.runs, seats, strict=True)
        if not row["done"]
    }
    parts = rounds(dict(zip(ids, planned, strict=True)), seconds).values()
    schedules = [
        schedule(tasks, {name: pool.slots for name, pool in pools.items()}, order=spec.order) for tasks in parts
    ]
    where = {run_id: pool for part in schedules for run_id, pool in part.pools.items()}
    for row, own in zip(found.runs, seats, strict=True):
        row |= _seat(own, where.get(row["run_id"]), pools)
    left = [row for row in found.runs if not row["done"]]
    if isinstance(spec.design, SequentialDesign) or spec.forecast.law == "none":
        found, simulate = dataclasses.replace(found, warnings=review_runs(planned)), False
    if isinstance(spec.design, SequentialDesign):
        spent = sum(run.own_flops for run in planned if run.role == "fit")
        to_choose = 0.0 if ChosenRuns(folder, spec).ended is not None else max(spec.design.flops - spent, 0.0)
        found = dataclasses.replace(found, total_flops=found.total_flops + to_choose, open_flops=to_choose)
    of_pools, wall = totals(left, pools, accelerators, carbon), sum(part.seconds for part in schedules)
    gates, crossed = planned_gates(spec, site.gates, planned, found.runs, folder)
    known = [*found.warnings, *_from_their_first_token(planned, folder), *left_out(designed, folder), *notes]
    return dataclasses.replace(
        found,
        gates=gates,
        pools=of_pools,
        wall_seconds=wall,
        critical_seconds=sum(map(critical, parts)),
        expected=_expected(spec, planned, prior) if simulate else None,
        warnings=[*crossed, *known, *capped(spec.caps, folder, found.left_flops, of_pools, wall)],
    )


def plan(
    planned: Sequence[PlannedRun],
    *,
    name: str = "",
    prior: Prior | None = None,
    convention: str = "total",
    done: Callable[[str], bool] = lambda run_id: False,
) -> Plan:
    """One row per run, the total, and a review of the design.

    Args:
        prior: what is taken for true of the loss; the published law unless given.
        convention: what N counts in the fit.
        done: whether a run has its result.
    """
    from nextscale.sweeps.design.review import review

    rows = [_row(run, done) for run in planned]
    return Plan(
        name=name,
        runs=rows,
        total_flops=sum(run.own_flops for run in planned),
        saved_flops={
            "branching": sum(run.flops - run.own_flops for run in planned if not run.is_longer),
            "kept": sum(run.flops - run.own_flops for run in planned if run.is_longer),
            "store": sum(row["own_flops"] for row in rows if row["done"]),
        },
        warnings=review(planned, prior or _published(planned, convention, None), convention),
    )


def check_enough(spec: SweepSpec) -> None:
    """Refuses a spec whose runs cannot be trained, or could not carry its forecast.

    Raises:
        SpecError: see `planned_runs`; the law has as many parameters as the design has runs, or the runs could not
            answer what `findings` asks.
    """
    _check_findings(spec)
    if spec.gates.loss_below is not None and spec.holdout is None:
        text = "is held against the forecast of the held-out runs, and there are none; give a holdout, or leave it out"
        raise SpecError(f"gates.loss_below: {text}", ("gates", "loss_below"))
    count = sum(run.role == "fit" for run in planned_runs(spec))
    if spec.forecast.law == "none":
        if spec.holdout is not None:
            raise SpecError("holdout: is forecast by a law, and forecast.law is none; leave one out", ("holdout",))
        if isinstance(spec.design, SequentialDesign):
            raise SpecError("design: runs are chosen by a law, and forecast.law is none; name one", ("forecast", "law"))
        return
    law = LAWS[spec.forecast.one_law]
    if spec.holdout is not None and count <= len(law.parameters):
        raise SpecError(
            f"design: {count} runs cannot fix the {len(law.parameters)} parameters of {law.name} and forecast a "
            "holdout; add sizes, or lengths of each",
            ("design",),
        )


def _check_findings(spec: SweepSpec) -> None:
    if "corrections" not in spec.findings:
        return
    from nextscale.sweeps.design.grid import recipe_axes

    try:
        recipe_axes(spec.design)
    except InputError as error:
        raise SpecError(f"findings: {error}", ("findings",)) from None


def _row(run: PlannedRun, done: Callable[[str], bool]) -> dict[str, Any]:
    model, training, run_id = run.config.model, run.config.training, run.run_id
    shape = (None, None) if isinstance(model, ExternalModel) else (model.width, model.depth)
    return {
        "run_id": run_id,
        "role": run.role,
        "budget": run.budget,
        "done": done(run_id),
        "size": model.label,
        "width": shape[0],
        "depth": shape[1],
        "params": run.params,
        "params_non_embedding": non_embedding_parameters(model),
        "params_active": active_parameters(model),
        **{f"params_{group}": count for group, count in parameter_groups(model).items()},
        "tokens": run.tokens,
        "tokens_per_param": run.tokens / run.params,
        "steps": training.steps,
        "batch_tokens": training.batch_tokens,
        "lr": training.lr if isinstance(training, TrainingConfig) else number_in(training.written, "lr"),
        "seed": run.config.seed,
        "flops": run.flops,
        "trunk": None if run.trunk is None else run.trunk.run_id,
        "own_flops": run.own_flops,
    }


def _seat(seats: tuple[Seat, ...], pool: str | None, pools: Mapping[str, Pool]) -> dict[str, Any]:
    """Of the seat in a pool; the preferred one of a run that is done."""
    seat = next((seat for seat in seats if seat.pool == pool), seats[0])
    priced = pools[seat.pool].usd_per_chip_hour is not None
    return {
        "pool": seat.pool,
        "layout": seat.layout,
        "micro_batches": seat.micro_batches,
        "recompute": seat.recompute,
        "bytes": seat.bytes,
        "seconds": seat.seconds,
        "device_hours": seat.seconds * seat.chips / 3600,
        "usd": seat.seconds / 3600 * seat.usd_per_hour if priced else None,
        "speed": "measured" if seat.measured else "catalogue",
        "others": [other.pool for other in seats if other is not seat],
    }


def rounds(runs: Mapping[str, PlannedRun], seconds: Mapping[str, Mapping[str, float]]) -> dict[Role, list[Task]]:
    """What is left to do, in the two rounds that are trained one after the other: the held-out runs come last.

    Args:
        runs: of a sweep, by id.
        seconds: by pool, of each run that is left.
    """
    tasks: dict[Role, list[Task]] = {"fit": [], "holdout": []}
    for run_id, run in runs.items():
        if run_id in seconds:
            trunk = None if run.trunk is None else run.trunk.run_id
            share = 0.0 if run.trunk is None else run.branches_at / run.trunk.tokens
            tasks[run.role].append(Task(run_id, seconds[run_id], trunk if trunk in seconds else None, share))
    return tasks


def _from_their_first_token(planned: Sequence[PlannedRun], folder: Path) -> list[str]:
    """What to know of runs that could have gone on from a finished one."""
    found = without_states(planned, folder)
    if not found:
        return []
    run, before = next(iter(found.items()))
    what = f"{len(found)} runs are each, up to a cooldown, a finished run that kept no state to go on from"
    return [f"{what}, so they are trained from their first token: {run} after {before}, say; see training.keep_trunk"]


def _published(planned: Sequence[PlannedRun], convention: str, noise: float | None) -> Prior:
    from nextscale.sweeps.design.prior import NOISE, published_prior

    fitted = [run for run in planned if run.role == "fit"]
    sizes = np.array([run.size(convention) for run in fitted], float)
    return published_prior(sizes, np.array([run.tokens for run in fitted], float), NOISE if noise is None else noise)


def _prior(spec: SweepSpec, planned: Sequence[PlannedRun], store: Path | None, noise: float | None) -> Prior:
    """The law of the runs in the store that are of the same data and family; the published one where they are few."""
    from nextscale.sweeps.design.prior import prior_of_store

    convention = spec.forecast.params
    seen = None if store is None else prior_of_store(store, planned[0].config, CONVENTIONS[convention], noise)
    return seen or _published(planned, convention, noise)


def _expected(spec: SweepSpec, planned: Sequence[PlannedRun], prior: Prior) -> ExpectedInterval:
    from nextscale.sweeps.design.simulate import expected_interval

    options = spec.forecast
    law = LAWS[options.one_law]
    return expected_interval(planned, law, prior, level=options.level, convention=options.params, drift=options.drift)
