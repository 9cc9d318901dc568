"""Gates: limits of compute, cost or loss that a sweep crosses only with an approval.

What a sweep takes is known before it starts. What its held-out runs come to is forecast when the others are done; the
forecast is in the ledger, and then the gate is held against it, before any of them is trained.
"""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nextscale.cluster.hardware.gates import Gates
from nextscale.sweeps.design.planned_run import PlannedRun, Role
from nextscale.sweeps.errors import SpecError
from nextscale.sweeps.ledger import Entry, Ledger
from nextscale.sweeps.spec.designs import SequentialDesign
from nextscale.sweeps.spec.sweep_spec import SweepSpec

FLOPS, RUN, USD, LOSS = (
    "max_flops_without_approval",
    "max_run_flops_without_approval",
    "max_usd_without_approval",
    "loss_below",
)
_DRIFT = 1.1
"""What an approval of dollars covers, times those approved: the estimate moves as runs are timed."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """A limit, and what a sweep comes to.

    Attributes:
        written: where the limit is.
        value: of the whole sweep; None while that is not known.
        early: of the runs before the held-out ones.
        told: what the sweep comes to, in words.
        forecast: the ledger's entry that `value` is from.
    """

    name: str
    limit: float
    written: str
    value: float | None = None
    early: float | None = None
    told: str = ""
    forecast: Entry | None = None

    @property
    def crossed(self) -> bool:
        return self.value is not None and self._beyond(self.value)

    @property
    def at_once(self) -> bool:
        """Whether it is crossed before the held-out runs begin."""
        return self.early is not None and self._beyond(self.early)

    def _beyond(self, value: float) -> bool:
        return value < self.limit if self.name == LOSS else value > self.limit

    def covered_by(self, approval: Mapping[str, Any]) -> bool:
        """Whether what was approved is no less than what the sweep comes to."""
        assert self.value is not None
        approved = float(approval["value"])
        if self.name == LOSS:
            return self.value >= approved
        return self.value <= approved * (_DRIFT if self.name == USD else 1)

    def __str__(self) -> str:
        limit = f"${self.limit:,.2f}" if self.name == USD else f"{self.limit:.4g}"
        beyond = f"whose low end is below {limit}" if self.name == LOSS else f"more than {limit}"
        return f"{self.written}: gates.{self.name}: {self.told}, {beyond}"

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Gate:
        """What `to_dict` told, but for what the sweep comes to before its held-out runs."""
        return cls(told["gate"], **{name: told[name] for name in ("limit", "written", "value", "told")})

    def to_dict(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("limit", "written", "value", "crossed", "at_once", "told")}
        return {"gate": self.name} | told


def gates_of(spec: Gates, site: Gates) -> list[Gate]:
    """The gates of a spec at a site: of each limit that both have, the stricter."""
    found = []
    for name in Gates.model_fields:
        known = [
            (gates.limits[name], gates.place(name) or f"the {of}")
            for gates, of in ((site, "site"), (spec, "spec"))
            if name in gates.limits
        ]
        if known:
            limit, written = (max if name == LOSS else min)(known, key=lambda one: one[0])
            found.append(Gate(name, limit, written))
    return found


def by_compute(gates: Iterable[Gate], spec: SweepSpec, planned: Sequence[PlannedRun]) -> list[Gate]:
    """The gates in FLOPs, with what a sweep takes: of runs that are to be chosen, all that they may."""
    whole, early = (sum(run.own_flops for run in runs) for runs in (planned, _fitted(planned)))
    largest, first = (max(run.flops for run in runs) for runs in (planned, _fitted(planned)))
    if isinstance(spec.design, SequentialDesign):
        from nextscale.sweeps.design.sequential import target_of

        whole, early = whole - early + spec.design.flops, spec.design.flops
        first = max(first, spec.design.largest or target_of(spec) / 4)
        largest = max(largest, first)
    found = []
    for gate in gates:
        if gate.name == FLOPS:
            told = f"the sweep takes {whole:.4g} FLOPs in all"
            found.append(dataclasses.replace(gate, value=whole, early=early, told=told))
        elif gate.name == RUN:
            told = f"the largest run takes {largest:.4g} FLOPs"
            found.append(dataclasses.replace(gate, value=largest, early=first, told=told))
    return found


def by_cost(gates: Iterable[Gate], spec: SweepSpec, rows: Sequence[Mapping[str, Any]]) -> list[Gate]:
    """The gate in dollars, with what a sweep costs; runs that are to be chosen cost what the first do for a FLOP.

    Args:
        rows: of a plan, see `nextscale.sweeps.plan.plan.Plan`.

    Raises:
        SpecError: a pool has no price.
    """
    found = []
    for gate in gates:
        if gate.name != USD:
            continue
        for row in rows:
            if row["usd"] is None:
                raise SpecError(
                    f"{gate.written}: gates.{USD}: pool {row['pool']} has no price, so no gate in dollars can hold; "
                    "set usd_per_chip_hour (0 if it is free) under pools, or under accelerators of a site file"
                )
        whole, early = sum(row["usd"] for row in rows), sum(row["usd"] for row in rows if row["role"] == "fit")
        if isinstance(spec.design, SequentialDesign):
            chosen = early * spec.design.flops / sum(row["own_flops"] for row in rows if row["role"] == "fit")
            whole, early = whole - early + chosen, chosen
        told = f"the sweep costs about ${whole:,.2f}"
        found.append(dataclasses.replace(gate, value=whole, early=early, told=told))
    return found


def by_forecast(gates: Iterable[Gate], forecast: Entry) -> list[Gate]:
    """The gate in loss, with what the held-out runs are forecast to come down to.

    Args:
        forecast: of them, in the ledger.
    """
    lowest = min(forecast["targets"], key=lambda target: target["interval"][0])
    low, high = lowest["interval"]
    told = f"the held-out scale is forecast to reach {lowest['predicted']:.4f} nats per token"
    told += f" with the {forecast['level']:.0%} interval [{low:.4f}, {high:.4f}]"
    return [dataclasses.replace(gate, value=low, told=told, forecast=forecast) for gate in gates if gate.name == LOSS]


@dataclasses.dataclass(frozen=True)
class Approval:
    """Why a sweep may cross its gates, who says so, and when."""

    reason: str
    by: str
    given: str

    @classmethod
    def of(cls, reason: str, by: str | None = None) -> Approval:
        """
        Args:
            by: who approves; the user of this machine unless told.

        Raises:
            SpecError: there is no reason.
        """
        if not reason.strip():
            raise SpecError("--approve: say why the sweep may cross its gates, in a few words")
        return cls(reason.strip(), by or whoami(), datetime.datetime.now(datetime.UTC).isoformat())


def whoami() -> str:
    """User and host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container may have users without names
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@dataclasses.dataclass(frozen=True)
class Gatekeeper:
    """Holds the gates of a sweep: what was approved is written down, and what was not keeps its runs from starting."""

    ledger: Ledger
    sweep: str
    approval: Approval | None

    def waiting(self, gates: Iterable[Gate], role: Role) -> list[Gate]:
        """The gates that keep the runs of a role from starting.

        An approval is of all that the sweep comes to, and is in the ledger when this returns.

        Args:
            gates: with their values.
        """
        waiting = []
        for gate in gates:
            if not gate.crossed or self.approved(gate) is not None:
                continue
            if self.approval is not None:
                self._approve(gate, self.approval)
            elif gate.at_once or role == "holdout":
                waiting.append(gate)
        return waiting

    def approved(self, gate: Gate) -> Entry | None:
        """The approval that covers what a gate was crossed with."""
        known = (entry for entry in self.ledger.approvals() if (entry["sweep"], entry["gate"]) == self._of(gate))
        return next((entry for entry in known if gate.covered_by(entry)), None)

    def _of(self, gate: Gate) -> tuple[str, str]:
        return self.sweep, gate.name

    def _approve(self, gate: Gate, approval: Approval) -> None:
        """`forecast_seen`: whether the forecast was in the ledger when the approval was given."""
        said = {name: getattr(gate, name) for name in ("value", "limit", "written", "told")}
        said |= dataclasses.asdict(approval) | {"forecast": gate.forecast and gate.forecast["hash"]}
        said |= {"forecast_seen": gate.forecast and gate.forecast["time"] <= approval.given}
        self.ledger.approve({"sweep": self.sweep, "gate": gate.name} | said)


def refusal(waiting: Sequence[Gate], role: Role) -> str:
    """Why the runs of a role may not begin, in one line."""
    what = "nothing is trained" if role == "fit" else "the held-out runs are not trained"
    return f"{'; '.join(map(str, waiting))}; {what} until somebody says why, with --approve REASON"


def planned_gates(
    spec: SweepSpec, site: Gates, planned: Sequence[PlannedRun], rows: Sequence[Mapping[str, Any]], out: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """The gates that hold for a plan, each with the hash of what `approved` it, and warnings of those that are crossed.

    Args:
        rows: of the plan.
        out: where it is run: its ledger has approvals and, once there is one, the forecast.
    """
    gates = gates_of(spec.gates, site)
    if not gates:
        return [], []
    gatekeeper, warnings = Gatekeeper(Ledger(out / "ledger.jsonl"), spec.name, None), []
    known = by_compute(gates, spec, planned)
    try:
        known += by_cost(gates, spec, rows)
    except SpecError as error:
        warnings.append(str(error))
    held_out = [run.run_id for run in planned if run.role == "holdout"]
    if (forecast := _forecast_of(held_out, gatekeeper.ledger)) is not None:
        known += by_forecast(gates, forecast)
    told = []
    for gate in gates:
        gate = next((one for one in known if one.name == gate.name), gate)
        approval = gatekeeper.approved(gate) if gate.crossed else None
        told.append(gate.to_dict() | {"approved": approval and approval["hash"]})
        if gate.crossed:
            needs = "it needs" if gate.at_once else "its held-out runs need"
            said = f"{approval['by']} approved: {approval['reason']}" if approval else f"{needs} --approve REASON"
            warnings.append(f"{gate}; {said}")
    return told, warnings


def _forecast_of(run_ids: list[str], ledger: Ledger) -> Entry | None:
    """The newest of these runs."""
    found = (entry for entry in reversed(ledger.entries()) if entry["kind"] == "forecast")
    return next((e for e in found if run_ids and [target["run_id"] for target in e["targets"]] == run_ids), None)


def _fitted(planned: Iterable[PlannedRun]) -> list[PlannedRun]:
    return [run for run in planned if run.role == "fit"]
