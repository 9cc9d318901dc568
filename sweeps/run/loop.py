"""The whole loop: train the sweep, fit the law, write the forecast down, train the next scale, score the forecast."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etils import epath

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.job import Job
from nextscale.cluster.hardware.site import Site
from nextscale.cluster.hardware.speed import Speed
from nextscale.fit.errors import InputError
from nextscale.model.record import write_atomically
from nextscale.sweeps.design.expand import Role
from nextscale.sweeps.errors import MENDABLE, SpecError
from nextscale.sweeps.forecasts.registry import score_landed
from nextscale.sweeps.ledger import Entry
from nextscale.sweeps.loggers.following import following
from nextscale.sweeps.plan.gates import (
    USD,
    Approval,
    Gate,
    Gatekeeper,
    by_compute,
    by_cost,
    by_forecast,
    gates_of,
    refusal,
)
from nextscale.sweeps.plan.placing import speed_in
from nextscale.sweeps.plan.plan import plan_sweep
from nextscale.sweeps.run.journal import Journal
from nextscale.sweeps.run.session import Crew, settle_done
from nextscale.sweeps.spec.site_file import load_site
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.study.study import Analysis, Study


def run_study(
    spec: SweepSpec,
    out: str | Path,
    *,
    address: str | None = None,
    site: Site | None = None,
    approval: Approval | None = None,
    on_phase: Callable[[Role, list[Job], list[Job]], None] = lambda phase, done, todo: None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[str, Any]:
    """Runs a sweep to its end, from wherever it stands, and leaves tables, figures and a report in `out`.

    Args:
        address: of a Ray cluster; None starts one on this machine if anything is left to train.
        site: what is known of the devices here; None reads the site file, if there is one.
        approval: of all gates that the sweep comes to; see `nextscale.sweeps.plan.gates`.
        on_phase: called before each of the two rounds of training with what is done and what is left.
        on_event: see `nextscale.cluster.controller.controller.run_all`.

    Returns:
        the summary, as written to `out/summary.json`.

    Raises:
        SpecError, InputError: the spec, data or output folder cannot be used.
    """
    from nextscale.fit.trust.card import card
    from nextscale.sweeps.findings import findings, summary_of
    from nextscale.sweeps.findings.table import runs_of as finding_runs
    from nextscale.sweeps.report.report import Report
    from nextscale.sweeps.study.summary import summarise

    started = time.perf_counter()
    study = Study(spec, out)
    study.store.write_spec(study.spec)
    study.release()
    failed: dict[str, str] = {}
    mendable = False
    reused = sum(study.store.record(run.config.run_id) is not None for run in study.planned)
    analysis: Analysis | None = None
    forecast: Entry | None = None
    problem: str | None = None
    stopped: str | None = None
    closed: list[Gate] = []
    site = load_site() if site is None else site
    gates = gates_of(study.spec.gates, site.gates)
    gatekeeper = Gatekeeper(study.ledger, study.spec.name, approval)
    journal = Journal(study.store.root)

    with contextlib.ExitStack() as stack:
        crew: Crew | None = None

        def notice(text: str) -> None:
            journal.note(Event("notice", message=text))
            on_event(Event("notice", message=text))

        run_ids = [run.config.run_id for run in study.planned]
        show = stack.enter_context(following(study.spec.loggers, study.spec.name, study.store, run_ids, notice))

        def observe(event: Event) -> None:
            if event.kind == "finished" and event.job is not None:
                study.release(event.job.run_id)
            journal.note(event)
            show(event)
            on_event(event)

        def hired() -> Crew:
            nonlocal crew
            if crew is None:
                crew = stack.enter_context(Crew.of(study.spec, study.store.root, address, site, observe))
                study.catch_up()  # with what was chosen by whoever was waited for
            return crew

        def gates_before(role: Role) -> list[Gate]:
            """Those that the runs of a role wait at, for somebody."""
            found = by_compute(gates, study.spec, study.planned)
            if any(gate.name == USD for gate in gates):
                # Pools that a spec does not name are those of the cluster.
                pools = hired().backend.pools() if study.spec.pools == "auto" else study.spec.pools
                placed = study.spec.model_copy(update={"pools": pools})
                rows = plan_sweep(placed, study.store.root, site=site, simulate=False).runs
                found += by_cost(gates, study.spec, rows)
            if role == "holdout" and forecast is not None:
                found += by_forecast(gates, forecast)
            return gatekeeper.waiting(found, role)

        def held_out(crew: Crew, speed: Speed) -> list[Job]:
            """What comes after the fitted runs."""
            try:
                return [study.job(run, crew.seats(run, speed)) for run in study.missing("holdout")]
            except MENDABLE:  # one fits in none of the pools that are up: how long it takes is not known
                return [study.job(run) for run in study.missing("holdout")]

        def train(role: Role) -> None:
            nonlocal mendable, stopped, closed
            todo = study.missing(role)
            closed = gates_before(role) if todo and gates else []
            if closed:
                stopped = refusal(closed, role)
                return
            left = {run.config.run_id for run in todo}
            done = [study.job(run) for run in study.runs(role) if run.config.run_id not in left]
            on_phase(role, done, [study.job(run) for run in todo])
            if not todo:
                return
            planned = len(study.planned)
            crew, speed = hired(), speed_in(study.store.root)
            if len(study.planned) > planned:
                train(role)
                return
            jobs = [study.job(run, crew.seats(run, speed)) for run in todo]
            report = crew.train(
                jobs, observe, study.job_of, lambda: held_out(crew, speed) if role == "fit" else [], study.unchosen
            )
            failed.update(report.failed)
            mendable |= report.mendable
            stopped = report.stopped_by or stopped

        settle_done(study.store.root, study.job_of, observe)
        train("fit")
        try:
            while study.sequential and not stopped and not study.missing("fit"):
                if study.choices.ended is None:
                    hired()
                ended = study.choose()
                if ended is not None:
                    observe(Event("notice", message=f"no further run is chosen: {ended}"))
                    break
                train("fit")
            if study.spec.forecast.law != "none":
                analysis = study.analyse()
        except InputError as error:
            problem = None if closed else str(error)
        if study.spec.holdout is not None and analysis is not None:
            if waiting := len(study.missing("fit")):
                problem = f"no forecast yet: {waiting} of the runs that it rests on have no result; run this again"
            else:
                forecast = study.register(analysis)
                train("holdout")
    if forecast is not None:
        study.score(forecast)
    unscored: list[str] = []
    try:
        score_landed(study.store, study.ledger)
    except SpecError as error:  # of a run that is none of this sweep
        unscored.append(f"forecasts of runs without a name were not scored: {error}")
    summary = summarise(study, analysis, forecast, failed=failed, reused=reused)
    summary["warnings"] += unscored
    found = findings(finding_runs(study), study.spec)
    summary["findings"] = summary_of(found)
    summary["warnings"] += [note for one in found.values() for note in one.notes]
    if problem is not None:
        summary["warnings"].insert(0, problem)
    if stopped is not None:
        summary["warnings"].insert(0, stopped)
    spent = Accounts(study.store.root / "accounts.jsonl").totals()
    summary |= {"problem": problem, "seconds": time.perf_counter() - started, "mendable": mendable}
    summary |= {
        "stopped_by": stopped,
        "waits_for_approval": bool(closed),
        "waiting_gates": [gate.to_dict() for gate in closed],
        "spent": spent | {"usd": float(spent["usd"])},
    }
    write_atomically(epath.Path(study.store.root / "summary.json"), json.dumps(summary, indent=1) + "\n")
    told: dict[str, Any] | None = None
    if analysis is not None:
        told = card(analysis.fit)
        card_file = epath.Path(study.store.root / "fit_card.json")
        write_atomically(card_file, json.dumps(told, indent=1, allow_nan=False) + "\n")
    if analysis is not None or found:
        try:
            Report.of(study, analysis, summary, found, told).write()
        except MENDABLE as error:  # of a run that has nothing to do with this sweep, say
            on_event(Event("notice", message=f"the page was not written: {error}"))
    return summary
