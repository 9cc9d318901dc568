"""The whole loop: train the sweep, fit the law, write the forecast down, train the next scale, score the forecast."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.events import Event
from nextscale.cluster.hardware.site import Site
from nextscale.fit.errors import InputError
from nextscale.model.record import write_atomically
from nextscale.model.storage.address import address_of
from nextscale.sweeps.errors import USER_ERRORS, SpecError
from nextscale.sweeps.forecasts.registry import score_landed
from nextscale.sweeps.ledger import Entry
from nextscale.sweeps.loggers.sweep_export import exporting
from nextscale.sweeps.plan.gates import Approval
from nextscale.sweeps.run.bucket import OutFolder, out_folder
from nextscale.sweeps.run.journal import Journal
from nextscale.sweeps.run.rounds import OnRound, TrainingRounds
from nextscale.sweeps.run.session import settle_done
from nextscale.sweeps.spec.site_file import load_site
from nextscale.sweeps.spec.sweep_spec import ExternalSpec, SweepSpec
from nextscale.sweeps.study.study import Analysis, Study


def run_study(
    spec: SweepSpec,
    out: str | Path,
    *,
    address: str | None = None,
    site: Site | None = None,
    approval: Approval | None = None,
    on_phase: OnRound = lambda phase, done, todo: None,
    on_event: Callable[[Event], None] = lambda event: None,
    stop: Callable[[], float | None] = lambda: None,
) -> dict[str, Any]:
    """Runs a sweep to its end, from wherever it stands, and leaves tables, figures and a report in `out`.

    Args:
        out: a folder that all workers share, or an address in a bucket.
        address: of a Ray cluster; None starts one on this machine if anything is left to train.
        site: what is known of the devices here; None reads the site file, if there is one.
        approval: of all gates that the sweep comes to; see `nextscale.sweeps.plan.gates`.
        on_phase: called before each of the two rounds of training with what is done and what is left.
        on_event, stop: see `nextscale.cluster.controller.controller.run_all`.

    Returns:
        the summary, as written to `out/summary.json`.

    Raises:
        SpecError, InputError: the spec, data or output folder cannot be used.
    """
    if isinstance(spec, ExternalSpec) and (bucket := address_of(out)) is not None:
        raise SpecError(
            f"--out {bucket}: a trainer of your own keeps its states in a folder, and when one is whole only it can "
            "tell; name a folder that all workers share"
        )
    site = load_site() if site is None else site
    with out_folder(out, on_event, stop) as folder:
        run = _StudyRun(spec, folder, on_event)
        with run.observed() as observe:
            options: dict[str, Any] = {"address": address, "approval": approval, "stop": stop, "keep": folder.keep}
            with TrainingRounds(run.study, site, on_round=on_phase, on_event=observe, **options) as rounds:
                settle_done(run.study.store.root, run.study.job_of, observe)
                rounds.train("fit")
                run.fit_law(rounds, observe)
                run.write_forecast()
                if run.forecast is not None:
                    rounds.train("holdout", run.forecast)
        run.score_forecasts()
        return run.report(rounds)


class _StudyRun:
    """A study on its way to its report, one phase after another.

    Attributes:
        analysis: of the fitted runs; None before `fit_law`, and where no law could be fitted.
        forecast: of the held-out runs, as the ledger has it.
        problem: why there is no law or no forecast, where one was asked for.
    """

    def __init__(self, spec: SweepSpec, out: OutFolder, on_event: Callable[[Event], None]):
        self.started = time.perf_counter()
        self.study = Study(spec, out.path, bucket=out.bucket)
        self.analysis: Analysis | None = None
        self.forecast: Entry | None = None
        self.problem: str | None = None
        self._unscored: list[str] = []
        self._on_event = on_event
        self.study.store.write_spec(self.study.spec)
        self.study.release()
        self._reused = sum(self.study.store.record(run.run_id) is not None for run in self.study.planned)

    @contextlib.contextmanager
    def observed(self) -> Iterator[Callable[[Event], None]]:
        """Gives what is called with each event of the run: states are let go, the journal is kept, loggers follow."""
        study, journal = self.study, Journal(self.study.store.root)

        def notice(text: str) -> None:
            journal.note(Event("notice", message=text))
            self._on_event(Event("notice", message=text))

        run_ids = [run.run_id for run in study.planned]
        with exporting(study.spec.loggers, study.spec.name, study.store, run_ids, notice) as show:

            def observe(event: Event) -> None:
                if event.kind == "finished" and event.job is not None:
                    study.release(event.job.run_id)
                journal.note(event)
                show(event)
                self._on_event(event)

            yield observe

    def fit_law(self, rounds: TrainingRounds, observe: Callable[[Event], None]) -> None:
        """Fits the law to what was trained; a sequential design first chooses and trains runs until it ends."""
        study = self.study
        try:
            while study.sequential and not rounds.stopped_by and not study.missing("fit"):
                if study.choices.ended is None:
                    rounds.connect()
                ended = study.choose()
                if ended is not None:
                    observe(Event("notice", message=f"no further run is chosen: {ended}"))
                    break
                rounds.train("fit")
            if study.spec.forecast.law != "none":
                self.analysis = study.analyse()
        except InputError as error:
            self.problem = None if rounds.waiting_gates else str(error)

    def write_forecast(self) -> None:
        """Writes the forecast of the held-out runs to the ledger, before any of them is trained."""
        study = self.study
        if study.spec.holdout is None or self.analysis is None:
            return
        if waiting := len(study.missing("fit")):
            self.problem = f"no forecast yet: {waiting} of the runs that it rests on have no result; run this again"
        else:
            self.forecast = study.register(self.analysis)

    def score_forecasts(self) -> None:
        """Scores the forecast, and all that were made of runs without a name that are done now."""
        if self.forecast is not None:
            self.study.score(self.forecast)
        try:
            score_landed(self.study.store, self.study.ledger)
        except SpecError as error:  # of a run that is none of this sweep
            self._unscored.append(f"forecasts of runs without a name were not scored: {error}")

    def report(self, rounds: TrainingRounds) -> dict[str, Any]:
        """Writes the summary, the fit card and the page; returns the summary."""
        from nextscale.fit.trust.card import card
        from nextscale.sweeps.findings import findings
        from nextscale.sweeps.findings.runs_table import runs_of
        from nextscale.sweeps.report.report import Report

        study, root = self.study, self.study.store.root
        found = findings(runs_of(study), study.spec)
        summary = self._summary(rounds, found)
        write_atomically(epath.Path(root / "summary.json"), json.dumps(summary, indent=1) + "\n")
        fit_card = None if self.analysis is None else card(self.analysis.fit)
        if fit_card is not None:
            text = json.dumps(fit_card, indent=1, allow_nan=False) + "\n"
            write_atomically(epath.Path(root / "fit_card.json"), text)
        if self.analysis is not None or found:
            try:
                Report.of(study, self.analysis, summary, found, fit_card).write()
            except USER_ERRORS as error:  # of a run that has nothing to do with this sweep, say
                self._on_event(Event("notice", message=f"the page was not written: {error}"))
        return summary

    def _summary(self, rounds: TrainingRounds, found: dict[str, Any]) -> dict[str, Any]:
        from nextscale.sweeps.findings import summary_of
        from nextscale.sweeps.study.summary import summarise

        summary = summarise(self.study, self.analysis, self.forecast, failed=rounds.failed, reused=self._reused)
        summary["warnings"] += self._unscored
        summary["findings"] = summary_of(found)
        summary["warnings"] += [note for finding in found.values() for note in finding.notes]
        for reason in (self.problem, rounds.stopped_by):
            if reason is not None:
                summary["warnings"].insert(0, reason)
        spent = Accounts(self.study.store.root / "accounts.jsonl").totals()
        return summary | {
            "problem": self.problem,
            "seconds": time.perf_counter() - self.started,
            "mendable": rounds.mendable,
            "stopped_by": rounds.stopped_by,
            "waits_for_approval": bool(rounds.waiting_gates),
            "waiting_gates": [gate.to_dict() for gate in rounds.waiting_gates],
            "spent": spent | {"usd": float(spent["usd"])},
        }
