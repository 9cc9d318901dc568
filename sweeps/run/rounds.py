"""Rounds of training: the missing runs of one role, behind their gates, on one cluster session."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from nextscale.cluster.controller.controller import stopped_text
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.job import Job
from nextscale.cluster.hardware.site import Site
from nextscale.cluster.hardware.speed import Speed
from nextscale.sweeps.design.planned_run import Role
from nextscale.sweeps.errors import USER_ERRORS
from nextscale.sweeps.ledger import Entry
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
from nextscale.sweeps.plan.placement import speed_in
from nextscale.sweeps.plan.plan import plan_sweep
from nextscale.sweeps.run.session import Session
from nextscale.sweeps.study.study import Study

OnRound = Callable[[Role, list[Job], list[Job]], None]
"""Called before a round with its role, the jobs that are done, and those that are left."""


class TrainingRounds(contextlib.ExitStack):
    """Trains the runs of a study, role by role.

    A cluster is connected when there is first something to train, and let go at the end of the `with` block.

    Attributes:
        failed: why each run failed for good, by run_id.
        mendable: whether any failed for something that the user can mend.
        stopped_by: the cap, stop or gate that left runs to do, in words.
        waiting_gates: the gates that wait for an approval.
    """

    def __init__(
        self,
        study: Study,
        site: Site,
        *,
        address: str | None,
        approval: Approval | None,
        on_round: OnRound,
        on_event: Callable[[Event], None],
        stop: Callable[[], float | None],
        keep: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self.failed: dict[str, str] = {}
        self.mendable = False
        self.stopped_by: str | None = None
        self.waiting_gates: list[Gate] = []
        self._study, self._site, self._address = study, site, address
        self._on_round, self._on_event, self._stop, self._keep = on_round, on_event, stop, keep
        self._gates = gates_of(study.spec.gates, site.gates)
        self._gatekeeper = Gatekeeper(study.ledger, study.spec.name, approval)
        self._session: Session | None = None

    def connect(self) -> Session:
        """The session with the cluster; begun, once whoever else is at work in the folder has left."""
        if self._session is None:
            study = self._study
            options = self._address, self._site, self._on_event, self._stop, self._keep
            session = Session.connect(study.spec, study.store.root, *options)
            self._session = self.enter_context(session)
            study.catch_up()  # with what was chosen by whoever was waited for
        return self._session

    def train(self, role: Role, forecast: Entry | None = None) -> None:
        """Trains the runs of a role that have no result yet.

        Args:
            forecast: of the held-out runs, for the gates that are held against it.
        """
        study = self._study
        todo = study.missing(role)
        self.waiting_gates = self._gates_before(role, forecast) if todo and self._gates else []
        if self.waiting_gates:
            self.stopped_by = refusal(self.waiting_gates, role)
            return
        left = {run.run_id for run in todo}
        done = [study.job(run) for run in study.runs(role) if run.run_id not in left]
        self._on_round(role, done, [study.job(run) for run in todo])
        if not todo:
            return
        if self._stop() is not None:
            self.stopped_by = stopped_text(len(todo))
            return
        planned = len(study.planned)
        session, speed = self.connect(), speed_in(study.store.root)
        if len(study.planned) > planned:
            self.train(role, forecast)
            return
        jobs = [study.job(run, session.seats(run, speed)) for run in todo]
        report = session.train(
            jobs,
            self._on_event,
            study.job_of,
            lambda: self._held_out(session, speed) if role == "fit" else [],
            study.unchosen,
            self._stop,
        )
        self.failed.update(report.failed)
        self.mendable |= report.mendable
        self.stopped_by = report.stopped_by or self.stopped_by

    def _gates_before(self, role: Role, forecast: Entry | None) -> list[Gate]:
        """The gates that the runs of a role wait at for an approval."""
        study, gates = self._study, self._gates
        crossed = by_compute(gates, study.spec, study.planned)
        if any(gate.name == USD for gate in gates):
            # Pools that a spec does not name are those of the cluster.
            pools = self.connect().backend.pools() if study.spec.pools == "auto" else study.spec.pools
            placed = study.spec.model_copy(update={"pools": pools})
            rows = plan_sweep(placed, study.store.root, site=self._site, simulate=False).runs
            crossed += by_cost(gates, study.spec, rows)
        if role == "holdout" and forecast is not None:
            crossed += by_forecast(gates, forecast)
        return self._gatekeeper.waiting(crossed, role)

    def _held_out(self, session: Session, speed: Speed) -> list[Job]:
        """What comes after the fitted runs."""
        study = self._study
        try:
            return [study.job(run, session.seats(run, speed)) for run in study.missing("holdout")]
        except USER_ERRORS:  # one fits in none of the pools that are up: how long it takes is not known
            return [study.job(run) for run in study.missing("holdout")]
