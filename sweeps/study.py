"""The whole loop: train the sweep, fit the law, write the forecast down, train the next scale, score the forecast."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pandas as pd
from etils import epath

from nextscale.cluster.accounts import Accounts
from nextscale.cluster.events import Event
from nextscale.cluster.job import Job, Seat
from nextscale.cluster.site import Site
from nextscale.fit.backtest import Backtest, fit_backtested
from nextscale.fit.errors import InputError
from nextscale.fit.estimate import Fit
from nextscale.fit.frontier import TokenCost, frontier
from nextscale.fit.isoflop import IsoFlop, PowerLaw, isoflops, optimum_interval, optimum_law
from nextscale.fit.table import CONVENTIONS, as_runs
from nextscale.model.accounting import flops_per_token, non_embedding_parameters, parameters
from nextscale.model.data_config import parts
from nextscale.model.record import write_atomically
from nextscale.sweeps.crew import Crew, settle_done
from nextscale.sweeps.design import PlannedRun, Role, planned_runs, resolved
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.journal import Journal
from nextscale.sweeps.ledger import Entry, Ledger, digest_of
from nextscale.sweeps.spec import IsoFlopDesign, SweepSpec
from nextscale.sweeps.store import Store

E_LEVEL = 0.95
AUTO = ("chinchilla", "chinchilla-tied")
"""The laws that `forecast.law: auto` lets a backtest choose from."""


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What the fitted runs of a sweep say.

    Attributes:
        fit: the law, from the budget that a backtest chose.
        backtests: every law and window tried, best first.
        curves: the isoFLOP curve of each budget; none where the design has no budgets.
        optimum: the power law through their minima, N*(C); None where fewer than two budgets have one.
        cost: FLOPs per token of a size of this family.
        fitted: the runs that all of this rests on, those that the law's window leaves out too.
    """

    fit: Fit
    backtests: list[Backtest]
    curves: list[IsoFlop]
    optimum: PowerLaw | None
    cost: TokenCost
    fitted: list[dict[Hashable, Any]]


class Study:
    """A sweep in its output folder."""

    def __init__(self, spec: SweepSpec, out: str | Path):
        """
        Raises:
            SpecError, InputError: the data is not there, nothing can be written, or the ledger is damaged.
        """
        for part in parts(spec.data).values():
            path = getattr(part, "path", None)
            if path is not None and Path(path).expanduser().absolute() == Path(out).expanduser().absolute():
                raise SpecError(f"--out {out}: is the folder of the data; name another", ("data", "path"))
        self.spec = resolved(spec)
        self.store = Store.at(out)
        self.planned = planned_runs(self.spec)
        self._branches: dict[str, list[PlannedRun]] = {}
        for run in self.planned:
            if run.trunk is not None:
                self._branches.setdefault(run.trunk.run_id, []).append(run)
        self.ledger = Ledger(self.store.root / "ledger.jsonl")
        self.ledger.entries()  # a damaged one is refused now, not when the sweep has been trained

    def runs(self, role: Role) -> list[PlannedRun]:
        return [run for run in self.planned if run.role == role]

    def missing(self, role: Role) -> list[PlannedRun]:
        """The runs that have no result yet."""
        return [run for run in self.runs(role) if self._unfinished(run)]

    def table(self, role: Role) -> pd.DataFrame:
        """One row per finished run, with its `budget`."""
        rows = []
        for run in self.runs(role):
            record = self.store.record(run.config.run_id)
            if record is not None:
                rows.append(record | {"budget": run.budget})
        return pd.DataFrame(rows)

    def job(self, run: PlannedRun, seats: tuple[Seat, ...] = ()) -> Job:
        keep, run_id = self.spec.checkpoint, run.config.run_id
        branches = [branch for branch in self._branches.get(run_id, ()) if self._unfinished(branch)]
        return Job(
            run_id=run_id,
            config=run.config,
            directory=str(self.store.root / "runs" / run_id),
            flops=run.own_flops,
            steps=run.config.training.steps,
            shape=digest_of([run.config.model.model_dump(), run.config.training.batch_tokens]),
            seats=seats,
            every_seconds=keep.every_seconds,
            keep=keep.keep,
            final=keep.final,
            start=run.start,
            whole_flops=float(run.flops),
            pinned=tuple(sorted({branch.branches_at for branch in branches})),
        )

    def release(self) -> None:
        """Deletes the states that trunks kept for branches, where trunk and branches are done.

        While a trunk is at work its newest state may be one of them.
        """
        for run_id, branches in self._branches.items():
            trunk = self.store.run(run_id)
            if self.store.record(run_id) is None:
                continue
            needed = {branch.branches_at for branch in branches if self._unfinished(branch)}
            for position in {branch.branches_at for branch in branches} - needed:
                trunk.checkpoint(position).rmtree(missing_ok=True)

    def _unfinished(self, run: PlannedRun) -> bool:
        return self.store.record(run.config.run_id) is None

    def analyse(self) -> Analysis:
        """Fits the law and the isoFLOP curves to what is finished.

        Raises:
            InputError: too few runs finished.
        """
        options, table = self.spec.forecast, self.table("fit")
        if table.empty or table["loss"].isna().all():
            raise InputError(f"sweep {self.spec.name}: none of its runs has come to a loss")
        runs = as_runs(table, convention=options.params, where=f"sweep {self.spec.name}")
        laws = AUTO if options.law == "auto" else (options.law,)
        fit, backtests = fit_backtested(runs, laws, level=options.level, resamples=options.resamples)
        curves = isoflops(runs) if isinstance(self.spec.design, IsoFlopDesign) else []
        models = [run.config.model for run in self.planned]
        sizes = [_count(model, options.params) for model in models]
        cost = TokenCost.of(sizes, [flops_per_token(model) for model in models])
        fitted = runs.table[["run_id", "params", "tokens", "loss"]].to_dict("records")
        return Analysis(fit, backtests, curves, optimum_law(curves), cost, fitted)

    def inputs(self, analysis: Analysis) -> str:
        """The digest of all that a forecast rests on."""
        return digest_of([analysis.fitted, self.spec.forecast.model_dump()])

    def register(self, analysis: Analysis) -> Entry:
        """Writes the forecast of the held-out runs to the ledger, unless it stands there already.

        Once a held-out run has started, the first forecast of them stands: a later one could have been chosen to fit.
        """
        assert self.spec.holdout is not None
        runs, fit = self.runs("holdout"), analysis.fit
        sizes = [_count(run.config.model, self.spec.forecast.params) for run in runs]
        tokens, flops = [run.tokens for run in runs], [run.flops for run in runs]
        predicted = fit.predict(sizes, tokens)
        low, high = fit.predict_interval(sizes, tokens, flops)
        started = [run.config.run_id for run in runs if self.store.run(run.config.run_id).started]
        budget = self.spec.holdout.flops
        optimum = frontier(fit, [budget], analysis.cost).iloc[0]
        by_minima = None if analysis.optimum is None else float(analysis.optimum(budget))
        entry = {
            "sweep": self.spec.name,
            "inputs": self.inputs(analysis),
            "runs": fit.runs.table["run_id"].tolist(),
            "started_before": started,
            "law": fit.law.name,
            "parameters": fit.parameters,
            "irreducible_interval": list(fit.interval("E", E_LEVEL)),
            "params_convention": fit.runs.convention,
            "level": fit.level,
            "optimal_params": {
                "flops": budget,
                "predicted": optimum["params"] if by_minima is None else by_minima,
                "interval": list(
                    optimum_interval(analysis.curves, budget, fit.level) or optimum[["params_low", "params_high"]]
                ),
                "by": "law" if by_minima is None else "isoflop minima",
                "by_law": optimum["params"],
                "by_law_interval": optimum[["params_low", "params_high"]].tolist(),
            },
            "targets": [
                {
                    "run_id": run.config.run_id,
                    "flops": run.flops,
                    "params": sizes[i],
                    "tokens": run.tokens,
                    "predicted": float(predicted[i]),
                    "interval": [float(low[i]), float(high[i])],
                }
                for i, run in enumerate(runs)
            ],
            "warnings": list(fit.warnings),
        }
        if not started:
            return self.ledger.forecast(entry)
        if (earlier := self.ledger.standing(entry)) is not None:
            return earlier
        late = f"{len(started)} of the {len(runs)} held-out runs had started when this was computed: it is no forecast"
        return self.ledger.forecast(entry | {"warnings": [*fit.warnings, late]})

    def score(self, forecast: Entry) -> Entry | None:
        """Writes to the ledger how a forecast came out; None while a held-out run is missing."""
        scores = []
        for target in forecast["targets"]:
            record = self.store.record(target["run_id"])
            if record is None:
                return None
            measured = record["loss"]
            low, high = target["interval"]
            scores.append(
                {
                    "run_id": target["run_id"],
                    "measured": measured,
                    "error": None if measured is None else target["predicted"] / measured - 1,
                    "inside": None if measured is None else bool(low <= measured <= high),
                }
            )
        return self.ledger.score(forecast, scores)


def run_study(
    spec: SweepSpec,
    out: str | Path,
    *,
    address: str | None = None,
    site: Site | None = None,
    on_phase: Callable[[Role, list[Job], list[Job]], None] = lambda phase, done, todo: None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[str, Any]:
    """Runs a sweep to its end, from wherever it stands, and leaves tables, figures and a report in `out`.

    Args:
        address: of a Ray cluster; None starts one on this machine if anything is left to train.
        site: what is known of the devices here; None reads the site file, if there is one.
        on_phase: called before each of the two rounds of training with what is done and what is left.
        on_event: see `nextscale.cluster.controller.run_all`.

    Returns:
        the summary, as written to `out/summary.json`.

    Raises:
        SpecError, InputError: the spec, data or output folder cannot be used.
    """
    from nextscale.fit.card import card
    from nextscale.sweeps.report import write_report
    from nextscale.sweeps.summary import summarise

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
    journal = Journal(study.store.root)
    planned = {run.config.run_id: run for run in study.planned}

    def known(run_id: str) -> Job | None:
        run = planned.get(run_id)
        return None if run is None else study.job(run)

    with contextlib.ExitStack() as stack:
        crew: Crew | None = None

        def observe(event: Event) -> None:
            if event.kind == "finished":
                study.release()
            journal.note(event)
            on_event(event)

        def train(role: Role) -> None:
            nonlocal crew, mendable, stopped
            todo = study.missing(role)
            done = [study.job(run) for run in study.runs(role) if run not in todo]
            on_phase(role, done, [study.job(run) for run in todo])
            if not todo:
                return
            if crew is None:
                crew = stack.enter_context(Crew.of(study.spec, study.store.root, address, site, observe))
            report = crew.train([study.job(run, crew.seats(run)) for run in todo], observe, known)
            failed.update(report.failed)
            mendable |= report.mendable
            stopped = report.stopped_by or stopped

        settle_done(study.store.root, known)
        train("fit")
        try:
            analysis = study.analyse()
        except InputError as error:
            problem = str(error)
        if study.spec.holdout is not None and analysis is not None:
            if waiting := len(study.missing("fit")):
                problem = f"no forecast yet: {waiting} of the runs that it rests on have no result; run this again"
            else:
                forecast = study.register(analysis)
                train("holdout")
    if forecast is not None:
        study.score(forecast)
    summary = summarise(study, analysis, forecast, failed=failed, reused=reused)
    if problem is not None:
        summary["warnings"].insert(0, problem)
    if stopped is not None:
        summary["warnings"].insert(0, stopped)
    spent = Accounts(study.store.root / "accounts.jsonl").totals()
    summary |= {"problem": problem, "seconds": time.perf_counter() - started, "mendable": mendable}
    summary |= {"stopped_by": stopped, "spent": spent | {"usd": float(spent["usd"])}}
    write_atomically(epath.Path(study.store.root / "summary.json"), json.dumps(summary, indent=1) + "\n")
    if analysis is not None:
        card_file = epath.Path(study.store.root / "fit_card.json")
        write_atomically(card_file, json.dumps(card(analysis.fit), indent=1, allow_nan=False) + "\n")
        write_report(study, analysis, summary)
    return summary


def _count(model: Any, convention: str) -> int:
    return {"params": parameters, "params_non_embedding": non_embedding_parameters}[CONVENTIONS[convention]](model)
