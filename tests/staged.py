"""A sweep as its controller and its workers leave it on disk, one step at a time, and no faster than a test says."""

import time
from pathlib import Path

import yaml

from nextscale.cluster.controller.accounts import Accounts
from nextscale.cluster.controller.events import Event
from nextscale.cluster.controller.job import Job
from nextscale.cluster.controller.lease import Lease
from nextscale.cluster.hardware.seat import Seat
from nextscale.model.record import append_row
from nextscale.sweeps.design.expand import planned_runs, resolve_spec
from nextscale.sweeps.run.journal import Journal
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.run_rows import config_columns
from nextscale.sweeps.store.store import Store

SPEC = """\
name: staged
data: {source: markov, vocab: 16, seed: 1}
model: {depth: 1, heads: 2, context: 16, position: alibi, mlp: relu2}
training: {batch_tokens: 128, schedule: linear, lr: 0.01}
design: {kind: isoflop, flops: [1.0e+9, 2e9], widths: [[4, 8, 12], [8, 12, 16]]}
holdout: {flops: 1.2e10, widths: [12, 16]}
caps: {max_flops: 1.0e+11, max_usd: 5}
"""
SECONDS, PEAK, USD = 60.0, 1e10, 3.6


class Staged:
    """Runs take a minute each, in slots of pool `here`, at 3.60 dollars an hour."""

    def __init__(self, out: Path, **changes):
        self.spec = resolve_spec(SweepSpec.model_validate(yaml.safe_load(SPEC) | changes))
        self.store = Store.at(out)
        self.out = self.store.root
        self.store.write_spec(self.spec)
        self.runs = planned_runs(self.spec)
        self.now = 1.0e9
        self.accounts = Accounts(self.out / "accounts.jsonl", clock=lambda: self.now)
        self.journal = Journal(self.out)
        self.lease = Lease(self.out / "controller")
        self._open = {}

    def close(self):
        self.accounts.close()
        self.lease.close()

    def start(self, run, slot="here-0"):
        directory = self.store.run(run.config.run_id)
        directory.write_config(run.config)
        seat = Seat("here", usd_per_hour=USD)
        self._open[run.config.run_id] = self.accounts.reserve(
            run.config.run_id, slot, seat, "cpu", 0, SECONDS * 1.5, int(run.own_flops)
        )
        self._note("started", run)

    def train(self, run, share):
        """Appends to its curve until it has come so far."""
        file = self.store.run(run.config.run_id).metrics_file
        done = len(self.store.run(run.config.run_id).metrics())
        for i in range(done + 1, int(40 * share) + 1):
            append_row(file, {"tokens": run.tokens * i // 40, "gradient_norm": 0.5, "loss": 2.0 + 1 / i})

    def land(self, run, loss=2.0):
        self.train(run, 1.0)
        directory, told = self.store.run(run.config.run_id), config_columns(run.config)
        record = told | {"run_id": run.config.run_id, "status": "done", "reason": None, "loss": loss}
        record |= {"bits_per_byte": None, "evaluation_tokens": 512, "versions": {}, "seconds": SECONDS}
        directory.write_record(record)
        self._end(run, "finished", kept=int(run.own_flops))
        self._note("finished", run)

    def fail(self, run, reason, *, for_good=True):
        directory = self.store.run(run.config.run_id)
        directory.add_attempt({"host": "h", "device": "cpu", "started": self.now, "status": "error", "message": reason})
        self._end(run, "error", lost=int(run.own_flops / 2), reason=reason)
        self._note("failed" if for_good else "retried", run, reason)

    def _end(self, run, outcome, **how):
        reservation = self._open.pop(run.config.run_id)
        self.now = max(self.now, reservation.started + SECONDS)
        self.accounts.settle(reservation, SECONDS, outcome=outcome, peak=PEAK, **how)

    def _note(self, kind, run, message=""):
        config = run.config
        job = Job(config.run_id, config, str(self.out), run.own_flops, config.training.steps, "")
        self.journal.note(Event(kind, job, message))

    def began(self, started: float = 0.0):
        """Whoever runs the sweep began then, by what it says."""
        self.lease._told["started"], self.lease._since = started, time.monotonic() - (time.time() - started)
        self.lease._write(self.lease._place.write)
