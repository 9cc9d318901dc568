"""Runs a sweep in the background: as a job of a Ray cluster, or as a process of this machine.

Either way it writes what it says to `OUT/controller.log`, and is reached by its folder: `nextscale status`, `logs` and
`stop`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from etils import epath

from nextscale.model.record import write_atomically
from nextscale.sweeps.design.chosen_runs import all_runs, without_dropped
from nextscale.sweeps.design.trunks import rooted
from nextscale.sweeps.ledger import Ledger
from nextscale.sweeps.plan.gates import Approval, Gatekeeper, by_compute, gates_of, refusal
from nextscale.sweeps.spec.site_file import load_site
from nextscale.sweeps.spec.sweep_spec import SweepSpec
from nextscale.sweeps.store.store import Store

LOG = "controller.log"
_MAIN = "from nextscale.sweeps.commands.app import main; main()"


def gate_closed(spec: SweepSpec, out: str | Path, approval: Approval | None) -> str | None:
    """Why the sweep would be refused as soon as it is left, in one line; what is approved is written down here and now,
    by who is there to say so. Gates in dollars and of forecasts are held where it runs."""
    store = Store.at(out)
    gates, runs = (
        gates_of(spec.gates, load_site().gates),
        rooted(without_dropped(all_runs(store.root, spec), store.root), store.root),
    )
    if not gates or all(store.record(run.run_id) for run in runs if run.role == "fit"):
        return None
    gatekeeper = Gatekeeper(Ledger(store.root / "ledger.jsonl"), spec.name, approval)
    waiting = gatekeeper.waiting(by_compute(gates, spec, runs), "fit")
    return refusal(waiting, "fit") if waiting else None


def detach(spec: SweepSpec, out: str | Path, address: str | None, approval: Approval | None = None) -> str:
    """Starts a sweep and leaves it; tells in words where it runs.

    Args:
        address: of the dashboard of a Ray cluster, `http://...`, to leave it there as a job; else it becomes a process
            of this machine, which uses the cluster at that address, or one of its own.
        approval: of the gates that it comes to.

    Raises:
        SpecError: the folder cannot be written to.
        InputError: there is no such dashboard.
    """
    store = Store.at(out)
    file = _readable(store.write_spec(spec))
    options = [] if approval is None else ["--approve", approval.reason, "--approved-by", approval.by]
    if address is not None and address.startswith(("http://", "https://")):
        return _job(spec.name, file, store.root, address, options)
    if address is not None:
        options += ["--address", address]
    with (store.root / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, "run", str(file), "--out", str(store.root), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return f"process {process.pid} of this machine"


def _readable(file: Path) -> Path:
    """A spec that was kept, as `nextscale run` reads one: there `${` begins a variable."""
    text = file.read_text()
    if "${" not in text:
        return file
    readable = file.with_suffix(".yaml")
    write_atomically(epath.Path(readable), text.replace("${", "$${"))
    return readable


def _job(name: str, file: Path, out: Path, address: str, options: list[str]) -> str:
    """Of the cluster, on whose nodes `out` must be the same folder, and this package installed."""
    from nextscale.cluster.ray.submission import submit

    run = shlex.join(["nextscale", "run", str(file), "--out", str(out), "--address", "auto", *options])
    command = f"{run} >> {shlex.quote(str(out / LOG))} 2>&1"
    unique = f"nextscale-{name}-{int(time.time())}-{os.getpid()}"
    return f"job {submit(address, command, unique, {'sweep': name, 'out': str(out)})} of {address}"
